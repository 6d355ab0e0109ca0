"""Failure gallery: the most certain errors of each finding, by pseudonym, with pictures if given."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.errors import EvaluationError
from medvit.prediction.predictions import Sample
from medvit.prediction.thresholds import FrozenThresholds
from medvit.report.table import Row, Table

WORST = 20
_SIDE, _FEW_SIDE, _FEW = 176, 512, 120  # pixels of the longer side; few pictures are kept large enough to enlarge
Pictures = Callable[[Sequence[str]], Mapping[str, NDArray[np.uint8]]]


def failures(sample: Sample, frozen: FrozenThresholds, count: int = WORST) -> Table:
    """Return the `count` worst false positives and false negatives per finding at the first operating point."""
    rows: list[Row] = []
    uids, who = (sample.table[name].astype(str).to_numpy() for name in ("uid", "patient"))
    for name, points in frozen.points.items():
        found = sample.finding(name, frozen.calibration)
        called = found.probability >= points[0].threshold
        for kind, wrong, order in (
            ("false positive", called & (found.target == 0), -found.margin),
            ("false negative", ~called & (found.target == 1), found.margin),
        ):
            worst = np.flatnonzero(wrong)[np.argsort(order[wrong], kind="stable")][:count]
            rows += [{"finding": name, "kind": kind, "uid": uids[found.rows[k]], "patient": who[found.rows[k]],
                      "probability": float(found.probability[k]), "of": int(wrong.sum())} for k in worst]  # fmt: skip
    columns = {
        "finding": "Finding",
        "kind": "Kind",
        "uid": "Pseudonym",
        "patient": "Patient (pseudonym)",
        "probability": "Probability",
        "of": "Of all",
    }
    note = f"Up to {count} per finding and kind at the first operating point, the most certain first; pseudonyms only."
    return Table("failures", "Failures", columns, rows, note)


def pictures(table: Table, given: Pictures | None) -> tuple[Row, ...]:
    """Return the failures with the `address` of their picture as data ("" without).

    `given` takes uids and returns uint8 arrays [H W] or [H W 3] (RGB).

    Raises:
        EvaluationError: a picture of another type or shape.
    """
    uids = list(dict.fromkeys(row["uid"] for row in table.rows))
    images = given(uids) if given is not None and uids else {}
    side = _FEW_SIDE if len(uids) <= _FEW else _SIDE
    made = {uid: _address(image, side) for uid, image in images.items() if uid in set(uids)}
    return tuple({**row, "address": made.get(row["uid"], "")} for row in table.rows)


def _address(image: NDArray[Any], side: int) -> str:
    import cv2

    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise EvaluationError(f"a gallery picture is {image.dtype} {image.shape}; expected uint8 [H W] or [H W 3]")
    scale = min(1.0, side / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image if image.ndim == 2 else image[:, :, ::-1], size, interpolation=cv2.INTER_AREA)
    done, code = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])  # a fifth of PNG; 560 may stand in a page
    assert done  # noqa: S101 (cannot fail for uint8)
    return "data:image/jpeg;base64," + base64.b64encode(code.tobytes()).decode()
