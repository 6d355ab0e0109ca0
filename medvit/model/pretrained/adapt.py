"""Fit a checkpoint to the images at hand: fewer or more channels, volumes, another patch, another image size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from medvit.errors import WeightsError
from medvit.model import positions
from medvit.model.pretrained.canonical import Checkpoint


def channels(checkpoint: Checkpoint, wanted: int) -> Checkpoint:
    """Return the checkpoint for `wanted` input channels, with the `mean` and `std` those channels are normalised with.

    For one grey channel the result is exact: the encoder gives what it would for the grey value in every old channel,
    each normalised by its own statistics. For n channels the grey kernel is shared, so n equal channels do the same.
    """
    if wanted == checkpoint.channels:
        return checkpoint
    bias = checkpoint.state.get("patch_embed.bias")
    kernel, moved, mean, std = fold_channels(
        checkpoint.state["patch_embed.weight"], checkpoint.mean, checkpoint.std, wanted
    )
    state = {**checkpoint.state, "patch_embed.weight": kernel}
    if bias is not None or moved.abs().max() > 0:
        state["patch_embed.bias"] = ((0 if bias is None else bias.double()) + moved).float()
    return replace(
        checkpoint,
        state=state,
        channels=wanted,
        mean=(mean,) * wanted,
        std=(std,) * wanted,
        design=replace(checkpoint.design, patch_bias="patch_embed.bias" in state),
    )


def fold_channels(
    kernel: Tensor, mean: Sequence[float], std: Sequence[float], wanted: int
) -> tuple[Tensor, Float[Tensor, " W"], float, float]:
    """Return a kernel [W C *S] for `wanted` channels, what its bias moves by (fp64), and the channels' mean and std."""
    means, stds = (torch.tensor(tuple(v), dtype=torch.float64) for v in (mean, std))
    grey_mean, grey_std = means.mean(), stds.mean()
    column = (1, -1) + (1,) * (kernel.ndim - 2)
    folded = (kernel.double() * (grey_std / stds).reshape(column)).sum(1, keepdim=True)
    moved = (kernel.double().flatten(2).sum(-1) * ((grey_mean - means) / stds)).sum(1)
    return (folded / wanted).float().repeat_interleave(wanted, 1), moved, float(grey_mean), float(grey_std)


def inflate(checkpoint: Checkpoint, depth: int, slices: int) -> Checkpoint:
    """Return a film encoder made ready for volumes: patches `depth` slices thick over a grid of `slices` patches.

    The kernel is spread evenly over the thickness, so a volume of equal slices gives the film's patch tokens.
    Raises WeightsError for rotary or relative positions, which have 2 axes.
    """
    if checkpoint.design.rope or checkpoint.design.relative:
        raise WeightsError(
            f"family {checkpoint.family.name} has rotary or relative positions of 2 axes and cannot be inflated to "
            "volumes; use one with a position table (ViT, DeiT, DINOv2, MAE) or a bag of slices"
        )
    state = dict(checkpoint.state)
    kernel = state["patch_embed.weight"]
    state["patch_embed.weight"] = kernel.unsqueeze(2).repeat(1, 1, depth, 1, 1) / depth
    if "pos_embed" in state:
        state["pos_embed"] = state["pos_embed"].repeat(slices, 1)
    grid = None if checkpoint.grid is None else (slices, *checkpoint.grid)
    return replace(checkpoint, state=state, patch=(depth, *checkpoint.patch), grid=grid)


def patch(checkpoint: Checkpoint, wanted: tuple[int, ...]) -> Checkpoint:
    """Return the checkpoint with its kernel resized to the patch `wanted` (pseudo-inverse, FlexiViT, arXiv 2212.08013).

    A patch and its linearly resized self give the same token as far as the smaller of the two can tell.
    Raises WeightsError for a patch with another number of axes.
    """
    if wanted == checkpoint.patch:
        return checkpoint
    if len(wanted) != len(checkpoint.patch):
        raise WeightsError(f"patch_size {wanted} has {len(wanted)} axes, the checkpoint's {checkpoint.patch}")
    pixels = math.prod(checkpoint.patch)
    mode = "bilinear" if len(wanted) == 2 else "trilinear"
    basis = torch.eye(pixels, dtype=torch.float64).reshape(pixels, 1, *checkpoint.patch)
    resized = functional.interpolate(basis, size=wanted, mode=mode, align_corners=False).reshape(pixels, -1)
    kernel = checkpoint.state["patch_embed.weight"].double().flatten(2) @ torch.linalg.pinv(resized).T
    kernel = kernel.reshape(*kernel.shape[:2], *wanted).float()
    return replace(checkpoint, state={**checkpoint.state, "patch_embed.weight": kernel}, patch=wanted)


def grid(checkpoint: Checkpoint, wanted: tuple[int, ...]) -> Checkpoint:
    """Return the checkpoint with its position tables interpolated to the grid `wanted`, as its family does it."""
    if checkpoint.grid is None or checkpoint.grid == wanted:
        return replace(checkpoint, grid=wanted)
    state, design = dict(checkpoint.state), checkpoint.design
    if "pos_embed" in state:
        state["pos_embed"] = positions.resize(
            state["pos_embed"], checkpoint.grid, wanted, design.interpolation, design.offset
        )
    for key in [key for key in state if key.endswith(".relative")]:
        state[key] = positions.relative_table(state[key], checkpoint.grid, wanted)
    return replace(checkpoint, state=state, grid=wanted)
