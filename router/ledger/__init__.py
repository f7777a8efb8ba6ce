"""The ledger: queue and memory in one set of tables."""
