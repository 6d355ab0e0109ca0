"""A map over its image as a DICOM Secondary Capture, which every viewer shows (PS3.3 A.8.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvit.clinical.identity import copying

if TYPE_CHECKING:
    from pydicom import Dataset

_OPPOSITE = dict(zip("LRAPHF", "RLPAFH", strict=True))


def secondary_capture(
    header: Dataset,
    pixels: NDArray[np.uint8],
    derivation: str,
    names: dict[str, Any],
    orientation: Sequence[str] = (),
) -> Dataset:
    """Return the picture [H W 3] as an object of its source's study.

    header: the file shown, of `headers_of`; its patient, study and laterality are taken over. derivation: how the
    picture came about, without anything of the patient. orientation: PatientOrientation of the picture, () where it is
    not known.

    Raises:
        DicomRefusal: E-TAG, a header that no object may copy.
    """
    import highdicom
    from pydicom.uid import ExplicitVRLittleEndian

    with copying():
        made: Dataset = highdicom.sc.SCImage.from_ref_dataset(
            header, pixels, "RGB", 8, "PATIENT", manufacturer="medvit", patient_orientation=("L", "F"),
            transfer_syntax_uid=ExplicitVRLittleEndian, specific_character_set="ISO_IR 192", **names,
        )  # fmt: skip
        made.PatientOrientation = list(orientation) or None
        made.ConversionType = "WSD"  # made by a workstation, not digitised
        made.BurnedInAnnotation = "YES"  # the text below; and the image itself may hold some
        made.DerivationDescription = derivation[:1024]
        made.SourceImageSequence = [source_of(header)]
        for keyword in ("ImageLaterality", "IssuerOfPatientID"):
            if header.get(keyword):
                setattr(made, keyword, header.get(keyword))
        if "ImageLaterality" not in made:  # type 2C, never both (PS3.3 C.7.3.1)
            made.Laterality = header.get("Laterality")
    return made


def source_of(header: Dataset) -> Dataset:
    """Return an item of SourceImageSequence that names a file (PS3.3 C.7.6.1.1.4, purpose of PS3.16 CID 7202)."""
    from highdicom.sr import CodedConcept
    from pydicom import Dataset
    from pydicom.sr.codedict import codes

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)]
    return item


def orientation_of(header: Dataset, flip: Sequence[bool]) -> list[str]:
    """Return the PatientOrientation of a film whose rows and columns reading may have reversed, [] if not stated."""
    words = [str(word) for word in header.get("PatientOrientation") or []]
    if len(words) != 2 or not all(words):
        return []
    rows, columns = flip  # reversed rows turn what runs down; reversed columns what runs right
    return [_reversed(word) if reverse else word for word, reverse in zip(words, (columns, rows), strict=True)]


def orientation_of_plane(affine: NDArray[np.float64]) -> list[str]:
    """Return the PatientOrientation of a slice: the patient axes its columns and rows run along, nearest first."""
    return [_letters(affine[:3, axis]) for axis in (2, 1)]


def _letters(direction: NDArray[np.float64]) -> str:
    """Return the axes of a direction, the largest part first, those below a tenth left out (PS3.3 C.7.6.1.1.1)."""
    unit = direction / np.linalg.norm(direction)
    order = np.argsort(-np.abs(unit))
    return "".join("LPH"[axis] if unit[axis] > 0 else "RAF"[axis] for axis in order if abs(unit[axis]) > 0.1)


def _reversed(word: str) -> str:
    return "".join(_OPPOSITE.get(letter, letter) for letter in word)
