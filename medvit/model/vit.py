"""The Vision Transformer, for films and volumes, as one encoder.

An image is cut into patches; every patch becomes a token; a few prefix tokens that belong to no patch (class token,
registers) are put in front; the place of each patch is added or turned into it; then every block lets the tokens
exchange what they know (attention) and think it over one by one (MLP). Read `ViT.forward_features` first.

Dosovitskiy et al. 2021 (ViT), Touvron et al. 2021 (DeiT, LayerScale), Darcet et al. 2024 (registers), Fang et al. 2023
(EVA-02: SwiGLU, sub-LN, rotary), Xiao et al. 2021 (convolutional stem), Liu et al. 2023 (PatchDropout).
Shapes: `B` batch, `C` channels, `*S` spatial axes (`H W` or `D H W`), `N` patches, `P` prefix, `T` = P + N, `W` width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from medvit.errors import ConfigError
from medvit.model import positions
from medvit.model.attention import Attention, Rotary
from medvit.model.design import Architecture, TrainingOptions
from medvit.model.linear import Linear, activate, embed_patches
from medvit.types import Tokens

CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}


class Mlp(nn.Module):
    """Two linear layers with an activation; gated (SwiGLU) when the first gives [gate; value] in one product."""

    def __init__(self, width: int, design: Architecture) -> None:
        super().__init__()
        hidden = design.mlp or 4 * width
        self.act, self.gated = design.act, design.gated
        self.fc1 = Linear(width, hidden * (2 if design.gated else 1))
        self.norm: nn.Module = nn.LayerNorm(hidden, eps=design.eps) if design.mlp_norm else nn.Identity()
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """Return every token thought over on its own."""
        if self.gated:
            gate, value = self.fc1(x).chunk(2, dim=-1)
            hidden = activate(gate, self.act) * value
        elif isinstance(self.fc1, Linear):
            hidden = self.fc1(x, self.act)
        else:  # an adapted layer
            hidden = activate(self.fc1(x), self.act)
        out: Tensor = self.fc2(self.norm(hidden))
        return out


class LayerScale(nn.Module):
    """A learned gain per channel on a residual branch."""

    def __init__(self, width: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), value))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled branch."""
        return x * self.gamma


class Block(nn.Module):
    """One pre-norm block: tokens exchange (attention), then each thinks (MLP); both add to the residual stream."""

    def __init__(self, width: int, heads: int, grid: tuple[int, ...], design: Architecture, drop_path: float) -> None:
        super().__init__()
        flags = {"qkv_bias": design.qkv_bias, "qk_norm": design.qk_norm, "out_norm": design.attn_norm}
        scale = design.layer_scale
        self.norm1 = nn.LayerNorm(width, eps=design.eps)
        self.attn = Attention(width, heads, eps=design.eps, **flags)
        self.ls1: nn.Module = nn.Identity() if scale is None else LayerScale(width, scale)
        self.norm2 = nn.LayerNorm(width, eps=design.eps)
        self.mlp = Mlp(width, design)
        self.ls2: nn.Module = nn.Identity() if scale is None else LayerScale(width, scale)
        self.drop_path, self.grid = drop_path, grid
        rows = positions.relative_rows(grid) if design.relative else 0
        self.relative = nn.Parameter(torch.zeros(rows, heads)) if rows else None

    def forward(
        self, x: Float[Tensor, "B T W"], grid: tuple[int, ...], rotary: Rotary | None, rows: int | None
    ) -> tuple[Float[Tensor, "B T W"], Tensor | None]:
        """Return the tokens after the block and, when `rows` are asked for, their attention weights."""
        bias = None
        if self.relative is not None:
            bias = positions.relative_bias(self.relative, self.grid, grid, x.shape[1] - math.prod(grid))
        mixed, weights = self.attn(self.norm1(x), rotary, bias, rows)
        x = x + self._drop(self.ls1(mixed))
        return x + self._drop(self.ls2(self.mlp(self.norm2(x)))), weights

    def _drop(self, branch: Tensor) -> Tensor:
        """Drop the branch of a random share of the images while training (stochastic depth, Huang et al. 2016)."""
        if not self.training or self.drop_path == 0:
            return branch
        stays = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
        return branch * (stays.to(branch.dtype) / (1 - self.drop_path))


class ConvStem(nn.Module):
    """Halve the image with 3-wide convolutions until a patch is one cell: trains better from scratch on few images.

    Normalised per image (GroupNorm), so images of a batch do not see each other. Raises ConfigError for a patch that is
    not the same power of two on every axis.
    """

    def __init__(self, patch: tuple[int, ...], channels: int, width: int) -> None:
        super().__init__()
        steps = max(patch).bit_length() - 1
        if len(set(patch)) != 1 or patch[0] != 2**steps or steps == 0:
            raise ConfigError(f"stem=conv halves the image: patch {patch} must be the same power of two on every axis")
        conv, layers = CONV[len(patch)], list[nn.Module]()
        for step in reversed(range(steps)):
            out = max(width >> step, 16)
            layers += [conv(channels, out, 3, stride=2, padding=1, bias=False), nn.GroupNorm(1, out), nn.GELU()]
            channels = out
        self.layers = nn.Sequential(*layers, conv(channels, width, 1))

    def forward(self, image: Tensor, visible: Bool[Tensor, "B 1 *grid"] | None = None) -> Tensor:
        """Return [B W *grid]; what is not `visible` reaches no cell and no norm, and gives 0 (SparK, Tian 2023)."""
        if visible is None:
            out: Tensor = self.layers(image)
            return out
        x, seen = image, visible.float()
        for layer in (None, *self.layers):
            if isinstance(layer, nn.GroupNorm):
                x = _norm_of_visible(layer, x, functional.interpolate(seen, x.shape[2:]))
            elif layer is not None:
                x = layer(x)
            x = x * functional.interpolate(seen, x.shape[2:]).to(x.dtype)
        return x


def _norm_of_visible(norm: nn.GroupNorm, x: Tensor, seen: Float[Tensor, "B 1 *S"]) -> Tensor:
    """Return what `norm`, of one group, gives where mean and variance are those of the cells that are seen."""
    axes = tuple(range(1, x.ndim))
    cells = seen.sum(axes, keepdim=True) * x.shape[1]
    x = x.float()
    mean = (x * seen).sum(axes, keepdim=True) / cells
    variance = ((x - mean).square() * seen).sum(axes, keepdim=True) / cells
    column = (1, -1) + (1,) * (x.ndim - 2)
    return (x - mean) * (variance + norm.eps).rsqrt() * norm.weight.reshape(column) + norm.bias.reshape(column)


class ViT(nn.Module):
    """An n-dimensional Vision Transformer encoder: image [B C *S] to tokens; logits are the business of a head.

    `divisor` is what every side must be a multiple of, `grid` the patches of `image_size`, `prefix` the number of
    tokens without a place, `blocks` the blocks in depth order, `mean` and `std` what images are normalised with,
    `provenance` where the weights came from and under which licence (empty: from scratch).
    Raises ConfigError for image and patch sizes (pixels, axis by axis), width and heads that do not fit each other.
    """

    def __init__(
        self,
        image_size: Sequence[int],
        patch_size: Sequence[int],
        in_channels: int = 1,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        design: Architecture = Architecture(),  # noqa: B008 (frozen)
        regime: TrainingOptions = TrainingOptions(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        if len(patch_size) not in CONV or len(image_size) != len(patch_size) or width % heads or depth < 1:
            raise ConfigError(
                f"image_size {tuple(image_size)} and patch_size {tuple(patch_size)} must both have 2 or 3 axes, "
                f"width {width} must be a multiple of heads {heads}, depth {depth} at least 1"
            )
        self.divisor, self.in_channels = tuple(patch_size), in_channels
        self.width, self.depth, self.heads, self.prefix = width, depth, heads, design.prefix
        self.design, self.regime = design, regime
        self.mean: tuple[float, ...] = (0.5,) * in_channels
        self.std: tuple[float, ...] = (0.5,) * in_channels
        self.provenance: dict[str, str] = {}
        self.grid = self.grid_of(tuple(image_size))
        if design.stem == "conv":
            self.patch_embed: nn.Module = ConvStem(self.divisor, in_channels, width)
        else:
            self.patch_embed = CONV[len(patch_size)](
                in_channels, width, self.divisor, stride=self.divisor, bias=design.patch_bias
            )
        self.prefix_token = nn.Parameter(torch.zeros(design.prefix, width)) if design.prefix else None
        table = design.positions != "none"
        self.pos_embed = nn.Parameter(torch.zeros(math.prod(self.grid), width)) if table else None
        self.norm_pre: nn.Module = nn.LayerNorm(width, eps=design.eps) if design.pre_norm else nn.Identity()
        rates = [regime.drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(width, heads, self.grid, design, rate) for rate in rates)
        self.norm: nn.Module = nn.LayerNorm(width, eps=design.eps) if design.norm else nn.Identity()
        self._initialise()
        if regime.compile_blocks:
            for block in self.blocks:
                block.compile()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.prefix_token is not None:
            nn.init.trunc_normal_(self.prefix_token, std=0.02)
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
            if self.design.positions == "sincos":
                self.pos_embed.data.copy_(positions.sincos(self.grid, self.width))

    def grid_of(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Return the patches per axis of an image of `size`; ConfigError names the pixels that would be lost."""
        return positions.grid_size(size, self.divisor, "patch")

    def forward(self, image: Float[Tensor, "B C *S"], keep: Int[Tensor, "B M"] | None = None) -> Tokens:
        """Return the tokens of the last block after the norm; with patches dropped in training N is what was kept."""
        return self.forward_features(image, keep=keep)[0]

    def forward_features(
        self,
        image: Float[Tensor, "B C *S"],
        attention: str | None = None,
        keep: Int[Tensor, "B M"] | None = None,
    ) -> tuple[Tokens, list[Tensor]]:
        """Return the tokens and, where asked for, the attention weights of every block, differentiable.

        `attention` is None, "row" (queries of the prefix tokens, [B heads P T]) or "full" ([B heads T T]). `keep` are
        the patches each image keeps, none of the others having any influence; None keeps all, or a random share
        `regime.keep` of the tokens while training.
        Raises ConfigError for a side that is no multiple of the patch, wrong channels, or "row" without a prefix.
        """
        if image.shape[1] != self.in_channels:
            raise ConfigError(f"image has {image.shape[1]} channels, the encoder was built for {self.in_channels}")
        if attention not in {None, "row", "full"} or (attention == "row" and not self.prefix):
            raise ConfigError(f"attention={attention!r}: one of None, 'full'" + ", 'row'" * bool(self.prefix))
        grid = self.grid_of(tuple(image.shape[2:]))
        x = self._embed(image, keep, grid)  # patches -> tokens [B N W]
        if self.pos_embed is not None:
            x = x + positions.resize(self.pos_embed, self.grid, grid, self.design.interpolation, self.design.offset)
        rotary = self._rotary(grid, x)
        if keep is None and self.training and self.regime.keep < 1:
            kept = max(round(x.shape[1] * self.regime.keep), 1)
            keep = torch.rand(x.shape[:2], device=x.device).argsort(dim=1)[:, :kept]
        if keep is not None:
            x, rotary = self._drop_patches(x, rotary, keep)
        if self.prefix_token is not None:
            x = torch.cat([self.prefix_token.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
        rows = {None: None, "row": self.prefix, "full": x.shape[1]}[attention]
        x, maps = self._run_blocks(self.norm_pre(x), grid, rotary, rows)
        x = self.norm(x)
        return Tokens(x[:, : self.prefix], x[:, self.prefix :], grid), maps

    def _embed(self, image: Tensor, keep: Tensor | None, grid: tuple[int, ...]) -> Tensor:
        if keep is None or not isinstance(self.patch_embed, ConvStem):
            return embed_patches(self.patch_embed, image)
        visible = torch.zeros(len(image), math.prod(grid), dtype=torch.bool, device=image.device).scatter(1, keep, True)
        tokens: Tensor = self.patch_embed(image, visible.reshape(-1, 1, *grid))
        return tokens.flatten(2).transpose(1, 2)

    def _run_blocks(
        self, x: Tensor, grid: tuple[int, ...], rotary: Rotary | None, rows: int | None
    ) -> tuple[Tensor, list[Tensor]]:
        maps: list[Tensor] = []
        recompute = self.regime.checkpointing and self.training and torch.is_grad_enabled() and rows is None
        for block in self.blocks:
            if recompute:
                x, weights = checkpoint(block, x, grid, rotary, rows, use_reentrant=False)
            else:
                x, weights = block(x, grid, rotary, rows)
            maps += [] if weights is None else [weights]
        return x, maps

    def _rotary(self, grid: tuple[int, ...], x: Tensor) -> Rotary | None:
        if self.design.rope is None:
            return None
        head = self.width // self.heads
        cos, sin = positions.rope(grid, head, self.design.rope, self.design.theta, self.design.reference)
        return Rotary(cos.to(x.device), sin.to(x.device), self.design.rope)

    def _drop_patches(self, x: Tensor, rotary: Rotary | None, keep: Tensor) -> tuple[Tensor, Rotary | None]:
        if self.design.relative:
            raise ConfigError("keep < 1: dropping patches is not defined with a relative position bias")
        if rotary is not None:
            rotary = Rotary(rotary.cos[keep].unsqueeze(1), rotary.sin[keep].unsqueeze(1), rotary.kind)
        return torch.take_along_dim(x, keep.unsqueeze(-1), dim=1), rotary
