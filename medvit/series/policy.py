"""What `read_series` does where a series leaves a choice: one frozen, JSON-able object that goes into the manifest."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

from medvit.errors import ConfigError
from medvit.series.geometry import Tolerance

_CHOICES: Final = {
    "gap": ("refuse", "resample"),
    "tilt": ("refuse", "resample"),
    "several": ("split", "refuse"),
    "mosaic": ("unpack", "refuse"),
    "colour": ("refuse", "luminance"),
    "philips": ("displayed", "floating_point"),
}


@dataclass(frozen=True)
class SeriesPolicy:
    """How a series becomes volumes.

    `min_slices`: fewer are refused (`E-SHAPE`); below 3 a gap cannot be seen. `gap_tolerance`: a fraction of the
    spacing; `gap` and `tilt`: refuse (`E-GAP`, `E-TILT`) or resample linearly to a straight, even grid, over
    at most two missing slices in a row.
    `tilt_tolerance`: sideways over length; `orientation_tolerance`: of lengths and cosine of the axes.
    `several`: echoes, b-values, image types and time points become volumes, or are refused (`E-4D`).
    `mosaic`: Siemens mosaics are unpacked or refused (`E-MOSAIC`; those of other makers always are).
    `colour`: RGB is refused (`E-COLOUR`) or becomes luminance (ITU-R BT.601). `philips`: values as displayed
    (DV = slope x stored + intercept), or floating point (FP = DV / (slope x scale slope)) for quantitative work.
    `beyond_bits`: the share of an object's pixels above BitsStored that are clipped with a warning (`W-BITS`); more
    are refused (`E-BITS`). `max_voxels`: over all slices of the call (`E-SIZE`), checked before a volume is allocated.
    """

    min_slices: int = 3
    gap_tolerance: float = 0.05
    tilt_tolerance: float = 0.01
    orientation_tolerance: float = 1e-3
    gap: str = "refuse"
    tilt: str = "refuse"
    several: str = "split"
    mosaic: str = "unpack"
    colour: str = "refuse"
    philips: str = "displayed"
    beyond_bits: float = 1e-3
    max_voxels: int = 1 << 29

    def __post_init__(self) -> None:
        wrong = [
            f"{name}={getattr(self, name)!r} is none of {', '.join(allowed)}"
            for name, allowed in _CHOICES.items()
            if getattr(self, name) not in allowed
        ]
        wrong += [
            f"{name} must be > 0" for name in ("min_slices", "max_voxels", "gap_tolerance") if getattr(self, name) <= 0
        ]
        if wrong:
            raise ConfigError("series policy: " + "; ".join(wrong))

    @property
    def tolerance(self) -> Tolerance:
        """The three tolerances as geometry wants them."""
        return Tolerance(self.gap_tolerance, self.tilt_tolerance, self.orientation_tolerance)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values; `SeriesPolicy(**values)` gives the same policy back."""
        return dataclasses.asdict(self)
