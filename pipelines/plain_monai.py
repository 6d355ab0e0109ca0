"""medvit's index, split, reader and cache in a plain MONAI and Lightning script: python pipelines/plain_monai.py."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from monai.data import CacheDataset, DataLoader
from monai.networks.nets import DenseNet121
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandAffined, Resized

import medvit
from medvit.data.datamodule import DataModule
from medvit.data.monai_reader import MedvitReader
from medvit.data.monai_transforms import Preprocessedd
from medvit.phantom.films import write_films
from medvit.preprocess import FilmPreprocess
from medvit.task.binary import Binary


class Classifier(pl.LightningModule):
    """A classifier as MONAI's tutorials have it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = DenseNet121(spatial_dims=2, in_channels=1, out_channels=1)

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        """Return the loss of a dictionary of MONAI's loader, or of medvit's Batch of the cache's integers."""
        image, target = (batch["image"], batch["label"]) if isinstance(batch, dict) else (batch.image, batch.target)
        image = image if image.is_floating_point() else self.trainer.datamodule.normalise(image)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(self.net(image).flatten(), target.float().flatten())
        print(f"{type(batch).__name__} {tuple(image.shape)} loss {loss:.3f}")
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.parameters(), 1e-3)


patients, steps, work = 120, 5, Path("work/plain_monai")
plain = {"logger": False, "enable_checkpointing": False, "limit_val_batches": 0, "use_distributed_sampler": False}
write_films(work / "raw", patients)
labels = {"csv": work / "raw/labels.csv", "on": "AccessionNumber", "target": ["finding"]}
medvit.index(work / "raw/dicom", work, labels=labels)
medvit.split(work)  # patient-disjoint and frozen
task, preprocess = Binary("finding", values={"normal": 0, "opacity": 1}), FilmPreprocess(size=(64, 64))
listed = medvit.decathlon(work, task)  # {"training": [{"image", "label", "uid"}, ...], "validation": [...]}
read = [LoadImaged("image", reader=MedvitReader()), EnsureChannelFirstd("image"), Resized("image", (64, 64))]
for transforms in (read, [Preprocessedd("image", preprocess)]):  # MONAI's steps behind medvit's reader; all of medvit's
    data = CacheDataset(listed["training"], Compose([*transforms, RandAffined("image", prob=0.5, rotate_range=0.2)]))
    pl.Trainer(max_steps=steps, **plain).fit(Classifier(), DataLoader(data, batch_size=16, shuffle=True))
loader = DataModule(work, preprocess, task, batch_size=16)  # the memory-mapped cache: films are decoded once
pl.Trainer(max_steps=steps, **plain).fit(Classifier(), datamodule=loader)
