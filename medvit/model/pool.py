"""From tokens to one vector per image: the class token, the mean of the patches, or learned attention.

A pool is written in a config without sizes; `Network` calls `attach` once with the backbone's width and the number of
outputs. Pools keep no state between calls: attention maps are returned by the call that asks for them.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medvit.errors import ConfigError
from medvit.types import Tokens

LACKS_CLS = "pool=cls needs a class token, which this backbone lacks; use pool=mean or pool=attention"


@runtime_checkable
class Pool(Protocol):
    """What `Network` needs of a pool.

    `normed` says that the output needs no further LayerNorm, `summary` that it reads only class token and mean; `parts`
    is how many vectors of the backbone's width stand side by side in the output.
    """

    normed: bool
    summary: bool
    parts: int

    def attach(self, width: int, outputs: int) -> None:
        """Make the parameters for `width` channels and `outputs` outputs."""

    def __call__(self, tokens: Tokens) -> Tensor:
        """Return [B W], or [B K W] where each output has a vector of its own."""


class ClsPool(nn.Module):
    """The class token: the first prefix token, already behind the backbone's last norm."""

    normed = summary = True
    parts = 1

    def attach(self, width: int, outputs: int) -> None:
        """Nothing to make: the class token has no parameters here."""

    def forward(self, tokens: Tokens) -> Float[Tensor, "B W"]:
        """Return the first prefix token.

        Raises:
            ConfigError: the backbone has no prefix token.
        """
        if tokens.prefix.shape[1] == 0:
            raise ConfigError(LACKS_CLS)
        return tokens.prefix[:, 0]


class ClsMeanPool(ClsPool):
    """The class token and the mean of the patch tokens, side by side, as DINOv2 is probed (Oquab et al. 2024)."""

    parts = 2

    def forward(self, tokens: Tokens) -> Float[Tensor, "B W2"]:
        """Return first prefix token and mean over the patches.

        Raises:
            ConfigError: the backbone has no prefix token.
        """
        return torch.cat([super().forward(tokens), tokens.patches.mean(dim=1)], dim=1)

    def attention(self, tokens: Tokens) -> Float[Tensor, "B 1 N"]:
        """Return an equal share of every patch, one half together: the other half comes from the class token."""
        batch, patches = tokens.patches.shape[:2]
        return tokens.patches.new_full((batch, 1, patches), 1 / (2 * patches))


class MeanPool(nn.Module):
    """The mean of the patch tokens."""

    normed = False
    summary = True
    parts = 1

    def attach(self, width: int, outputs: int) -> None:
        """Nothing to make: a mean has no parameters."""

    def forward(self, tokens: Tokens) -> Float[Tensor, "B W"]:
        """Return the mean over the patches."""
        return tokens.patches.mean(dim=1)

    def attention(self, tokens: Tokens) -> Float[Tensor, "B 1 N"]:
        """Return the equal share of every patch."""
        batch, patches = tokens.patches.shape[:2]
        return tokens.patches.new_full((batch, 1, patches), 1 / patches)


class AttentionPool(nn.Module):
    """Multi-query attention over patch tokens and class token ("efficient probing", Psomas et al. 2025).

    Keys are the tokens themselves. With `queries=M` each query gathers one M-th of the channels of the values, giving
    [B W]; with `queries="classes"` every output has its own query over all channels, giving [B K W] and one attention
    map per output for free. The values start as the tokens, so that training starts near mean pooling.
    Raises ConfigError for other `queries` than a number from 1 or "classes".
    """

    normed = summary = False
    parts = 1

    def __init__(self, queries: int | str = 8, cls: bool = True) -> None:
        super().__init__()
        if queries != "classes" and (not isinstance(queries, int) or queries < 1):
            raise ConfigError(f"pool queries={queries!r}: expected a number of at least 1, or 'classes'")
        self.setting, self.cls = queries, cls
        self.per_class = queries == "classes"

    def attach(self, width: int, outputs: int) -> None:
        """Make queries and values.

        Raises:
            ConfigError: the width is no multiple of the number of queries.
        """
        count = outputs if self.per_class else int(self.setting)
        if not self.per_class and width % count:
            near = [n for n in range(1, width + 1) if width % n == 0]
            best = min(near, key=lambda n: abs(n - count))
            raise ConfigError(f"pool queries={count} do not divide the width {width}; the nearest that does is {best}")
        self.queries = nn.Parameter(torch.empty(count, width))
        self.values = nn.Linear(width, width)
        nn.init.trunc_normal_(self.queries, std=0.02)
        nn.init.eye_(self.values.weight)
        nn.init.zeros_(self.values.bias)

    def forward(self, tokens: Tokens) -> Float[Tensor, "B *K W"]:
        """Return [B W], or [B K W] with a query per output."""
        share, first = self._share(tokens)
        gathered = share[..., first.shape[1] :] @ tokens.patches  # apart from the class token: no copy of the patches
        if first.shape[1]:
            gathered = gathered + share[..., :1] @ first
        if not self.per_class:
            return mixed(gathered, self.values)
        out: Tensor = self.values(gathered)
        return out

    def attention(self, tokens: Tokens) -> Float[Tensor, "B Q N"]:
        """Return the share in [0, 1] each query takes of each patch; the rest to 1 came from the class token."""
        share, first = self._share(tokens)
        return share[..., first.shape[1] :]

    def _share(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Return the shares of class token and patches, and the class token [B 1 W] or nothing [B 0 W]."""
        first, patches = tokens.prefix[:, : int(self.cls)], tokens.patches
        queries = self.queries.to(patches.dtype) * patches.shape[-1] ** -0.5
        scores = torch.cat([queries @ keys.transpose(1, 2) for keys in (first, patches)], dim=-1)
        return scores.float().softmax(-1).to(patches.dtype), first


def mixed(gathered: Float[Tensor, "B Q W"], values: nn.Linear) -> Float[Tensor, "B W"]:
    """Return what each query makes of what it gathered: the values' q-th share of channels, side by side.

    Values are linear and shares sum to 1, so a mean of values is the value of the mean: one product per query instead
    of one per token.
    """
    parts = values.weight.reshape(gathered.shape[1], -1, gathered.shape[2])
    bias = values.bias.reshape(gathered.shape[1], -1)
    return (torch.einsum("bqw,qdw->bqd", gathered, parts) + bias).flatten(1)
