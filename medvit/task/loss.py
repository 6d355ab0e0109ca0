"""Losses over [B K] logits in which an entry of weight 0 counts exactly nothing, whatever its target is (even NaN).

Every loss is the weighted mean over the entries that count, in fp32; a batch without any gives 0 with a gradient of 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from medvit.config_words import nearest
from medvit.errors import ConfigError

Matrix = Float[Tensor, "B K"]
Counts = Float[Tensor, "2 K"]


def masked_mean(values: Matrix, weight: Matrix) -> Float[Tensor, ""]:
    """Return sum(weight * values) / sum(weight), untouched by values whose weight is 0."""
    values = torch.where(weight > 0, values, torch.zeros_like(values))
    return (values * weight).sum() / weight.sum().clamp_min(1e-12)


def zero_masked_targets(target: Matrix, weight: Matrix) -> Matrix:
    """Return the targets with 0 wherever the weight is 0: a NaN there would reach the gradient."""
    return torch.where(weight > 0, target.float(), torch.zeros_like(target, dtype=torch.float32))


class LossContext(NamedTuple):
    """What a loss may know beside the batch: negatives and positives of the training labels [2 K], and the epoch."""

    counts: Tensor | None = None
    epoch: int = 0

    def balance(self, word: str, device: torch.device) -> Counts:
        """Return the counts for the loss `word`; raises ConfigError where they were never taken."""
        if self.counts is None:
            raise ConfigError(f"loss {word} balances classes by the training labels: call task.fit first")
        return self.counts.to(device)


NOTHING = LossContext()


class BinaryLoss(ABC):
    """A loss for outputs that are yes or no, each for itself; targets may be soft, in [0, 1]."""

    def __call__(
        self, logits: Matrix, target: Matrix, weight: Matrix, state: LossContext = NOTHING
    ) -> Float[Tensor, ""]:
        """Return the mean over the entries that count."""
        return masked_mean(self.values(logits.float(), zero_masked_targets(target, weight), state), weight)

    @abstractmethod
    def values(self, logits: Matrix, target: Matrix, state: LossContext, /) -> Matrix:
        """Return the loss of each entry."""


@dataclass(frozen=True)
class Bce(BinaryLoss):
    """Binary cross-entropy with logits."""

    def values(self, logits: Matrix, target: Matrix, _state: LossContext, /) -> Matrix:
        """Return the loss of each entry."""
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


@dataclass(frozen=True)
class PosWeight(BinaryLoss):
    """Binary cross-entropy whose positives weigh negatives / positives of the training labels, at most `limit`."""

    limit: float = 100.0

    def values(self, logits: Matrix, target: Matrix, state: LossContext, /) -> Matrix:
        """Return the loss of each entry."""
        negative, positive = state.balance("pos_weight", logits.device)
        ratio = (negative / positive.clamp_min(1)).clamp(max=self.limit)
        return F.binary_cross_entropy_with_logits(logits, target, pos_weight=ratio, reduction="none")


@dataclass(frozen=True)
class Focal(BinaryLoss):
    """Focal loss (Lin et al. 2017): |target - p|^gamma times cross-entropy; `alpha` in [0, 1] weighs positives."""

    gamma: float = 2.0
    alpha: float | None = None

    def values(self, logits: Matrix, target: Matrix, _state: LossContext, /) -> Matrix:
        """Return the loss of each entry."""
        values = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        values = values * (target - logits.sigmoid()).abs().clamp_min(1e-12) ** self.gamma
        if self.alpha is None:
            return values
        return values * (self.alpha * target + (1 - self.alpha) * (1 - target))


@dataclass(frozen=True)
class Asymmetric(BinaryLoss):
    """Asymmetric loss (Ridnik et al. 2021): easy negatives fade, those with p below `clip` count nothing."""

    gamma_positive: float = 1.0
    gamma_negative: float = 4.0
    clip: float = 0.05

    def values(self, logits: Matrix, target: Matrix, _state: LossContext, /) -> Matrix:
        """Return the loss of each entry."""
        p = logits.sigmoid()
        shifted = (p - self.clip).clamp(0, 1 - 1e-7)
        positive = -F.logsigmoid(logits) * (1 - p).clamp_min(1e-12) ** self.gamma_positive
        negative = -torch.log1p(-shifted) * shifted.clamp_min(1e-12) ** self.gamma_negative
        return target * positive + (1 - target) * negative


@dataclass(frozen=True)
class LdamDrw(BinaryLoss):
    """Label-distribution-aware margins with deferred re-weighting (Cao et al. 2019), per output.

    The rarer a class (positive or negative of an output), the wider its margin, n^(-1/4) scaled to at most `margin`;
    from epoch `defer` on, classes weigh the inverse of their effective number, (1 - beta) / (1 - beta^n), mean 1.
    """

    margin: float = 0.5
    defer: int = 10
    beta: float = 0.9999

    def values(self, logits: Matrix, target: Matrix, state: LossContext, /) -> Matrix:
        """Return the loss of each entry."""
        n = state.balance("ldam_drw", logits.device).clamp_min(1)
        margins = n**-0.25
        margins = margins * (self.margin / margins.max())
        shifted = logits + margins[0] * (1 - target) - margins[1] * target
        values = F.binary_cross_entropy_with_logits(shifted, target, reduction="none")
        if state.epoch < self.defer:
            return values
        rarity = (1 - self.beta) / (1 - self.beta ** n.double())
        rarity = (rarity / rarity.mean(dim=0)).float()
        return values * (rarity[1] * target + rarity[0] * (1 - target))


BINARY_LOSSES: dict[str, type[Any]] = {
    "bce": Bce,
    "pos_weight": PosWeight,
    "focal": Focal,
    "asl": Asymmetric,
    "ldam_drw": LdamDrw,
}


def binary_loss(word: str, options: dict[str, Any] | None) -> BinaryLoss:
    """Return the loss named by `word` with its `options`.

    Raises:
        ConfigError: an unknown word or an option the loss does not have, with the nearest valid name.
    """
    if word not in BINARY_LOSSES:
        raise ConfigError(
            f"task.loss={word!r} is unknown; expected one of {', '.join(BINARY_LOSSES)}{nearest(word, BINARY_LOSSES)}"
        )
    known = [field.name for field in fields(BINARY_LOSSES[word])]
    if wrong := [key for key in options or {} if key not in known]:
        raise ConfigError(f"task.options {wrong} are not options of loss {word}; it has {known or 'none'}")
    loss: BinaryLoss = BINARY_LOSSES[word](**(options or {}))
    return loss


def cross_entropy(
    logits: Matrix, target: Matrix, weight: Matrix, smoothing: float = 0.0, balance: Float[Tensor, " K"] | None = None
) -> Float[Tensor, ""]:
    """Return softmax cross-entropy of one-hot targets; a row counts where all its entries do.

    `smoothing` in [0, 1) spreads that share evenly over the classes; `balance` weighs rows by their class, and the mean
    is over those weights, as in torch.
    """
    row = weight.amin(dim=1, keepdim=True)
    target = zero_masked_targets(target, row.expand_as(target))
    soft = target * (1 - smoothing) + smoothing / target.shape[1]
    classes = soft if balance is None else soft * balance.to(logits.device)
    values = -(classes * logits.float().log_softmax(dim=1)).sum(dim=1, keepdim=True)
    if balance is None:
        return masked_mean(values, row)
    scale = (target * balance.to(logits.device)).sum(dim=1, keepdim=True)
    return (torch.where(row > 0, values, torch.zeros_like(values)) * row).sum() / (row * scale).sum().clamp_min(1e-12)


def corn(logits: Matrix, target: Matrix, weight: Matrix) -> Float[Tensor, ""]:
    """Return the CORN loss (Shi, Cao and Raschka 2023) of targets [level > k]: output k learns where level >= k."""
    target = zero_masked_targets(target, weight)
    reached = torch.cat([torch.ones_like(target[:, :1]), target[:, :-1]], dim=1)
    values = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return masked_mean(values, weight * reached)


def ordered(logits: Matrix) -> Matrix:
    """Return logits that fall from output to output: the first as it is, each next lower by softplus of its own."""
    logits = logits.float()
    return logits[:, :1] - F.pad(F.softplus(logits[:, 1:]).cumsum(dim=1), (1, 0))


def cumulative(logits: Matrix, target: Matrix, weight: Matrix) -> Float[Tensor, ""]:
    """Return the cumulative-link loss: cross-entropy of P(level > k), which falls with k by construction."""
    return Bce()(ordered(logits), target, weight)


ORDINAL_LOSSES = {"corn": corn, "cumulative": cumulative}
REGRESSION_LOSSES = {"huber": F.smooth_l1_loss, "l1": F.l1_loss, "mse": F.mse_loss}
