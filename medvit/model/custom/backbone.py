"""Any network as a backbone: of MONAI, timm or transformers, or an `nn.Module` of one's own, by `_target_`.

The network is run once with an image of the right size; what it gives decides width, grid and prefix, and what plays no
part in it (a classifier, a decoder) is taken off. Nothing is guessed: an output that could be read in two ways is
refused with the words that would tell. docs/how-to/own_network.md.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medvit.config_words import nearest
from medvit.errors import ConfigError
from medvit.model import positions
from medvit.model.custom import weights as checkpoints
from medvit.model.custom.features import Features, features_of, run_to
from medvit.model.custom.parts import Used, keep_frozen, keep_used
from medvit.types import Tokens

log = logging.getLogger(__name__)


class CustomBackbone(nn.Module):
    """A network as a backbone: image [B C *S] to the tokens that `features` names.

    `blocks` are the dotted names of its parts in depth order. `statistics` are mean and deviation of each channel it
    takes; where these are more than the images have, each is shown what it would have seen.
    """

    made_elsewhere = True  # so it is tried before a training: `medvit.model.custom.trial`

    def __init__(
        self,
        network: nn.Module,
        image_size: Sequence[int],
        in_channels: int,
        features: Features,
        blocks: Sequence[str],
        statistics: tuple[Sequence[float], Sequence[float]],
    ) -> None:
        super().__init__()
        self.network, self.features, self.in_channels = network, features, in_channels
        means, stds = (tuple(float(v) for v in values) for values in statistics)
        self.mean, self.std, self._colours = _grey(means, stds, in_channels)
        used = self._run_once(tuple(image_size), len(means))
        self.through, self.removed = used.through, used.removed
        self.shape = features.shape_of(used.features, tuple(image_size))
        self.width, self.prefix, self.grid = self.shape.width, self.shape.prefix, self.shape.grid
        self.divisor = tuple(side // cells for side, cells in zip(image_size, self.grid, strict=True))
        self.block_names, self.frozen = tuple(blocks), keep_frozen(network)
        self.provenance: dict[str, str] = {}
        self.scratch: dict[str, Any] = {"weights": None}

    @property
    def blocks(self) -> nn.ModuleList:
        """The parts that were named as blocks, first to last; found anew, for adapters may have taken their place."""
        return nn.ModuleList(self.network.get_submodule(name) for name in self.block_names)

    def forward(self, image: Float[Tensor, "B C *S"]) -> Tokens:
        """Return the tokens; raises ConfigError for wrong channels or a side that is no multiple of the stride."""
        if image.shape[1] != self.in_channels:
            raise ConfigError(f"image has {image.shape[1]} channels, the encoder was built for {self.in_channels}")
        grid = positions.grid_size(tuple(image.shape[2:]), self.divisor, "stride")
        return self.shape.tokens(run_to(self.network, self.features, self._coloured(image), self.through), grid)

    def _coloured(self, image: Tensor) -> Tensor:
        if not self._colours:
            return image
        return torch.cat([image * gain + shift for gain, shift in self._colours], dim=1)

    def _run_once(self, size: tuple[int, ...], channels: int) -> Used:
        first = next(self.network.parameters(), None)
        if first is None:
            raise ConfigError("model.network has no parameters: there is nothing to train")
        image = torch.linspace(-1, 1, channels * math.prod(size), device=first.device)
        return keep_used(self.network, self.features, image.reshape(1, channels, *size))


def custom_backbone(
    network: Any,
    image_size: Sequence[int],
    in_channels: int = 1,
    features: Mapping[str, Any] | None = None,
    blocks: str | Sequence[str] | None = None,
    weights: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> CustomBackbone:
    """Return `network` (an `nn.Module`, made by its `_target_`) as a backbone for images of `image_size`.

    `features`: fields of `Features`; null for the networks of MONAI and timm that `features_of` knows. `blocks`: dotted
    names of parts in depth order, or the name of a list of them. `weights`: safetensors with the names of the network's
    own state_dict, or the folder of a run with the same network. `mean`, `std`: one number for each channel the network
    takes; three of each, and grey images are shown to all three.
    Raises ConfigError: no nn.Module, unknown fields, features that are none; WeightsError: weights that do not fit.
    """
    if not isinstance(network, nn.Module):
        raise ConfigError(f"model.network is a {type(network).__name__}: expected _target_ of a torch.nn.Module")
    known = [field.name for field in fields(Features)]
    if unknown := [f"{key}{nearest(key, known)}" for key in features or {} if key not in known]:
        raise ConfigError(f"model.features has no {', '.join(unknown)}; it has {', '.join(known)}")
    chosen, usual = features_of(network)
    if features and any(value is not None for value in features.values()):
        chosen, usual = Features(**{key: value for key, value in features.items() if value is not None}), ()
    found = checkpoints.read(weights) if weights is not None else None
    reading = chosen, usual if blocks is None else blocks
    return assemble(network, image_size, reading, statistics_of(mean, std, in_channels), found, in_channels)


def assemble(
    network: nn.Module,
    image_size: Sequence[int],
    reading: tuple[Features, str | Sequence[str]],
    statistics: tuple[Sequence[float], Sequence[float]],
    found: checkpoints.Found | None,
    in_channels: int,
) -> CustomBackbone:
    """Return the network as a backbone, filled with the weights `found`; say what was taken off and left behind.

    Raises:
        ConfigError, WeightsError: as `custom_backbone`.
    """
    named = _block_names(network, reading[1])
    filled = None if found is None else checkpoints.fill(network, found)
    backbone = CustomBackbone(network, image_size, in_channels, reading[0], named, statistics)
    if found is not None and filled is not None:
        backbone.provenance = checkpoints.account(found, filled, network, backbone.removed)
    if backbone.removed:
        log.info("taken off the network, for its features do not need them: %s", ", ".join(backbone.removed))
    if backbone.frozen:
        log.info("%d tensors that the network's own code froze stay as they are", backbone.frozen)
    return backbone


def _block_names(network: nn.Module, blocks: str | Sequence[str]) -> list[str]:
    """Return the dotted names of the blocks.

    Raises:
        ConfigError: a part that the network does not have, or a single one that is no list of parts.
    """
    have = {name for name, _ in network.named_modules() if name}
    asked = [blocks] if isinstance(blocks, str) else list(blocks)
    if gone := [f"{name}{nearest(name, have, 0.7)}" for name in asked if name not in have]:
        parts = ", ".join(name for name, _ in network.named_children())
        raise ConfigError(f"model.blocks: {type(network).__name__} has no {', '.join(gone)}; its parts are {parts}")
    if not isinstance(blocks, str):
        return asked
    part = network.get_submodule(blocks)
    if not isinstance(part, (nn.ModuleList, nn.Sequential)) or not len(part):
        raise ConfigError(f"model.blocks={blocks} is a {type(part).__name__}; give a list of parts: [{blocks}, ...]")
    return [f"{blocks}.{name}" for name, _ in part.named_children()]


def statistics_of(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: int
) -> tuple[Sequence[float], Sequence[float]]:
    """Return mean and deviation of each channel the network takes.

    Raises:
        ConfigError: one without the other, unequal lengths, or more channels than can be made of the images'.
    """
    if (mean is None) != (std is None) or (mean is not None and std is not None and len(mean) != len(std)):
        raise ConfigError(f"model.mean={mean} and model.std={std}: give both, one number per channel, or neither")
    if mean is None or std is None:
        return (0.5,) * channels, (0.5,) * channels
    if channels not in (1, len(mean)) or min(std) <= 0:
        raise ConfigError(
            f"model.mean={list(mean)}, model.std={list(std)}: expected deviations above 0, and {channels} of each, as "
            "model.in_channels says"
        )
    return mean, std


def _grey(
    means: tuple[float, ...], stds: tuple[float, ...], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[tuple[float, float], ...]]:
    """Return the mean and deviation that images are normalised by, and gain and shift of each channel made of them."""
    if len(means) == channels:
        return means, stds, ()
    mean, std = sum(means) / len(means), sum(stds) / len(stds)
    made = tuple((std / s, (mean - m) / s) for m, s in zip(means, stds, strict=True))
    return (mean,), (std,), made
