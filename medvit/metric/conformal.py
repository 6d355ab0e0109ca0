"""Class-conditional split conformal sets of one finding: which of {absent, present} cannot be ruled out.

Calibrated for positives and negatives apart (Vovk 2012), because sets calibrated on both together miss the rarer one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvit.errors import EvaluationError
from medvit.metric.ranking import checked


class Conformal(NamedTuple):
    """`present` is in the set if p >= `present_from`, `absent` if p <= `absent_to`; fitted on validation.

    With too few calibration images of an outcome its bound is infinite: that outcome is never ruled out.
    """

    alpha: float
    present_from: float
    absent_to: float
    positives: int
    negatives: int


def fit_conformal(target: ArrayLike, probability: ArrayLike, alpha: float) -> Conformal:
    """Return bounds so that each outcome is in its set with probability at least 1 - `alpha` on exchangeable images.

    Raises:
        EvaluationError: alpha outside (0, 1), or what `ranking.checked` says.
    """
    if not 0.0 < alpha < 1.0:
        raise EvaluationError(f"conformal alpha {alpha}; expected between 0 and 1")
    y, p = checked(target, probability)
    positive, negative = np.sort(-p[y == 1]), np.sort(p[y == 0])
    return Conformal(alpha, -_quantile(positive, alpha), _quantile(negative, alpha), positive.size, negative.size)


def conformal_sets(bounds: Conformal, probability: ArrayLike) -> NDArray[np.bool_]:
    """Return whether `absent` and `present` are in the set of each image [n 2]; both is "uncertain"."""
    p = np.asarray(probability, np.float64)
    return np.stack([p <= bounds.absent_to, p >= bounds.present_from], axis=-1)


def _quantile(scores: NDArray[np.float64], alpha: float) -> float:
    """Return the ceil((n + 1)(1 - alpha))-th smallest score, infinite if there are too few."""
    rank = math.ceil((scores.size + 1) * (1.0 - alpha) - 1e-9)  # 0.9 * 20 must not become 19
    return float(scores[rank - 1]) if rank <= scores.size else math.inf
