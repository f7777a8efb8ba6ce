"""The engine: makes sweeps due, decides, moves, verifies. Knows the domain and its ports only."""
