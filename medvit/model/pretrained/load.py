"""Load a checkpoint into the one encoder: all tensors accounted for, one line of report, or a refusal."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medvit.errors import WeightsError
from medvit.model.design import TrainingOptions
from medvit.model.pretrained import adapt, canonical, catalogue, from_run, store
from medvit.model.pretrained.canonical import Checkpoint
from medvit.model.pretrained.pretrained_head import PretrainedHead
from medvit.model.vit import ViT

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """What `load` returns: the encoder, the head the checkpoint came with, and the line that was logged."""

    backbone: ViT
    head: PretrainedHead
    report: str


def load(
    source: str,
    image_size: Sequence[int] | None = None,
    in_channels: int | None = None,
    *,
    regime: TrainingOptions | None = None,
    wanted: Mapping[str, Any] | None = None,
) -> Loaded:
    """Load a directory, a safetensors file, a run's folder or a hub id into a `ViT` for `image_size` and `in_channels`.

    None for either keeps the checkpoint's own. `wanted` is what a config says besides: width, depth, heads and fields
    of `Design` must agree with the checkpoint; `patch_size` resizes the kernel. Three sides inflate a film encoder.
    Raises WeightsError: not here, pickle, truncated, unknown family, missing or unexpected tensors, wrong heads.
    """
    wanted = dict(wanted or {})
    place = store.locate(source)
    native, tensors, sha256, terms = _read(source, place, wanted.pop("heads", None))
    asked_patch = wanted.pop("patch_size", None)
    _agree(native, wanted)
    size = tuple(image_size) if image_size is not None else _own_size(native)
    fitted = _fit(native, size, in_channels or native.channels, None if asked_patch is None else tuple(asked_patch))
    vit = _encoder(fitted, size, regime or TrainingOptions())
    family = native.family
    vit.provenance = {
        "weights": store.public_name(source),
        "revision": store.revision(source, place),
        "sha256": sha256,
        "family": family.name,
        "licence": family.licence,
        "citation": family.citation,
        **terms,
        **({} if native.normalised else {catalogue.NORMALISATION: catalogue.UNKNOWN}),
    }
    report = _report(source, native, fitted, tensors) + f", licence {vit.provenance['licence']}"
    vit.provenance["report"] = report
    log.info(report)
    return Loaded(vit, PretrainedHead(native).eval(), report)


def encoder_of(checkpoint: Checkpoint, size: tuple[int, ...]) -> ViT:
    """Return the encoder of a checkpoint for images of `size`, with the channels and patch it has."""
    return _encoder(_fit(checkpoint, size, checkpoint.channels, None), size, TrainingOptions())


def _encoder(fitted: Checkpoint, size: tuple[int, ...], regime: TrainingOptions) -> ViT:
    numbers = (fitted.patch, fitted.channels, fitted.width, fitted.depth, fitted.heads)
    vit = ViT(size, *numbers, fitted.design, regime)
    store.refuse_misfits(vit.state_dict(), fitted.state, f"family {fitted.family.name}")
    vit.load_state_dict(fitted.state)
    vit.mean, vit.std = fitted.mean, fitted.std
    return vit


def _read(source: str, path: Path, heads: int | None) -> tuple[Checkpoint, int, str, dict[str, str]]:
    """Return the canonical checkpoint, the number of tensors in its file, the file's sha256, and its terms of use."""
    if from_run.is_run(path):
        native, tensors, sha256 = from_run.read(path)
        if heads not in {None, native.heads}:
            raise WeightsError(f"heads: {heads} asked, the checkpoint has {native.heads}; leave it out")
        return native, tensors, sha256, from_run.terms(path)
    state, config, sha256 = store.read(path)
    entry = catalogue.entry_of(source, config)
    native = canonical.read(state, {**(entry.defaults() if entry else {}), **config}, heads)
    if entry is not None and entry.normalisation == "file" and not native.stated:
        native = replace(native, normalised=False)
    return native, len(state), sha256, catalogue.terms(entry, config)


def _own_size(checkpoint: Checkpoint) -> tuple[int, ...]:
    if checkpoint.grid is None:
        raise WeightsError("the checkpoint does not say its image size; give image_size")
    return tuple(n * p for n, p in zip(checkpoint.grid, checkpoint.patch, strict=True))


def _agree(checkpoint: Checkpoint, wanted: Mapping[str, Any]) -> None:
    """Refuse settings that the checkpoint contradicts: an ignored setting is an error."""
    wrong = []
    for key, value in wanted.items():
        found = getattr(checkpoint, key) if key in {"width", "depth"} else getattr(checkpoint.design, key)
        if key == "layer_scale":  # the config's is a starting value, the checkpoint's is learned
            same = (value is None) == (found is None)
        elif key == "positions":
            same = (value == "none") == (found == "none")
        else:
            same = found == (tuple(value) if isinstance(value, list) else value)
        if not same:
            wrong.append(f"{key}: {value} asked, the checkpoint has {found}")
    if wrong:
        raise WeightsError("; ".join(wrong) + "; leave these out of the model config, the checkpoint decides them")


def _fit(checkpoint: Checkpoint, size: tuple[int, ...], channels: int, patch: tuple[int, ...] | None) -> Checkpoint:
    from_run.refuse_refit(checkpoint, len(size), channels, patch)
    fitted = adapt.channels(checkpoint, channels)
    if len(size) == 3 and len(fitted.patch) == 2:
        depth = patch[0] if patch is not None else fitted.patch[0]
        fitted = adapt.inflate(fitted, depth, math.ceil(size[0] / depth))
    if len(size) != len(fitted.patch):
        raise WeightsError(f"image_size {size} has {len(size)} axes, the checkpoint's patch {fitted.patch}")
    fitted = adapt.patch(fitted, patch or fitted.patch)
    grid = tuple(max(side // p, 1) for side, p in zip(size, fitted.patch, strict=True))
    if fitted.design.rope == "index" and fitted.design.reference is None:
        fitted = replace(fitted, design=replace(fitted.design, reference=fitted.grid or grid))
    return adapt.grid(fitted, grid)


def _report(source: str, native: Checkpoint, fitted: Checkpoint, tensors: int) -> str:
    name = store.public_name(source)
    parts = [
        f"weights {name}: family {native.family.name}, {tensors - len(native.dropped)} of {tensors} tensors matched"
    ]
    for word, old, new in (("positions", native.grid, fitted.grid), ("patch", native.patch, fitted.patch)):
        if old is not None and old != new:
            parts.append(f"{word} {'x'.join(map(str, old))} -> {'x'.join(map(str, new or ()))}")
    if native.channels != fitted.channels:
        parts.append(f"channels {native.channels} -> {fitted.channels} folded")
    parts += [native.assumed] if native.assumed else []
    if native.dropped:
        listed = sorted({key.rsplit(".", 1)[0] for key in native.dropped})
        parts.append(f"dropped {', '.join(listed[:4])}" + (f" and {len(listed) - 4} more" if len(listed) > 4 else ""))
    return ", ".join(parts)
