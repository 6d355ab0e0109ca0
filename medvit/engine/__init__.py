"""The one LightningModule, its callbacks, and what a run leaves behind."""
