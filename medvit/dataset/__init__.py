"""What is on the disk and who is on which side: scan, manifest, label tables, pseudonyms, splits, leakage."""
