"""Convolutional baselines behind the backbone interface (DenseNet, SegResNet).

DenseNet-121 and SegResNet's encoder are MONAI's own; ConvNeXt is in `convnext.py`, for it needs one more library.
The feature map is the patch grid: every cell is a token, there is no prefix; `blocks` are the stages in depth order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from medvit.errors import ConfigError
from medvit.model import positions
from medvit.types import Tokens


class Convolutional(nn.Module):
    """Stages of convolutions as a backbone: image [B C *S] to one token per cell of the last feature map.

    `divisor` is the product of the strides; a side that is no multiple raises, as for a ViT. `scratch` are the settings
    that build the same network without its checkpoint, where it had one.
    """

    prefix = 0

    def __init__(
        self, stages: Sequence[nn.Module], image_size: Sequence[int], in_channels: int, width: int, stride: int
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(stages)
        self.width, self.in_channels = width, in_channels
        self.divisor = (stride,) * len(image_size)
        self.mean: tuple[float, ...] = (0.5,) * in_channels
        self.std: tuple[float, ...] = (0.5,) * in_channels
        self.provenance: dict[str, str] = {}
        self.scratch: dict[str, Any] = {}
        self.grid = self.grid_of(tuple(image_size))

    def grid_of(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Return the cells per axis for an image of `size`; ConfigError names the pixels that would be lost."""
        return positions.grid_size(size, self.divisor, "stride")

    def forward(self, image: Float[Tensor, "B C *S"]) -> Tokens:
        """Return the tokens; raises ConfigError for wrong channels or a side that is no multiple of the stride."""
        if image.shape[1] != self.in_channels:
            raise ConfigError(f"image has {image.shape[1]} channels, the encoder was built for {self.in_channels}")
        grid = self.grid_of(tuple(image.shape[2:]))
        x = image
        for stage in self.blocks:
            x = stage(x)
        return Tokens(x.new_zeros(x.shape[0], 0, self.width), x.flatten(2).transpose(1, 2), grid)


def densenet121(
    image_size: Sequence[int], in_channels: int = 1, norm: str = "group", dropout: float = 0.0
) -> Convolutional:
    """Return DenseNet-121 (Huang et al. 2017; CheXNet's encoder) for films or volumes, from scratch: stride 32.

    `norm` "group" keeps the images of a batch apart; "batch" is the published network, whose training output of one
    image depends on the others of its batch. Raises ConfigError for another norm.
    """
    from monai.networks.nets.densenet import DenseNet121

    if norm not in {"group", "batch"}:
        raise ConfigError(f"densenet121: norm={norm!r} is none of group, batch")
    kind = ("group", {"num_groups": 8}) if norm == "group" else "batch"
    net = DenseNet121(len(image_size), in_channels, 1, norm=kind, dropout_prob=dropout)
    parts = dict(net.features.named_children())
    names = list(parts)
    starts = [0, *(names.index(f"denseblock{i}") for i in range(1, 5)), len(names)]
    stages = [nn.Sequential(*(parts[name] for name in names[a:b])) for a, b in pairwise(starts)]
    stages[-1].append(nn.ReLU())
    return Convolutional(stages, image_size, in_channels, 1024, 32)


def segresnet(
    image_size: Sequence[int], in_channels: int = 1, filters: int = 16, blocks: Sequence[int] = (1, 2, 2, 4, 4)
) -> Convolutional:
    """Return SegResNet's encoder (Myronenko 2018) with instance norm; every level but the first halves the image."""
    from monai.networks.nets.segresnet_ds import SegResEncoder

    net = SegResEncoder(len(image_size), filters, in_channels, norm="instance", blocks_down=tuple(blocks))
    stages: list[nn.Module] = [net.conv_init]
    for level, layer in enumerate(net.layers):
        last = level == len(net.layers) - 1
        stages.append(nn.Sequential(layer["blocks"], *([] if last else [layer["downsample"]])))
    return Convolutional(stages, image_size, in_channels, filters * 2 ** (len(blocks) - 1), 2 ** (len(blocks) - 1))
