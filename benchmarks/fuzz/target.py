"""What the fuzzers feed and call: seed objects, and reading one input the way its checksum chooses."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pydicom

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "dicom_cases"))
import cases
import series_cases
import series_phantom

from medvit.dicom.limits import Limits
from medvit.dicom.policy import Accept, FilmPolicy
from medvit.dicom.read import read_film
from medvit.errors import DicomRefusal
from medvit.series.read import SeriesPolicy, read_series

LARGEST_SEED = 200_000  # bytes; larger seeds slow the run and add nothing
_ACCEPT = Accept(min_side=1, limits=Limits(max_pixels=1 << 24, max_bytes=1 << 26))
_FILM = (
    FilmPolicy(accept=_ACCEPT),
    FilmPolicy(force=True, allow_rgb="luminance", accept=_ACCEPT),
    FilmPolicy(voi="percentile", allow_rgb="luminance", accept=_ACCEPT),
    FilmPolicy(reduce_to=(16, 12), voi="none", allow_rgb="luminance", accept=_ACCEPT),
)
_SERIES = SeriesPolicy(min_slices=1, gap="resample", tilt="resample", colour="luminance", max_voxels=1 << 24)
_STACK = series_phantom.stack()


def seeds(zoo: Path | None) -> list[bytes]:
    """Return the objects to mutate: the bad-input cases, pydicom's own test files, and the files below `zoo`."""
    return sorted({seed for seed in _candidates(zoo) if 0 < len(seed) <= LARGEST_SEED})


def _candidates(zoo: Path | None) -> Iterator[bytes]:
    for case in cases.CASES:
        if case.id not in ("B063", "B064"):  # large by intent
            yield case.build()
    for series in series_cases.CASES.values():
        yield from series.build()
    folders = [Path(pydicom.__file__).parent / "data" / "test_files", *([zoo] if zoo else [])]
    for folder in folders:
        yield from (path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def read(data: bytes) -> bool:
    """Read one input as a film or in a series; True if it was read, False if refused. Anything else is a crash."""
    route = zlib.crc32(data) % 8
    try:
        if route < 6:
            read_film(data, _FILM[route % len(_FILM)])
        else:
            read_series([data] if route == 6 else [*_STACK[:4], data, *_STACK[5:]], _SERIES)
    except DicomRefusal:
        return False
    return True
