"""Build a Vision Transformer from `conf/model/*.yaml`: from scratch by its numbers, or from a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from medvit.errors import ConfigError
from medvit.model.design import Architecture, TrainingOptions
from medvit.model.vit import ViT


def vit(
    image_size: Sequence[int],
    weights: str | None = None,
    in_channels: int = 1,
    patch_size: Sequence[int] | None = None,
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    **switches: Any,
) -> ViT:
    """Return a ViT for images of `image_size` with `in_channels`.

    `weights` null: from scratch, so `patch_size`, `width`, `depth` and `heads` must be given, and `switches` may be any
    field of `Design`. `weights` a hub id or local directory: the checkpoint decides all of these, what is given besides
    must agree with it (except `patch_size`, which resizes the patch kernel). Fields of `Regime` are always allowed.
    Raises ConfigError for unknown or missing settings, WeightsError for a checkpoint that does not load exactly.
    """
    regime_names, design_names = ({f.name for f in fields(part)} for part in (TrainingOptions, Architecture))
    unknown = sorted(set(switches) - regime_names - design_names)
    if unknown:
        near = {name: get_close_matches(name, regime_names | design_names, 1) for name in unknown}
        hints = ", ".join(f"{name} (did you mean {hit[0]}?)" if hit else name for name, hit in near.items())
        raise ConfigError(f"vit: unknown settings {hints}")
    regime = TrainingOptions(**{key: value for key, value in switches.items() if key in regime_names})
    design = {key: value for key, value in switches.items() if key in design_names}
    numbers = {"patch_size": patch_size, "width": width, "depth": depth, "heads": heads}
    if weights is not None:
        from medvit.model.pretrained.load import load

        wanted = {key: value for key, value in {**numbers, **design}.items() if value is not None}
        return load(weights, image_size, in_channels, regime=regime, wanted=wanted).backbone
    missing = [key for key, value in numbers.items() if value is None]
    if patch_size is None or width is None or depth is None or heads is None:
        raise ConfigError(f"vit: from scratch (weights: null) needs {', '.join(missing)}")
    return ViT(image_size, patch_size, in_channels, width, depth, heads, Architecture(**design), regime)
