"""Masked autoencoding: the encoder sees a few patches of an image, a small decoder says what was on the others.

He et al. 2022 (arXiv 2111.06377); for volumes Feichtenhofer et al. 2022 (arXiv 2205.09113), with cubes for patches.
Shapes: `B` batch, `N` patches, `M` of them masked, `K` kept, `V` values of a patch (pixels times channels).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from medvit.errors import ConfigError
from medvit.model import positions
from medvit.model.design import Architecture
from medvit.model.linear import Linear
from medvit.model.vit import Block, ViT


class Decoder(nn.Module):
    """A narrow ViT over all places: kept tokens, one learned token for every masked place, fixed sine positions."""

    places: Tensor

    def __init__(self, backbone: ViT, values: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        if depth < 1 or heads < 1 or width % heads:
            raise ConfigError(f"objective.decoder: expected depth={depth} from 1, width={width} a multiple of {heads=}")
        self.embed = Linear(backbone.width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(Block(width, heads, backbone.grid, Architecture(), 0.0) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=Architecture.eps)
        self.head = Linear(width, values)
        self.register_buffer("places", positions.sincos(backbone.grid, width), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self, prefix: Float[Tensor, "B P W"], kept: Float[Tensor, "B K W"], order: Int[Tensor, "B N"], grid: Any
    ) -> Float[Tensor, "B N V"]:
        """Return the values of every patch; the first K of `order` are the places of the kept tokens."""
        known = self.embed(kept)
        unknown = self.mask_token.to(known.dtype).expand(len(known), order.shape[1] - known.shape[1], -1)
        back = order.argsort(dim=1).unsqueeze(-1)
        patches = torch.take_along_dim(torch.cat([known, unknown], dim=1), back, dim=1) + self.places
        x = torch.cat([self.embed(prefix), patches.to(known.dtype)], dim=1)
        for block in self.blocks:
            x, _ = block(x, grid, None, None)
        values: Tensor = self.head(self.norm(x[:, prefix.shape[1] :]))
        return values


class MaskedAutoencoder(nn.Module):
    """An encoder with a decoder; `forward` gives one loss per image, over its masked patches alone.

    Args:
        backbone: any ViT without a relative position bias, for films or volumes.
        ratio: share of the patches that is masked.
        decoder: width, depth and heads of the decoder, which is thrown away after pretraining.
        normalise: the target of a patch is its values less their mean, over their standard deviation.

    Raises:
        ConfigError: a backbone whose tokens cannot be left out, or numbers that leave nothing to see or to say.
    """

    draws = 1  # random numbers per patch

    def __init__(
        self, backbone: nn.Module, ratio: float = 0.75, decoder: dict[str, int] | None = None, normalise: bool = True
    ) -> None:
        super().__init__()
        if not isinstance(backbone, ViT):
            raise ConfigError(
                f"objective: {type(backbone).__name__} has no patches to mask; choose a ViT (model=vit_*)"
            )
        if backbone.design.relative:
            raise ConfigError("objective: patches cannot be masked beside a relative position bias (model.relative)")
        patches = math.prod(backbone.grid)
        self.kept = round(patches * (1 - ratio)) if 0 < ratio < 1 else 0
        if not 0 < self.kept < patches:
            raise ConfigError(f"objective.ratio={ratio} of {patches} patches: expected some masked and some kept")
        self.backbone, self.normalise, self.ratio = backbone, normalise, ratio
        self.decoder = Decoder(backbone, math.prod(backbone.divisor) * backbone.in_channels, **(decoder or _DECODER))

    def forward(self, image: Float[Tensor, "B C *S"], noise: Float[Tensor, "B N"]) -> Float[Tensor, "B 1"]:
        """Return the mean squared error of each image over its masked patches, those with the highest `noise`."""
        said, order = self._predict(image, noise)
        wanted, masked = self.targets(image), order[:, self.kept :].unsqueeze(-1)
        error = (torch.take_along_dim(said, masked, dim=1) - torch.take_along_dim(wanted, masked, dim=1)).square()
        return error.mean(dim=(1, 2)).unsqueeze(1)

    def _predict(self, image: Tensor, noise: Tensor) -> tuple[Float[Tensor, "B N V"], Int[Tensor, "B N"]]:
        order = noise.argsort(dim=1)
        tokens = self.backbone(image, keep=order[:, : self.kept])
        return self.decoder(tokens.prefix, tokens.patches, order, tokens.grid).float(), order

    def targets(self, image: Float[Tensor, "B C *S"]) -> Float[Tensor, "B N V"]:
        """Return what the decoder has to say, fp32."""
        patches = cut(image.float(), self.backbone.divisor)
        if not self.normalise:
            return patches
        return (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()

    @torch.no_grad()
    def pictures(self, image: Float[Tensor, "B C *S"], noise: Float[Tensor, "B N"]) -> tuple[Tensor, Tensor]:
        """Return the image with its masked patches grey (0), and with what the decoder says in their place.

        With normalised targets the decoder says nothing of a patch's brightness: its own mean and deviation are used.
        """
        said, order = self._predict(image, noise)
        patches = cut(image.float(), self.backbone.divisor)
        if self.normalise:
            said = said * (patches.var(-1, keepdim=True) + 1e-6).sqrt() + patches.mean(-1, keepdim=True)
        seen = torch.zeros(order.shape, dtype=torch.bool, device=image.device)
        seen = seen.scatter(1, order[:, : self.kept], True).unsqueeze(-1)
        size = tuple(image.shape[2:])
        shown = [torch.where(seen, patches, other) for other in (torch.zeros_like(patches), said)]
        masked, filled = (join(each, size, self.backbone.divisor) for each in shown)
        return masked, filled


_DECODER = {"width": 128, "depth": 2, "heads": 4}


def cut(image: Float[Tensor, "B C *S"], patch: tuple[int, ...]) -> Float[Tensor, "B N V"]:
    """Return the patches in the order of the encoder's tokens, the values of each as pixels, then channels."""
    axes = len(patch)
    for axis, side in enumerate(patch):
        image = image.unflatten(2 + 2 * axis, (-1, side))  # type: ignore[no-untyped-call]
    order = (0, *range(2, 2 + 2 * axes, 2), *range(3, 3 + 2 * axes, 2), 1)  # batch, grid, pixels of a patch, channels
    return image.permute(order).flatten(1 + axes).flatten(1, axes)


def join(patches: Float[Tensor, "B N V"], size: tuple[int, ...], patch: tuple[int, ...]) -> Float[Tensor, "B C *S"]:
    """Return the image that `cut` took apart."""
    axes = len(patch)
    grid = tuple(side // step for side, step in zip(size, patch, strict=True))
    apart = patches.reshape(len(patches), *grid, *patch, -1)
    order = (0, 1 + 2 * axes, *(part for axis in range(axes) for part in (1 + axis, 1 + axes + axis)))
    return apart.permute(order).reshape(len(patches), -1, *size)
