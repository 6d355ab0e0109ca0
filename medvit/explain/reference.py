"""Reference image (baseline input) of attribution and deletion: even grey, or the average without the finding.

Painting a place over shows what it meant only if the paint means nothing. An even grey is no such paint for a network
that never saw one: on generated films it calls grey an opacity (0.93), so taking the opacity away changes nothing and
deletion and insertion rank methods by chance. The average image of those without the finding is most often better:
of two candidates that one is taken, per output, for which the output's probability is the lowest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Answer = Callable[[Tensor], Tensor]  # images [B ...] -> probability of the output that is explained [B]
GREY, AVERAGE = "even grey", "average image without the finding"


class Reference(NamedTuple):
    """`image` [1 C *S], or None for each image's own even grey; `fall` of the probability when all of it is shown."""

    name: str
    image: Tensor | None
    fall: float


def grey(image: Float[Tensor, "B C *S"]) -> Float[Tensor, "B C ..."]:
    """Return images of one even value: the image's own mean, per channel (of a bag [B I C *S]: per image)."""
    return image.mean(dim=tuple(range(2, image.ndim)), keepdim=True).expand_as(image)


def choose(seen: Iterable[tuple[Answer, Float[Tensor, "B ..."]]], average: Tensor | None) -> Reference:
    """Return the reference that takes the finding away.

    seen: positives of the output and what answers with its probabilities [B]. average: the average image of those
    without the finding [1 C *S], None where there is none. A `fall` near 0 says that the network sees the finding in
    both references; then neither deletion nor insertion measures anything.
    """
    falls: dict[str, list[Tensor]] = {AVERAGE: [], GREY: []}
    with torch.no_grad():
        for answer, image in seen:
            whole = answer(image)
            falls[GREY].append(whole - answer(grey(image)))
            if average is not None:
                falls[AVERAGE].append(whole - answer(average.expand_as(image)))
    means = {name: float(torch.cat(parts).mean()) for name, parts in falls.items() if parts}
    best = max(means, key=lambda name: means[name])
    return Reference(best, average if best == AVERAGE else None, means[best])
