"""Faults on purpose: a proxy that cuts and freezes connections, workers that are killed, and the stage for both.

The product does not know that any of this exists: it is given other addresses, and signals.
"""
