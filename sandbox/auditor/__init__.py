"""The judge of a run: computes every term of the verdict line from evidence that others left (design, section 10).

It shares no decision code with what it judges. What the producer's broker acknowledged is in a journal, what the
processor says is in the topics and the ledger's tables, and what was really paid is in the stand-in's own ledger.
"""
