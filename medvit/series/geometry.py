"""Where slices lie: orientation, order along the normal, spacing and the LPS affine (PS3.3 C.7.6.2). numpy only.

Positions and affines are in mm, axes LPS; slice, row and column indices count from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvit.errors import DicomRefusal

Vector = NDArray[np.float64]

POSITION, ORIENTATION = "(0020,0032)", "(0020,0037)"
_ROUNDING_MM = 0.1  # writers that give positions with one decimal place put slices this far off the line


def normal_of(orientation: Sequence[float], tolerance: float = 1e-3) -> Vector:
    """Return the unit normal (row direction x column direction); refuse (`E-ORIENT`) axes that are not orthonormal."""
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm([along_row, along_column], axis=1)
    cosine = float(along_row @ along_column)
    if np.abs(lengths - 1).max() > tolerance or abs(cosine) > tolerance:
        found = f"not orthonormal: lengths {lengths[0]:.4g} and {lengths[1]:.4g}, cosine {cosine:.4g}"
        raise DicomRefusal("E-ORIENT", found, allowed=f"1, 1, 0 within {tolerance:g}", tag=ORIENTATION)
    normal: Vector = np.cross(along_row, along_column)
    return normal / np.linalg.norm(normal)


@dataclass(frozen=True, slots=True)
class Stack:
    """Slices in order along the normal.

    `order` are the indices as given, `positions` [n 3] the exact places in that order, `step` (3,) the mean way in mm
    from one slice to the next; `even` and `straight` are False where only a resampling makes a grid of it.
    """

    order: NDArray[np.intp]
    positions: Vector
    normal: Vector
    step: Vector
    even: bool
    straight: bool

    @property
    def widest(self) -> float:
        """The widest gap between two slices, in median spacings."""
        gaps = np.diff(self.positions @ self.normal)
        return float(gaps.max() / np.median(gaps))

    def affine(self, orientation: Sequence[float], spacing: tuple[float, float]) -> Vector:
        """Return the (4, 4) matrix from (slice, row, column, 1) to LPS mm (PS3.3 C.7.6.2.1.1)."""
        matrix = np.eye(4)
        matrix[:3, 0] = self.step
        matrix[:3, 1] = np.array(orientation[3:]) * spacing[0]  # down a column: the row index grows
        matrix[:3, 2] = np.array(orientation[:3]) * spacing[1]
        matrix[:3, 3] = self.positions[0]
        return matrix


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far slices may stray: `spacing` and `tilt` are fractions (of the spacing; of the stack's length)."""

    spacing: float = 0.05
    tilt: float = 0.01
    orientation: float = 1e-3


def stack(positions: Sequence[Sequence[float]], orientation: Sequence[float], tolerance: Tolerance) -> Stack:
    """Order slice positions [n 3] along the normal and measure how evenly and how straight they lie, n >= 2.

    Refuses two slices at one position (`E-DUPPOS`, `same_place` says when that is).
    """
    normal = normal_of(orientation, tolerance.orientation)
    places = np.array(positions, dtype=np.float64)
    order = np.argsort(places @ normal, kind="stable")
    places = places[order]
    gaps = np.diff(places @ normal)
    typical = float(np.median(gaps))
    if gaps.min() <= same_place(typical):
        at = int(gaps.argmin())
        found = f"slices {at + 1} and {at + 2} of {len(places)} lie at one position"
        raise DicomRefusal("E-DUPPOS", found, allowed="one slice per position", tag=POSITION)
    step = (places[-1] - places[0]) / (len(places) - 1)
    slack = max(tolerance.spacing * typical, 1e-4)
    drift = (places - places[0]) @ normal - np.arange(len(places)) * float(step @ normal)
    even = bool(np.abs(gaps - typical).max() <= slack and np.abs(drift).max() <= slack)
    return Stack(order, places, normal, step, even, _is_straight(places, normal, tolerance))


def same_place(spacing: float) -> float:
    """Return the distance in mm up to which two slices count as one place: 1 % of the spacing, 1 um at least."""
    return max(0.01 * spacing, 1e-3)


def _is_straight(places: Vector, normal: Vector, tolerance: Tolerance) -> bool:
    """Say whether the slices lie along the normal, but for the rounding of decimal places."""
    offsets = places - places[0]
    sideways = offsets - np.outer(offsets @ normal, normal)
    length = float(offsets[-1] @ normal)
    bend = sideways - np.outer(np.linspace(0, 1, len(places)), sideways[-1])
    drift = float(np.linalg.norm(sideways[-1]))
    return drift <= max(tolerance.tilt * length, _ROUNDING_MM) and float(np.abs(bend).max()) <= 2 * _ROUNDING_MM


def refuse_uneven(stack: Stack, tolerance: Tolerance) -> None:
    """Refuse (`E-GAP`) slices that do not lie evenly, naming the first place where they do not."""
    gaps = np.diff(stack.positions @ stack.normal)
    typical = float(np.median(gaps))
    at = int(np.abs(gaps - typical).argmax())
    found = f"spacing {gaps[at]:.4g} mm between slices {at + 1} and {at + 2} of {len(gaps) + 1}, others {typical:.4g}"
    allowed = f"{typical:.4g} mm within {tolerance.spacing:.0%}"
    raise DicomRefusal("E-GAP", found, allowed=allowed, tag=POSITION, fix="re-export the series or set gap=resample")


def refuse_tilted(stack: Stack) -> None:
    """Refuse (`E-TILT`) slices whose positions do not follow the normal: a gantry tilt, or a slice pushed aside."""
    offsets = stack.positions - stack.positions[0]
    along = offsets @ stack.normal
    sideways = np.linalg.norm(offsets - np.outer(along, stack.normal), axis=1)
    at = int(sideways.argmax())
    angle = np.degrees(np.arctan2(sideways[at], abs(along[at])))
    found = f"slice {at + 1} lies {sideways[at]:.4g} mm beside the normal ({angle:.3g} degrees)"
    raise DicomRefusal("E-TILT", found, allowed="positions along the normal", tag=POSITION, fix="set tilt=resample")


def clusters(orientations: Sequence[Sequence[float]], tolerance: float = 1e-3) -> list[list[int]]:
    """Group the indices of orientations (6 numbers each) that agree within `tolerance`, in order of appearance."""
    groups: list[tuple[Vector, list[int]]] = []
    for index, orientation in enumerate(orientations):
        vector = np.array(orientation)
        home = next((members for centre, members in groups if np.abs(centre - vector).max() <= tolerance), None)
        if home is None:
            groups.append((vector, [index]))
        else:
            home.append(index)
    return [members for _, members in groups]
