"""Analytic path lengths: parallel rays along the patient's y axis through ellipsoids and thin cylinders.

Coordinates are patient millimetres, LPS as DICOM PS3.3 C.7.6.2.1.1: x to the left, y to the back, z to the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float64]


def parallel_rays(shape: tuple[int, int], pitch: float) -> tuple[Grid, Grid]:
    """Return (x, z) in mm of the ray of every pixel of a matrix (rows, columns) centred on the patient."""
    x = (np.arange(shape[1]) - (shape[1] - 1) / 2) * pitch
    z = ((shape[0] - 1) / 2 - np.arange(shape[0])) * pitch
    return np.tile(x, (shape[0], 1)), np.tile(z[:, None], (1, shape[1]))


class Span(NamedTuple):
    """Where rays are inside a body, mm along y: from `near` to `far`; a missed body has near = far."""

    near: Grid
    far: Grid

    def length(self) -> Grid:
        """Return the path length in mm."""
        return np.maximum(self.far - self.near, 0.0)


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """Semi-axes `axes` (mm) around `centre` (mm), turned by `turn` (radians) about the vertical axis."""

    centre: tuple[float, float, float]
    axes: tuple[float, float, float]
    turn: float = 0.0

    def turned(self, angle: float) -> Ellipsoid:
        """Return the same body after the whole patient turned by `angle` radians about the vertical axis."""
        x, y, z = self.centre
        cos, sin = np.cos(angle), np.sin(angle)
        return Ellipsoid((x * cos - y * sin, x * sin + y * cos, z), self.axes, self.turn + angle)

    def span(self, x: Grid, z: Grid) -> Span:
        """Return where the rays through (x, z) enter and leave: the two roots of a quadratic."""
        a, b, c = self.axes
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        dx, dz = x - self.centre[0], z - self.centre[2]
        square = sin**2 / a**2 + cos**2 / b**2
        half = dx * (cos * sin * (1 / a**2 - 1 / b**2))
        rest = dx**2 * (cos**2 / a**2 + sin**2 / b**2) + (dz / c) ** 2 - 1
        root = np.sqrt(np.maximum(half**2 - square * rest, 0.0))
        return Span(self.centre[1] + (-half - root) / square, self.centre[1] + (-half + root) / square)


def intersection(*spans: Span) -> Span:
    """Return the part of each ray that lies inside all of `spans`."""
    near, far = spans[0]
    for span in spans[1:]:
        near, far = np.maximum(near, span.near), np.minimum(far, span.far)
    return Span(near, np.maximum(near, far))


def length_without(inside: Span, first: Span, second: Span) -> Grid:
    """Return the path length (mm) in `inside` but in neither `first` nor `second` (inclusion and exclusion)."""
    lost = (
        intersection(inside, first).length()
        + intersection(inside, second).length()
        - intersection(inside, first, second).length()
    )
    return np.maximum(inside.length() - lost, 0.0)


def add_rod(
    target: Grid, x: Grid, z: Grid, ends: tuple[tuple[float, float], tuple[float, float]], radius: float, factor: float
) -> None:
    """Add `factor` times the path length through a rod between two (x, z) points, in place, near the rod only.

    `x` increases along columns and `z` decreases along rows, so the rod's rectangle is found by bisection.
    """
    (x0, z0), (x1, z1) = ends
    columns = slice(*np.searchsorted(x[0], [min(x0, x1) - radius, max(x0, x1) + radius]))
    rows = slice(*np.searchsorted(-z[:, 0], [-max(z0, z1) - radius, -min(z0, z1) + radius]))
    px, pz = x[rows, columns] - x0, z[rows, columns] - z0
    dx, dz = x1 - x0, z1 - z0
    along = np.clip((px * dx + pz * dz) / max(dx * dx + dz * dz, 1e-9), 0.0, 1.0)
    distance = (px - along * dx) ** 2 + (pz - along * dz) ** 2
    target[rows, columns] += factor * 2 * np.sqrt(np.maximum(radius**2 - distance, 0.0))
