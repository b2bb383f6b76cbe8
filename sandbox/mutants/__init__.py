"""Money bugs planted on purpose: each must be caught by a check that everybody runs, or the gate fails."""
