"""The crash-point sweep: real workers on real servers, each killed once at every point at which a payout can be lost.

    make sweep      python -m sandbox.sweep [--lives first_try,retry] [--every N] [--report FILE]

One run a point: a payout of its own, a worker that ends itself by SIGKILL exactly there, a fresh one that goes on.
"""
