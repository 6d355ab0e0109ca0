"""Attribution maps: seven methods behind one signature, for every pool and for bags of images.

    method(network, image [B C *S], output) -> maps [B *grid], float32; positive speaks for the output

A map has one value per patch. `integrated`, `occlusion` and `gradcam` have a sign, the others are at least 0. None is
right by itself: `medvit.explain.faithfulness` measures which one tells what the network used,
`medvit.explain.localisation` which one points at the finding. `relevance` and `grad_attention`
hold the attention of every block with its gradient (B x depth x heads x T x T numbers): give few images at a time.

`integrated` and `occlusion` ask what the network makes of the image instead of something else: the `reference`
[1 C *S], best the average image without the finding (`medvit.explain.reference`); by default an even grey.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from medvit.errors import ConfigError
from medvit.explain.activations import NO_ATTENTION, Activations, evaluation_mode, record_activations
from medvit.explain.reference import grey
from medvit.metric.occlusion_windows import pixels_of, windows
from medvit.model.network import Network
from medvit.types import Bag

Method = Callable[[Network, Tensor, int], Tensor]
STEPS = 16  # of integrated gradients
_AT_ONCE = 64  # occluded images per forward pass


def integrated(
    network: Network, image: Float[Tensor, "B C *S"], output: int, reference: Tensor | None = None
) -> Float[Tensor, "B ..."]:
    """Gather the logit's gradient on the way from the reference to the image (Sundararajan et al. 2017, ICML).

    Over all patches a map sums to the logit of the image minus that of the reference (up to the 16 steps). With an
    average image as reference these are the expected gradients of Erion et al. 2021 at their mean.
    """
    start = (grey(image) if reference is None else reference.expand_as(image)).detach()
    total = torch.zeros_like(image)
    for step in range(STEPS):
        at = start + (step + 0.5) / STEPS * (image.detach() - start)
        with record_activations(network, at, full=False) as traced:
            total += _gradients(traced.logits[:, output], [traced.image])[0]
    share = ((image.detach() - start) * total / STEPS).sum(dim=1)
    cell = [length // side for length, side in zip(image.shape[2:], network.backbone.grid, strict=True)]
    pool = functional.avg_pool2d if len(cell) == 2 else functional.avg_pool3d
    return pool(share.unsqueeze(1), cell).squeeze(1).float() * math.prod(cell)


def relevance(network: Network, image: Float[Tensor, "B C *S"], output: int) -> Float[Tensor, "B ..."]:
    """Follow what the pool takes back through every block: gradient times attention, joined with the residual path.

    Chefer et al. 2021 (ICCV), as one row per image instead of a product of T x T matrices: it starts as the class token
    or the pool's shares, and is given back without that start, so that mean pooling adds no even background.
    """
    with record_activations(network, image) as traced:
        gradients = _gradients(traced.logits[:, output], traced.attention)
        start = _pool_row(network, traced, output)
        row = start
        for gradient, weights in reversed(list(zip(gradients, traced.attention, strict=True))):
            row = row + torch.einsum("bq,bqk->bk", row, (gradient * weights).relu().mean(dim=1))
        return _on_grid((row - start)[:, -math.prod(traced.tokens.grid) :], traced.tokens.grid)


def grad_attention(network: Network, image: Float[Tensor, "B C *S"], output: int) -> Float[Tensor, "B ..."]:
    """Sum gradient times attention over blocks, heads and queries, positive parts only (LeGrad, Bousselham 2024).

    Queries weigh by their gradient: the class token's row alone counts in the last block where it is the pool.
    """
    with record_activations(network, image) as traced:
        gradients = _gradients(traced.logits[:, output], traced.attention)
        parts = [(g * a).relu().mean(dim=1).sum(dim=1) for g, a in zip(gradients, traced.attention, strict=True)]
        total = torch.stack(parts).sum(dim=0)
        return _on_grid(total[:, -math.prod(traced.tokens.grid) :], traced.tokens.grid)


def head_attention(network: Network, image: Float[Tensor, "B C *S"], output: int) -> Float[Tensor, "B ..."]:
    """Return what the pool looks at: the output's own query where it has one, else the mean over queries.

    Of a class token: its attention in the last block. Of mean pooling: every patch alike. Costs one forward pass.
    """
    with record_activations(network, image, full=not hasattr(network.pool, "attention")) as traced:
        if hasattr(network.pool, "attention"):
            row = _pool_row(network, traced, output)
        else:
            row = traced.attention[-1].mean(dim=1)[:, 0]
        return _on_grid(row[:, -math.prod(traced.tokens.grid) :], traced.tokens.grid)


def rollout(network: Network, image: Float[Tensor, "B C *S"], output: int) -> Float[Tensor, "B ..."]:
    """Multiply the attention of all blocks, half residual (Abnar and Zuidema 2020). Knows nothing of the output."""
    with record_activations(network, image) as traced:
        row = _pool_row(network, traced, output)
        for weights in reversed(traced.attention):
            row = 0.5 * row + 0.5 * torch.einsum("bq,bqk->bk", row, weights.mean(dim=1))
        return _on_grid(row[:, -math.prod(traced.tokens.grid) :], traced.tokens.grid)


def gradcam(network: Network, image: Float[Tensor, "B C *S"], output: int) -> Float[Tensor, "B ..."]:
    """Weigh channels by their mean gradient (Selvaraju 2017): after the last block's first norm, or a CNN's tokens."""
    caught: list[Tensor] = []
    blocks = list(network.backbone.blocks)
    norm = getattr(blocks[-1], "norm1", None) if blocks else None
    hook = norm.register_forward_hook(lambda _module, _given, made: caught.append(made)) if norm is not None else None
    try:
        with record_activations(network, image, full=False) as traced:
            tokens = caught[0] if caught else traced.tokens.patches
            gradient = _gradients(traced.logits[:, output], [tokens])[0]
            count = math.prod(traced.tokens.grid)
            weight = gradient[:, -count:].mean(dim=1, keepdim=True)
            return _on_grid((weight * tokens[:, -count:]).sum(-1), traced.tokens.grid)
    finally:
        if hook is not None:
            hook.remove()


def occlusion(
    network: Network, image: Float[Tensor, "B C *S"], output: int, reference: Tensor | None = None
) -> Float[Tensor, "B ..."]:
    """Return how far the logit falls when a window shows the reference instead (Zeiler and Fergus 2014).

    Windows overlap by half and are two strides wide, about 6 strides per axis; a patch gets the mean of its windows.
    """
    grid = tuple(network.backbone.grid)
    patch = [length // side for length, side in zip(image.shape[2:], grid, strict=True)]
    every = windows(grid)
    fall, count = image.new_zeros(len(image), *grid), image.new_zeros(grid)
    fill = grey(image) if reference is None else reference.expand_as(image)
    at_once = max(1, _AT_ONCE // len(image))
    with torch.no_grad(), evaluation_mode(network):
        whole = network(image)[:, output]
        for first in range(0, len(every), at_once):
            boxes = every[first : first + at_once]
            painted = image.unsqueeze(0).repeat(len(boxes), *[1] * image.ndim)
            for copy, box in zip(painted, boxes, strict=True):
                where = (slice(None), slice(None), *pixels_of(box, patch))
                copy[where] = fill[where]
            found = network(painted.flatten(0, 1))[:, output].reshape(len(boxes), -1)
            for lost, box in zip(whole - found, boxes, strict=True):
                fall[(slice(None), *box)] += lost.reshape(-1, *[1] * len(grid))
                count[box] += 1
    return (fall / count).float()


METHODS: dict[str, Callable[..., Tensor]] = {
    "integrated": integrated,
    "occlusion": occlusion,
    "relevance": relevance,
    "grad_attention": grad_attention,
    "gradcam": gradcam,
    "head_attention": head_attention,
    "rollout": rollout,
}
REFERRING = ("integrated", "occlusion")  # methods that take a reference


def method(name: str, reference: Float[Tensor, "1 C *S"] | None = None) -> Method:
    """Return the method of this name, with the reference if it takes one; ConfigError with the nearest name."""
    if name not in METHODS:
        near = get_close_matches(name, METHODS, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(f"explanation method {name!r}{hint}: expected one of {', '.join(METHODS)}")
    return partial(METHODS[name], reference=reference) if name in REFERRING else METHODS[name]


def available(network: Network) -> list[str]:
    """Return the methods this network can be asked for: a CNN has no attention, a pool may have none."""
    if hasattr(network.backbone, "forward_features"):
        return list(METHODS)
    pooled = hasattr(network.pool, "attention")
    return [name for name in METHODS if name in NO_ATTENTION or (pooled and name == "head_attention")]


def of_bag(
    network: Network, image: Float[Tensor, "B I C *S"], output: int, bag: Bag, way: Method
) -> Float[Tensor, "B I *grid"]:
    """Return maps of bags, sizes summing to 1: the share the bag pool gives each image, spread by the map within."""
    if network.bag is None or not hasattr(network.bag, "attention"):
        raise ConfigError("the network pools single images; of_bag needs bag=study")
    inside = torch.stack([way(network, images, output) for images in image])
    with torch.no_grad(), evaluation_mode(network):
        flat = network.from_tokens(network.backbone(image.flatten(0, 1)))
        vectors = flat.reshape(*image.shape[:2], *flat.shape[1:])
        if vectors.ndim == 4:
            vectors = vectors[:, :, output]
        share = network.bag.attention(vectors, bag).mean(dim=1)
    total = inside.flatten(2).abs().sum(dim=2).clamp_min(1e-12)
    spread = [1] * (inside.ndim - 2)
    joined: Tensor = inside * (share / total).reshape(*share.shape, *spread)
    return joined


def _gradients(logit: Tensor, of: list[Tensor]) -> list[Tensor]:
    """Return d logit / d each; what the logit does not depend on (patches behind a class token) has gradient 0."""
    return list(torch.autograd.grad(logit.sum(), of, materialize_grads=True, allow_unused=True))


def _pool_row(network: Network, traced: Activations, output: int) -> Float[Tensor, "B T"]:
    """Return how much the pool takes of each token: all of the class token, or the shares of the output's query.

    A pool tells its shares of the patches; the rest to 1 it took from the class token, in front.
    """
    pool, tokens = network.pool, traced.tokens
    row = tokens.patches.new_zeros(len(tokens.patches), tokens.prefix.shape[1] + tokens.patches.shape[1])
    if not hasattr(pool, "attention"):
        row[:, 0] = 1
        return row
    share = pool.attention(tokens)
    share = share[:, output] if getattr(pool, "per_class", False) else share.mean(dim=1)
    row[:, tokens.prefix.shape[1] :] = share.detach()
    if tokens.prefix.shape[1]:
        row[:, 0] = (1 - share.detach().sum(dim=1)).clamp_min(0)
    return row


def _on_grid(values: Float[Tensor, "B N"], grid: tuple[int, ...]) -> Float[Tensor, "B ..."]:
    return values.detach().float().reshape(len(values), *grid)
