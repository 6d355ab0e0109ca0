"""Callbacks of the trainer: reports, curves, averaged weights, overlays, reconstructions."""
