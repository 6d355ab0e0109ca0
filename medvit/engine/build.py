"""From settings to parts: network, preprocessing, and the node that rebuilds the network without a checkpoint."""

from __future__ import annotations

import json
import logging
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from medvit.bundle.onnx import refuse_unexportable
from medvit.config import build
from medvit.dataset.leakage import seen_patients
from medvit.dataset.manifest import task_hint
from medvit.engine.cached_features import refuse_augmentation
from medvit.engine.pipeline import refuse_wrong_augment, refuse_wrong_steps, right_alone
from medvit.engine.settings.contradictions import RANDOM
from medvit.engine.settings.precision import precision_of
from medvit.errors import ConfigError, MedvitError
from medvit.model.custom.trial import refuse_untrainable
from medvit.model.network import Network
from medvit.model.pretrained import catalogue, store
from medvit.model.vit import ViT
from medvit.optim.plan import Plan

if TYPE_CHECKING:
    from medvit.engine.epoch_metrics import EpochMetrics

logger = logging.getLogger(__name__)
ARCHITECTURE = "architecture.json"
_SAME = 1e-3  # of display values: published constants are rounded to three digits


@dataclass(frozen=True)
class Parts:
    """What a training is made of, built from its settings."""

    task: Any
    network: Network
    preprocess: Any
    strategy: Any
    precision: Any
    curves: EpochMetrics | None = None


def prepare(settings: dict[str, Any]) -> Parts:
    """Seed every generator, check machine and split, and build the parts; imports no Lightning and opens no run.

    Raises:
        MedvitError: all that is wrong: a device or a fold that is not there, an image size, weights, a loss, steps,
            a network that the strategy cannot train.
    """
    begin(settings)
    problems = Problems()
    problems.tried(lambda: refuse_device(settings["trainer"]))
    task = problems.tried(lambda: build(settings["task"]))
    studies = problems.tried(lambda: _studies(settings["data"], task))
    strategy = problems.tried(lambda: build(settings["optim"]["strategy"]))
    problems.tried(lambda: Plan.of(settings).refuse_unusable())
    network = problems.tried(lambda: build_network(settings, task.outputs if task else 1))
    problems.tried(lambda: refuse_weights(settings, network.backbone) if network else None)
    preprocess, augment, curves = _added(settings, problems, task, network)
    precision = problems.tried(lambda: precision_of(settings["trainer"], network)) if network else None
    if strategy is not None:
        problems.tried(lambda: refuse_augmentation(strategy, augment))
    if None not in (strategy, studies, preprocess):
        strategy = strategy.choose(studies, volumes=preprocess.kind == "volume", augmented=augment is not None)
        problems.tried(lambda: strategy.refuse_epochs(settings["trainer"]["epochs"]))
        problems.tried(lambda: strategy.refuse_network(network) if network else None)
    problems.tell()
    return Parts(task, network, preprocess, strategy, precision, curves)


def problems_of_added(settings: dict[str, Any]) -> list[str]:
    """Return what is wrong with the parts of a training that are not medvit's own, by trying each."""
    problems = Problems()
    task = problems.tried(lambda: build(settings["task"]))
    problems.tried(lambda: Plan.of(settings).refuse_unusable())
    elsewhere = task and "_target_" in (settings["model"].get("network") or {})
    network = problems.tried(lambda: build_network(settings, task.outputs)) if elsewhere else None
    _added(settings, problems, task, network)
    return problems.lines()


def _added(settings: dict[str, Any], problems: Problems, task: Any, network: Any) -> tuple[Any, Any, Any]:
    """Try what a user may add, and return preprocessing, augmentation and metrics.

    That is steps, random transforms, metrics, callbacks, loggers, a strategy of Lightning, a network made elsewhere.
    """
    preprocess = problems.tried(lambda: build_preprocess(settings, network))
    augment = problems.tried(lambda: build(settings["augment"]) if settings["augment"] else None)
    left = preprocess or _rest(lambda: build_preprocess({**settings, **_without(settings, "preprocess")}, network))
    random_left = augment or _rest(lambda: build(_without(settings, "augment")["augment"]))
    if left is not None:
        problems.tried(lambda: refuse_wrong_steps(left))
        problems.tried(lambda: refuse_wrong_augment(random_left, left))
    curves = problems.tried(lambda: _extensions(settings, task)) if task else None
    if None not in (network, preprocess):
        told = problems.tried(lambda: refuse_untrainable(network, preprocess.shape))
        for line in told or ():
            logger.warning("%s", line)
        if told is not None and settings["data"]["unit"] is None:  # a bundle judges one film or series
            problems.tried(lambda: refuse_unexportable(network, preprocess.shape))
    return preprocess, augment, curves


def _without(settings: dict[str, Any], part: str) -> dict[str, Any]:
    return {part: right_alone(settings[part] or {})}


def _rest(step: Callable[[], Any]) -> Any:
    """Return what is left of a part to be tried, or None; what is wrong with the part itself is told already."""
    try:
        return step()
    except (MedvitError, KeyError):
        return None


def _extensions(settings: dict[str, Any], task: Any) -> EpochMetrics | None:
    """Return the metrics a user added; refuse those, and callbacks, loggers and a strategy, that cannot be used."""
    asked = {key: node for key, node in (settings.get("metrics") or {}).items() if node is not None}
    problems = Problems()
    if any(settings.get(group) for group in ("callbacks", "logger")) or isinstance(
        settings["trainer"].get("strategy"), dict
    ):
        from medvit.engine.extensions import refuse_unusable

        problems.tried(lambda: refuse_unusable(settings))
    curves = None
    if asked:
        from medvit.engine.epoch_metrics import EpochMetrics

        curves = problems.tried(lambda: EpochMetrics(asked, task))
    problems.tell()
    return curves


def begin(settings: dict[str, Any]) -> None:
    """Seed every generator, and take the word for random weights as none."""
    if settings["model"].get("weights") == RANDOM:
        settings["model"]["weights"] = None
    seed = settings["seed"]
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (libraries draw from it)
    torch.manual_seed(seed)


class Problems:
    """The errors of several steps, told as one."""

    def __init__(self) -> None:
        self._found: list[MedvitError] = []

    def tried(self, step: Callable[[], Any]) -> Any:
        """Return what a step gives, or None where it fails."""
        try:
            return step()
        except MedvitError as error:
            self._found.append(error)

    def lines(self) -> list[str]:
        """Return what every step said."""
        return list(map(str, self._found))

    def tell(self) -> None:
        """Raise the one error there was, or a ConfigError of all."""
        if len(self._found) > 1:
            raise ConfigError("\n".join(self.lines()))
        if self._found:
            raise self._found[0]


def refuse_device(trainer: dict[str, Any]) -> None:
    """Raise ConfigError for a GPU that is not there."""
    devices, there = trainer["devices"], torch.cuda.device_count()
    if trainer["accelerator"] in ("gpu", "cuda") and not there:
        why = "" if torch.version.cuda else ": this torch is built for processors only"
        raise ConfigError(f"trainer.accelerator={trainer['accelerator']}: no GPU is found{why}; give auto or cpu")
    asked = 0 if devices == "auto" else max(devices) + 1 if isinstance(devices, list) else devices
    if there and trainer["accelerator"] not in ("cpu", "mps") and asked > there:
        raise ConfigError(f"trainer.devices={devices}: this machine has {there} GPUs")
    if not there and trainer["precision"] == "16-mixed" and sys.platform != "darwin":
        raise ConfigError("trainer.precision=16-mixed needs a GPU, and none is found; give auto")


def refuse_weights(settings: dict[str, Any], backbone: nn.Module) -> None:
    """Refuse weights that may not be used so, or whose normalisation nobody says."""
    origin = getattr(backbone, "provenance", {})
    catalogue.refuse_terms(origin, bool(settings.get("weights", {}).get("accept_licence")))
    node = settings["preprocess"]
    catalogue.refuse_unknown_normalisation(origin, node.get("mean") is not None and node.get("std") is not None)


def _studies(data: dict[str, Any], task: Any) -> int:
    """Return the studies of the training side; refuse a fold that is not there, and labels the task does not know."""
    from medvit.dataset import manifest, splits

    if data["fold"] == splits.ALL_FOLDS:
        raise ConfigError("data.fold=all is what the models of all folds are together; train them by medvit.crossval")
    table = manifest.read(Path(data["folder"]))
    frozen = splits.read(Path(data["folder"]), table)
    rows = [frozen.rows(table, side, data["fold"]) for side in ("train", "val")]
    for each in rows if task else ():
        task.encode(each)
    return int(rows[0]["study"].nunique())


def seen_before(settings: dict[str, Any]) -> frozenset[str]:
    """Return the pseudonyms of the patients that the weights of `model.weights` have learnt from, where a run says."""
    source = settings["model"].get("weights")
    return seen_patients.read(store.locate(source)) if source else frozenset()


def build_network(settings: dict[str, Any], outputs: int, architecture: dict[str, Any] | None = None) -> Network:
    """Return backbone, pool and head for `outputs` logits.

    `architecture` is what `describe` gave when the network was trained: it needs no checkpoint file, hub or network.
    """
    backbone = build(architecture or settings["model"])
    bag = build(settings["bag"]) if settings.get("bag") else None
    return Network(backbone, build(settings["pool"]), outputs, bag)


def describe(settings: dict[str, Any], network: nn.Module) -> dict[str, Any]:
    """Return the config node that builds the same backbone from scratch."""
    backbone = network.backbone
    if not isinstance(backbone, ViT):
        return {**settings["model"], **getattr(backbone, "scratch", {})}
    numbers = {
        "image_size": [g * d for g, d in zip(backbone.grid, backbone.divisor, strict=True)],
        "patch_size": list(backbone.divisor),
        "in_channels": backbone.in_channels,
        "width": backbone.width,
        "depth": backbone.depth,
        "heads": backbone.heads,
    }
    switches = {**asdict(backbone.design), **asdict(backbone.regime)}
    plain: dict[str, Any] = json.loads(json.dumps({**numbers, **switches}))
    return {"_target_": "medvit.model.backbone.vit", "weights": None, **plain}


def build_preprocess(settings: dict[str, Any], network: nn.Module | None) -> Any:
    """Return the preprocessing; `mean` and `std` left null become the checkpoint's own, others are told beside them.

    `picture_bits` left null becomes what the index found in the data set. Without a network, which could not be built,
    the result is for trying its steps alone.
    """
    node, backbone = settings["preprocess"], getattr(network, "backbone", None)
    own = {key: float(getattr(backbone, key)[0]) for key in ("mean", "std") if hasattr(backbone, key)}
    own = own if network is not None else {"mean": 0.5, "std": 0.25}
    given = {key: node[key] for key in own if node.get(key) is not None}
    if getattr(backbone, "provenance", None) and any(abs(value - own[key]) > _SAME for key, value in given.items()):
        logger.warning(
            "images are normalised by %s and not as the checkpoint's were, by %s; preprocess.mean=null "
            "preprocess.std=null takes its own",
            *(", ".join(f"{key} {value:.4g}" for key, value in each.items()) for each in (given, own)),
        )
    if node.get("picture_bits", 0) is None:
        node = {**node, "picture_bits": task_hint(Path(settings["data"]["folder"])).get("picture_bits", "declared")}
    return build({**node, **own, **given})
