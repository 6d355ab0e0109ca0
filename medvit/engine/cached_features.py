"""Training on cached features of a frozen backbone instead of images."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medvit.data.cache import Cache
from medvit.data.loader import BatchLoader, Plan
from medvit.data.split_data import SplitData
from medvit.data.units import Units
from medvit.errors import ConfigError, DataError
from medvit.model.design import TrainingOptions
from medvit.model.feature_cache import FeatureCache, Features
from medvit.model.network import Network
from medvit.optim.probe import fit_path, nested
from medvit.optim.strategy import Probe, Strategy

logger = logging.getLogger(__name__)
_BATCH = 32
_TRAINING = {field.name for field in fields(TrainingOptions)}
_CLASSIFIES = {"binary", "multilabel", "multiclass"}
_BESIDE = 2000  # units times outputs: up to here cross-validation inside cross-validation takes well below a minute


def refuse_augmentation(strategy: Strategy, augment: Any) -> None:
    """Raise ConfigError where images are to be augmented whose features are to be computed once."""
    if isinstance(strategy, Probe) and strategy.cache_gib > 0 and augment is not None:
        raise ConfigError(
            "the probe's features are computed once, without augmentation: set augment=none, or "
            "optim=probe optim.strategy.cache_gib=0 to run the backbone on augmented images in every epoch"
        )


def cached_features(
    strategy: Strategy, network: Network, data: SplitData, architecture: dict[str, Any], device: str
) -> CachedFeatures | None:
    """Return the features of the data where the strategy works on cached ones, and say so."""
    if not isinstance(strategy, Probe) or strategy.cache_gib <= 0:
        return None
    logger.info("features of the frozen backbone are cached, without augmentation; every epoch reads them")
    return CachedFeatures(network, data, architecture, strategy.cache_gib, torch.device(device))


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


class CachedFeatures:
    """The features of every training and validation image of a data set, computed now or found on the disk.

    They are computed in fp32 and without augmentation, as the exported model computes them; anew where a file, its
    preprocessing, the encoder or the code of either has changed. Raises CacheError as `FeatureCache.get` does.
    """

    def __init__(
        self,
        network: Network,
        data: SplitData,
        architecture: dict[str, Any],
        limit_gib: float,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (immutable)
    ) -> None:
        data.setup("fit")
        if data.cache is None:
            raise ConfigError("cached features need a data set that is set up")
        self.data, cache = data, data.cache
        names = [f"{uid}.{n}" for uid, count in zip(cache.rows["uid"], cache.counts, strict=True) for n in range(count)]
        order = np.argsort(names)
        self.place = np.argsort(order)
        content = [cache.home.name, sorted((record.uid, record.key) for record in cache.records)]
        design = {key: value for key, value in architecture.items() if key not in _TRAINING}  # of no weight in a pass
        made_of = [data.preprocess.digest, design, content]
        made_by = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode())
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
        return BatchLoader(
            self.units(side), Plan(loading.batch_size, loading.seed, draw, None, rank, ranks, loading.same_batches)
        )

    @torch.inference_mode()
    def solve(self, network: Network, task: Any) -> None:
        """Fill the head with the logistic regression of the pooled training features (see `fit_path`).

        Raises:
            ConfigError: a task that is no classification. DataError: too few patients for cross-validation.
        """
        if task.kind not in _CLASSIFIES:
            raise ConfigError(f"optim=logistic classifies; for a task of kind {task.kind} use optim=probe")
        units, exclusive = self.units("train"), task.kind == "multiclass"
        stored = units.images(np.concatenate(units.members)).to(network.head.weight.device)
        vectors = network.norm(network.from_tokens(self.features.tokens(stored)).float()).double().cpu().numpy()
        truth, patients = task.truth(units.target, units.weight), units.frame["patient"].to_numpy()
        found = fit_path(vectors, truth, patients, exclusive)
        network.head.weight.copy_(torch.from_numpy(found.coef))
        network.head.bias.copy_(torch.from_numpy(found.intercept))
        said = ", ".join(f"C={c:.2g} (log loss {loss:.3f})" for c, loss in zip(found.strength, found.loss, strict=True))
        logger.info("logistic regression, cross-validated over training patients: %s", said)

    def beside(self, task: Any) -> dict[str, float]:
        """Return what logistic regression on class token and mean of the patches scores, to set beside a probe.

        `val/logistic_...` is of the validation units, `train/logistic_...` of the training units out of fold, with the
        L2 strength chosen anew inside each fold (nested). Empty, with the reason in the log, for bags, regressions,
        ordinals, and data too large or with too few patients.
        """
        train, val = (self.units(side) for side in ("train", "val"))
        if task.kind not in _CLASSIFIES or train.bagged or len(train) * task.outputs > _BESIDE:
            logger.info("no logistic regression beside the probe: it is for up to %d labels of single images", _BESIDE)
            return {}
        exclusive, patients = task.kind == "multiclass", train.frame["patient"].to_numpy()
        vectors, truth = self._plain(train), task.truth(train.target, train.weight)
        try:
            held = nested(vectors, truth, patients, exclusive)
            said = {
                "train": (train, held),
                "val": (val, fit_path(vectors, truth, patients, exclusive).logits(self._plain(val))),
            }
        except DataError as error:
            logger.info("no logistic regression beside the probe: %s", error)
            return {}
        name = task.monitor.removeprefix("val/")
        found: dict[str, float] = {}
        for side, (units, logits) in said.items():
            scores = task.scores(task.probabilities_numpy(logits), units.target, units.weight)
            found |= {f"{side}/logistic_{name}": scores[name]} if name in scores else {}
        logger.info("logistic regression beside the probe: %s", ", ".join(f"{k} {v:.3f}" for k, v in found.items()))
        return found

    def _plain(self, units: FeatureUnits) -> NDArray[np.float64]:
        """Return class token, where there is one, and mean of the patches of every unit, side by side [n F]."""
        parts = []
        for start in range(0, len(units), _BATCH):
            stored = units.images(np.concatenate(units.members[start : start + _BATCH]))
            tokens = self.features.tokens(stored)
            both = torch.cat([tokens.prefix[:, :1].flatten(1), tokens.patches.mean(dim=1)], dim=1)
            parts.append(both.double().numpy())
        return np.concatenate(parts)

    def _images(self, cache: Cache, device: torch.device) -> Iterator[tuple[range, Tensor]]:
        """Give the normalised images of all rows, with their places, a batch at a time."""
        first = 0
        for rows in torch.split(torch.arange(len(cache)), _BATCH if cache.counts.max() == 1 else 1):
            for image in torch.split(torch.from_numpy(cache.gather(rows.numpy())), _BATCH):
                yield range(first, first + len(image)), self.data.normalise(image.to(device))
                first += len(image)
