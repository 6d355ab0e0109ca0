"""Position encodings: tables resized to any grid, rotary angles for n axes, BEiT's relative bias."""

from __future__ import annotations

import math
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from medvit.errors import ConfigError

INTERPOLATIONS = ("bicubic", "bicubic_antialias", "bilinear", "trilinear")
ROPES = ("centred", "index")


def grid_size(size: tuple[int, ...], divisor: tuple[int, ...], word: str) -> tuple[int, ...]:
    """Return how many patches or strides (`word`) of `divisor` pixels an image of `size` pixels has per axis.

    Raises:
        ConfigError: another number of axes, or a side that is no multiple; names the pixels that would be lost.
    """
    if len(size) != len(divisor):
        raise ConfigError(f"image has {len(size)} spatial axes {size}, the encoder has {len(divisor)}")
    lost = tuple(side % step for side, step in zip(size, divisor, strict=True))
    if any(lost) or 0 in size:
        nearest = tuple(max(math.ceil(side / step), 1) * step for side, step in zip(size, divisor, strict=True))
        raise ConfigError(
            f"image {size} is no multiple of the {word} {divisor}: {lost} pixels would be lost at the far edges; pad "
            f"or resize to {nearest}"
        )
    return tuple(side // step for side, step in zip(size, divisor, strict=True))


def resize(
    table: Float[Tensor, "N W"], old: tuple[int, ...], new: tuple[int, ...], how: str = "bicubic", offset: float = 0.0
) -> Float[Tensor, "M W"]:
    """Return a position table made for the grid `old`, interpolated to the grid `new` (row-major, 2 or 3 axes).

    `how` must be the one the checkpoint's own code uses. `offset` is DINOv2's 0.1: it is added to the grid before the
    scale factor is taken, so that its sampling points are kept. Three axes are always interpolated linearly.
    """
    if old == new:
        return table
    mode = "trilinear" if len(new) == 3 else how.removesuffix("_antialias")
    image = table.reshape(1, *old, -1).movedim(-1, 1).float()
    antialias = how.endswith("_antialias") and len(new) == 2
    if offset:
        scale = [(n + offset) / o for n, o in zip(new, old, strict=True)]
        image = functional.interpolate(image, scale_factor=scale, mode=mode, antialias=antialias)
    else:
        image = functional.interpolate(image, size=new, mode=mode, antialias=antialias, align_corners=False)
    return image.movedim(1, -1).reshape(math.prod(new), -1).to(table.dtype)


def sincos(grid: tuple[int, ...], width: int) -> Float[Tensor, "N W"]:
    """Return the fixed sine and cosine positions of MAE for n axes, zero-padded where the width does not divide."""
    bands = width // (2 * len(grid))
    rates = 10000.0 ** (-torch.arange(bands) / bands)
    axes = torch.meshgrid(*[torch.arange(float(n)) for n in grid], indexing="ij")
    angles = [axis.reshape(-1, 1) * rates for axis in axes]
    table = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    return functional.pad(table, (0, width - table.shape[1]))


def rope(
    grid: tuple[int, ...], head: int, kind: str, theta: float, reference: tuple[int, ...] | None
) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
    """Return the cosine and sine of axial rotary positions (RoFormer, per axis head/(2 axes) frequencies).

    `centred` (DINOv3): coordinates in (-1, 1) times 2 pi, angle k turns the pair (k, k + head/2).
    `index` (EVA-02, Primus): patch indices rescaled to the grid `reference`, angle k turns the pair (2k, 2k + 1).
    Raises ConfigError for a head width that is no multiple of twice the axes.
    """
    if head % (2 * len(grid)):
        raise ConfigError(
            f"rotary positions over {len(grid)} axes: head width {head} is no multiple of {2 * len(grid)}"
        )
    bands = head // (2 * len(grid))
    rates = theta ** (-torch.arange(bands, dtype=torch.float32) / bands)
    if kind == "centred":
        axes = [((torch.arange(n, dtype=torch.float32) + 0.5) / n * 2 - 1) * (2 * math.pi) for n in grid]
    else:
        axes = [torch.arange(n, dtype=torch.float32) / n * r for n, r in zip(grid, reference or grid, strict=True)]
    angles = torch.stack([c.reshape(-1, 1) * rates for c in torch.meshgrid(*axes, indexing="ij")], dim=1).flatten(1)
    angles = angles.repeat(1, 2) if kind == "centred" else angles.repeat_interleave(2, dim=1)
    return angles.cos(), angles.sin()


def rotate(x: Float[Tensor, "B H N D"], cos: Tensor, sin: Tensor, kind: str) -> Float[Tensor, "B H N D"]:
    """Turn every pair of `x` by its angle; the pairs are those of `rope`."""
    if kind == "centred":
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat([-second, first], dim=-1)
    else:
        turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return (x * cos + turned * sin).to(x.dtype)


def relative_rows(grid: tuple[int, ...]) -> int:
    """Return how many rows BEiT's table has: every offset of two patches, and three for the class token."""
    return math.prod(2 * n - 1 for n in grid) + 3


def relative_table(table: Float[Tensor, "R H"], old: tuple[int, ...], new: tuple[int, ...]) -> Float[Tensor, "Q H"]:
    """Return BEiT's table of offsets interpolated for another grid; the three rows of the class token are kept."""
    if old == new:
        return table
    wide = [tuple(2 * n - 1 for n in grid) for grid in (old, new)]
    return torch.cat([resize(table[:-3], wide[0], wide[1], "bilinear"), table[-3:]])


def relative_bias(
    table: Float[Tensor, "R H"], old: tuple[int, ...], new: tuple[int, ...], prefix: int
) -> Float[Tensor, "1 H T T"]:
    """Return BEiT's bias of every token pair from its table of offsets; a table for another grid is interpolated."""
    table = relative_table(table, old, new)
    tokens = prefix + math.prod(new)
    index = torch.empty(tokens, tokens, dtype=torch.long)
    rows = len(table)
    index[prefix:, prefix:] = _offsets(new)
    index[:prefix, :], index[:, :prefix], index[:prefix, :prefix] = rows - 3, rows - 2, rows - 1
    return table[index.to(table.device)].permute(2, 0, 1).unsqueeze(0)


def _offsets(grid: tuple[int, ...]) -> Tensor:
    places = torch.tensor(list(product(*[range(n) for n in grid])))
    strides = [math.prod(2 * n - 1 for n in grid[axis + 1 :]) for axis in range(len(grid))]
    offset = places[:, None] - places[None, :] + torch.tensor([n - 1 for n in grid])
    return (offset * torch.tensor(strides)).sum(-1)
