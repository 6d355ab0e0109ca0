"""A chest-film phantom: analytic path lengths, Beer-Lambert, detector noise, 12-bit DX objects, known truth.

Linear attenuation coefficients are near 60 keV (NIST XCOM, rounded). Every film knows where its opacity is. The air in
the lungs differs from breath to breath, so how dense a lung is as a whole tells nothing of a finding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.errors import ConfigError
from medvit.phantom import dicom_objects
from medvit.phantom.ray_tracing import Ellipsoid, Grid, Span, add_rod, intersection, length_without, parallel_rays

DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
SOFT, LUNG, BONE, LEAD = 0.0205, 0.0055, 0.050, 2.0  # 1/mm
FULL = 4095
LETTERS = {"L": ("100", "100", "100", "100", "111"), "R": ("110", "101", "110", "101", "101")}


@dataclass(frozen=True, slots=True)
class Detector:
    """One X-ray room: matrix (rows, columns), pixel pitch in mm, photons per open pixel, and how it shows a film."""

    manufacturer: str
    model: str
    site: str
    shape: tuple[int, int]
    pitch_mm: float
    photons: float
    inverse_share: float
    gamma: float


DETECTORS = (
    Detector("PHANTOMRAY", "FD-1", "north", (288, 272), 1.35, 9000.0, 0.2, 1.0),
    Detector("SYNTHETICA", "CR-70", "south", (256, 256), 1.50, 5000.0, 0.7, 1.25),
)


@dataclass(frozen=True, slots=True)
class Patient:
    """What stays the same over a patient's films: size (1 is a mean adult), heart size, rib pitch, sex, age."""

    number: int
    size: float
    girth: float
    heart: float
    sex: str
    age: int
    risk: float


def write_films(folder: Path, patients: int = 220, seed: int = 0, prevalence: float = 0.5) -> pd.DataFrame:
    """Write `patients` x 1 to 3 chest films as DICOM under `folder/dicom` and their truth to `folder/labels.csv`.

    Same arguments, same bytes; an existing folder made from the same arguments is returned as it is.

    Returns:
        One row per film: AccessionNumber, PatientID, finding ("normal" or "opacity"), box_x0 box_y0 box_x1 box_y1
        (pixel columns and rows, ends included, empty for normal), site, path (relative to `folder`).

    Raises:
        ConfigError: fewer than one patient or a prevalence outside 0 to 1.
        DataError: the folder holds something else or cannot be written.
    """
    if patients < 1 or not 0 <= prevalence <= 1:
        raise ConfigError(f"phantom: patients={patients} (at least 1), prevalence={prevalence} (0 to 1)")
    spec = {"phantom": "films", "version": 2, "patients": patients, "seed": seed, "prevalence": prevalence}

    def write(draft: Path) -> pd.DataFrame:
        rows = [row for number in range(patients) for row in _write_patient(draft, number, seed, prevalence)]
        return pd.DataFrame(rows).astype({f"box_{end}": "Int64" for end in ("x0", "y0", "x1", "y1")})

    return dicom_objects.generate_once(folder, spec, write, "labels.csv")


def _write_patient(draft: Path, number: int, seed: int, prevalence: float) -> list[dict[str, object]]:
    rng = np.random.default_rng([seed, number, 1])
    patient = Patient(
        number=number,
        size=float(np.clip(rng.normal(1.0, 0.05), 0.87, 1.15)),
        girth=float(np.clip(rng.normal(1.0, 0.08), 0.8, 1.25)),
        heart=float(np.clip(rng.normal(1.0, 0.1), 0.75, 1.35)),
        sex=str(rng.choice(["F", "M"])),
        age=int(rng.integers(18, 96)),
        risk=float(rng.beta(8 * prevalence, 8 * (1 - prevalence))) if 0 < prevalence < 1 else prevalence,
    )
    detector = DETECTORS[int(rng.integers(len(DETECTORS)))]
    films = int(rng.integers(1, 4))
    return [_write_film(draft, patient, detector, film, seed) for film in range(films)]


def _write_film(draft: Path, patient: Patient, detector: Detector, film: int, seed: int) -> dict[str, object]:
    rng = np.random.default_rng([seed, patient.number, 2, film])
    opacity = bool(rng.random() < patient.risk)
    view = "AP" if rng.random() < (0.45 if opacity else 0.3) else "PA"
    line, box = expose(patient, detector, view, opacity=opacity, rng=rng)
    stored = develop(line, detector, rng)
    accession, patient_id = f"PH{patient.number:05d}{film}", f"PHANTOM-{patient.number:05d}"
    photometric = "MONOCHROME1" if rng.random() < detector.inverse_share else "MONOCHROME2"
    year = 2016 + int(rng.integers(8))
    path = Path("dicom") / patient_id / accession / "IM0001"
    dataset = dicom_objects.make_dataset(
        DX_FOR_PRESENTATION,
        dicom_objects.uid(seed, patient_id, film, "image"),
        {
            "StudyInstanceUID": dicom_objects.uid(seed, patient_id, film, "study"),
            "SeriesInstanceUID": dicom_objects.uid(seed, patient_id, film, "series"),
            "AccessionNumber": accession,
            "PatientID": patient_id,
            "PatientName": f"PHANTOM^{patient.number:05d}",
            "PatientSex": patient.sex,
            "PatientAge": f"{patient.age:03d}Y",
            "PatientBirthDate": f"{year - patient.age:04d}0101",
            "StudyDate": f"{year}{1 + film * 3:02d}15",
            "StudyTime": "101500",
            "StudyID": "1",
            "SeriesNumber": "1",
            "InstanceNumber": "1",
            **_film_attributes(detector, view, photometric, stored),
        },
    )
    dicom_objects.set_pixels(dataset, FULL - stored if photometric == "MONOCHROME1" else stored, 12, photometric)
    dicom_objects.save(dataset, draft / path)
    ends = dict(zip(("box_x0", "box_y0", "box_x1", "box_y1"), box or (None,) * 4, strict=True))
    finding = "opacity" if opacity else "normal"
    row = {"AccessionNumber": accession, "PatientID": patient_id, "finding": finding, **ends}
    return {**row, "site": detector.site, "path": path.as_posix()}


def _film_attributes(detector: Detector, view: str, photometric: str, stored: NDArray[np.uint16]) -> dict[str, object]:
    inverse = photometric == "MONOCHROME1"
    low, high = (int(value) for value in np.percentile(stored, [0.5, 99.5]))
    centre = (low + high) // 2
    return {
        "Modality": "DX",
        "Manufacturer": detector.manufacturer,
        "ManufacturerModelName": detector.model,
        "BodyPartExamined": "CHEST",
        "ViewPosition": view,
        "PatientOrientation": ["L", "F"],
        "ImageLaterality": "U",
        "ImageType": ["DERIVED", "PRIMARY"],
        "PresentationIntentType": "FOR PRESENTATION",
        "PresentationLUTShape": "INVERSE" if inverse else "IDENTITY",
        "PixelIntensityRelationship": "LOG",
        "PixelIntensityRelationshipSign": -1 if inverse else 1,
        "ImagerPixelSpacing": [str(detector.pitch_mm)] * 2,
        "WindowCenter": str(FULL - centre if inverse else centre),
        "WindowWidth": str(max(high - low, 1)),
        "RescaleIntercept": "0",
        "RescaleSlope": "1",
        "RescaleType": "US",
        "LossyImageCompression": "00",
        "BurnedInAnnotation": "NO",
        "KVP": "120",
    }


def expose(
    patient: Patient, detector: Detector, view: str, *, opacity: bool, rng: np.random.Generator
) -> tuple[Grid, tuple[int, int, int, int] | None]:
    """Return the line integral of attenuation per pixel (row, column; no unit) and the opacity's box, if any.

    The box is (column, row, column, row), ends included, where the opacity adds over a tenth of its greatest effect.
    """
    x, z = _rays(patient, detector, view, rng)
    turn = float(np.deg2rad(rng.normal(0, 4)))
    body = Ellipsoid((0, 0, 0), (168 * patient.girth**0.5, 108 * patient.girth, 420), turn)
    breath = float(rng.uniform(-14, 10))
    lungs = [Ellipsoid((side * 71, 4, 18), (57, 78, 118 + breath / 3), 0).turned(turn) for side in (-1, 1)]
    domes = [Ellipsoid((side * 72, 4, -142 - breath + (side < 0) * 9), (82, 112, 74)).turned(turn) for side in (-1, 1)]
    scale = patient.heart * (1.12 if view == "AP" else 1.0)
    heart = Ellipsoid((22, -22, -48), (58 * scale, 44 * scale, 60 * scale), 0.3).turned(turn).span(x, z)
    line = SOFT * body.span(x, z).length()
    air = SOFT - LUNG * float(np.exp(rng.normal(0, 0.25)))  # what a millimetre of lung attenuates less than tissue
    for lung, dome in zip(lungs, domes, strict=True):
        line -= air * length_without(lung.span(x, z), heart, dome.span(x, z))
    _add_bones(line, x, z, patient, turn)
    _add_vessels(line, x, z, air, rng)
    box = None
    if opacity:
        effect = air * _opacity(x, z, lungs, domes, heart, rng)
        line += effect
        rows, columns = np.nonzero(effect > 0.1 * effect.max())
        box = (int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max()))
    _add_marker(line, detector, rng)
    return line, box


def _rays(patient: Patient, detector: Detector, view: str, rng: np.random.Generator) -> tuple[Grid, Grid]:
    """Return the patient coordinates (x, z) in mm of every pixel's ray: magnified, scaled to the patient, shifted."""
    magnification = 1.12 if view == "AP" else 1.05
    shift = rng.normal(0, 5, size=2)
    x, z = parallel_rays(detector.shape, detector.pitch_mm / (magnification * patient.size))
    return x + shift[0], z - 6 + shift[1]


def _add_bones(line: Grid, x: Grid, z: Grid, patient: Patient, turn: float) -> None:
    """Add spine, clavicles, and ribs: tubes on the shell between two elliptic cylinders, lower in front than behind."""
    spine = Ellipsoid((0, 62, 0), (17, 15, 500)).turned(turn)
    disc = 0.75 + 0.25 * np.cos(2 * np.pi * z / 25) ** 2
    line += (BONE * 0.75 - SOFT) * spine.span(x, z).length() * disc
    for side in (-1, 1):
        add_rod(line, x, z, ((side * 12, 112), (side * 125, 138)), 6.0, BONE * 0.8 - SOFT)
    wide, deep, wall = 132.0, 96.0, 8.0
    outer, inner = (np.sqrt(np.maximum(1 - (x[0] / (wide - w)) ** 2, 0.0)) * (deep - w) for w in (0.0, wall))
    thickness = np.minimum(outer - inner, 22.0)
    pitch = 25.0 + 2 * (patient.sex == "M")
    for number in range(10):
        top = 142 - pitch * number
        for depth, height, density in ((outer, 7.0, 0.72), (-outer, 6.0, 0.5)):
            middle = top - 0.16 * np.abs(x[0]) + 0.32 * (depth - deep)
            here = slice(*np.searchsorted(-z[:, 0], [-middle.max() - height, -middle.min() + height]))
            profile = np.sqrt(np.maximum(1 - ((z[here] - middle) / height) ** 2, 0.0))
            shown = thickness * (np.abs(x[0]) > (20 if depth is outer else 45))
            line[here] += (BONE * density - SOFT * 0.5) * shown * profile


def _add_vessels(line: Grid, x: Grid, z: Grid, air: float, rng: np.random.Generator) -> None:
    """Add branching vessels from both hila: rods that get thinner outwards; `air` (1/mm) is what tissue adds there."""
    for side in (-1, 1):
        for angle in rng.uniform(-1.4, 1.3, size=14):
            start = (side * float(rng.uniform(24, 44)), float(rng.uniform(-4, 24)))
            point, radius, heading = start, float(rng.uniform(2.0, 3.6)), float(angle)
            for _ in range(3):
                step = float(rng.uniform(12, 24))
                end = (point[0] + side * step * np.cos(heading), point[1] + step * np.sin(heading))
                add_rod(line, x, z, (point, end), radius, air)
                point, radius, heading = end, radius * 0.72, heading + float(rng.normal(0, 0.35))


def _opacity(
    x: Grid, z: Grid, lungs: list[Ellipsoid], domes: list[Ellipsoid], heart: Span, rng: np.random.Generator
) -> Grid:
    """Return the mm of air that a patchy consolidation fills: dense nodules in a hazy region, of varying size."""
    while True:
        side = int(rng.integers(2))
        lung, dome = lungs[side].span(x, z), domes[side].span(x, z)
        offset = rng.uniform(-0.8, 0.8, size=3)
        radius, density = float(rng.uniform(32, 58)), float(rng.uniform(0.75, 1.0))
        centre = np.array(lungs[side].centre) + offset * lungs[side].axes
        filled = 0.5 * density * _filled(centre, np.full(3, radius), x, z, (lung, heart, dome))
        for _ in range(18):
            spot = centre + rng.normal(0, 0.45 * radius, size=3)
            axes = rng.uniform(10, 18) * rng.uniform(0.7, 1.3, size=3)
            filled += density * _filled(spot, axes, x, z, (lung, heart, dome))
        if filled.max() > 53 and np.linalg.norm(offset) < 1:
            return np.minimum(filled, 107.0)


def _filled(
    centre: NDArray[np.float64], axes: NDArray[np.float64], x: Grid, z: Grid, around: tuple[Span, Span, Span]
) -> Grid:
    """Return the mm of one blob of soft tissue that lie in aerated `lung`, outside `heart` and `dome`."""
    lung, heart, dome = around
    length = np.zeros_like(x)
    columns = slice(*np.searchsorted(x[0], [centre[0] - axes[0], centre[0] + axes[0]]))
    rows = slice(*np.searchsorted(-z[:, 0], [-centre[2] - axes[2], -centre[2] + axes[2]]))
    blob = Ellipsoid((centre[0], centre[1], centre[2]), (axes[0], axes[1], axes[2])).span(
        x[rows, columns], z[rows, columns]
    )
    near = [Span(span.near[rows, columns], span.far[rows, columns]) for span in (lung, heart, dome)]
    length[rows, columns] = length_without(intersection(near[0], blob), near[1], near[2])
    return length


def _add_marker(line: Grid, detector: Detector, rng: np.random.Generator) -> None:
    """Put the lead letter of the patient's side in an upper corner of four films in five."""
    if rng.random() > 0.8:
        return
    letter = str(rng.choice(["L", "R"]))
    scale = 3 if detector.site == "north" else 4
    glyph = np.kron([[int(bit) for bit in row] for row in LETTERS[letter]], np.ones((scale, scale)))
    top = int(rng.integers(6, 24))
    left = int(rng.integers(6, 20))
    if letter == "L":  # the patient's left is on the right of the film (PatientOrientation L\F)
        left = line.shape[1] - left - glyph.shape[1]
    line[top : top + glyph.shape[0], left : left + glyph.shape[1]] += LEAD * glyph


def develop(line: Grid, detector: Detector, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Return 12-bit stored values, dense is bright: Beer-Lambert, scatter, Poisson and electronic noise, log, curve."""
    primary = detector.photons * np.exp(-line)
    scatter = 0.35 * float(primary[line > 1].mean()) if (line > 1).any() else 0.0
    counts = rng.poisson(primary + scatter).astype(np.float64) + rng.normal(0, 3.0, line.shape)
    density = -np.log(np.maximum(counts, 1.0) / detector.photons)
    low, high = np.percentile(density, [0.5, 99.5])
    shown = np.clip((density - low) / max(high - low, 1e-6), 0, 1) ** detector.gamma
    return np.asarray(np.round(shown * (FULL - 95) + 40), np.uint16)
