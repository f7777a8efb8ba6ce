"""Helpers for tests: processes, real peers, sample data. Nothing here imports the router."""
