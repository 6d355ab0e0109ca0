"""A frozen backbone looks at every image once: batches of its cached features in place of images."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medvit.data.cache import Cache
from medvit.data.datamodule import DataModule
from medvit.data.loader import BatchLoader, Plan
from medvit.data.units import Units
from medvit.errors import ConfigError
from medvit.model.feature_cache import FeatureCache, Features
from medvit.model.network import Network
from medvit.optim.probe import fit_path
from medvit.optim.strategy import Probe, Strategy

logger = logging.getLogger(__name__)
_BATCH = 32


def refuse_augmentation(strategy: Strategy, data: DataModule) -> None:
    """Raise ConfigError where images are to be augmented whose features are to be computed once."""
    if isinstance(strategy, Probe) and strategy.cache_gib > 0 and data.augment is not None:
        raise ConfigError(
            "the probe's features are computed once, without augmentation: set augment=none, or "
            "optim=probe optim.strategy.cache_gib=0 to run the backbone on augmented images in every epoch"
        )


def memory(strategy: Strategy, network: Network, data: DataModule, architecture: dict[str, Any]) -> Memory | None:
    """Return the features of the data where the strategy works on cached ones, and say so."""
    if not isinstance(strategy, Probe) or strategy.cache_gib <= 0:
        return None
    logger.info("features of the frozen backbone are cached, without augmentation; every epoch reads them")
    return Memory(network, data, architecture, strategy.cache_gib)


class FeatureUnits(Units):
    """The same units in the same order; what a batch holds of each image are its features."""

    def __init__(self, units: Units, features: Features, place: NDArray[np.int64]) -> None:
        vars(self).update(vars(units))
        self._features, self._place = features, place
        self._first = np.cumsum(self.cache.counts) - self.cache.counts

    def images(self, rows: NDArray[np.int64], pin: bool = False) -> Tensor:  # noqa: ARG002 (features are not pinned)
        """Return the stored features of the images of `rows`, [n T W]."""
        each = [np.arange(self._first[row], self._first[row] + self.cache.counts[row]) for row in rows]
        return torch.from_numpy(np.asarray(self._features.values[self._place[np.concatenate(each)]]))


class Memory:
    """The features of every training and validation image of a data set, computed now or found on the disk.

    They are computed in fp32 and without augmentation, as the exported model computes them.
    """

    def __init__(self, network: Network, data: DataModule, architecture: dict[str, Any], limit_gib: float) -> None:
        data.setup("fit")
        if data.cache is None:
            raise ConfigError("cached features need a data set that is set up")
        self.data, cache = data, data.cache
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        names = [f"{uid}.{n}" for uid, count in zip(cache.rows["uid"], cache.counts, strict=True) for n in range(count)]
        order = np.argsort(names)
        self.place = np.argsort(order)
        made_by = hashlib.sha256(json.dumps([data.preprocess.digest, architecture], sort_keys=True).encode())
        store = FeatureCache(data.folder / "features", limit_gib)
        backbone: Any = network.backbone.to(device)  # type: ignore[attr-defined]
        images = ((tuple(names[at] for at in some), image) for some, image in self._images(cache, device))
        keep = "summary" if getattr(network.pool, "summary", False) else "tokens"
        self.features = store.get(backbone, made_by.hexdigest(), [names[at] for at in order], images, keep)

    def units(self, side: str) -> FeatureUnits:
        """Return the units of "train" or "val"."""
        return FeatureUnits(self.data.units(side), self.features, self.place)

    def loader(self, side: str, rank: int = 0, ranks: int = 1) -> BatchLoader:
        """Return the loader of "train" or "val": the batches that the images would come in."""
        loading, draw = self.data.loading, self.data.draw if side == "train" else None
        return BatchLoader(self.units(side), Plan(loading.batch_size, loading.seed, draw, None, rank, ranks))

    @torch.inference_mode()
    def solve(self, network: Network, task: Any) -> None:
        """Fill the head with the logistic regression of the pooled training features (see `fit_path`).

        Raises:
            ConfigError: a task that is no classification. DataError: too few patients for cross-validation.
        """
        if task.kind not in {"binary", "multilabel", "multiclass"}:
            raise ConfigError(f"optim=logistic classifies; for a task of kind {task.kind} use optim=probe")
        units, exclusive = self.units("train"), task.kind == "multiclass"
        stored = units.images(np.concatenate(units.members)).to(network.head.weight.device)
        vectors = network.norm(network.from_tokens(self.features.tokens(stored)).float()).double().cpu().numpy()
        truth, patients = task.truth(units.target, units.weight), units.frame["patient"].to_numpy()
        found = fit_path(vectors, truth, patients, exclusive)
        coef, intercept = found.coef, found.intercept
        if exclusive and len(coef) == 1:  # of two classes scikit-learn gives the second's logit
            coef, intercept = np.concatenate([0 * coef, coef]), np.concatenate([0 * intercept, intercept])
        network.head.weight.copy_(torch.from_numpy(coef))
        network.head.bias.copy_(torch.from_numpy(intercept))
        said = ", ".join(f"C={c:.2g} (log loss {loss:.3f})" for c, loss in zip(found.strength, found.loss, strict=True))
        logger.info("logistic regression, cross-validated over training patients: %s", said)

    def _images(self, cache: Cache, device: torch.device) -> Iterator[tuple[range, Tensor]]:
        """Give the normalised images of all rows, with their places, a batch at a time."""
        first = 0
        for rows in torch.split(torch.arange(len(cache)), _BATCH if cache.counts.max() == 1 else 1):
            for image in torch.split(torch.from_numpy(cache.gather(rows.numpy())), _BATCH):
                yield range(first, first + len(image)), self.data.normalise(image.to(device))
                first += len(image)
