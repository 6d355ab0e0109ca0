"""Checkpoints, published ones and those of earlier runs: found, read, renamed to the names of ViT, loaded."""
