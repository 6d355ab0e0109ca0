"""Callback that logs attribution overlays of fixed validation images every few epochs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from medvit.data.units import Units
from medvit.engine.module import FineTuner
from medvit.explain.attribution import method
from medvit.explain.overlay import overlay, png

Attach = Callable[[Path, str], None]  # a file and its name, such as overlays/epoch_010_1f3a9c2e.png
_AVERAGED = 200  # validation films without the finding whose average stands for its absence


class SaveOverlays(pl.Callback):
    """Write the maps of a fixed set of validation films below `folder`, every `every` epochs and at the last one.

    Each file is then handed to `attach`. Up to `count` films, positives of the first output first. Names hold the
    pseudonym's first 8 digits. Of bags and volumes nothing is drawn. Must stand before `AverageWeights`, so that the
    averaged weights are shown.
    """

    def __init__(self, units: Units, every: int, folder: Path, attach: Attach | None = None, count: int = 4) -> None:
        self.units, self.every, self.folder, self.attach = units, every, folder, attach
        film = not units.bagged and len(units.cache.preprocess.shape) == 3
        order = np.argsort(-np.where(units.weight[:, 0] > 0, units.target[:, 0], -1), kind="stable")
        self.chosen = order[:count] if film else order[:0]
        self.average = self._average() if film else None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: FineTuner) -> None:  # type: ignore[override]
        """Draw and hand over, where this epoch is one of them."""
        epoch = trainer.current_epoch + 1
        due = self.every > 0 and (epoch % self.every == 0 or epoch == trainer.max_epochs)
        if trainer.sanity_checking or not due or not trainer.is_global_zero or not len(self.chosen):
            return
        network = pl_module.network
        with torch.inference_mode(False):  # validation runs without gradients; a map needs them
            average = None if self.average is None else self.average.to(pl_module.device)
            reference = None if average is None else average * pl_module.scale + pl_module.shift
            way = method("integrated", reference)  # the most faithful on what was measured: docs/explanation/maps.md
            for number in self.chosen:
                pixels = self.units.cache.gather(self.units.members[number])
                image = torch.from_numpy(pixels).to(pl_module.device).float() * pl_module.scale + pl_module.shift
                picture = overlay(pixels[0, 0], way(network, image, 0)[0])
                self._save(png(picture), f"overlays/epoch_{epoch:03d}_{str(self.units.uid[number])[:8]}.png")

    def _average(self) -> Tensor | None:
        """Return the average [1 C H W] of films without the first output's finding, integers as float."""
        without = np.flatnonzero((self.units.weight[:, 0] > 0) & (self.units.target[:, 0] == 0))[:_AVERAGED]
        if not len(without):
            return None
        pixels = self.units.cache.gather(np.array([self.units.members[number][0] for number in without]))
        return torch.from_numpy(pixels.mean(axis=0, keepdims=True, dtype=np.float32))

    def _save(self, picture: bytes, name: str) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture)
        if self.attach is not None:
            self.attach(file, name)
