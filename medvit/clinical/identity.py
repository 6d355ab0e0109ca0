"""Who made a result and under which names: algorithm, notice, series, and UIDs that follow from what went in.

The UIDs of an object are a hash of its input files, the bundle, medvit's version and the kind of object. A second run
over the same files gives the same names, so an archive gains no duplicate; other pixels, another bundle or another
setting give another name, so none keeps an old result under a new content (PS3.5 9, UIDs by hash under 2.25).
"""

from __future__ import annotations

import hashlib
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom.datadict import keyword_for_tag

from medvit.dicom.header import read_header
from medvit.errors import DicomRefusal

if TYPE_CHECKING:
    from pydicom import Dataset

NOTICE = "NOT FOR DIAGNOSTIC USE"
OWN = "99MEDVIT"  # coding scheme of this project: names starting with 99 are private (PS3.16 8.2)
KINDS = {  # number and description of the series of each kind
    "sr": (999, "AI report"),
    "sc": (998, "AI map over image"),
    "seg": (997, "AI map, hottest region"),
    "pm": (996, "AI map, values"),
    "pdf": (995, "AI summary page"),
}
_MAY_BE_EMPTY = (  # type 2 of the patient and study modules (PS3.3 C.7.1.1, C.7.2.1)
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "ReferringPhysicianName"),
)
_KEPT = (  # of group 0010, the patient; no address, history, weight or comment goes along
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "IssuerOfPatientID", "TypeOfPatientID"),
)
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_PATIENT = ("StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate")


@dataclass(frozen=True)
class Algorithm:
    """What said it: the model's name, its version, and the bundle's hash (12 digits are shown)."""

    name: str
    version: str
    bundle: str
    draft: bool = False


def derived_uid(*parts: str) -> str:
    """Return the UID that follows from some texts, always the same."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def identity(kind: str, algorithm: Algorithm, study: str, number: int, *inputs: str) -> dict[str, Any]:
    """Return series and instance of one result, as highdicom's constructors take them.

    study: StudyInstanceUID. inputs: what else the object follows from, such as the digest of its files and a finding.
    """
    place, description = KINDS[kind]
    model = (algorithm.bundle, algorithm.version, kind, study)
    return {
        "series_instance_uid": derived_uid("series", *model),
        "series_number": place,
        "sop_instance_uid": derived_uid("object", *model, *inputs),
        "instance_number": number,
        "series_description": f"{'DRAFT, ' if algorithm.draft else ''}{description}, {NOTICE}",
    }


def settled(made: Dataset) -> Dataset:
    """Make UIDs that highdicom draws at random follow from the object's own, and take a set that has all letters.

    highdicom keeps the source's character set, in which a finding's name may have no letters: "?" would be written.
    """
    made.SpecificCharacterSet = "ISO_IR 192"
    names: dict[str, str] = {}
    for element in made.iterall():
        if element.keyword == "DimensionOrganizationUID":
            old = str(element.value)
            names.setdefault(old, derived_uid("dimension", str(made.SOPInstanceUID), str(len(names))))
            element.value = names[old]
    return made


def headers_of(files: Sequence[Path | bytes]) -> list[Dataset]:
    """Return the headers of a unit's files, without pixels, with what results copy of the patient and no more.

    Raises:
        DicomRefusal: E-TAG, a file lacks an identifier that a result has to refer to, or what `read_header` says.
    """
    headers = [read_header(file) for file in files]
    missing = sorted({name for header in headers for name in _NEEDED if not header.get(name)})
    if missing:
        raise DicomRefusal("E-TAG", f"no {', '.join(missing)}", fix="a report cannot refer to this image")
    for header in headers:
        for tag in [tag for tag in header.keys() if tag.group == 0x0010 and keyword_for_tag(tag) not in _KEPT]:  # noqa: SIM118
            del header[tag]
        for keyword in _MAY_BE_EMPTY:
            if keyword not in header:
                setattr(header, keyword, "")
    refuse_several_patients(headers)
    return headers


def refuse_several_patients(headers: Sequence[Dataset]) -> None:
    """Raise E-ID where files of one study name different studies or patients: a result would carry the wrong one."""
    differ = [name for name in _PATIENT if len({str(header.get(name) or "") for header in headers}) > 1]
    if differ:
        raise DicomRefusal(
            "E-ID", f"files of one study differ in {', '.join(differ)}", fix="correct the files; no result is written"
        )


def digest_of(files: Sequence[Path | bytes]) -> str:
    """Return the SHA-256 of the bytes of some files, in any order."""
    each = sorted(hashlib.sha256(file if isinstance(file, bytes) else file.read_bytes()).hexdigest() for file in files)
    return hashlib.sha256("".join(each).encode()).hexdigest()


@contextmanager
def copying() -> Iterator[None]:
    """Refuse, without their values, headers that no object may copy; silence warnings, which would name them.

    Raises:
        DicomRefusal: E-TAG.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:  # what pydicom says of odd values
        if isinstance(error, DicomRefusal):
            raise
        raise DicomRefusal(
            "E-TAG", f"a header that no report may copy ({type(error).__name__})", fix="correct dates and names in it"
        ) from error
