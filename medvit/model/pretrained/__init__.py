"""Pretrained checkpoints, published ones and those of earlier runs: find, read, rename to ViT's names, load."""
