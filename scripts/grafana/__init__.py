"""What the Grafana dashboards are made of: one module for each, and what they share in `panels` and `board`."""
