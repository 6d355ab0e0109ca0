"""The facts of a header that a model or a reviewer needs, in one vocabulary whatever the vendor wrote."""

from __future__ import annotations

import re
from typing import Final

import pydicom
from pydicom.uid import UID

from medvit.dicom import tags
from medvit.dicom.mr_sequence import sequence
from medvit.dicom.pixel_description import frame_count
from medvit.types import Facts

# what vendors write in BodyPartExamined and, if that is empty, in the code meanings -> CID 4031 style names
_BODY_PARTS: Final = {
    "CHEST": (
        "CHEST",
        "THORAX",
        "TORAX",
        "LUNG",
        "LUNGS",
        "CHESTPA",
        "CHESTAP",
        "CHESTLAT",
        "CXR",
        "PORTCHEST",
        "BRUST",
    ),
    "ABDOMEN": ("ABDOMEN", "ABD", "KUB", "ABDOM"),
    "HEAD": ("HEAD", "SKULL", "BRAIN", "CRANIUM", "SCHAEDEL", "KOPF"),
    "CSPINE": ("CSPINE", "CERVICALSPINE", "HWS"),
    "TSPINE": ("TSPINE", "THORACICSPINE", "DORSALSPINE", "BWS"),
    "LSPINE": ("LSPINE", "LUMBARSPINE", "LWS", "LSSPINE"),
    "PELVIS": ("PELVIS", "BECKEN"),
    "HIP": ("HIP", "HIPS"),
    "KNEE": ("KNEE", "KNIE"),
    "ANKLE": ("ANKLE",),
    "FOOT": ("FOOT", "FUSS"),
    "HAND": ("HAND", "HANDS"),
    "WRIST": ("WRIST",),
    "ELBOW": ("ELBOW",),
    "SHOULDER": ("SHOULDER", "SCHULTER"),
    "BREAST": ("BREAST", "MAMMA"),
    "EXTREMITY": ("EXTREMITY", "ARM", "LEG"),
}
_PART_OF: Final = {word: part for part, words in _BODY_PARTS.items() for word in words}
_VIEWS: Final = {
    "PA": ("PA", "POSTEROANTERIOR", "POSTERIORANTERIOR"),
    "AP": ("AP", "ANTEROPOSTERIOR", "ANTERIORPOSTERIOR", "APSUPINE", "APPORTABLE", "APAXIAL"),
    "LL": ("LL", "LLAT", "LLATERAL", "LEFTLATERAL"),
    "RL": ("RL", "RLAT", "RLATERAL", "RIGHTLATERAL"),
    "LATERAL": ("LATERAL", "LAT", "LATERO"),
    "CC": ("CC", "CRANIOCAUDAL"),
    "MLO": ("MLO", "MEDIOLATERALOBLIQUE"),
}
_VIEW_OF: Final = {word: view for view, words in _VIEWS.items() for word in words}
NAMED: Final = frozenset({"", *_BODY_PARTS, *_VIEWS})  # every other body part or view is a free text, perhaps a name
_LOSSY: Final = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in ("50", "51", "53", "55", "81", "91", "112", "203"))


def body_part(text: str) -> str:
    """Return the body part in one spelling (CHEST for "Thorax", "CHEST PA", "CHEST_PORT"); unknown words unchanged."""
    compact = _compact(text)
    if compact in _PART_OF:
        return _PART_OF[compact]
    for one in re.split(r"[^A-Za-z]+", text.upper()):
        if one in _PART_OF:
            return _PART_OF[one]
    return compact


def view(text: str) -> str:
    """Return the view position in one spelling (PA, AP, LL, RL, LATERAL, CC, MLO); unknown words unchanged."""
    return _VIEW_OF.get(_compact(text), _compact(text))


def age_years(text: str) -> float | None:
    """Return an AS value ("045Y", "018M", "003W", "010D") in years, None if missing, malformed or not in 0 to 120.

    "000Y" is a placeholder more often than a newborn, so it is None too; newborns are written in days to months.
    """
    match = re.fullmatch(r"(\d{1,3})([DWMY])", text.strip().upper())
    if not match or (match[2] == "Y" and int(match[1]) == 0):
        return None
    years = int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}[match[2]]
    return round(years, 3) if years <= 120 else None


def spacing(dataset: pydicom.Dataset) -> tuple[tuple[float, float] | None, str]:
    """Return ((row, column) in mm, kind): PixelSpacing, else ImagerPixelSpacing (detector plane), else (None, "none").

    Raises `E-TAG` when the element that is used does not hold two positive numbers.
    """
    for kind in ("PixelSpacing", "ImagerPixelSpacing"):
        found = tags.decimals(dataset, kind, 2)
        if found:
            if min(found) <= 0:
                raise tags.refuse(kind, f"is {found[0]:g}\\{found[1]:g}", allowed="> 0 mm", fix="correct the element")
            return (found[0], found[1]), kind
    return None, "none"


def aspect_ratio(dataset: pydicom.Dataset, spacing_mm: tuple[float, float] | None) -> float:
    """Return row spacing / column spacing: from the spacing, else PixelAspectRatio (PS3.3 C.7.6.3.1.7), else 1."""
    if spacing_mm is not None:
        return spacing_mm[0] / spacing_mm[1]
    found = tags.decimals(dataset, "PixelAspectRatio", 2)
    if not found:
        return 1.0
    if min(found) <= 0:
        raise tags.refuse(
            "PixelAspectRatio", f"is {found[0]:g}\\{found[1]:g}", allowed="> 0", fix="correct the element"
        )
    return found[0] / found[1]


def read_facts(dataset: pydicom.Dataset) -> Facts:
    """Return the facts of a data set; no name, identifier or date is read.

    Raises `E-TAG` for spacing, Rows, Columns or NumberOfFrames that are there and wrong. Missing ones are 0 or none.
    """
    syntax = tags.text_value(dataset.file_meta, "TransferSyntaxUID")
    spacing_mm, kind = spacing(dataset)
    return Facts(
        modality=tags.text_value(dataset, "Modality").upper(),
        sop_class=_class_name(tags.text_value(dataset, "SOPClassUID")),
        view=view(tags.text_value(dataset, "ViewPosition")),
        laterality=_laterality(dataset),
        body_part=body_part(tags.text_value(dataset, "BodyPartExamined")),
        manufacturer=tags.text_value(dataset, "Manufacturer"),
        model_name=tags.text_value(dataset, "ManufacturerModelName"),
        age_years=age_years(tags.text_value(dataset, "PatientAge")),
        sex={"M": "M", "F": "F", "O": "O"}.get(tags.text_value(dataset, "PatientSex").upper()[:1], ""),
        rows=tags.integer16(dataset, "Rows", 0),
        columns=tags.integer16(dataset, "Columns", 0),
        frames=frame_count(dataset),
        spacing_mm=spacing_mm,
        spacing_kind=kind,
        photometric=tags.text_value(dataset, "PhotometricInterpretation"),
        transfer_syntax=syntax,
        lossy=tags.text_value(dataset, "LossyImageCompression") == "01" or syntax in _LOSSY,
        burned_in={"YES": "yes", "NO": "no"}.get(tags.text_value(dataset, "BurnedInAnnotation").upper(), "unknown"),
        sequence=sequence(dataset),
    )


def _laterality(dataset: pydicom.Dataset) -> str:
    found = tags.text_value(dataset, "ImageLaterality") or tags.text_value(dataset, "Laterality")
    return {"L": "L", "R": "R", "B": "B"}.get(found.upper()[:1], "")


def _class_name(uid: str) -> str:
    name = UID(uid).name
    return name if name != uid else ("private" if uid else "")


def _compact(text: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", text.upper())
