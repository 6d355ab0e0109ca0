"""From settings to parts: network, preprocessing, and the node that rebuilds the network without a checkpoint."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medvit.config import build
from medvit.dataset.manifest import task_hint
from medvit.model.network import Network
from medvit.model.vit import ViT

logger = logging.getLogger(__name__)
ARCHITECTURE = "architecture.json"
_SAME = 1e-3  # of display values: published constants are rounded to three digits


def build_network(settings: dict[str, Any], outputs: int, architecture: dict[str, Any] | None = None) -> Network:
    """Return backbone, pool and head for `outputs` logits.

    `architecture` is what `describe` gave when the network was trained: it needs no checkpoint file, hub or network.
    """
    trust = settings.get("trust", ())
    backbone = build(architecture or settings["model"], trust)
    bag = build(settings["bag"], trust) if settings.get("bag") else None
    return Network(backbone, build(settings["pool"], trust), outputs, bag)


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
    return build({**node, **own, **given}, settings.get("trust", ()))
