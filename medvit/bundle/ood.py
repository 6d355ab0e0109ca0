"""Out-of-distribution check of a bundle from image statistics, without the network.

The limits are those of validation: 99 % of its images lie below 1 (half of them below 0). From 1 on a result carries a
warning; from `REFUSE` on, where no validation image of our films lay and most hands, brains, photos and negatives did
(benchmarks/ood.py), the image is refused. `acceptance.unlike` of the bundle holds both numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.errors import DicomRefusal
from medvit.metric import ood

WARN, REFUSE = 1.0, 2.0
ENOUGH_TRAINED, ENOUGH_HELD = 200, 100  # images


def fit_statistics(train: NDArray[np.float64], validation: NDArray[np.float64]) -> dict[str, Any]:
    """Return the part `unlike` of a bundle from the statistics (`medvit.metric.ood`) of both sides' images [n 82].

    Raises:
        EvaluationError: no validation image.
    """
    cloud = ood.fit_gaussian(train)
    own = ood.fit_scale(cloud.distance(validation))
    return {**ood.pixels_to_json(cloud, own), "images": len(train), "limits_from": len(validation)}


def distance_limits(part: Mapping[str, Any]) -> dict[str, float]:
    """Return when to warn, and where enough images were seen to be sure, when to refuse."""
    enough = part["images"] >= ENOUGH_TRAINED and part["limits_from"] >= ENOUGH_HELD
    return {"warn": WARN, **({"refuse": REFUSE} if enough else {})}


class OutOfDistribution:
    """The opened part `unlike` of a bundle, with the limits of its acceptance part (None: never looked at)."""

    def __init__(self, part: Mapping[str, Any] | None, acceptance: Mapping[str, Any]) -> None:
        self.limits: Mapping[str, float] | None = acceptance.get("unlike") if part else None
        if part and self.limits:
            self.cloud, self.scale = ood.pixels_from_json(part)

    def check(self, pixels: NDArray[Any]) -> tuple[str, ...]:
        """Return a warning for an image [I C *S] that is unusual, nothing for one that is not.

        Raises:
            DicomRefusal: E-UNLIKE, an image far from everything the model was trained on.
        """
        if self.limits is None:
            return ()
        plane = pixels[len(pixels) // 2, 0]
        while plane.ndim > 2:
            plane = plane[len(plane) // 2]
        away = float(self.scale(self.cloud.distance(ood.pixel_statistics(plane[None])))[0])
        if away >= self.limits.get("refuse", np.inf):
            raise DicomRefusal(
                "E-UNLIKE",
                f"a distance of {away:.2f} from the training images",
                allowed=f"below {self.limits['refuse']:g}; 99 % of validation lay below 1",
                fix="look at the image: another body part or view, a negative, or no radiograph at all?",
            )
        usual = away < self.limits.get("warn", np.inf)
        return () if usual else (f"unlike the training images (distance {away:.2f}, usual below 1)",)
