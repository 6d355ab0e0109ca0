"""The one LightningModule, its callbacks, and checkpoints and resume."""
