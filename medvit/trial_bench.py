"""A trained run with its opened sides, ready to be asked: predictions of disturbed images, network inputs, maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medvit.data import perturb
from medvit.data.loader import BatchLoader, Plan
from medvit.data.units import Units
from medvit.engine.predict import predict
from medvit.explain import attribution
from medvit.explain.overlay import overlay

if TYPE_CHECKING:
    from medvit.engine.checkpoint import TrainedRun


@dataclass
class Bench:
    """A trained run with its opened sides; `best` is the method chosen by faithfulness, once it was measured."""

    trained: TrainedRun
    train: Units
    validation: Units
    test: Units
    split: str
    device: str
    best: str = ""

    def input(self, integers: NDArray[Any]) -> Tensor:
        """Return the network's input from integers [n C *S], on the device."""
        step = self.trained.preprocess
        pixels = torch.from_numpy(np.ascontiguousarray(integers)).to(self.device).float()
        made: Tensor = pixels * step.scale + step.shift
        return made

    def pass_over(self, network: nn.Module, units: Units, way: perturb.Perturbation | None = None) -> Any:
        """Return what `network` gives for every unit, disturbed or not, ordered by uid."""
        step = self.trained.preprocess
        size = int(self.trained.settings["trainer"]["batch_size"])
        return predict(network, BatchLoader(units, Plan(size, augment=way)), step.scale, step.shift, self.device)

    def shown(self, units: Units, number: int) -> NDArray[np.uint8]:
        """Return a film [H 2W 3] beside itself under the map of its likeliest output, by the method that was chosen."""
        integers = units.cache.gather(units.members[number])[:1]
        image, network = self.input(integers), self.trained.network
        with torch.inference_mode():
            output = int(network(image)[0].argmax())
        return overlay(integers[0, 0], attribution.METHODS[self.best](network, image, output)[0])

    def pictures(self, units: Units, output: int, most: int) -> tuple[NDArray[np.intp], Tensor]:
        """Return up to `most` positives of an output, evenly spread over the side, and their network input."""
        truth = self.trained.task.truth(units.target, units.weight)[:, output]
        found = np.flatnonzero(truth == 1)
        found = found[np.unique(np.linspace(0, max(0, len(found) - 1), min(most, len(found))).astype(int))]
        rows = np.array([units.members[n][0] for n in found], np.int64)
        return found, self.input(units.cache.gather(rows)) if len(rows) else torch.zeros(0)
