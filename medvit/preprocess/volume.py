"""Preprocessing of an MR or CT volume: orientation, spacing, intensity, crop or pad, integers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medvit.dicom.storage import Source
from medvit.errors import ConfigError, DicomRefusal
from medvit.preprocess.definition import Definition, Prepared, VolumeFiles, as_bytes
from medvit.preprocess.nifti import is_nifti, read_nifti
from medvit.preprocess.percentiles import Percentiles
from medvit.preprocess.placement import Placement, overlap
from medvit.preprocess.resize import resize, resize_volume
from medvit.preprocess.steps import WHOLE, recorded, to_ras
from medvit.preprocess.whole_chain import by_monai
from medvit.series.policy import SeriesPolicy
from medvit.types import Volume

Series = Source | Volume | Sequence[Source] | VolumeFiles
_Z_RANGE = (-3.0, 5.0)  # z-scores kept; display value 0 and 1
_FEW = 0.05  # share of the bright voxels that may be cropped away without a word


@dataclass(frozen=True)
class VolumePreprocess(Definition):
    """Turn one volume into `[1 D H W]`, or into a bag of slices `[I 1 H W]` with their positions in mm.

    size: (D, H, W) voxels; in mode "slices" D is the most slices kept (evenly spread), 0 keeps all.
    mode: "volume" or "slices". orientation: where the axes run to, as MONAI's Orientationd says it: "SPL" or "axial"
    (slices foot to head, rows front to back, columns right to left of the patient), any other such word, or "acquired"
    (the scanner's slice axis stays first; each axis then runs head to foot, front to back or right to left within the
    slice, as a reader expects).
    spacing_mm: (slice, row, column) wanted, None keeps an axis; all None fits the whole field of view into H, W with
    its aspect kept and D stretched. With a spacing, what lies beyond `size` is cropped away (warning W-CROP).
    intensity: "percentile" (`limits` percentiles of the foreground become 0 and 1), "zscore" (foreground mean and
    deviation, -3 to 5 become 0 and 1) or "window" (`limits` are values, e.g. HU). Foreground is what lies above a
    tenth of the 99th percentile. series: settings of `medvit.series.policy.SeriesPolicy` by name.
    steps: transforms of MONAI or one's own by place (`medvit.preprocess.steps`): on the values as they were read, and,
    where 0 and 1 are the ends of the display, on the resampled volume (or its slices) and on the whole canvas.
    """

    kind: ClassVar[str] = "volume"
    size: Sequence[int] = (32, 224, 224)
    mode: str = "volume"
    orientation: str = "axial"
    spacing_mm: float | Sequence[float | None] | None = (None, None, None)
    intensity: str = "percentile"
    limits: Sequence[float] = (0.5, 99.5)
    series: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "uint16"
    mean: float = 0.5
    std: float = 0.25
    steps: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every setting at once; raises ConfigError."""
        spacing = _per_axis(self.spacing_mm)
        object.__setattr__(self, "spacing_mm", spacing)
        object.__setattr__(self, "size", tuple(int(side) for side in self.size))
        object.__setattr__(self, "series", dict(self.series))
        object.__setattr__(self, "limits", tuple(float(value) for value in self.limits))
        if self.steps:
            object.__setattr__(self, "steps", recorded(self.steps))
        object.__setattr__(self, "orientation", "axial" if self.orientation == "SPL" else self.orientation)
        wrong = self._wrong_constants()
        if self.orientation not in ("axial", "acquired") and not _axes_named(self.orientation):
            wrong.append(f"orientation={self.orientation!r}: expected SPL, another word of Orientationd, or acquired")
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            wrong += [] if value in allowed else [f"{name}={value!r}: expected {' or '.join(allowed)}"]
        try:
            SeriesPolicy(**self.series)
        except (TypeError, ConfigError) as error:
            wrong.append(f"series: {error}")
        least = 0 if self.mode == "slices" else 1
        if len(self.size) != 3 or min(self.size[1:]) <= 0 or self.size[0] < least:
            wrong.append(f"size={self.size}: expected (D, H, W)")
        if len(spacing) != 3 or any(mm is not None and mm <= 0 for mm in spacing):
            wrong.append("spacing_mm: expected 3, above 0")
        low, high = (0.0, 100.0) if self.intensity == "percentile" else (-np.inf, np.inf)
        right = len(self.limits) == 2 and low <= self.limits[0] < self.limits[1] <= high
        wrong += [] if right else [f"limits={self.limits}: expected low < high" + ", percentiles" * (high == 100)]
        if wrong:
            raise ConfigError("VolumePreprocess: " + "; ".join(wrong))

    @property
    def shape(self) -> tuple[int, ...]:
        """[C *S] of one image: a slice in mode "slices", else the volume."""
        return (1, *self.size[1:]) if self.mode == "slices" else (1, *self.size)

    def read(self, sources: Source | Sequence[Source] | VolumeFiles, volume_key: str = "") -> Volume:
        """Decode the files of one series and return the volume named `volume_key`; raises DicomRefusal E-KEY, E-4D."""
        if isinstance(sources, VolumeFiles):
            sources, volume_key = sources
        from medvit.series.read import one_volume, read_volume

        many = [sources] if isinstance(sources, Source) else list(sources)
        data = [as_bytes(source) for source in many]
        if len(data) == 1 and is_nifti(data[0]):
            return one_volume(read_nifti(data[0]), volume_key)
        return read_volume(data, volume_key, SeriesPolicy(**self.series))

    def prepare(self, source: Series, volume_key: str = "") -> Prepared:
        """Return the integers [1 1 D H W], or [I 1 H W] in mode "slices", with placement; raises DicomRefusal."""
        volume = source if isinstance(source, Volume) else self.read(source, volume_key)
        if WHOLE in self.steps:
            return self._by_monai(volume)
        if "after_reading" in self.steps:
            volume = replace(volume, values=self.through("after_reading", volume.values, to_ras(volume.affine)))
        axes, flip = orientation_of(volume.affine, self.orientation)
        values = np.flip(volume.values.transpose(axes), tuple(a for a, turned in enumerate(flip) if turned))
        steps = np.linalg.norm(volume.affine[:3, :3], axis=0)[list(axes)]
        kept = self._kept_slices(values.shape[0])
        low, high = self.display_range(volume.values)
        inner, offset, size = self._fit(values.shape, steps, len(kept))
        on_canvas, on_inner = overlap(offset, inner, size)
        whole = volume.values.transpose(axes).shape
        placement = Placement(volume.values.shape, (0, 0, 0), whole, inner, offset, size, axes, flip)
        canvas = np.zeros(size, self.dtype)
        if {"after_resampling", "before_normalisation"} & self.steps.keys():
            affine = placement.affine(to_ras(volume.affine))
            canvas[...] = self._by_steps(values, kept, placement, (low, high), affine)
        else:
            for plane, display in zip(canvas[on_canvas], self._resized(values, kept, inner, on_inner), strict=True):
                plane[...] = self._display(display, low, high)
        warnings = (*volume.warnings, *self._cropped(values, on_inner, inner, (low + high) / 2))
        if self.mode == "slices":
            position = (np.asarray(kept, np.float32) - np.float32((whole[0] - 1) / 2)) * np.float32(steps[0])
            return Prepared(canvas[:, None], position, placement, warnings)
        return Prepared(canvas[None, None], np.zeros(1, np.float32), placement, warnings)

    def _by_monai(self, volume: Volume) -> Prepared:
        pixels, where, affine = by_monai(self, volume.values, to_ras(volume.affine))
        if self.mode == "volume":
            return Prepared(pixels[None, None], np.zeros(1, np.float32), where, volume.warnings)
        step = np.linalg.norm(affine[:3, 0])
        position = (np.arange(len(pixels)) - (len(pixels) - 1) / 2) * step
        return Prepared(pixels[:, None], position.astype(np.float32), where, volume.warnings)

    def _resized(
        self, values: NDArray[np.float32], kept: Sequence[int], inner: tuple[int, int, int], part: tuple[slice, ...]
    ) -> Iterable[NDArray[np.float32]]:
        """Return the planes of `part` of the resampled volume, or of the slices `kept`."""
        if self.mode == "slices":
            return (resize(np.ascontiguousarray(values[index]), inner[1:])[part[1:]] for index in kept)
        return resize_volume(np.ascontiguousarray(values), inner, part)

    def resampled(self, values: NDArray[np.float32], steps_mm: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return a volume that is turned already, resampled but neither cropped nor padded; `steps_mm` per axis."""
        kept = self._kept_slices(len(values))
        inner, _, _ = self._fit(values.shape, steps_mm, len(kept))
        return np.stack([*self._resized(values, kept, inner, (slice(None),) * 3)])

    def _by_steps(
        self,
        values: NDArray[np.float32],
        kept: Sequence[int],
        placement: Placement,
        ends: tuple[float, float],
        affine: NDArray[np.float64],
    ) -> NDArray[np.float32]:
        """Return the canvas in levels plus a half, with the steps after resampling."""
        depth, rows, columns = placement.inner
        planes = np.stack([*self._resized(values, kept, (depth, rows, columns), (slice(None),) * 3)])
        display = (planes - np.float32(ends[0])) * np.float32(1 / (ends[1] - ends[0]))
        on_canvas, on_inner = overlap(placement.offset, placement.inner, placement.size)
        whole = self.through("after_resampling", display, affine)
        canvas = np.zeros(placement.size, np.float32)
        canvas[on_canvas] = whole[on_inner]
        canvas = self.through("before_normalisation", canvas, affine)
        levels: NDArray[np.float32] = np.clip(canvas * np.float32(self.levels) + np.float32(0.5), 0, self.levels)
        return levels

    def _cropped(
        self, values: NDArray[np.float32], part: tuple[slice, ...], inner: tuple[int, ...], grey: float
    ) -> tuple[str, ...]:
        """Return a warning where more than a twentieth of what is brighter than `grey` lies beyond the canvas."""
        first = 1 if self.mode == "slices" else 0  # the number of slices is no crop
        cut = [slice(None)] * 3
        for axis in range(first, 3):
            ratio = values.shape[axis] / inner[axis]
            cut[axis] = slice(round(part[axis].start * ratio), round(part[axis].stop * ratio))
        inside = values[tuple(cut)]
        if inside.size == values.size:
            return ()
        bright, there = int(np.count_nonzero(values > grey)), int(np.count_nonzero(inside > grey))
        lost = 1 - there / bright if bright else 0.0
        told = f"W-CROP {lost:.0%} of what is brighter than mid-grey lies beyond size={self.size} at this spacing_mm"
        return (told,) if lost > _FEW else ()

    def _display(self, plane: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
        """Return one plane in levels plus a half, for rounding; planes one by one stay in the cache meanwhile."""
        display = plane - np.float32(low)
        display *= np.float32(self.levels / (high - low))
        display += np.float32(0.5)
        return np.clip(display, 0, self.levels, out=display)

    def _kept_slices(self, count: int) -> list[int]:
        most = self.size[0] if self.mode == "slices" else 0
        if not most or count <= most:
            return list(range(count))
        return [int((slot + 0.5) * count / most) for slot in range(most)]

    def _fit(
        self, shape: tuple[int, ...], steps: NDArray[np.float64], kept: int
    ) -> tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]:
        """Return (inner, offset, size): how large the volume becomes and where it lies on the canvas."""
        size = np.array([kept if self.mode == "slices" else self.size[0], *self.size[1:]])
        extent = np.array(shape[1:]) * steps[1:]
        inner = np.array([size[0], *np.maximum(1, np.round(extent * (size[1:] / extent).min()))])
        spacing = _per_axis(self.spacing_mm)
        if any(mm is not None for mm in spacing):
            wanted = [step if mm is None else mm for mm, step in zip(spacing, steps, strict=True)]
            inner = np.maximum(1, np.round(np.array(shape) * steps / np.array(wanted)))
            inner[0] = kept if self.mode == "slices" else inner[0]
        found = tuple(int(length) for length in inner)
        offset = tuple((int(side) - length) // 2 for side, length in zip(size, found, strict=True))
        return found, offset, tuple(int(side) for side in size)  # type: ignore[return-value]

    def display_range(self, values: NDArray[np.float32]) -> tuple[float, float]:
        """Return the values that become display 0 and 1; raises DicomRefusal E-CONST."""
        if self.intensity == "window":
            return self.limits[0], self.limits[1]
        ranks = Percentiles(values)
        floor, top, count = ranks.at(0), ranks.percentile(99), values.size
        dark = floor + 0.1 * (top - floor)
        least = int(np.count_nonzero(values <= dark))
        if count - least < 2 or ranks.equal(least, count - 1):
            raise DicomRefusal("E-CONST", "a volume without contrast", fix="exclude the series")
        if self.intensity == "zscore":
            foreground = values[values > dark]
            mean, deviation = float(foreground.mean(dtype=np.float64)), float(foreground.std(dtype=np.float64))
            return mean + _Z_RANGE[0] * deviation, mean + _Z_RANGE[1] * deviation
        low, high = (ranks.percentile(percent, least) for percent in self.limits)
        return (low, high) if low < high else (ranks.at(least), ranks.at(count - 1))

    def integers(self, source: Series) -> NDArray[Any]:
        """Return what the cache keeps: [1 D H W], or [I 1 H W] in mode "slices"."""
        pixels = self.prepare(source).pixels
        return pixels if self.mode == "slices" else pixels[0]

    def __call__(self, source: Series) -> NDArray[np.float32]:
        """Return the model's input, float32, (display - mean) / std."""
        return self.normalise(self.integers(source))


_CHOICES = {
    "mode": ("volume", "slices"),
    "intensity": ("percentile", "zscore", "window"),
}


def orientation_of(affine: NDArray[np.float64], wanted: str) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Return the order of the volume's axes and which to reverse; oblique volumes go to the nearest patient axes.

    Source: LPS patient axes of DICOM PS3.3 C.7.6.2.1.1. Raises DicomRefusal E-GEOM when two axes share one direction.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    nearest = [int(np.abs(directions[:, axis]).argmax()) for axis in range(3)]
    if sorted(nearest) != [0, 1, 2]:
        raise DicomRefusal(
            "E-GEOM",
            f"an oblique volume whose axes lie nearest to {nearest}",
            fix="reformat the series, or use orientation=acquired",
        )
    if wanted != "acquired":
        ends = _axes_named("SPL" if wanted == "axial" else wanted)
        axes = tuple(nearest.index(patient) for patient, _ in ends)
        return axes, tuple(bool(directions[p, a] * sign < 0) for (p, sign), a in zip(ends, axes, strict=True))  # type: ignore[return-value]
    through = nearest[0]
    rows = 2 if through != 2 else 1  # rows run head to foot, except in axial slices: front to back
    columns = next(p for p in (0, 1) if p not in {through, rows})
    axes = (0, nearest.index(rows), nearest.index(columns))
    row_reversed = directions[2, axes[1]] > 0 if rows == 2 else directions[1, axes[1]] < 0
    return axes, (bool(directions[through, 0] < 0), bool(row_reversed), bool(directions[columns, axes[2]] < 0))


def _axes_named(word: str) -> list[tuple[int, int]]:
    """Return the patient axis (0 to L, 1 to P, 2 to S) and its sign per letter; nothing for what is no such word."""
    letters = {
        end: (axis, sign)
        for axis, pair in enumerate(("LR", "PA", "SI"))
        for end, sign in zip(pair, (1, -1), strict=True)
    }
    found = [letters[letter] for letter in str(word) if letter in letters]
    return found if len(str(word)) == 3 and sorted(axis for axis, _ in found) == [0, 1, 2] else []


def _per_axis(spacing: float | Sequence[float | None] | None) -> tuple[float | None, ...]:
    """Return one spacing per axis; a single value stands for all three."""
    each = (spacing,) * 3 if spacing is None or isinstance(spacing, int | float) else tuple(spacing)
    return tuple(None if mm is None else float(mm) for mm in each)
