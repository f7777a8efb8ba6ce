"""Metrics and logs: subscribers to the domain's events."""
