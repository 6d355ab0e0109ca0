"""Faithfulness of attribution maps: deletion and insertion, sanity checks by randomised weights and labels.

A method earns its place by faithfulness on validation images. A map that stays the same when the weights are shuffled
shows the image, not the network (Adebayo et al. 2018): a plain edge detector fails these checks, and has to.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from medvit.explain.attribution import Method
from medvit.explain.reference import Answer
from medvit.model.network import Network

BOUNDS = {"head": 0.5, "all": 0.2, "labels": 0.5}  # largest rank correlation that still counts as another map
_EVEN = 1e-6  # of its largest value: a map that varies less says nothing


def deletion_insertion(
    answer: Answer, image: Float[Tensor, "B ..."], maps: Float[Tensor, "B ..."], fill: Tensor, steps: int = 16,
    bagged: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
    """Return the areas under deletion and insertion [B], in [0, 1] (Petsiuk et al. 2018, on patches).

    Deletion lets `fill` (of the image's shape) stand in patches, the highest of the map first: low is good. Insertion
    uncovers them in the same order: high is good. `steps` parts of the patches at a time; ties go by a fixed random
    order. `bagged`: bags of images [B I C *S] with maps [B I *grid].
    """
    count = maps[0].numel()
    luck = torch.rand(count, generator=torch.Generator().manual_seed(0)).argsort()  # or ties would go row by row
    order = luck[maps.flatten(1).cpu()[:, luck].argsort(dim=1, descending=True, stable=True)]
    rank = order.argsort(dim=1).reshape(maps.shape).to(image.device, torch.float32)
    cells = rank.flatten(0, 1) if bagged else rank
    size = image.shape[2 + bagged :]
    ranks = nn.functional.interpolate(cells.unsqueeze(1), size=size, mode="nearest")
    ranks = ranks.reshape(*rank.shape[: 1 + bagged], 1, *size)
    gone, come = [], []
    with torch.no_grad():
        for share in np.linspace(0, 1, steps + 1):
            chosen = ranks < round(share * count)
            gone.append(answer(torch.where(chosen, fill, image)).double().cpu())
            come.append(answer(torch.where(chosen, image, fill)).double().cpu())
    deletion, insertion = (np.trapezoid(torch.stack(part).numpy(), dx=1 / steps, axis=0) for part in (gone, come))
    return np.asarray(deletion), np.asarray(insertion)


def random_map(network: Network, image: Tensor, output: int) -> Tensor:  # noqa: ARG001 - the signature of a method
    """Return noise: the worst any method can do by faithfulness."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(len(image), *network.backbone.grid, generator=generator).to(image.device)


def edge_map(network: Network, image: Tensor, output: int) -> Tensor:  # noqa: ARG001 - the signature of a method
    """Return how steep the image is in each patch: a picture of the image that looks like an explanation."""
    steep = torch.stack([part.abs() for part in torch.gradient(image.mean(dim=1), dim=list(range(1, image.ndim - 1)))])
    pool: Callable[..., Tensor] = (
        nn.functional.adaptive_avg_pool2d if image.ndim == 4 else nn.functional.adaptive_avg_pool3d
    )
    return pool(steep.sum(dim=0).unsqueeze(1), network.backbone.grid).squeeze(1)


def shuffle_weights(network: Network, part: str, seed: int = 0) -> Network:
    """Return a copy with the values of every tensor of its "head", or of "all" of it, in random order."""
    other = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (other.head if part == "head" else other).parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))
    return other


def rank_correlation(one: Float[Tensor, "B ..."], other: Float[Tensor, "B ..."]) -> float:
    """Return the mean rank correlation (Spearman) of two sets of maps; of a map without contrast it is 0."""
    pairs = zip(one.flatten(1).cpu().numpy(), other.flatten(1).cpu().numpy(), strict=True)
    return float(np.mean([spearman(a, b) for a, b in pairs]))


def sanity(
    method: Method,
    network: Network,
    image: Tensor,
    output: int,
    seeds: Sequence[int] = (0, 1, 2),
    permuted: Network | None = None,
) -> dict[str, float]:
    """Return how far the maps agree with those of networks that know something else; NaN for maps without contrast.

    Model randomisation of Adebayo et al. 2018: "head" and "all" have these weights shuffled, mean over shuffles. Label
    randomisation: "labels" is `permuted`, the same network trained on permuted labels. A map has a sign: one that
    turns over with the head is another map, so correlations are averaged as they are.
    """
    maps = method(network, image, output)
    flat = maps.flatten(1)
    said = bool((flat.amax(dim=1) - flat.amin(dim=1) > _EVEN * flat.abs().amax(dim=1)).any())
    found = {}
    for part in ("head", "all"):
        each = [rank_correlation(maps, method(shuffle_weights(network, part, seed), image, output)) for seed in seeds]
        found[part] = float(np.mean(each)) if said else float("nan")
    if permuted is not None:
        found["labels"] = rank_correlation(maps, method(permuted, image, output)) if said else float("nan")
    return found


def passes_sanity(found: Mapping[str, float]) -> bool:
    """Say whether the maps changed enough with the weights and labels: every correlation below its bound."""
    return all(abs(value) < BOUNDS[part] for part, value in found.items())


def spearman(one: ArrayLike, other: ArrayLike) -> float:
    """Return the rank correlation of two vectors, ties ranked by their mean; 0 where one of them is constant."""
    from scipy.stats import rankdata

    ranks = np.stack([rankdata(each) for each in (one, other)])
    return float(np.corrcoef(ranks)[0, 1]) if np.ptp(ranks, axis=1).all() else 0.0
