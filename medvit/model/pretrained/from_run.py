"""Load the encoder of a finished medvit run as a checkpoint for another training."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from medvit.errors import WeightsError
from medvit.model.design import Architecture
from medvit.model.pretrained import store
from medvit.model.pretrained.canonical import Checkpoint
from medvit.model.pretrained.families import Family

ARCHITECTURE, PREPROCESS, SETTINGS, BEST = (
    "architecture.json", "preprocess.json", "config.json", "checkpoints/best.safetensors"
)  # fmt: skip
WEIGHTS = "weights.json"
ENCODER, VIT = "backbone.", "medvit.model.backbone.vit"


def is_run(path: Path) -> bool:
    """Return whether a directory is a run's folder."""
    return (path / ARCHITECTURE).is_file()


def read(folder: Path) -> tuple[Checkpoint, int, str]:
    """Return the canonical checkpoint of a run's best encoder, how many tensors its file has, and the file's sha256.

    Head and pool are left behind: they belong to the run's own labels.

    Raises:
        WeightsError: an unfinished run, a backbone that is no ViT, or adapters that are not merged.
    """
    missing = [name for name in (BEST, PREPROCESS, SETTINGS) if not (folder / name).is_file()]
    if missing:
        raise WeightsError(f"weights: the run lacks {', '.join(missing)}: it did not finish; resume it or take another")
    architecture, preprocess, settings = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in (ARCHITECTURE, PREPROCESS, SETTINGS)
    )
    if architecture.get("_target_") != VIT:
        raise WeightsError(f"weights: the run's backbone is {architecture.get('_target_')}; only a ViT can be taken on")
    tensors, _, sha256 = store.read(folder / BEST)
    state = {key.removeprefix(ENCODER): tensor for key, tensor in tensors.items() if key.startswith(ENCODER)}
    if any(".down." in key for key in state):
        raise WeightsError("weights: the run has LoRA adapters beside its weights; take a run of llrd, full or scratch")
    size, patch = architecture["image_size"], tuple(architecture["patch_size"])
    channels = architecture["in_channels"]
    found = Checkpoint(
        family=_family(settings),
        state=state,
        head={},
        patch=patch,
        channels=channels,
        width=architecture["width"],
        depth=architecture["depth"],
        heads=architecture["heads"],
        grid=tuple(side // p for side, p in zip(size, patch, strict=True)),
        design=_design(architecture),
        pool="mean",
        mean=(float(preprocess["mean"]),) * channels,
        std=(float(preprocess["std"]),) * channels,
        dropped=tuple(key for key in tensors if not key.startswith(ENCODER)),
    )
    return found, len(tensors), sha256


def terms(folder: Path) -> dict[str, str]:
    """Return what the weights that a run began with forbid and had seen: it holds for what was made of them."""
    file = folder / WEIGHTS
    told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {key: told[key] for key in ("forbids", "pretrained_on") if key in told}


def refuse_refit(checkpoint: Checkpoint, axes: int, channels: int, patch: tuple[int, ...] | None) -> None:
    """Refuse to fit a stem of several convolutions to other channels, axes or patches: there is no exact way.

    Raises:
        WeightsError: what was asked and what the checkpoint has.
    """
    same = (len(checkpoint.patch), checkpoint.channels, checkpoint.patch)
    if checkpoint.design.stem == "conv" and (axes, channels, patch or checkpoint.patch) != same:
        raise WeightsError(
            f"weights: a convolutional stem stays as it was trained, {len(checkpoint.patch)} axes, "
            f"{checkpoint.channels} channels, patch {checkpoint.patch}; asked: {axes} axes, {channels} channels, "
            f"patch {patch or checkpoint.patch}. Its image size may change"
        )


def _design(architecture: dict[str, Any]) -> Architecture:
    names = {field.name for field in fields(Architecture)}
    switches = {key: value for key, value in architecture.items() if key in names}
    reference = switches.get("reference")
    return Architecture(**{**switches, "reference": tuple(reference) if reference is not None else None})


def _family(settings: dict[str, Any]) -> Family:
    started = settings["model"].get("weights")
    terms = "of the run's data" + (f" and of {store.public_name(started)}" if started else "")
    return Family(name="medvit-run", detect={}, licence=terms, citation="a run of medvit")
