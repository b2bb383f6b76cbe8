"""A conformance suite for whatever speaks Visa Direct: the stand-in, or Visa's own sandbox with real credentials.

It shares no code with the stand-in or the processor: what it expects was written from Visa's published documents.
"""
