"""From the rows of a data set to batches: cache, units, sampler, loader and the LightningDataModule."""
