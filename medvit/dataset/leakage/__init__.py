"""Leakage of a split: identical and near-duplicate images, shared identifiers, patients the weights have seen."""
