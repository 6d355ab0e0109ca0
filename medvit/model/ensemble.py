"""Several networks of one architecture as one: the mean of their logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medvit.errors import ConfigError
from medvit.model.network import Encode, Network
from medvit.types import Bag

_NO_TOKENS = "an ensemble has no vectors or tokens of its own: ask one of the runs it is made of"


class Ensemble(Network):
    """The mean of the members' logits; `backbone`, `pool` and `bag` are those of the first, all being built alike.

    It is made to predict: what asks one network for its tokens or its pooled vectors is refused.
    """

    def __init__(self, members: Sequence[Network]) -> None:
        nn.Module.__init__(self)
        self.members = nn.ModuleList(members)
        self.outputs = members[0].outputs

    def forward(self, image: Tensor, bag: Bag | None = None, encode: Encode | None = None) -> Float[Tensor, "B K"]:
        """Return raw logits of `image` [B C *S], or of a bag [B I C *S]; raises ConfigError for `encode`."""
        if encode is not None:
            raise ConfigError(_NO_TOKENS)
        return torch.stack([member(image, bag) for member in self.members]).mean(dim=0)

    def embed(self, image: Tensor, bag: Bag | None = None) -> Float[Tensor, "B W"]:
        """Return the members' vectors beside each other, fp32."""
        return torch.cat([cast(Network, member).embed(image, bag) for member in self.members], dim=1)

    def pooled(self, *_: Any, **__: Any) -> NoReturn:
        """Raise ConfigError: each member has vectors of its own."""
        raise ConfigError(_NO_TOKENS)

    from_tokens = classify = pooled  # type: ignore[assignment]

    @property
    def backbone(self) -> Any:  # type: ignore[override]
        """The encoder of the first member: what it takes and how large it is."""
        return self.members[0].backbone

    @property
    def pool(self) -> Any:  # type: ignore[override]
        """The pool of the first member."""
        return self.members[0].pool

    @property
    def bag(self) -> Any:  # type: ignore[override]
        """The bag pool of the first member, if any."""
        return self.members[0].bag
