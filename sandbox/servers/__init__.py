"""The real servers on a laptop: Kafka, PostgreSQL and a schema registry as children of this process.

Everything listens on 127.0.0.1 only, and everything started here ends with the process that started it.
"""
