"""A brain MR phantom: tissue maps with T1, T2 and proton density, signal equations, bias field, Rician noise, a lesion.

Relaxation times are near those at 3 T (Wansapura et al. 1999, J Magn Reson Imaging 9:531; Stanisz et al. 2005,
Magn Reson Med 54:507).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Single = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Tissue:
    """T1 and T2 in ms, proton density relative to water."""

    t1: float
    t2: float
    density: float


TISSUES = (
    Tissue(1.0, 1.0, 0.0),  # air
    Tissue(370.0, 110.0, 0.90),  # scalp
    Tissue(500.0, 20.0, 0.08),  # skull
    Tissue(4000.0, 1800.0, 1.00),  # cerebrospinal fluid
    Tissue(1330.0, 100.0, 0.82),  # grey matter
    Tissue(830.0, 78.0, 0.70),  # white matter
    Tissue(1650.0, 175.0, 0.92),  # lesion
)
PLANES = {  # directions of slice, row and column in LPS; slice = column x row
    "sagittal": ((-1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "axial": ((0, 0, 1), (0, 1, 0), (1, 0, 0)),
}
AIR, SCALP, SKULL, CSF, GREY, WHITE, LESION = range(7)
SURFACES = (  # semi-axes in mm, and how far slow and fast waves move the surface (fraction)
    (SCALP, np.array([80.0, 97.0, 92.0]), 0.010, 0.0),
    (SKULL, np.array([75.0, 92.0, 87.0]), 0.010, 0.0),
    (CSF, np.array([69.0, 86.0, 81.0]), 0.010, 0.0),
    (GREY, np.array([66.0, 83.0, 78.0]), 0.015, 0.008),
    (WHITE, np.array([57.0, 74.0, 68.0]), 0.015, 0.035),
)


@dataclass(frozen=True, slots=True)
class Sequence:
    """One contrast. Times in ms, angle in degrees; `plane` is a key of `PLANES`.

    `matrix` (slices, rows, columns), `spacing` likewise in mm.
    """

    name: str
    kind: str
    tr: float
    te: float
    ti: float
    flip: float
    plane: str
    matrix: tuple[int, int, int]
    spacing: tuple[float, float, float]

    def signal(self, tissue: Tissue) -> float:
        """Return the magnitude of the steady state signal (Bernstein et al. 2004, Handbook of MRI Pulse Sequences)."""
        e1, decay = np.exp(-self.tr / tissue.t1), np.exp(-self.te / tissue.t2)
        if self.kind == "GR":  # spoiled gradient echo, Ernst
            angle = np.deg2rad(self.flip)
            return float(tissue.density * np.sin(angle) * (1 - e1) / (1 - np.cos(angle) * e1) * decay)
        if self.kind == "IR":  # inversion recovery spin echo, magnitude
            return float(tissue.density * abs(1 - 2 * np.exp(-self.ti / tissue.t1) + e1) * decay)
        return float(tissue.density * (1 - e1) * decay)


SEQUENCES = (
    Sequence("T1", "GR", 25.0, 4.0, 0.0, 30.0, "sagittal", (24, 88, 80), (6.5, 2.3, 2.5)),
    Sequence("T2", "SE", 5000.0, 100.0, 0.0, 90.0, "axial", (26, 88, 80), (6.0, 2.4, 2.4)),
    Sequence("FLAIR", "IR", 9000.0, 120.0, 2400.0, 90.0, "axial", (24, 80, 72), (6.5, 2.6, 2.6)),
)


@dataclass(frozen=True, slots=True)
class Head:
    """One patient's head: scale of the whole, waves of the surfaces, and lesions (centre, semi-axes; LPS mm)."""

    scale: float
    waves: Array
    lesions: tuple[tuple[Array, Array], ...]

    def classes(self, points: Array) -> NDArray[np.int8]:
        """Return the tissue at each point (..., 3) in mm: nested ellipsoids with smoothly waved surfaces."""
        square = np.square(points / self.scale, dtype=np.float32)
        _, axes, low, _ = SURFACES[0]
        near = square @ np.float32(1 / np.square(axes)) < (1 + 3 * low) ** 2  # what lies beyond the scalp is air
        found = np.zeros(points.shape[:-1], np.int8)
        found[near] = self._tissues(points[near].astype(np.float32), square[near])
        return found

    def _tissues(self, points: Single, square: Single) -> NDArray[np.int8]:
        """Return the tissue of points [n 3]; `square` holds their coordinates over the scale, squared."""
        scaled = points / np.float32(self.scale)
        direction = scaled / np.sqrt(np.maximum(square.sum(-1, keepdims=True), 1e-12))
        slow = np.sin(direction @ np.float32(self.waves[:3].T)).sum(-1)
        fast = np.sin(direction @ np.float32(6 * self.waves[3:].T)).sum(-1)
        found = np.zeros(len(points), np.int8)
        for tissue, axes, low, high in SURFACES:
            found[square @ np.float32(1 / np.square(axes)) < (1 + low * slow + high * fast) ** 2] = tissue
        for side in (-1, 1):
            found[_inside(scaled, np.array([side * 13.0, 2, 8]), np.array([7.0, 30, 12]), 1 + 0.05 * slow)] = CSF
            found[_inside(scaled, np.array([side * 14.0, 8, -8]), np.array([9.0, 14, 9]), 1 + 0.03 * slow)] = GREY
        for centre, axes in self.lesions:
            found[_inside(points, centre, axes, 1 + 0.06 * fast) & (found >= GREY)] = LESION
        return found


def _inside(points: Single, centre: Array, axes: Array, scale: Single) -> NDArray[np.bool_]:
    apart = (points - np.float32(centre)) / np.float32(axes)
    return np.asarray(np.einsum("ni,ni->n", apart, apart) < scale**2)


def make_head(rng: np.random.Generator, *, sick: bool) -> Head:
    """Draw a head; a sick one has one to three lesions of 6 to 17 mm semi-axes in its brain."""
    lesions = []
    if sick:
        for _ in range(int(rng.integers(1, 4))):
            direction = rng.normal(size=3)
            centre = direction / np.linalg.norm(direction) * rng.uniform(0.45, 0.85) * np.array([60.0, 76.0, 70.0])
            lesions.append((centre, rng.uniform(7, 17) * rng.uniform(0.8, 1.2, size=3)))
    return Head(float(rng.normal(1.0, 0.03)), rng.normal(0, 2.2, size=(6, 3)), tuple(lesions))


def make_affine(sequence: Sequence, rng: np.random.Generator) -> Array:
    """Return the (4, 4) map from (slice, row, column) to LPS mm of a tilted, decentred stack through the head."""
    tilt = _rotation(rng.normal(0, np.deg2rad(8), size=3))
    axes = tilt @ np.array(PLANES[sequence.plane], float).T * np.array(sequence.spacing)
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = rng.normal(0, 4, size=3) - axes @ ((np.array(sequence.matrix) - 1) / 2)
    return affine


def _rotation(angles: Array) -> Array:
    """Return the rotation of a vector of angles (radians) by Rodrigues' formula."""
    size = float(np.linalg.norm(angles))
    x, y, z = angles / max(size, 1e-12)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(size) * cross + (1 - np.cos(size)) * cross @ cross)


def acquire(
    head: Head, sequence: Sequence, affine: Array, rng: np.random.Generator
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Return stored values and lesion mask (slice, row, column): thick slices are averaged over three thin ones."""
    grid = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in sequence.matrix), indexing="ij"), -1)
    table = np.array([sequence.signal(tissue) for tissue in TISSUES])
    signal, lesion = np.zeros(sequence.matrix), np.zeros(sequence.matrix)
    for shift in (-1 / 3, 0.0, 1 / 3):
        points = (grid + np.array([shift, 0, 0])) @ affine[:3, :3].T + affine[:3, 3]
        classes = head.classes(points)
        signal += table[classes] / 3
        lesion += (classes == LESION) / 3
    points = (grid @ affine[:3, :3].T + affine[:3, 3]) / 90
    weights = rng.normal(0, 0.12, size=6)
    bias = points @ weights[:3] + (points**2) @ weights[3:]
    signal *= np.exp(np.clip(bias, -0.5, 0.5))
    noise = 0.012 * float(np.percentile(signal, 99))
    measured = np.hypot(signal + rng.normal(0, noise, signal.shape), rng.normal(0, noise, signal.shape))
    stored = np.round(np.clip(measured / measured.max(), 0, 1) * 3000 * rng.uniform(0.6, 1.3))
    return np.asarray(stored, np.uint16), lesion > 0.5
