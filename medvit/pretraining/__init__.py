"""Self-supervised objectives: what an encoder learns from images without labels."""
