"""A stand-in for Visa Direct on a laptop: HTTPS, MLE, a durable ledger of its own, and faults on demand.

It is the only judge of what was paid, so it shares no code with the processor it judges.
"""
