"""Pictures beside the curves: the same validation images under their maps, every few epochs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytorch_lightning as pl
import torch

from medvit.data.units import Units
from medvit.engine.module import FineTuner
from medvit.explain.attribution import available, method
from medvit.explain.overlay import overlay, png

Save = Callable[[bytes, str], None]  # a PNG and its name, such as overlays/epoch_010_1f3a9c2e.png
_PREFERRED = ("relevance", "gradcam")


class SaveOverlays(pl.Callback):
    """Give `save` the maps of a fixed set of validation films, every `every` epochs and at the last one.

    Up to `count` films, positives of the first output first. Names hold the pseudonym's first 8 digits. Of bags and
    volumes nothing is drawn. Must stand before `AverageWeights`, so that the averaged weights are shown.
    """

    def __init__(self, units: Units, every: int, save: Save, count: int = 4) -> None:
        self.units, self.every, self.save = units, every, save
        film = not units.bagged and len(units.cache.preprocess.shape) == 3
        order = np.argsort(-np.where(units.weight[:, 0] > 0, units.target[:, 0], -1), kind="stable")
        self.chosen = order[:count] if film else order[:0]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: FineTuner) -> None:  # type: ignore[override]
        """Draw and hand over, where this epoch is one of them."""
        epoch = trainer.current_epoch + 1
        due = self.every > 0 and (epoch % self.every == 0 or epoch == trainer.max_epochs)
        if trainer.sanity_checking or not due or not trainer.is_global_zero or not len(self.chosen):
            return
        network = pl_module.network
        way = method(next(name for name in _PREFERRED if name in available(network)))
        with torch.inference_mode(False):  # validation runs without gradients; a map needs them
            for number in self.chosen:
                pixels = self.units.cache.gather(self.units.members[number])
                image = torch.from_numpy(pixels).to(pl_module.device).float() * pl_module.scale + pl_module.shift
                picture = overlay(pixels[0, 0], way(network, image, 0)[0])
                self.save(png(picture), f"overlays/epoch_{epoch:03d}_{str(self.units.uid[number])[:8]}.png")
