"""ConvNeXt as a convolutional baseline, built by transformers.

Liu et al. 2022 (arXiv 2201.03545); V2, Woo et al. 2023 (arXiv 2301.00808). Its layer norm keeps the images of a batch
apart. transformers needs no torchvision for it, but is many times the size of medvit: so it is an extra.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from medvit.errors import ConfigError, WeightsError
from medvit.model.cnn import Convolutional
from medvit.model.pretrained import adapt, store

log = logging.getLogger(__name__)
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
VERSIONS = {1: "convnext", 2: "convnextv2"}  # and what config.json calls them
STEM = "embeddings.patch_embeddings"
LEFT = re.compile(r"(layernorm|classifier)\.")  # behind the encoder: norm and head of `Network` stand there


def convnext(
    image_size: Sequence[int],
    weights: str | None = None,
    in_channels: int = 1,
    depths: Sequence[int] | None = None,
    widths: Sequence[int] | None = None,
    version: int | None = None,
    drop_path: float = 0.0,
) -> Convolutional:
    """Return ConvNeXt for films, stride 32; `drop_path` is the rate of the last block (linear from 0).

    `weights` null: from scratch, with `depths` and `widths` of the four stages and `version` 1 or 2. `weights` a
    directory as transformers saves it, or a hub id that is on this machine: the checkpoint decides these, and what is
    given besides must agree with it; colour is folded into `in_channels` as for a ViT (`adapt.fold_channels`).
    Raises ConfigError: no transformers, missing settings, volumes; WeightsError: what does not load exactly.
    """
    asked = {"depths": depths and list(depths), "widths": widths and list(widths), "version": version}
    given = {key: value for key, value in asked.items() if value is not None}
    if weights is not None:
        return _load(weights, image_size, in_channels, given, drop_path)
    if missing := sorted(set(asked) - set(given)):
        raise ConfigError(f"convnext: from scratch (weights: null) needs {', '.join(missing)}")
    return _build(image_size, in_channels, given, drop_path)


def _build(image_size: Sequence[int], in_channels: int, design: Mapping[str, Any], drop_path: float) -> Convolutional:
    depths, widths, version = design["depths"], design["widths"], design["version"]
    if version not in VERSIONS or len(depths) != 4 or len(widths) != 4 or len(image_size) != 2:
        raise ConfigError(
            f"convnext: expected version 1 or 2, 4 depths and widths, and 2 image sides; found version={version}, "
            f"depths={depths}, widths={widths}, image_size={list(image_size)}; for volumes use densenet121_3d"
        )
    try:
        from transformers import ConvNextConfig, ConvNextModel, ConvNextV2Config, ConvNextV2Model
    except ImportError as error:
        raise ConfigError(
            "a ConvNeXt is built by transformers, which is not here: pip install medvit[convnext]"
        ) from error
    settings, model = ((ConvNextConfig, ConvNextModel), (ConvNextV2Config, ConvNextV2Model))[version - 1]
    net = model(settings(num_channels=in_channels, hidden_sizes=widths, depths=depths, drop_path_rate=drop_path))
    stages = [nn.Sequential(net.embeddings, net.encoder.stages[0]), *net.encoder.stages[1:]]
    return Convolutional(stages, image_size, in_channels, widths[-1], 32)


def _load(
    source: str, image_size: Sequence[int], in_channels: int, given: Mapping[str, Any], drop_path: float
) -> Convolutional:
    place = store.locate(source)
    tensors, config, sha256 = store.read(place)
    design = _design(config)
    if wrong := [
        f"{key}: {value} asked, the checkpoint has {design[key]}"
        for key, value in given.items()
        if value != design[key]
    ]:
        raise WeightsError("; ".join(wrong) + "; leave these out of the model config, the checkpoint decides them")
    encoder = _build(image_size, in_channels, design, drop_path)
    state = {key.removeprefix("convnext.").removeprefix("convnextv2."): tensor for key, tensor in tensors.items()}
    state = {key: tensor.float() for key, tensor in state.items() if not LEFT.match(key)}
    mean, std = (tuple(float(v) for v in config.get(key, value)) for key, value in IMAGENET.items())
    if in_channels != len(mean) and {f"{STEM}.weight", f"{STEM}.bias"} <= set(state):
        state[f"{STEM}.weight"], moved, *grey = adapt.fold_channels(state[f"{STEM}.weight"], mean, std, in_channels)
        state[f"{STEM}.bias"] = (state[f"{STEM}.bias"].double() + moved).float()
        mean, std = ((value,) * in_channels for value in grey)
    _fill(encoder, state)
    encoder.mean, encoder.std = mean, std
    encoder.scratch = {"weights": None, **design}
    encoder.provenance = {
        "weights": store.public_name(source),
        "revision": store.revision(source, place),
        "sha256": sha256,
        "family": VERSIONS[design["version"]],
        "licence": "of the checkpoint",
        "citation": "Liu et al. 2022 (arXiv 2201.03545), Woo et al. 2023 (arXiv 2301.00808)",
    }
    log.info(
        "weights %s: family %s, %d of %d tensors matched, norm and classifier left behind",
        *(encoder.provenance[key] for key in ("weights", "family")),
        len(state),
        len(tensors),
    )
    return encoder


def _design(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what config.json says of the network; WeightsError for another one, or a switch no published one has."""
    found = {number for number, name in VERSIONS.items() if name == config.get("model_type")}
    odd = {"patch_size": 4, "hidden_act": "gelu", "num_stages": 4}
    wrong = [f"{key}={config[key]!r}" for key, usual in odd.items() if config.get(key, usual) != usual]
    if not found or wrong:
        said = ", ".join(wrong) or f"model_type={config.get('model_type')!r}"
        raise WeightsError(
            f"convnext: config.json says {said}; expected a model_type of {', '.join(VERSIONS.values())} as published "
            f"({odd}). For a ViT take one of the model=vit_... settings"
        )
    return {"depths": list(config["depths"]), "widths": list(config["hidden_sizes"]), "version": found.pop()}


def _fill(encoder: Convolutional, state: Mapping[str, Tensor]) -> None:
    """Copy every tensor, or raise WeightsError with what is missing, unexpected or of another shape."""
    first, *others = encoder.blocks
    parts = {"embeddings.": first[0], "encoder.stages.0.": first[1]}  # type: ignore[index]
    parts |= {f"encoder.stages.{number}.": stage for number, stage in enumerate(others, start=1)}
    wanted = {prefix + key: value for prefix, part in parts.items() for key, value in part.state_dict().items()}
    store.refuse_misfits(wanted, state, "convnext")
    for prefix, part in parts.items():
        part.load_state_dict({key: state[prefix + key] for key in part.state_dict()})
