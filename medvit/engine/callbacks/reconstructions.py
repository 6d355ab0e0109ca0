"""Callback that logs what a masked image model makes of the same images every few epochs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from medvit.data.datamodule import DataModule
from medvit.engine.callbacks.overlay import Attach
from medvit.engine.module import FineTuner
from medvit.explain.overlay import png
from medvit.preprocess.resize import to_uint8


class SaveReconstructions(pl.Callback):
    """Write image, visible patches and reconstruction of a fixed few, every `every` epochs and at the last one.

    The images are of the validation side where there is one; of a volume or a bag the middle slice is shown. Each file
    lies below `folder` and is then handed to `attach`; names hold the pseudonym's first 8 digits.
    """

    def __init__(
        self, data: DataModule, every: int, folder: Path, attach: Attach | None = None, count: int = 4
    ) -> None:
        self.every, self.folder, self.attach = every, folder, attach
        self.units = data.units("val" if data.has("val") else "train")
        self.chosen = np.unique(np.linspace(0, len(self.units) - 1, min(count, len(self.units))).astype(np.int64))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: FineTuner) -> None:  # type: ignore[override]
        """Draw and hand over, where this epoch is one of them and the objective reconstructs."""
        epoch = trainer.current_epoch + 1
        due = self.every > 0 and (epoch % self.every == 0 or epoch == trainer.max_epochs)
        if not due or not trainer.is_global_zero or not hasattr(pl_module.network, "pictures"):
            return
        pl_module.eval()
        for number in self.chosen:
            self._save(self._picture(pl_module, int(number)), f"epoch_{epoch:03d}_{str(self.units.uid[number])[:8]}")
        pl_module.train()

    def _picture(self, module: FineTuner, number: int) -> NDArray[np.uint8]:
        pixels = self.units.cache.gather(self.units.members[number])
        pixels = pixels[len(pixels) // 2][None]  # of a series of slices the middle one
        image = torch.from_numpy(pixels).to(module.device).float() * module.scale + module.shift
        noise = module.noise([str(self.units.uid[number])])  # type: ignore[operator]
        shown = (image, *module.network.pictures(image, noise))  # type: ignore[operator]
        grey = [self._grey(one, module, pixels.dtype) for one in shown]
        return np.repeat(np.concatenate(grey, axis=1)[..., None], 3, axis=2)

    def _grey(self, image: Tensor, module: FineTuner, kind: np.dtype) -> NDArray[np.uint8]:
        top = np.iinfo(kind).max
        values = ((image[0, 0].cpu().float() - module.shift) / module.scale).round().clamp(0, top).numpy().astype(kind)
        return to_uint8(values if values.ndim == 2 else values[len(values) // 2])

    def _save(self, picture: NDArray[np.uint8], name: str) -> None:
        file = self.folder / "reconstructions" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(picture))
        if self.attach is not None:
            self.attach(file, f"reconstructions/{name}.png")
