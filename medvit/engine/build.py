"""From settings to parts: network, preprocessing, and the node that rebuilds the network without a checkpoint."""

from __future__ import annotations

import json
import logging
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medvit.bundle.onnx import refuse_unexportable
from medvit.config import build
from medvit.dataset.manifest import task_hint
from medvit.engine.contradictions import RANDOM
from medvit.engine.precision import precision_of
from medvit.errors import ConfigError, MedvitError
from medvit.model.network import Network
from medvit.model.vit import ViT

logger = logging.getLogger(__name__)
ARCHITECTURE = "architecture.json"
_SAME = 1e-3  # of display values: published constants are rounded to three digits


@dataclass(frozen=True)
class Parts:
    """What a training is made of, built from its settings; `strategy` has not looked at the data yet."""

    task: Any
    network: Network
    preprocess: Any
    strategy: Any
    precision: Any


def prepare(settings: dict[str, Any]) -> Parts:
    """Seed every generator, check machine and split, and build the parts; imports no Lightning and opens no run.

    Raises:
        MedvitError: all that is wrong: a device or a fold that is not there, an image size, weights, a loss.
    """
    if settings["model"].get("weights") == RANDOM:
        settings["model"]["weights"] = None
    seed = settings["seed"]
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (libraries draw from it)
    torch.manual_seed(seed)
    problems: list[MedvitError] = []

    def tried(step: Callable[[], Any]) -> Any:
        try:
            return step()
        except MedvitError as error:
            problems.append(error)

    tried(lambda: _refuse_device(settings["trainer"]))
    task = tried(lambda: build(settings["task"]))
    tried(lambda: _refuse_split(settings["data"], task))
    strategy = tried(lambda: build(settings["optim"]["strategy"]))
    network = tried(lambda: build_network(settings, task.outputs if task else 1))
    preprocess = tried(lambda: build_preprocess(settings, network)) if network else None
    precision = tried(lambda: precision_of(settings["trainer"], network)) if network else None
    if len(problems) > 1:
        raise ConfigError("\n".join(map(str, problems)))
    if problems:
        raise problems[0]
    if preprocess is not None and settings["data"]["unit"] is None:  # a bundle judges one film or series
        refuse_unexportable(network, preprocess.shape)
    return Parts(task, network, preprocess, strategy, precision)


def _refuse_device(trainer: dict[str, Any]) -> None:
    devices, there = trainer["devices"], torch.cuda.device_count()
    if trainer["accelerator"] in ("gpu", "cuda") and not there:
        why = "" if torch.version.cuda else ": this torch is built for processors only"
        raise ConfigError(f"trainer.accelerator={trainer['accelerator']}: no GPU is found{why}; give auto or cpu")
    asked = 0 if devices == "auto" else max(devices) + 1 if isinstance(devices, list) else devices
    if there and trainer["accelerator"] not in ("cpu", "mps") and asked > there:
        raise ConfigError(f"trainer.devices={devices}: this machine has {there} GPUs")
    if not there and trainer["precision"] == "16-mixed" and sys.platform != "darwin":
        raise ConfigError("trainer.precision=16-mixed needs a GPU, and none is found; give auto")


def _refuse_split(data: dict[str, Any], task: Any) -> None:
    """Refuse a fold that the split does not have, and labels that the task does not know."""
    from medvit.dataset import manifest, splits

    table = manifest.read(Path(data["folder"]))
    frozen = splits.read(Path(data["folder"]), table)
    rows = [frozen.rows(table, side, data["fold"]) for side in ("train", "val")]
    for each in rows if task else ():
        task.encode(each)


def build_network(settings: dict[str, Any], outputs: int, architecture: dict[str, Any] | None = None) -> Network:
    """Return backbone, pool and head for `outputs` logits.

    `architecture` is what `describe` gave when the network was trained: it needs no checkpoint file, hub or network.
    """
    backbone = build(architecture or settings["model"])
    bag = build(settings["bag"]) if settings.get("bag") else None
    return Network(backbone, build(settings["pool"]), outputs, bag)


def describe(settings: dict[str, Any], network: Network) -> dict[str, Any]:
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


def build_preprocess(settings: dict[str, Any], network: Network) -> Any:
    """Return the preprocessing; `mean` and `std` left null become the checkpoint's own, others are told beside them.

    `picture_bits` left null becomes what the index found in the data set.
    """
    node, backbone = settings["preprocess"], network.backbone
    own = {key: float(getattr(backbone, key)[0]) for key in ("mean", "std") if hasattr(backbone, key)}
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
