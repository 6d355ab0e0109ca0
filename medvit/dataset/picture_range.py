"""How many of 16 bits the pictures of a data set use: one decision for the set, so that no image's extreme counts."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medvit.errors import DicomRefusal
from medvit.preprocess.picture import DEPTHS, is_picture, picture_header, read_picture

SAMPLE = 2000  # pictures that are decoded for it, spread evenly over the set
_SHARE = 0.99  # of them whose brightest pixel must fit: single defect pixels decide nothing


def picture_bits(paths: Sequence[Path], workers: int, progress: Callable[[int], None] | None = None) -> int | None:
    """Return the bits that hold 99 % of the 16-bit pictures among `paths`, None where there are none that do not say.

    Pictures that say it themselves (sBIT) and those that cannot be read are left out.
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
    return next(depth for depth in DEPTHS if bound < 1 << depth)


def _brightest(path: Path) -> int | None:
    """Return the highest value of a 16-bit picture that does not say how many bits it has, None for any other file."""
    try:
        data = path.read_bytes()
        head = picture_header(io.BytesIO(data)) if is_picture(data[:4096]) else None
        if head is None or not head.deep or head.significant is not None:
            return None
        return int(read_picture(data).samples.max())
    except (DicomRefusal, OSError):
        return None
