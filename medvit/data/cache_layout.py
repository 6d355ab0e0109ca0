"""Where a cache lies and how its shards are laid out: what decides its folder, image size, order of shards."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from medvit.errors import CacheError
from medvit.preprocess import FilmPreprocess, Prepared, VolumePreprocess

Preprocess = FilmPreprocess | VolumePreprocess

SHARD_BYTES = 4 << 30
_DECODERS = ("pydicom", "highdicom", "imagecodecs", "numpy", "nibabel")
_PIXEL_CODE = ("dicom", "series", "preprocess")  # packages that decide what a file's pixels are


@contextmanager
def uid_in_errors(uid: str) -> Iterator[None]:
    """Add the pseudonymous uid to any error that passes."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"while reading row {uid}")
        raise


def prepare_bytes(data: Sequence[bytes | memoryview], volume_key: str, preprocess: Preprocess) -> Prepared:
    """Prepare the content of one row's files; raises DicomRefusal."""
    if isinstance(preprocess, VolumePreprocess):
        return preprocess.prepare(data, volume_key)
    if len(data) != 1:
        raise CacheError(f"{len(data)} files for one film; preprocess of kind volume reads series")
    return preprocess.prepare(data[0])


def layout(preprocess: Preprocess) -> dict[str, Any]:
    """Return what the cached integers depend on besides the files: definition, decoder versions, medvit's own code."""
    return {
        "pixels": preprocess.pixel_digest,
        "shape": list(preprocess.shape),
        "dtype": preprocess.dtype,
        "versions": _versions(),
        "code": _code_digest(),
        "format": 1,
    }


@functools.lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    found = {"opencv": cv2.__version__}  # several packages bring it
    for name in _DECODERS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


@functools.lru_cache(maxsize=1)  # what this process runs does not change when a file on disk does
def _code_digest() -> str:
    package, state = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for room in _PIXEL_CODE for path in package.glob(f"{room}/*.py")):
        state.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return state.hexdigest()


def cache_home(folder: Path, preprocess: Preprocess) -> Path:
    """Return the sub-folder for this preprocessing with these decoders."""
    return Path(folder) / hashlib.sha256(json.dumps(layout(preprocess), sort_keys=True).encode()).hexdigest()[:16]


def image_bytes(preprocess: Preprocess) -> int:
    """Return the bytes of one cached image."""
    return math.prod(preprocess.shape) * np.dtype(preprocess.dtype).itemsize


def images_per_shard(preprocess: Preprocess) -> int:
    """Return how many images one shard holds at most."""
    return max(1, SHARD_BYTES // image_bytes(preprocess))


def shard_paths(home: Path) -> list[Path]:
    """Return the shards in order of their number."""
    return sorted(home.glob("shard-*.bin"))
