"""Backbone, pool and head as one module: image in, raw logits out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medvit.errors import ConfigError
from medvit.model.pool import LACKS_CLS, ClsPool, Pool
from medvit.types import Bag, Tokens

Encode = Callable[[Tensor], Tokens]


@runtime_checkable
class Backbone(Protocol):
    """What every encoder answers; see DESIGN.md section 4."""

    width: int
    prefix: int
    grid: tuple[int, ...]
    blocks: nn.ModuleList
    divisor: tuple[int, ...]
    training: bool

    def __call__(self, image: Tensor) -> Tokens:
        """Return the tokens of [B C *S]."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As every module."""

    def train(self, mode: bool = True) -> object:
        """As every module."""


@runtime_checkable
class ImagePool(Protocol):
    """What gathers the images of a bag, as `medvit.model.bag.StudyBag`."""

    def attach(self, width: int) -> None:
        """Make the parameters for `width` channels."""

    def __call__(self, encode: Callable[[Tensor], Tensor], image: Tensor, bag: Bag) -> Tensor:
        """Return [B W] or [B K W] from [B I C *S]."""


class Network(nn.Module):
    """A backbone with a head of `outputs` logits; `pool` reduces tokens to a vector, `bag` reduces images to one.

    LayerNorm and head work in fp32 under any autocast. The last LayerNorm is left out behind a pool whose output is
    normed already (the class token), so that a checkpoint's own classifier gives its own logits.
    Raises ConfigError for less than one output, and what the pools raise for this width.
    """

    def __init__(self, backbone: Backbone, pool: Pool, outputs: int, bag: ImagePool | None = None) -> None:
        super().__init__()
        if outputs < 1:
            raise ConfigError(f"outputs={outputs}: a network needs at least one output")
        if isinstance(pool, ClsPool) and backbone.prefix == 0:
            raise ConfigError(LACKS_CLS)
        self.backbone, self.pool, self.bag, self.outputs = backbone, pool, bag, outputs
        pool.attach(backbone.width, outputs)
        width = backbone.width * pool.parts
        if bag is not None:
            bag.attach(width)
        self.norm: nn.Module = nn.Identity() if pool.normed and bag is None else nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor, bag: Bag | None = None, encode: Encode | None = None) -> Float[Tensor, "B K"]:
        """Return raw logits of `image` [B C *S], or of a bag [B I C *S]; `encode` stands in for the backbone."""
        return self.classify(self.pooled(image, bag, encode))

    def embed(self, image: Tensor, bag: Bag | None = None) -> Float[Tensor, "B W"]:
        """Return one fp32 vector per unit: what the head reads, averaged over outputs where each has its own."""
        pooled = self.pooled(image, bag)
        with torch.autocast(image.device.type, enabled=False):
            vector: Tensor = self.norm(pooled.float())
        return vector.mean(dim=1) if vector.ndim == 3 else vector

    def pooled(self, image: Tensor, bag: Bag | None = None, encode: Encode | None = None) -> Float[Tensor, "B *K W"]:
        """Return the pooled vectors before norm and head: [B W], or [B K W] with a query per output.

        Where `encode` makes the tokens (of cached features, say), `image` is what it takes.
        Raises ConfigError for a bag that was given to a network without a bag pool.
        """
        tokens: Encode = encode or self.backbone
        if self.bag is None:
            if bag is not None:
                raise ConfigError("a bag of images was given to a network for single images; choose bag=study")
            return self.from_tokens(tokens(image))
        if bag is None:  # one image is a bag of one
            image = image.unsqueeze(1)
            bag = single_image_bags(image.shape[0], image.device)
        return self.bag(lambda images: self.from_tokens(tokens(images)), image, bag)

    def from_tokens(self, tokens: Tokens) -> Float[Tensor, "B *K W"]:
        """Return the pooled vectors of tokens that are at hand already."""
        return self.pool(tokens)

    def classify(self, pooled: Float[Tensor, "B *K W"]) -> Float[Tensor, "B K"]:
        """Return logits of pooled vectors, in fp32."""
        with torch.autocast(pooled.device.type, enabled=False):
            vector = self.norm(pooled.float())
            if vector.ndim == 2:
                logits: Tensor = self.head(vector)
            else:
                logits = torch.einsum("bkw,kw->bk", vector, self.head.weight) + self.head.bias
        return logits


def single_image_bags(batch: int, device: torch.device) -> Bag:
    """Return the bag of one image per unit: present, at 0 mm, of kind 0."""
    zeros = torch.zeros(batch, 1, device=device)
    return Bag(zeros == 0, zeros, zeros.long())
