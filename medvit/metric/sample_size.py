"""Sample size: positives needed for a confidence interval of a given width (Hanley and McNeil, Radiology 1982)."""

from __future__ import annotations

import math
from bisect import bisect_left
from statistics import NormalDist

from medvit.errors import EvaluationError

_MOST = 10_000_000


def auroc_error(auroc: float, positives: int, negatives: int) -> float:
    """Return the standard error of an AUROC by Hanley and McNeil, equation 1, with the exponential Q1 and Q2."""
    if min(positives, negatives) < 1:
        return math.nan
    first, second = auroc / (2.0 - auroc), 2.0 * auroc**2 / (1.0 + auroc)
    square = auroc * (1.0 - auroc) + (positives - 1) * (first - auroc**2) + (negatives - 1) * (second - auroc**2)
    return math.sqrt(max(0.0, square) / (positives * negatives))


def positives_needed(auroc: float, prevalence: float, half_width: float, level: float = 0.95) -> int | None:
    """Return the fewest positives for an interval of at most +- `half_width`, at this prevalence; None above 10^7.

    One image per patient is assumed; several alike images of a patient count for less.

    Raises:
        EvaluationError: AUROC, prevalence or half width outside (0, 1).
    """
    asked = {"auroc": auroc, "prevalence": prevalence, "half_width": half_width}
    if bad := [f"{name} {value}" for name, value in asked.items() if not 0.0 < value < 1.0]:
        raise EvaluationError(f"sample size from {', '.join(bad)}; expected between 0 and 1")
    z = NormalDist().inv_cdf(0.5 + level / 2.0)

    def wide(positives: int) -> bool:
        negatives = max(1, round(positives * (1.0 - prevalence) / prevalence))
        return z * auroc_error(auroc, positives, negatives) > half_width

    needed = 1 + bisect_left(range(1, _MOST + 1), True, key=lambda positives: not wide(positives))
    return needed if needed <= _MOST else None
