"""A brain MR phantom: tissue maps with T1, T2 and proton density, signal equations, bias field, Rician noise, a lesion.

Relaxation times are near those at 3 T (Wansapura et al. 1999, J Magn Reson Imaging 9:531; Stanisz et al. 2005,
Magn Reson Med 54:507). Every series is written as classic MR slices on its own oblique, anisotropic grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.dicom import phantom_dicom
from medvit.errors import ConfigError

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
Array = NDArray[np.float64]


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
        scaled = points / self.scale
        square = scaled**2
        direction = scaled / np.sqrt(np.maximum(square.sum(-1, keepdims=True), 1e-12))
        slow = np.sin(direction @ self.waves[:3].T).sum(-1)
        fast = np.sin(direction @ (6 * self.waves[3:].T)).sum(-1)
        found = np.zeros(points.shape[:-1], np.int8)
        for tissue, axes, low, high in SURFACES:
            found[square @ (1 / np.square(axes)) < (1 + low * slow + high * fast) ** 2] = tissue
        for side in (-1, 1):
            found[_inside(scaled, np.array([side * 13.0, 2, 8]), np.array([7.0, 30, 12]), 1 + 0.05 * slow)] = CSF
            found[_inside(scaled, np.array([side * 14.0, 8, -8]), np.array([9.0, 14, 9]), 1 + 0.03 * slow)] = GREY
        for centre, axes in self.lesions:
            found[_inside(points, centre, axes, 1 + 0.06 * fast) & (found >= GREY)] = LESION
        return found


def _inside(points: Array, centre: Array, axes: Array, scale: Array) -> NDArray[np.bool_]:
    return np.asarray((((points - centre) / axes) ** 2).sum(-1) < scale**2)


def write_volumes(folder: Path, patients: int = 40, seed: int = 0, prevalence: float = 0.5) -> pd.DataFrame:
    """Write T1, T2 and FLAIR series of `patients` heads under `folder/dicom`, their truth under `folder/truth`.

    Same arguments, same bytes; an existing folder made from the same arguments is returned as it is.
    `truth/<patient>_<contrast>.npz` holds `mask` (slice, row, column; bool) and `affine` (4, 4; index to LPS mm).

    Returns:
        One row per series, also in `folder/labels.csv`: PatientID, AccessionNumber, SeriesInstanceUID, contrast,
        finding ("normal" or "lesion"), lesion_x lesion_y lesion_z (LPS mm of the largest lesion, empty for normal),
        lesion_ml, site, path and truth (relative to `folder`).

    Raises:
        ConfigError: fewer than one patient or a prevalence outside 0 to 1.
        DataError: the folder holds something else or cannot be written.
    """
    if patients < 1 or not 0 <= prevalence <= 1:
        raise ConfigError(f"phantom: patients={patients} (at least 1), prevalence={prevalence} (0 to 1)")
    spec = {"phantom": "volumes", "version": 1, "patients": patients, "seed": seed, "prevalence": prevalence}

    def write(draft: Path) -> pd.DataFrame:
        return pd.DataFrame([row for number in range(patients) for row in _write_head(draft, number, seed, prevalence)])

    return phantom_dicom.generate_once(folder, spec, write, "labels.csv")


def _write_head(draft: Path, number: int, seed: int, prevalence: float) -> list[dict[str, object]]:
    rng = np.random.default_rng([seed, number, 3])
    sick = bool(rng.random() < prevalence)
    head = make_head(rng, sick=sick)
    who = {
        "PatientID": f"BRAIN-{number:05d}",
        "AccessionNumber": f"BR{number:05d}",
        "PatientName": f"PHANTOM^BRAIN{number:05d}",
        "PatientSex": str(rng.choice(["F", "M"])),
        "PatientAge": f"{int(rng.integers(18, 90)):03d}Y",
        "StudyInstanceUID": phantom_dicom.uid(seed, "brain", number, "study"),
        "FrameOfReferenceUID": phantom_dicom.uid(seed, "brain", number, "frame"),
        "StudyDate": f"{2016 + int(rng.integers(8))}0415",
        "StudyTime": "101500",
        "StudyID": "1",
    }
    site = ("north", "south")[int(rng.integers(2))]
    rows = []
    for position, sequence in enumerate(SEQUENCES):
        affine = make_affine(sequence, rng)
        values, mask = acquire(head, sequence, affine, rng)
        path = Path("dicom") / who["PatientID"] / sequence.name
        series = phantom_dicom.uid(seed, "brain", number, sequence.name)
        _write_series(
            draft / path, values, affine, sequence, {**who, **_series_attributes(sequence, site, position, series)}
        )
        truth = Path("truth") / f"{who['PatientID']}_{sequence.name}.npz"
        _write_truth(draft / truth, mask, affine)
        rows.append(
            {
                **{key: who[key] for key in ("PatientID", "AccessionNumber")},
                "SeriesInstanceUID": series,
                "contrast": sequence.name,
                "finding": "lesion" if sick else "normal",
                **_lesion_columns(head, mask, affine),
                "site": site,
                "path": path.as_posix(),
                "truth": truth.as_posix(),
            }
        )
    return rows


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


def _series_attributes(sequence: Sequence, site: str, position: int, series: str) -> dict[str, object]:
    inversion = {"InversionTime": str(sequence.ti)} if sequence.kind == "IR" else {}
    return {
        "SeriesInstanceUID": series,
        "SeriesNumber": str(position + 1),
        "SeriesDescription": sequence.name,
        "Modality": "MR",
        "Manufacturer": "PHANTOMRAY" if site == "north" else "SYNTHETICA",
        "ManufacturerModelName": "MR-3",
        "MagneticFieldStrength": "3",
        "BodyPartExamined": "BRAIN",
        "PatientPosition": "HFS",
        "ImageType": ["ORIGINAL", "PRIMARY", "M"],
        "ScanningSequence": {"GR": "GR", "SE": "SE", "IR": ["IR", "SE"]}[sequence.kind],
        "SequenceVariant": "SP" if sequence.kind == "GR" else "NONE",
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "RepetitionTime": str(sequence.tr),
        "EchoTime": str(sequence.te),
        "EchoTrainLength": "1",
        "FlipAngle": str(sequence.flip),
        **inversion,
    }


def _write_series(
    folder: Path, values: NDArray[np.uint16], affine: Array, sequence: Sequence, attributes: dict[str, object]
) -> None:
    """Write one object per slice; file names follow a shuffled order, as a PACS export's do."""
    row, column = affine[:3, 1] / sequence.spacing[1], affine[:3, 2] / sequence.spacing[2]
    order = np.random.default_rng(len(values)).permutation(len(values))
    for index, pixels in enumerate(values):
        dataset = phantom_dicom.base(
            MR_IMAGE,
            phantom_dicom.uid(attributes["SeriesInstanceUID"], index),
            {
                **attributes,
                "InstanceNumber": str(index + 1),
                "ImagePositionPatient": phantom_dicom.decimal(affine[:3, 3] + index * affine[:3, 0]),
                "ImageOrientationPatient": phantom_dicom.decimal(np.concatenate([column, row])),
                "PixelSpacing": phantom_dicom.decimal(np.array(sequence.spacing[1:])),
                "SliceThickness": phantom_dicom.decimal(sequence.spacing[0]),
                "SpacingBetweenSlices": phantom_dicom.decimal(sequence.spacing[0]),
            },
        )
        phantom_dicom.set_pixels(dataset, pixels, 12, "MONOCHROME2")
        phantom_dicom.save(dataset, folder / f"IM{order[index]:04d}")


def _write_truth(path: Path, mask: NDArray[np.bool_], affine: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, mask=mask, affine=affine)


def _lesion_columns(head: Head, mask: NDArray[np.bool_], affine: Array) -> dict[str, object]:
    millilitres = float(mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000)
    largest = max(head.lesions, key=lambda lesion: float(np.prod(lesion[1])), default=None)
    centre = [round(float(value), 2) for value in largest[0]] if largest is not None else [None] * 3
    return {"lesion_x": centre[0], "lesion_y": centre[1], "lesion_z": centre[2], "lesion_ml": round(millilitres, 3)}
