"""Backbones, pools, bags and adapters: image in, tokens and logits out. Never imports data."""
