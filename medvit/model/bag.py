"""Multiple-instance bags: views of a study, slices of a series, series of a study as one unit of prediction.

Every image that is there goes through the 2-D backbone; attention then gathers the images, knowing where each lies (in
millimetres, so that spacing may vary) and what series or view it is. An image that is missing is no zero image: it is
not encoded and not attended to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from medvit.errors import ConfigError, DataError
from medvit.model.pool import mixed
from medvit.types import Bag

Encode = Callable[[Tensor], Tensor]
WAVES_MM = (4.0, 1000.0)  # from the thinnest slices to the length of a body part


class StudyBag(nn.Module):
    """Attention pooling over the images of a bag; sized by `Network` through `attach`.

    `queries` each gather their share of the channels; `kinds` is how many series types or views there can be; while
    training each kind is left out with probability `drop_kinds`, at least one staying (missing sequences are the rule
    in hospitals). Images are encoded `chunk` at a time, recomputed in the backward pass when `checkpointing`.
    Raises ConfigError for numbers below 1 or a share outside [0, 1).
    """

    def __init__(
        self, queries: int = 4, kinds: int = 32, drop_kinds: float = 0.3, chunk: int = 16, checkpointing: bool = True
    ) -> None:
        super().__init__()
        if not 0 <= drop_kinds < 1 or min(queries, kinds, chunk) < 1:
            raise ConfigError(
                f"bag: expected 0 <= drop_kinds={drop_kinds} < 1 and at least 1 for queries={queries}, kinds={kinds}, "
                f"chunk={chunk}"
            )
        self.heads, self.kinds, self.drop_kinds = queries, kinds, drop_kinds
        self.chunk, self.checkpointing = chunk, checkpointing

    def attach(self, width: int) -> None:
        """Make the parameters.

        Raises:
            ConfigError: the width is no multiple of the number of queries.
        """
        if width % self.heads:
            raise ConfigError(f"bag.queries={self.heads} do not divide the width {width}; 1, 2 and 4 mostly do")
        self.norm = nn.LayerNorm(width)
        self.kind = nn.Embedding(self.kinds, width)
        self.queries = nn.Parameter(torch.empty(self.heads, width))
        self.values = nn.Linear(width, width)
        nn.init.trunc_normal_(self.queries, std=0.02)
        nn.init.trunc_normal_(self.kind.weight, std=0.02)
        nn.init.eye_(self.values.weight)
        nn.init.zeros_(self.values.bias)

    def forward(self, encode: Encode, image: Tensor, bag: Bag) -> Float[Tensor, "B *K W"]:
        """Return one vector per bag [B W], or [B K W] where `encode` gives [n K W], of images [B I C *S].

        Raises:
            DataError: a bag without any image, or a kind beyond `kinds`.
        """
        if not torch.compiler.is_exporting():
            self._check(bag)
        bag = bag._replace(kind=bag.kind * bag.mask)
        if self.training and self.drop_kinds > 0:
            bag = bag._replace(mask=self.leave_out(bag))
        vectors = self.encoded(encode, image, bag)
        if vectors.ndim == 3:
            return self.gather(vectors, bag)
        outputs = vectors.shape[2]
        each = Bag(*(part.repeat_interleave(outputs, dim=0) for part in bag))
        pooled = self.gather(vectors.movedim(2, 1).flatten(0, 1), each)
        return pooled.reshape(vectors.shape[0], outputs, -1)

    def encoded(self, encode: Encode, image: Tensor, bag: Bag) -> Float[Tensor, "B I *K W"]:
        """Return the vector of every image that is there, and zeros elsewhere."""
        if torch.compiler.is_exporting():  # a graph of fixed shape: encode all, the mask hides later
            every = encode(image.flatten(0, 1))
            return every.reshape(*image.shape[:2], *every.shape[1:])
        there = image[bag.mask]
        recompute = self.checkpointing and self.training and torch.is_grad_enabled()
        run: Encode = partial(checkpoint, encode, use_reentrant=False) if recompute else encode
        parts = [run(part) for part in torch.split(there, self.chunk)]
        found = torch.cat(parts)
        out = found.new_zeros(*bag.mask.shape, *found.shape[1:])
        out[bag.mask] = found
        return out

    def gather(self, vectors: Float[Tensor, "B I W"], bag: Bag) -> Float[Tensor, "B W"]:
        """Return the pooled vector of each bag."""
        with torch.autocast(vectors.device.type, enabled=False):
            return mixed(self.attention(vectors, bag) @ self._placed(vectors, bag), self.values)

    def attention(self, vectors: Float[Tensor, "B I W"], bag: Bag) -> Float[Tensor, "B Q I"]:
        """Return how much each query takes of each image: 0 where there is none, summing to 1."""
        with torch.autocast(vectors.device.type, enabled=False):
            place = torch.where(bag.mask, bag.position_mm, 0.0)
            keys = self._placed(vectors, bag) + position_code(place, vectors.shape[-1])
            scores = torch.einsum("qw,biw->bqi", self.queries, keys) * keys.shape[-1] ** -0.5
            share: Tensor = scores.masked_fill(~bag.mask[:, None], -torch.inf).softmax(-1)
            return share

    def _placed(self, vectors: Tensor, bag: Bag) -> Tensor:
        placed: Tensor = self.norm(vectors.float()) + self.kind(bag.kind)
        return placed

    def leave_out(self, bag: Bag) -> Bool[Tensor, "B I"]:
        """Return the mask with random kinds left out of each bag, never all of them."""
        luck = torch.rand(len(bag.mask), self.kinds, device=bag.mask.device).gather(1, bag.kind)
        best = luck.masked_fill(~bag.mask, -1.0).amax(dim=1, keepdim=True)
        return bag.mask & ((luck >= self.drop_kinds) | (luck == best))

    def _check(self, bag: Bag) -> None:
        empty = int((~bag.mask.any(dim=1)).sum())
        beyond = int((((bag.kind < 0) | (bag.kind >= self.kinds)) & bag.mask).sum())
        if empty or beyond:
            raise DataError(
                f"bags of images: {empty} of {len(bag.mask)} hold no image; {beyond} images are of a kind outside 0 to "
                f"{self.kinds - 1}. Leave empty units out of the manifest, or raise bag.kinds"
            )


def position_code(position_mm: Float[Tensor, "B I"], width: int) -> Float[Tensor, "B I W"]:
    """Return sines and cosines of a position in mm, wavelengths 4 mm to 1 m in equal ratios."""
    low, high = WAVES_MM
    waves = torch.logspace(math.log10(low), math.log10(high), width // 2, device=position_mm.device)
    angle = position_mm.float().unsqueeze(-1) * (2 * math.pi / waves)
    return F.pad(torch.cat([angle.sin(), angle.cos()], dim=-1), (0, width % 2))
