"""Manifest, splits, audit, cache, augmentation and loaders: from files to batches."""
