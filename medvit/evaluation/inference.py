"""Inference with a trained run on its splits: predictions of disturbed images, network inputs, maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medvit.augment import perturbation
from medvit.data.loader import BatchLoader, Plan
from medvit.data.units import Units
from medvit.engine.predict import predict
from medvit.explain import attribution
from medvit.explain.overlay import overlay
from medvit.explain.reference import Reference
from medvit.types import Bag

if TYPE_CHECKING:
    from medvit.engine.checkpoint import TrainedRun


T = TypeVar("T")


@dataclass
class OpenedRun:
    """A trained run with its opened sides; once maps were measured, `best` is the method chosen by faithfulness.

    `references` are what stands, per output, for what is taken away (`medvit.explain.reference`).
    """

    trained: TrainedRun
    train: Units
    validation: Units
    test: Units
    split: str
    device: str
    best: str = ""
    references: dict[int, Reference] = field(default_factory=dict)

    def input(self, integers: NDArray[Any]) -> Tensor:
        """Return the network's input from integers [n C *S], on the device."""
        step = self.trained.preprocess
        pixels = torch.from_numpy(np.ascontiguousarray(integers)).to(self.device).float()
        made: Tensor = pixels * step.scale + step.shift
        return made

    def predict_units(self, network: nn.Module, units: Units, way: perturbation.Perturbation | None = None) -> Any:
        """Return what `network` gives for every unit, disturbed or not, ordered by uid."""
        step = self.trained.preprocess
        size = int(self.trained.settings["trainer"]["batch_size"])
        return predict(network, BatchLoader(units, Plan(size, augment=way)), step.scale, step.shift, self.device)

    def overlay_of(self, units: Units, number: int) -> NDArray[np.uint8]:
        """Return a unit [H 2W 3] beside itself under the map of its likeliest output, by the method that was chosen.

        Of a bag it is the slice that counts most, with its own map.
        """
        integers = units.cache.gather(units.members[number])
        image, network = self.input(integers), self.trained.network
        batch = units.batch(np.zeros(1, np.int64), np.array([number], np.int64)) if units.bagged else None
        bag = None if batch is None or batch.bag is None else Bag(*(part.to(self.device) for part in batch.bag))
        with torch.inference_mode():
            logits = network(image[:1]) if bag is None else network(image[None], bag)
        output = int(logits[0].argmax())
        found = self.references.get(output)
        way = attribution.method(self.best, None if found is None else found.image)
        if bag is None:
            return overlay(integers[0, 0], way(network, image[:1], output)[0])
        maps = attribution.of_bag(network, image[None], output, bag, way)[0]
        slot = int(maps.abs().flatten(1).sum(dim=1).argmax())
        return overlay(integers[slot, 0], maps[slot])

    def units_with_label(self, units: Units, output: int, most: int, of: int = 1) -> NDArray[np.intp]:
        """Return up to `most` units whose truth for an output is `of`, evenly spread over the side."""
        truth = self.trained.task.truth(units.target, units.weight)[:, output]
        found = np.flatnonzero(truth == of)
        chosen: NDArray[np.intp] = found[
            np.unique(np.linspace(0, max(0, len(found) - 1), min(most, len(found))).astype(int))
        ]
        return chosen


def with_time_left(steps: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Give the steps one by one beside a bar with the share done and the time left, on stderr."""
    from rich.console import Console
    from rich.progress import track

    yield from track(steps, what, total=total, console=Console(stderr=True))


def middle_plane(units: Units, number: int) -> NDArray[Any]:
    """Return the middle image of a unit (of a volume its middle slice) as the cache holds it, integers [H W]."""
    image = units.cache.gather(units.members[number])
    plane: NDArray[Any] = image[len(image) // 2, 0]
    while plane.ndim > 2:
        plane = plane[len(plane) // 2]
    return plane
