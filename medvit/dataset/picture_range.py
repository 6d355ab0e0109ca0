"""How many bits the films of a data set use that do not say: one decision for the set, so that no extreme counts."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medvit.dicom.read import brightest
from medvit.errors import DicomRefusal
from medvit.preprocess.picture import DEPTHS, is_picture, picture_header, read_picture

SAMPLE = 2000  # pictures that are decoded for it, spread evenly over the set
_SHARE = 0.99  # of them whose brightest pixel must fit: single defect pixels decide nothing


def picture_bits(paths: Sequence[Path], workers: int, progress: Callable[[int], None] | None = None) -> int | None:
    """Return the bits that hold 99 % of the films among `paths` that do not say them, None where all say them.

    Those are 16-bit pictures without sBIT, and signed or 32-bit DICOM; what cannot be read is left out.
    """
    import joblib

    step = max(1, len(paths) // SAMPLE)
    tops = []
    with joblib.Parallel(n_jobs=workers, return_as="generator") as pool:
        for top in pool(joblib.delayed(_brightest)(path) for path in paths[::step]):
            tops += [] if top is None else [top]
            if progress:
                progress(1)
    if not tops:
        return None
    bound = float(np.quantile(tops, _SHARE, method="inverted_cdf"))
    return next((depth for depth in DEPTHS if bound < 1 << depth), min(32, int(bound).bit_length()))


def _brightest(path: Path) -> float | None:
    """Return the highest value of a film that does not say how many bits it has, None for any other file."""
    try:
        with path.open("rb") as file:
            if not is_picture(file.read(4096)):
                return brightest(path)
        data = path.read_bytes()
        head = picture_header(io.BytesIO(data))
        return float(read_picture(data).samples.max()) if head.deep and head.significant is None else None
    except (DicomRefusal, OSError):
        return None
