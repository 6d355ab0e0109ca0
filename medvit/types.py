"""The shape legend and the named tuples that travel between the packages. Imports neither torch nor pydicom.

`B` batch, `C` channels, `S` spatial axes (`H W` or `D H W`), `N` patch tokens, `P` prefix tokens, `W` width,
`K` outputs, `I` images in a bag. Arrays are (row, column) or (slice, row, column); geometry is in mm, axes LPS.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Facts:
    """What the header says that a model or a reviewer needs; never an identifier, a name or a full date.

    Unknown is "" or None. `view` is PA, AP, LL, ...; `sequence` of an MR series T1, T1C, T2, FLAIR, DWI, ADC, PD, SWI
    or other; `laterality` L, R, B or ""; `spacing_mm` is (row, column) in mm and `spacing_kind` "PixelSpacing",
    "ImagerPixelSpacing" or "none"; `burned_in` "yes", "no" or "unknown"; `age_years` is 0 to 120, capped at 90 in
    anything published (SE-09).
    """

    modality: str = ""
    sop_class: str = ""
    view: str = ""
    laterality: str = ""
    body_part: str = ""
    manufacturer: str = ""
    model_name: str = ""
    age_years: float | None = None
    sex: str = ""
    rows: int = 0
    columns: int = 0
    frames: int = 1
    spacing_mm: tuple[float, float] | None = None
    spacing_kind: str = "none"
    photometric: str = ""
    transfer_syntax: str = ""
    lossy: bool = False
    burned_in: str = "unknown"
    sequence: str = ""


@dataclass(frozen=True, slots=True)
class Film:
    """One decoded 2-D image. `samples * scale + offset` is the display value: 0 black, 1 white.

    `samples` is (row, column), integers where the file has integers, VOI already clipped, so that a resize may work on
    integers and scale afterwards (an affine map and a mean commute). `scale` is positive for unsigned integers:
    MONOCHROME1 has mirrored them. `steps` names every step taken with its numbers; `warnings` are one-line texts with
    a `W-` code.
    """

    samples: NDArray[Any]
    scale: float
    offset: float
    facts: Facts
    steps: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def display(self) -> NDArray[np.float32]:
        """Return the display values in [0, 1], float32, (row, column)."""
        values = self.samples.astype(np.float32) * np.float32(self.scale) + np.float32(self.offset)
        return np.clip(values, 0.0, 1.0, out=values)


@dataclass(frozen=True, slots=True)
class Volume:
    """One 3-D volume: `values` (slice, row, column) float32 after rescale, slices in order along `affine`'s first axis.

    `affine` (4, 4) float64 maps (slice, row, column, 1) indices to LPS millimetres. `key` tells volumes of one series
    apart ("", "echo=2", "b=1000", "t=3", "phase"); `files` are the indices of the sources in slice order.
    """

    values: NDArray[np.float32]
    affine: NDArray[np.float64]
    facts: Facts
    key: str = ""
    files: tuple[int, ...] = ()
    steps: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())


class Tokens(NamedTuple):
    """What a backbone returns: prefix tokens [B P W], patch tokens [B N W], and the patch grid (N = prod(grid))."""

    prefix: Float[Tensor, "B P W"]
    patches: Float[Tensor, "B N W"]
    grid: tuple[int, ...]


class Bag(NamedTuple):
    """What a bag of images knows besides pixels: True where an image is there, where it lies, what series it is of."""

    mask: Bool[Tensor, "B I"]
    position_mm: Float[Tensor, "B I"]
    kind: Int[Tensor, "B I"]


class Batch(NamedTuple):
    """One training batch. `image` is [B C *S], or [B I C *S] when `bag` is given; integers become floats on the device.

    `weight` is 0 where a label is missing or ignored; `uid` are pseudonyms.
    """

    image: Tensor
    target: Float[Tensor, "B K"]
    weight: Float[Tensor, "B K"]
    uid: tuple[str, ...]
    bag: Bag | None = None
