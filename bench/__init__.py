"""Benchmarks of the router beside real peers, in one run: `python -m bench`."""
