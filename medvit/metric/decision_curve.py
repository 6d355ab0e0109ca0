"""Decision curve analysis: net benefit of a model over risk thresholds.

Vickers and Elkin, Medical Decision Making 2006. A patient is acted on if the probability is at least the threshold.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvit.errors import EvaluationError
from medvit.metric.ranking import Ranking, ratio

Array = NDArray[np.float64]


def net_benefit(
    target: ArrayLike, probability: ArrayLike, thresholds: ArrayLike, weight: ArrayLike | None = None
) -> Array:
    """Return true positives minus weighted false positives, per image, per draw and threshold [D T].

    The weight of a false positive is the odds of the threshold, which is in (0, 1).

    Raises:
        EvaluationError: a threshold outside (0, 1).
    """
    cut = _thresholds(thresholds)
    ranking = Ranking(target, probability)
    positive, negative = ranking.groups(weight)
    nothing = np.zeros((positive.shape[0], 1))
    hit, false = (np.c_[np.cumsum(side[:, ::-1], axis=1)[:, ::-1], nothing] for side in (positive, negative))
    first = np.searchsorted(ranking.score, cut, side="left")  # the lowest score that is called positive
    total = (positive.sum(axis=1) + negative.sum(axis=1))[:, None]
    return ratio(hit[:, first] - false[:, first] * (cut / (1.0 - cut)), total)


def treat_all(target: ArrayLike, thresholds: ArrayLike, weight: ArrayLike | None = None) -> Array:
    """Return the net benefit of acting on everyone [D T]; acting on no one is 0."""
    return net_benefit(target, np.ones_like(np.asarray(target, np.float64)), thresholds, weight)


def _thresholds(thresholds: ArrayLike) -> Array:
    cut = np.atleast_1d(np.asarray(thresholds, np.float64))
    if not ((cut > 0.0) & (cut < 1.0)).all():
        raise EvaluationError(f"decision thresholds run from {cut.min()} to {cut.max()}; expected inside 0 to 1")
    return cut
