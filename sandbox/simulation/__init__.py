"""Worlds without a network: the product's own agents over a ledger, a broker, a Visa and a clock that are simulated.

One seed is one world; the same seed is the same world, to the last line. `python -m sandbox.simulation --help`.
"""
