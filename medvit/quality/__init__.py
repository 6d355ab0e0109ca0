"""Pages on a data set: its quality, and the leakage audit of its split."""
