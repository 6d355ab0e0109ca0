"""Preprocessing of a radiograph: VOI, border crop, resize with the aspect kept, integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medvit.dicom.policy import FilmPolicy
from medvit.dicom.storage import Source
from medvit.errors import ConfigError, DicomRefusal
from medvit.preprocess.definition import Definition, Prepared, as_bytes
from medvit.preprocess.nifti import is_nifti
from medvit.preprocess.picture import is_picture, read_picture
from medvit.preprocess.placement import Placement
from medvit.preprocess.resize import resize_exact
from medvit.preprocess.steps import WHOLE, recorded
from medvit.preprocess.whole_chain import by_monai
from medvit.types import Film

Box = tuple[int, int, int, int]  # top, left, rows, columns, in samples

_REDUCED = {"size": 1, "double": 2}  # words for `reduce_to`, and how many times the size is still decoded
_BLACK = 0.02  # a display value at or below this is film border
_SHARE = 0.995  # of a row's pixels that must be black, so that a lead marker in the border does not stop the crop


@dataclass(frozen=True)
class FilmPreprocess(Definition):
    """Turn one film into `[1 H W]`; the same object serves train, evaluate, export and predict.

    size: (H, W) of the backbone, pixels. voi: settings of `medvit.dicom.read.FilmPolicy` by name; its `reduce_to` may
    be "size" or "double" here: JPEG 2000 and HTJ2K are then decoded down to that or twice that, much faster and within
    the bound that docs/reference/performance.md states.
    border: "none", or "black" to trim rows and columns that are black (collimation) before the resize.
    fit: "pad" keeps the physical aspect (spacing row against column) and pads black; "stretch" fills the canvas.
    dtype: "uint8" or "uint16", the integers the cache keeps: round(display * 255 or 65535).
    picture_bits: which values are white of 16-bit pictures (`medvit.preprocess.picture.read_picture`) and of signed or
    32-bit DICOM without a window (`bits` of `FilmPolicy`).
    mean, std: the checkpoint's constants on display values in [0, 1].
    steps: transforms of MONAI or one's own by place (`medvit.preprocess.steps`): on the display values of the film as
    it was read, of the resized film, and of the whole canvas.
    """

    kind: ClassVar[str] = "film"
    size: Sequence[int] = (224, 224)
    voi: Mapping[str, Any] = field(default_factory=dict)
    border: str = "none"
    fit: str = "pad"
    dtype: str = "uint8"
    picture_bits: int | str | None = "declared"
    mean: float = 0.5
    std: float = 0.25
    steps: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every setting at once; raises ConfigError."""
        object.__setattr__(self, "size", tuple(int(side) for side in self.size))
        object.__setattr__(self, "voi", dict(self.voi))
        object.__setattr__(self, "picture_bits", self.picture_bits or "declared")
        if self.steps:
            object.__setattr__(self, "steps", recorded(self.steps))
        wrong = self._wrong_constants()
        wrong += [] if len(self.size) == 2 and min(self.size) > 0 else [f"size={self.size}: expected (rows, columns)"]
        try:
            self.policy  # noqa: B018 - checks the settings
        except (TypeError, ConfigError) as error:
            wrong.append(f"voi: {error}")
        wrong += [] if self.border in {"none", "black"} else [f"border={self.border!r}: expected none or black"]
        wrong += [] if self.fit in {"pad", "stretch"} else [f"fit={self.fit!r}: expected pad or stretch"]
        if self.picture_bits not in {*range(8, 33), "declared", "image"}:
            wrong.append(f"picture_bits={self.picture_bits!r}: expected declared or 8 to 32")
        if wrong:
            raise ConfigError("FilmPreprocess: " + "; ".join(wrong))

    def to_json(self) -> dict[str, Any]:
        """Return the definition as plain JSON; without `picture_bits` where it is 0.1's, which had no such word."""
        return {key: value for key, value in super().to_json().items() if (key, value) != ("picture_bits", "image")}

    @property
    def shape(self) -> tuple[int, ...]:
        """[C *S] of one image."""
        return (1, *self.size)

    @property
    def policy(self) -> FilmPolicy:
        """How films are read; raises ConfigError for settings that are wrong."""
        asked = self.voi.get("reduce_to")
        if not isinstance(asked, str):
            return FilmPolicy.of({"bits": self.picture_bits, **self.voi})
        if asked not in _REDUCED:
            raise ConfigError(f"reduce_to={asked!r} is not known: expected size, double or (rows, columns)")
        rows, columns = (side * _REDUCED[asked] for side in self.size)
        return FilmPolicy.of({"bits": self.picture_bits, **self.voi, "reduce_to": (rows, columns)})

    def read(self, source: Source) -> Film:
        """Decode one file (DICOM by the VOI policy, or a picture) to a Film."""
        head = as_bytes(source, 4096)
        if is_picture(head):
            return read_picture(as_bytes(source), self.picture_bits or "declared")
        if is_nifti(head):
            raise DicomRefusal(
                "E-IMAGE", "a NIfTI volume", allowed="a film", fix="preprocess=volume or preprocess=slices"
            )
        from medvit.dicom.read import read_film

        return read_film(source, self.policy)

    def place(self, film: Film) -> Placement:
        """Say where the stored pixels of the film will lie on the canvas."""
        return self._placed(film, self._box(film))

    def prepare(self, source: Source | Film) -> Prepared:
        """Return the integers [1 1 H W] with where they lie; raises DicomRefusal."""
        film = source if isinstance(source, Film) else self.read(source)
        if WHOLE in self.steps:
            pixels, where, _ = by_monai(self, film.display(), film_affine(film))
            return Prepared(pixels[None, None], np.zeros(1, np.float32), where, film.warnings)
        if "after_reading" in self.steps:
            read = self.through("after_reading", film.display(), film_affine(film))
            film = replace(film, samples=read, scale=1.0, offset=0.0)
        box = self._box(film)
        placement = self._placed(film, box)
        canvas = np.zeros(self.size, self.dtype)
        (top, left), (rows, columns) = placement.offset, placement.inner
        if {"after_resampling", "before_normalisation"} & self.steps.keys():
            canvas[...] = self._by_steps(film, box, placement)
        else:
            canvas[top : top + rows, left : left + columns] = self._quantise(film, box, (rows, columns))
        return Prepared(canvas[None, None], np.zeros(1, np.float32), placement, film.warnings)

    def _box(self, film: Film) -> Box:
        rows, columns = film.samples.shape
        return black_border(film) if self.border == "black" else (0, 0, rows, columns)

    def _placed(self, film: Film, box: Box) -> Placement:
        """Place the box of samples; sample grid and stored matrix differ after a reduced decode or an aspect mended."""
        shape, facts = np.array(film.samples.shape), film.facts
        stored = np.array([facts.rows or shape[0], facts.columns or shape[1]])
        length = np.array(box[2:]) * (1.0 if facts.spacing_mm is None else stored * facts.spacing_mm / shape)
        inner, offset = np.array(self.size), np.zeros(2, int)
        if self.fit == "pad":
            inner = np.clip(np.round(length * (inner / length).min()), 1, inner).astype(int)
            offset = (np.array(self.size) - inner) // 2
        start = np.round(np.array(box[:2]) * stored / shape).astype(int)
        extent = np.maximum(1, np.round(np.array(box[2:]) * stored / shape)).astype(int)
        whole, first, span, part, at = (tuple(each.tolist()) for each in (stored, start, extent, inner, offset))
        return Placement(whole, first, span, part, at, tuple(self.size), flip=turned(film))

    def _by_steps(self, film: Film, box: Box, placement: Placement) -> NDArray[np.float32]:
        """Return the canvas in levels, not rounded, with the steps after the resize."""
        top, left, rows, columns = box
        (at, beside), (height, width) = placement.offset, placement.inner
        small = resize_exact(film.samples[top : top + rows, left : left + columns], (height, width))
        small = small * np.float32(film.scale) + np.float32(film.offset)
        affine = placement.affine(np.diag([*(film.facts.spacing_mm or (1.0, 1.0)), 1.0, 1.0]))
        canvas = np.zeros(placement.size, np.float32)
        canvas[at : at + height, beside : beside + width] = self.through("after_resampling", small, affine)
        canvas = self.through("before_normalisation", canvas, affine)
        levels: NDArray[np.float32] = np.clip(canvas * np.float32(self.levels) + np.float32(0.5), 0, self.levels)
        return levels

    def _quantise(self, film: Film, box: Box, size: tuple[int, int]) -> NDArray[Any]:
        """Resize the stored integers without rounding, then scale and round once.

        Mean and affine map commute, so scaling after the resize gives exactly the mean of the display values.
        """
        top, left, rows, columns = box
        small = resize_exact(film.samples[top : top + rows, left : left + columns], size)
        small *= np.float32(film.scale * self.levels)
        small += np.float32(film.offset * self.levels + 0.5)
        np.clip(small, 0, self.levels, out=small)
        return small.astype(np.dtype(self.dtype).type)

    def integers(self, source: Source | Film) -> NDArray[Any]:
        """Return what the cache keeps: display values times 255 (uint8) or 65535 (uint16), [1 H W]."""
        pixels: NDArray[Any] = self.prepare(source).pixels[0]
        return pixels

    def __call__(self, source: Source | Film) -> NDArray[np.float32]:
        """Return the model's input, float32 [1 H W], (display - mean) / std."""
        return self.normalise(self.integers(source))


def film_affine(film: Film) -> NDArray[np.float64]:
    """Return the diagonal affine of the samples, whose spacing is not the header's after a reduced decode.

    A film has no patient axes; without a spacing the affine is one of pixels.
    """
    row, column = film.facts.spacing_mm or (1.0, 1.0)
    rows, columns = film.samples.shape
    return np.diag([row * (film.facts.rows or rows) / rows, column * (film.facts.columns or columns) / columns, 1, 1])


def turned(film: Film) -> tuple[bool, bool]:
    """Return whether reading reversed the rows and the columns (PatientOrientation), as the film's steps tell."""
    told = " ".join(step for step in film.steps if step.startswith("orientation"))
    return "upside down" in told, "mirrored" in told


def black_border(film: Film) -> Box:
    """Return (top, left, rows, columns) without the black border; all of it when less than a quarter would stay."""
    rows, columns = film.samples.shape
    small = resize_exact(film.samples, (min(rows, 512), min(columns, 512)))
    black = small * np.float32(film.scale) + np.float32(film.offset) <= _BLACK
    bright_rows = np.flatnonzero(black.mean(axis=1) < _SHARE)
    bright_columns = np.flatnonzero(black.mean(axis=0) < _SHARE)
    if not (bright_rows.size and bright_columns.size):
        return (0, 0, rows, columns)
    ratio_row, ratio_column = rows / small.shape[0], columns / small.shape[1]
    top, bottom = int(bright_rows[0] * ratio_row), min(rows, int(np.ceil((bright_rows[-1] + 1) * ratio_row)))
    left, right = (
        int(bright_columns[0] * ratio_column),
        min(columns, int(np.ceil((bright_columns[-1] + 1) * ratio_column))),
    )
    if (bottom - top) * (right - left) * 4 < rows * columns:
        return (0, 0, rows, columns)
    return (top, left, bottom - top, right - left)
