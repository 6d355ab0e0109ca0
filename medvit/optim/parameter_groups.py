"""The network's parameters in depth order, and the optimiser's groups made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from medvit.model.network import Network

TOP = ("norm", "fc_norm")  # modules of a backbone that stand behind its blocks


@dataclass(frozen=True)
class Layer:
    """Parameters that share a depth: 0 the stem, then one per block, then the last norm with pool, bag and head."""

    name: str
    depth: int
    parameters: tuple[tuple[str, nn.Parameter], ...]


def layers(network: Network) -> list[Layer]:
    """Return every parameter of the network once, by depth."""
    blocks = list(network.backbone.blocks)
    place = {id(p): depth for depth, block in enumerate(blocks, 1) for p in block.parameters()}
    rows: list[list[tuple[str, nn.Parameter]]] = [[] for _ in range(len(blocks) + 3)]
    for name, parameter in network.named_parameters():
        part, _, rest = name.partition(".")
        if part != "backbone":
            rows[-1].append((name, parameter))
        elif id(parameter) in place:
            rows[place[id(parameter)]].append((name, parameter))
        else:
            rows[-2 if rest.split(".")[0] in TOP else 0].append((name, parameter))
    names = ["stem", *(f"block {k}" for k in range(len(blocks))), "last norm", "head"]
    depths = [*range(len(blocks) + 2), len(blocks) + 1]
    return [Layer(*parts) for parts in zip(names, depths, map(tuple, rows), strict=True)]


def decayed(network: nn.Module) -> set[int]:
    """Return the ids of the parameters that weight decay may touch: the matrices of linear layers and convolutions.

    So never a bias, norm, position, prefix token, query or LayerScale.
    """
    kinds = (nn.Linear, _ConvNd)
    return {id(module.weight) for module in network.modules() if isinstance(module, kinds)}


def parameter_groups(
    network: Network, lr: float, weight_decay: float, factor: Callable[[Layer], float]
) -> list[dict[str, Any]]:
    """Return AdamW's groups of the parameters that need a gradient: per layer, with and without weight decay.

    `factor` gives each layer's share of `lr`.
    """
    matrices, groups = decayed(network), []
    for layer in layers(network):
        trained = [(name, p) for name, p in layer.parameters if p.requires_grad]
        for matrix in (True, False):
            wanted = [p for _, p in trained if (id(p) in matrices) == matrix]
            if wanted:
                options = {"lr": lr * factor(layer), "weight_decay": weight_decay if matrix else 0.0}
                groups.append({"params": wanted, "name": layer.name, **options})
    return groups


def table(network: Network, groups: list[dict[str, Any]]) -> str:
    """Return one line per layer: how many numbers are trained and frozen, and at which rate."""
    rates = {group["name"]: group["lr"] for group in groups}
    lines = [f"{'layer':<12}{'trained':>12}{'frozen':>12}{'lr':>11}"]
    total = [0, 0]
    for layer in layers(network):
        trained = sum(p.numel() for _, p in layer.parameters if p.requires_grad)
        frozen = sum(p.numel() for _, p in layer.parameters) - trained
        if trained or frozen:
            rate = f"{rates[layer.name]:.2e}" if trained else "-"
            lines.append(f"{layer.name:<12}{trained:>12,}{frozen:>12,}{rate:>11}")
        total = [total[0] + trained, total[1] + frozen]
    share = 100 * total[0] / max(1, sum(total))
    return "\n".join([*lines, f"{'all':<12}{total[0]:>12,}{total[1]:>12,}   ({share:.2f} % trained)"])
