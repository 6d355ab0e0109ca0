"""A trained model as a folder that a hospital can test: written, checked, run without torch, compared with training."""
