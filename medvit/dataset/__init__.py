"""Data sets: scan, manifest, label tables, pseudonyms, splits, leakage."""
