"""What both preprocessings share: JSON round trip, digest, integer levels, normalisation. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medvit.dicom.storage import Source, load
from medvit.preprocess.placement import Placement
from medvit.preprocess.steps import PLACES, build_all, run

AS_WRITTEN = ("transforms", *PLACES)
"""Settings of a chain (`medvit.preprocess.chain`) that its `steps` were made of."""


class Prepared(NamedTuple):
    """Integers [I C *S] of one film (I = 1), one volume (I = 1) or one bag of slices, with where they lie."""

    pixels: NDArray[Any]
    position_mm: NDArray[np.float32]
    placement: Placement
    warnings: tuple[str, ...] = ()


class VolumeFiles(NamedTuple):
    """The files of one volume (paths or bytes, in slice order) and its name among those they hold, as in a manifest."""

    files: Sequence[Source]
    volume_key: str = ""


class Definition:
    """Base of the preprocessings: a frozen dataclass whose fields are its whole definition."""

    kind: ClassVar[str]
    steps: Mapping[str, Sequence[Mapping[str, Any]]]
    dtype: str
    mean: float
    std: float

    def _wrong_constants(self) -> list[str]:
        wrong = [] if self.dtype in {"uint8", "uint16"} else [f"dtype={self.dtype!r}: expected uint8 or uint16"]
        return wrong + ([] if self.std > 0 else [f"std={self.std}: expected above 0"])

    @property
    def levels(self) -> int:
        """The integer that stands for display value 1."""
        return 255 if self.dtype == "uint8" else 65535

    @property
    def scale(self) -> float:
        """Factor of `normalise`, exact in float32, so that numpy and a device multiply by the same number."""
        return float(np.float32(1.0 / (self.levels * self.std)))

    @property
    def shift(self) -> float:
        """Summand of `normalise`, exact in float32."""
        return float(np.float32(-self.mean / self.std))

    def normalise(self, integers: NDArray[Any]) -> NDArray[np.float32]:
        """Return integers * scale + shift as float32 of the same shape."""
        values = integers.astype(np.float32)
        values *= np.float32(self.scale)
        values += np.float32(self.shift)
        return values

    def through(self, place: str, image: NDArray[np.float32], affine: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return `image` [*S] after the transforms at `place` (`medvit.preprocess.steps`), itself where none stand."""
        if place not in self.steps:
            return image
        return run(self.steps[place], image, affine)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build the transforms in a process that is sent this one, before anything caps its memory."""
        self.__dict__.update(state)
        if self.steps:
            build_all(self.steps)

    def without_steps(self) -> Any:
        """Return the fused part alone."""
        bare = dict.fromkeys((each.name for each in fields(self) if each.name in AS_WRITTEN), ())  # type: ignore[arg-type]
        return replace(self, steps={}, **bare)  # type: ignore[type-var]

    def to_json(self) -> dict[str, Any]:
        """Return the whole definition as plain JSON; `medvit.preprocess.from_json` rebuilds it."""
        whole = {"kind": self.kind, **json.loads(json.dumps(asdict(self)))}  # type: ignore[call-overload]
        return {key: value for key, value in whole.items() if key not in AS_WRITTEN and (key, value) != ("steps", {})}

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the definition: equal digests give equal tensors with the same decoders."""
        return _sha256(self.to_json())

    @property
    def pixel_digest(self) -> str:
        """SHA-256 (hex) of what the integers depend on: everything but `mean` and `std`."""
        return _sha256({name: value for name, value in self.to_json().items() if name not in {"mean", "std"}})


def _sha256(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def as_bytes(source: Source, most: int | None = None) -> bytes | memoryview:
    """Return the bytes of a file or of what was one, or the first `most`; raises what `storage.load` raises."""
    return load(source, most).view if isinstance(source, Path) else source[:most]
