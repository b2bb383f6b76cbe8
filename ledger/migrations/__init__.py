"""Forward-only migrations of the ledger's schema, run by `ledger.migrate`."""
