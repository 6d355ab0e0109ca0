"""Does a map tell what the network used? Deletion and insertion, and sanity checks by randomised weights and labels.

A method earns its place by faithfulness on validation images. A map that stays the same when the weights are shuffled
shows the image, not the network (Adebayo et al. 2018): a plain edge detector fails these checks, and has to.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from medvit.explain.attribution import Method
from medvit.model.network import Network

Probability = Callable[[Tensor], Tensor]  # logits [B K] -> probability of the output that is explained [B]
HEAD_BOUND, ALL_BOUND = 0.5, 0.2  # largest rank correlation with shuffled head, with all weights shuffled


def curves(
    network: Network, image: Float[Tensor, "B C *S"], maps: Float[Tensor, "B ..."], probability: Probability,
    steps: int = 16,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
    """Return the areas under deletion and insertion [B], in [0, 1] (Petsiuk et al. 2018, on patches).

    Deletion paints patches with the image's mean, the highest of the map first: low is good. Insertion uncovers them in
    the same order: high is good. `steps` parts of the patches at a time; ties go by a fixed random order.
    """
    batch, count = len(image), maps[0].numel()
    luck = torch.rand(count, generator=torch.Generator().manual_seed(0)).argsort()  # or ties would go row by row
    order = luck[maps.flatten(1).cpu()[:, luck].argsort(dim=1, descending=True, stable=True)]
    rank = order.argsort(dim=1).reshape(maps.shape).to(image.device, torch.float32)
    ranks = nn.functional.interpolate(rank.unsqueeze(1), size=image.shape[2:], mode="nearest")
    fill = image.mean(dim=tuple(range(2, image.ndim)), keepdim=True)
    gone, come = [], []
    with torch.no_grad():
        for share in np.linspace(0, 1, steps + 1):
            chosen = ranks < round(share * count)
            both = torch.cat([torch.where(chosen, fill, image), torch.where(chosen, image, fill)])
            found = probability(network(both)).double().cpu()
            gone.append(found[:batch])
            come.append(found[batch:])
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


def shuffled(network: Network, part: str, seed: int = 0) -> Network:
    """Return a copy with the values of every tensor of its "head", or of "all" of it, in random order."""
    other = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (other.head if part == "head" else other).parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))
    return other


def agreement(one: Float[Tensor, "B ..."], other: Float[Tensor, "B ..."]) -> float:
    """Return the mean rank correlation (Spearman) of two sets of maps; of a map without contrast it is 0."""
    pairs = zip(one.flatten(1).cpu().numpy(), other.flatten(1).cpu().numpy(), strict=True)
    return float(np.mean([spearman(a, b) for a, b in pairs]))


def sanity(
    method: Method, network: Network, image: Tensor, output: int, seeds: Sequence[int] = (0, 1, 2)
) -> dict[str, float]:
    """Return the agreement of the maps with those of a network whose head, and all of whose weights, are shuffled.

    Model randomisation of Adebayo et al. 2018, mean over shuffles. The same measure against a network trained on
    permuted labels is label randomisation: `agreement(method(network, ...), method(permuted, ...))`.
    """
    maps = method(network, image, output)
    found = {}
    for part in ("head", "all"):
        each = [agreement(maps, method(shuffled(network, part, seed), image, output)) for seed in seeds]
        found[part] = float(np.mean(np.abs(each)))
    return found


def passes(found: dict[str, float]) -> bool:
    """Say whether the maps changed enough with the weights: below 0.5 for the head, below 0.2 for all of them."""
    return found["head"] < HEAD_BOUND and found["all"] < ALL_BOUND


def spearman(one: ArrayLike, other: ArrayLike) -> float:
    """Return the rank correlation of two vectors, ties ranked by their mean; 0 where one of them is constant."""
    a, b = (_ranks(np.asarray(each, np.float64)) for each in (one, other))
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else 0.0


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    return np.asarray((ends - (count - 1) / 2)[place])
