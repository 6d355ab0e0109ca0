"""DICOM objects of the phantoms, with the attributes of a PACS export, byte-identical for one seed."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medvit.errors import DataError

SPEC = "phantom.json"


def uid(*parts: object) -> str:
    """Return a valid UID (`2.25.` and 128 bits, PS3.5 B.2) that is always the same for the same parts."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def make_dataset(sop_class: str, sop_uid: str, values: dict[str, Any]) -> Dataset:
    """Return a data set with file meta information, the SOP identity and `values` by DICOM keyword."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = sop_uid
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = uid("medvit", "phantom")
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, sop_uid
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def set_pixels(dataset: Dataset, pixels: NDArray[np.uint16], bits: int, photometric: str) -> None:
    """Put unsigned (row, column) pixels into the data set, native little endian."""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, bits, bits - 1, 0
    dataset.add_new("PixelData", "OW", np.ascontiguousarray(pixels, "<u2").tobytes())


def save(dataset: Dataset, path: Path) -> None:
    """Write one object as a DICOM file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def decimal(values: float | NDArray[np.float64]) -> str | list[str]:
    """Return decimal strings of at most 16 characters (PS3.5 6.2), as close to the values as those allow."""
    texts = [_short(float(value)) for value in np.ravel(values)]
    return texts if np.ndim(values) else texts[0]


def _short(value: float) -> str:
    for digits in range(12, 6, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    return f"{value:.6g}"


def generate_once(
    folder: Path, spec: dict[str, Any], write: Callable[[Path], pd.DataFrame], table: str
) -> pd.DataFrame:
    """Fill `folder` by `write` unless it already holds a set made from the same `spec`; return its label table.

    Written to a neighbour first and then renamed: a half-written set never has the folder's name.

    Raises:
        DataError: the folder exists and was made from something else, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        found = json.loads((folder / SPEC).read_text()) if (folder / SPEC).is_file() else None
        if found != json.loads(json.dumps(spec)):
            raise DataError(
                f"phantom: the folder is not empty and holds {found}, asked for {spec}; choose another folder"
            )
        return pd.read_csv(folder / table, dtype={"PatientID": str, "AccessionNumber": str})
    draft: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        labels = write(draft)
        labels.to_csv(draft / table, index=False, lineterminator="\n")
        (draft / SPEC).write_text(json.dumps(spec, sort_keys=True))
        draft.chmod(0o755)
        draft.replace(folder)
    except OSError as error:
        raise DataError(
            f"phantom: cannot write the folder ({error.strerror}); free space or choose another one"
        ) from error
    finally:
        if draft is not None and draft.exists():
            shutil.rmtree(draft, ignore_errors=True)
    return labels
