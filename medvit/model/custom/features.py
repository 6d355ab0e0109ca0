"""Where the features of a network made elsewhere come out, and how they are read as tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medvit.config_words import nearest
from medvit.errors import ConfigError
from medvit.types import Tokens

LAYOUTS = ("auto", "map", "channels_last", "tokens", "vector")


@dataclass(frozen=True)
class Shape:
    """How the features are read: `layout` as of `Features`, and the tokens they are."""

    layout: str
    width: int
    prefix: int
    grid: tuple[int, ...]

    def tokens(self, found: Tensor, grid: tuple[int, ...]) -> Tokens:
        """Return features as tokens over `grid`; raises ConfigError where there are not as many as it has cells."""
        if self.layout == "map":
            found = found.flatten(2).transpose(1, 2)
        elif self.layout == "channels_last":
            found = found.flatten(1, -2)
        elif self.layout == "vector":
            found = found.unsqueeze(1)
        if found.shape[1] != self.prefix + math.prod(grid):
            raise ConfigError(f"the network gives {found.shape[1]} tokens of an image with {grid} cells")
        return Tokens(found[:, : self.prefix], found[:, self.prefix :], grid)


@dataclass(frozen=True)
class Features:
    """Where the features come out of a network.

    `layer`: dotted name of the part, or of the method, whose output they are; None: the network's own output.
    `output`: which of several outputs, by number or name. `layout`: "map" [B W *S], "channels_last" [B *S W], "tokens"
    [B N W] with any prefix first, "vector" [B W]; "auto" where the shape leaves one reading. `stride`: pixels per cell
    and axis, needed for tokens. `width`: how many numbers a token must have; None takes what is there.
    """

    layer: str | None = None
    output: int | str | None = None
    layout: str = "auto"
    stride: Sequence[int] | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        """Refuse a layout that is none."""
        if self.layout not in LAYOUTS:
            raise ConfigError(
                f"model.features.layout={self.layout!r}: expected {', '.join(LAYOUTS)}{nearest(self.layout, LAYOUTS)}"
            )

    def shape_of(self, found: Tensor, size: tuple[int, ...]) -> Shape:
        """Return how the features `found` of one image of `size` are read.

        Raises:
            ConfigError: a layout they do not have, a grid that does not divide the image, or another size than asked.
        """
        layout, shape = self._layout(found, size), tuple(found.shape)
        said = f"the features of {self.layer or 'the network'} are {list(shape)} of one image of {list(size)}"
        prefix = 0
        if layout == "vector":
            grid, width = (1,) * len(size), shape[1]
        elif layout == "tokens":
            grid, width = self._token_grid(shape[1], size, said), shape[2]
            prefix = shape[1] - math.prod(grid)
        else:
            grid, width = (shape[2:], shape[1]) if layout == "map" else (shape[1:-1], shape[-1])
        wrong = [] if shape[0] == 1 else [f"{said}: expected 1 first, the image"]
        steps = [side / cells for side, cells in zip(size, grid, strict=True)]
        if not all(step >= 1 and step.is_integer() for step in steps):
            wrong.append(
                f"{said}, so a cell would have {', '.join(f'{step:g}' for step in steps)} pixels: expected whole "
                "numbers. Give a model.image_size that the network's stride divides, or another model.features.layout"
            )
        elif self.layout == "auto" and len(set(steps)) > 1:
            wrong.append(
                f"{said}; read as a map, a cell would have {', '.join(f'{step:g}' for step in steps)} pixels: give "
                "model.features.layout=map or channels_last"
            )
        elif self.layout == "auto" and layout == "map" and max(steps) == 1:
            wrong.append(
                f"{said}, of the image's own size: such an output is a segmentation. Name the layer where the encoder "
                "ends (model.features.layer=...), or say that these are features: model.features.layout=map"
            )
        if self.stride is not None and list(self.stride) != steps:
            wrong.append(f"{said}, {steps} pixels per cell; model.features.stride={list(self.stride)} was asked for")
        if self.width is not None and self.width != width:
            wrong.append(f"{said}, {width} wide; model.features.width={self.width} was asked for")
        if wrong:
            raise ConfigError("\n".join(wrong))
        return Shape(layout, width, prefix, grid)

    def _layout(self, found: Tensor, size: tuple[int, ...]) -> str:
        axes = {"map": len(size) + 2, "channels_last": len(size) + 2, "tokens": 3, "vector": 2}
        fits = [name for name, ndim in axes.items() if ndim == found.ndim]
        if self.layout != "auto" and self.layout in fits:
            return self.layout
        if self.layout != "auto" or not fits:
            raise ConfigError(
                f"model.features: the output {list(found.shape)} of one image of {list(size)} is no "
                f"{'features' if self.layout == 'auto' else self.layout}; expected map [1, W, *sides], tokens "
                "[1, N, W] or vector [1, W]: name the layer that gives them (model.features.layer=...)"
            )
        if fits == ["vector"]:
            raise ConfigError(
                f"model.features: the output [1, {found.shape[1]}] may be the scores of the network's own classifier. "
                "Name the layer before it (model.features.layer=...), or say that these are features: "
                "model.features.layout=vector"
            )
        return fits[0]

    def _token_grid(self, count: int, size: tuple[int, ...], said: str) -> tuple[int, ...]:
        if self.stride is None or len(self.stride) != len(size):
            raise ConfigError(
                f"{said}: tokens do not tell their grid; give the patch size, model.features.stride="
                f"[{', '.join(['16'] * len(size))}] or what it is"
            )
        grid = tuple(side // step for side, step in zip(size, self.stride, strict=True))
        if math.prod(grid) > count or 0 in grid:
            raise ConfigError(f"{said}: model.features.stride={list(self.stride)} makes {grid} cells, more than tokens")
        return grid


class _Reached(Exception):
    """The layer has run; carries its output, and spares the rest of the network."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def run_to(network: nn.Module, features: Features, image: Tensor, through: bool = False) -> Tensor:
    """Return the features: the output of the layer, or of the method, that is named.

    `through`: the layer lies inside the network, which runs up to it; else it takes the image itself.

    Raises:
        ConfigError: a layer that is not there, does not run, or gives something else than tensors.
    """
    part = network if features.layer is None else _part(network, features.layer)
    if not through:
        return _chosen(part(image), features.output)
    seen: list[Any] = []

    def stop(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen.append(output)
        if not torch.compiler.is_exporting():  # torch.export does not get over an exception
            raise _Reached(output)

    handle = part.register_forward_hook(stop)
    try:
        network(image)
    except _Reached:
        pass
    finally:
        handle.remove()
    if not seen:
        raise ConfigError(f"model.features.layer={features.layer} does not run when an image goes through the network")
    return _chosen(seen[0], features.output)


def _part(network: nn.Module, name: str) -> Any:
    part: Any = network
    for word in name.split("."):
        if not callable(getattr(part, word, None)) and not isinstance(getattr(part, word, None), nn.ModuleList):
            have = [child for child, _ in network.named_modules() if child]
            top = ", ".join(child for child, _ in network.named_children())
            raise ConfigError(
                f"model.features.layer={name}: {type(network).__name__} has no such part or method"
                f"{nearest(name, have, 0.6)}; its parts are {top}"
            )
        part = getattr(part, word)
    return part


def _chosen(found: Any, output: int | str | None) -> Tensor:
    """Return one tensor of what a layer gave; a model output of transformers is its last hidden state."""
    if output is None:
        found = getattr(found, "last_hidden_state", found)
    else:
        try:
            found = found[output] if not isinstance(found, Tensor) else None
        except (KeyError, IndexError, TypeError):
            found = None
    if isinstance(found, Tensor):
        return found
    if output is not None:
        raise ConfigError(
            f"model.features.output={output}: the layer has no such output; null where it gives one tensor"
        )
    entries = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, (list, tuple)) else ()
    listed = ", ".join(
        f"{key}: {list(value.shape) if isinstance(value, Tensor) else type(value).__name__}" for key, value in entries
    )
    raise ConfigError(
        f"the layer gives a {type(found).__name__} ({listed or 'of no tensors'}): say which, model.features.output=..."
    )


def features_of(network: nn.Module) -> tuple[Features, tuple[str, ...] | str]:
    """Return where the features of a published network come out, and its blocks; of another one, its own output."""
    module, name = type(network).__module__, type(network).__name__
    found: tuple[Features, tuple[str, ...] | str] = Features(), ()
    if module.startswith("timm."):
        found = Features("forward_features"), ()
    elif not module.startswith("monai."):
        return found
    elif name.lower().startswith("densenet"):
        parts = [part for part, _ in network.get_submodule("features").named_children() if "denseblock" in part]
        found = Features("features"), tuple(f"features.{part}" for part in parts)
    elif name.startswith("ResNet") or name == "SEResNet50":
        found = Features("layer4"), tuple(f"layer{n}" for n in range(1, 5))
    elif name in {"SegResNet", "SegResNetVAE"}:
        found = Features("encode", output=0), "down_layers"
    elif name == "ViT":
        patch = network.get_submodule("patch_embedding.patch_embeddings")
        stride = tuple(patch.kernel_size) if isinstance(patch, (nn.Conv2d, nn.Conv3d)) else None
        found = Features("norm", layout="tokens", stride=stride), "blocks"
    elif name == "SwinUNETR":
        found = Features("swinViT", output=-1), tuple(f"swinViT.layers{n}" for n in range(1, 5))
    return found
