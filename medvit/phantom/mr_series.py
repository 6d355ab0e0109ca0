"""A generated set of brain MR: heads of `phantom.head` as classic MR slices, each series on its own oblique grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.errors import ConfigError
from medvit.phantom import dicom_objects
from medvit.phantom.head import SEQUENCES, Array, Head, Sequence, acquire, make_affine, make_head

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"


def write_volumes(
    folder: Path,
    patients: int = 40,
    seed: int = 0,
    prevalence: float = 0.5,
    contrasts: tuple[str, ...] | list[str] = ("T1", "T2", "FLAIR"),
) -> pd.DataFrame:
    """Write one series per contrast of `patients` heads under `folder/dicom`, their truth under `folder/truth`.

    Same arguments, same bytes; an existing folder made from the same arguments is returned as it is.
    `truth/<patient>_<contrast>.npz` holds `mask` (slice, row, column; bool) and `affine` (4, 4; index to LPS mm).

    Returns:
        One row per series, also in `folder/labels.csv`: PatientID, AccessionNumber, SeriesInstanceUID, contrast,
        finding ("normal" or "lesion"), lesion_x lesion_y lesion_z (LPS mm of the largest lesion, empty for normal),
        lesion_ml, site, path and truth (relative to `folder`).

    Raises:
        ConfigError: fewer than one patient, a prevalence outside 0 to 1, or contrasts that are not of `SEQUENCES`.
        DataError: the folder holds something else or cannot be written.
    """
    if patients < 1 or not 0 <= prevalence <= 1:
        raise ConfigError(f"phantom: patients={patients} (at least 1), prevalence={prevalence} (0 to 1)")
    known = [sequence.name for sequence in SEQUENCES]
    if not contrasts or not set(contrasts) <= set(known):
        raise ConfigError(f"phantom: contrasts={list(contrasts)}: expected one or more of {', '.join(known)}")
    kept = [name for name in known if name in contrasts]
    spec = {"phantom": "volumes", "version": 2, "patients": patients, "seed": seed, "prevalence": prevalence}

    def write(draft: Path) -> pd.DataFrame:
        heads = (_write_head(draft, number, seed, prevalence, kept) for number in range(patients))
        return pd.DataFrame([row for head in heads for row in head])

    return dicom_objects.generate_once(folder, {**spec, "contrasts": kept}, write, "labels.csv")


def _write_head(
    draft: Path, number: int, seed: int, prevalence: float, contrasts: list[str]
) -> list[dict[str, object]]:
    rng = np.random.default_rng([seed, number, 3])
    sick = bool(rng.random() < prevalence)
    head = make_head(rng, sick=sick)
    who = {
        "PatientID": f"BRAIN-{number:05d}",
        "AccessionNumber": f"BR{number:05d}",
        "PatientName": f"PHANTOM^BRAIN{number:05d}",
        "PatientSex": str(rng.choice(["F", "M"])),
        "PatientAge": f"{int(rng.integers(18, 90)):03d}Y",
        "StudyInstanceUID": dicom_objects.uid(seed, "brain", number, "study"),
        "FrameOfReferenceUID": dicom_objects.uid(seed, "brain", number, "frame"),
        "StudyDate": f"{2016 + int(rng.integers(8))}0415",
        "StudyTime": "101500",
        "StudyID": "1",
    }
    site = ("north", "south")[int(rng.integers(2))]
    rows = []
    for position, sequence in enumerate(SEQUENCES):
        if sequence.name not in contrasts:
            continue
        affine = make_affine(sequence, rng)
        values, mask = acquire(head, sequence, affine, rng)
        path = Path("dicom") / who["PatientID"] / sequence.name
        series = dicom_objects.uid(seed, "brain", number, sequence.name)
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
        dataset = dicom_objects.make_dataset(
            MR_IMAGE,
            dicom_objects.uid(attributes["SeriesInstanceUID"], index),
            {
                **attributes,
                "InstanceNumber": str(index + 1),
                "ImagePositionPatient": dicom_objects.decimal(affine[:3, 3] + index * affine[:3, 0]),
                "ImageOrientationPatient": dicom_objects.decimal(np.concatenate([column, row])),
                "PixelSpacing": dicom_objects.decimal(np.array(sequence.spacing[1:])),
                "SliceThickness": dicom_objects.decimal(sequence.spacing[0]),
                "SpacingBetweenSlices": dicom_objects.decimal(sequence.spacing[0]),
            },
        )
        dicom_objects.set_pixels(dataset, pixels, 12, "MONOCHROME2")
        dicom_objects.save(dataset, folder / f"IM{order[index]:04d}")


def _write_truth(path: Path, mask: NDArray[np.bool_], affine: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, mask=mask, affine=affine)


def _lesion_columns(head: Head, mask: NDArray[np.bool_], affine: Array) -> dict[str, object]:
    millilitres = float(mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000)
    largest = max(head.lesions, key=lambda lesion: float(np.prod(lesion[1])), default=None)
    centre = [round(float(value), 2) for value in largest[0]] if largest is not None else [None] * 3
    return {"lesion_x": centre[0], "lesion_y": centre[1], "lesion_z": centre[2], "lesion_ml": round(millilitres, 3)}
