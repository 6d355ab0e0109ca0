"""Low-rank adapters (Hu et al. 2022) for linear layers, fused q, k, v, and patch convolutions: inject and merge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from medvit.errors import ConfigError

SLICES = ("q", "k", "v")
Base = nn.Linear | _ConvNd


class Lora(nn.Module):
    """A frozen layer plus alpha / rank times up(down(x)); `up` starts at 0, so nothing changes at first.

    `rows` are the (first, last) output rows that each adapter adds to: all, or the q, k or v part of a fused layer.
    """

    def __init__(self, base: Base, rank: int, alpha: float, rows: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.base, self.scale, self.rows = base.requires_grad_(False), alpha / rank, tuple(rows)
        place: dict[str, Any] = {"device": base.weight.device, "dtype": base.weight.dtype, "bias": False}
        low = rank * len(self.rows)
        if isinstance(base, nn.Linear):
            self.down: Base = nn.Linear(base.in_features, low, **place)
        else:
            sizes = {"stride": base.stride, "padding": base.padding, "dilation": base.dilation}
            self.down = type(base)(base.in_channels, low, base.kernel_size, **sizes, **place)  # type: ignore[arg-type, call-arg]
        ups = [nn.Linear(rank, last - first, **place) for first, last in rows]
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for up in ups:
            nn.init.zeros_(up.weight)
        self.up = nn.ModuleList(ups)

    def forward(self, x: Tensor) -> Tensor:
        """Return the base layer's output with what the adapters add."""
        out: Tensor = self.base(x)
        axis = -1 if isinstance(self.base, nn.Linear) else 1
        low = self.down(x).movedim(axis, -1).chunk(len(self.rows), dim=-1)
        parts, end = [], 0
        for (first, last), up, piece in zip(self.rows, self.up, low, strict=True):
            parts += [out.new_zeros(*piece.shape[:-1], first - end)] if first > end else []
            parts.append(up(piece) * self.scale)
            end = last
        if end < out.shape[axis]:
            parts.append(out.new_zeros(*low[0].shape[:-1], out.shape[axis] - end))
        return out + torch.cat(parts, dim=-1).movedim(-1, axis)

    @property
    def weight(self) -> Tensor:
        """The weight of the layer that does the same without adapters."""
        weight = self.base.weight.clone()
        downs = self.down.weight.flatten(1).chunk(len(self.rows))
        for (first, last), up, down in zip(self.rows, self.up, downs, strict=True):
            weight[first:last] += self.scale * (up.get_parameter("weight") @ down).reshape(weight[first:last].shape)
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The bias of the base layer."""
        return self.base.bias

    @torch.no_grad()
    def merged(self) -> Base:
        """Return the base layer with the adapters added into its weight."""
        self.base.weight.copy_(self.weight)
        return self.base


def inject(model: nn.Module, rank: int, alpha: float, targets: Sequence[str] = ("qkv", "proj")) -> list[str]:
    """Put adapters on every layer of `model` that `targets` name; return the names of those layers.

    A target is the end of a layer's dotted name ("qkv", "attn.proj", "fc1", "patch_embed"), or q, k, v for a part of
    a fused qkv layer. The adapted layers are frozen; freezing the others is the strategy's business.

    Raises:
        ConfigError: a rank below 1, or targets that no layer has.
    """
    layers = _layers(model)
    found = adapted(model, rank, targets)
    for name, rows in found.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, Lora(layers[name], rank, alpha, sorted(rows)))
    return sorted(found)


def adapted(model: nn.Module, rank: int, targets: Sequence[str]) -> dict[str, set[tuple[int, int]]]:
    """Return the layers that `inject` would adapt, by name, and which of their rows; raises as `inject` does."""
    if rank < 1:
        raise ConfigError(f"lora rank={rank}: expected at least 1; 4 to 32 are usual")
    layers = _layers(model)
    found: dict[str, set[tuple[int, int]]] = {}
    missing = []
    for target in targets:
        hits = [name for name in layers if _named(name, "qkv" if target in SLICES else target)]
        missing += [] if hits else [target]
        for name in hits:
            found.setdefault(name, set()).update(_rows(layers[name], name, target))
    if missing:
        ends = sorted({name.rpartition(".")[2] for name in layers})
        raise ConfigError(f"lora targets {missing} name no linear layer or convolution; the model has {ends}, q, k, v")
    return found


def _layers(model: nn.Module) -> dict[str, Base]:
    return {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, _ConvNd))}


def merge(model: nn.Module) -> nn.Module:
    """Replace every adapted layer by a plain one that computes the same; the model is changed and returned."""
    for name, module in [(n, m) for n, m in model.named_modules() if isinstance(m, Lora)]:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module.merged())
    return model


def injected(model: nn.Module) -> bool:
    """Return whether a layer of `model` has adapters."""
    return any(isinstance(module, Lora) for module in model.modules())


def _named(name: str, target: str) -> bool:
    """Match whole parts: the target stands at the end, or names a module the layer lies in (patch_embed.layers.0)."""
    return f".{name}".endswith(f".{target}") or f".{target}." in f".{name}"


def _rows(layer: Base, name: str, target: str) -> list[tuple[int, int]]:
    """Return the rows of the adapters: a fused layer has one each for q, k and v, as separate layers would have."""
    outputs = _outputs(layer)
    if not name.endswith("qkv"):
        return [(0, outputs)]
    third = outputs // 3
    parts = SLICES if target not in SLICES else (target,)
    return [(third * SLICES.index(part), third * (SLICES.index(part) + 1)) for part in parts]


def _outputs(layer: Base) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
