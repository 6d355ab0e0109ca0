"""What a model says of one image as a DICOM structured report, for a PACS: TID 1500 with one group per finding.

Root template TID 1500 (Measurement Report), groups TID 1501, algorithm TID 4019 (DICOM PS3.16); Comprehensive 3D SR
(PS3.3 A.35.13), partial and unverified. The report goes back into the patient's study, so it copies the patient and
study of its source: keep it where the source may be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medvit.dicom.header import read_header
from medvit.errors import DicomRefusal

if TYPE_CHECKING:
    from highdicom import sr
    from pydicom import Dataset

NOTICE = "NOT FOR DIAGNOSTIC USE"
_OWN = "99MEDVIT"  # coding scheme of this project: names starting with 99 are private (PS3.16 8.2)
_SAID = {"present": ("52101004", "SCT", "Present"), "absent": ("2667000", "SCT", "Absent")}  # PS3.16 CID 240
_MAY_BE_EMPTY = (  # type 2 of the patient and study modules (PS3.3 C.7.1.1, C.7.2.1)
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "ReferringPhysicianName"),
)
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


@dataclass(frozen=True)
class Finding:
    """One finding: its name and code, calibrated probability in [0, 1], threshold, and the decision ("" for none).

    `code` is (value, scheme, meaning), for example ("233604007", "SCT", "Pneumonia"); None gives a private code.
    """

    name: str
    probability: float
    threshold: float | None = None
    decision: str = ""
    code: tuple[str, str, str] | None = None


@dataclass(frozen=True)
class Algorithm:
    """What said it: the model's name, its version, and the first 12 digits of the bundle's hash."""

    name: str
    version: str
    bundle: str
    draft: bool = False


def structured_report(source: Path | bytes, findings: Sequence[Finding], algorithm: Algorithm, file: Path) -> None:
    """Write the report on one image (its header is read again) as a DICOM file.

    Raises:
        DicomRefusal: E-TAG, the source lacks an identifier that a report has to refer to, or a report may not copy its
            patient or study part (a date that is none).
    """
    import highdicom
    from highdicom import sr

    header = read_header(source)
    missing = [name for name in _NEEDED if not header.get(name)]
    if missing:
        raise DicomRefusal("E-TAG", f"no {', '.join(missing)}", fix="a report cannot refer to this image")
    for keyword in _MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, "")
    content = _content(header, findings, algorithm)
    try:
        report = sr.Comprehensive3DSR(
            evidence=[header],
            content=content,
            series_instance_uid=highdicom.UID(),
            series_number=999,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="medvit",
            series_description=f"{'DRAFT, ' if algorithm.draft else ''}{NOTICE}",
        )
        report.save_as(file, enforce_file_format=True)
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:  # what pydicom says of odd values
        file.unlink(missing_ok=True)
        raise DicomRefusal(
            "E-TAG", f"a header that no report may copy ({type(error).__name__})", fix="correct dates and names in it"
        ) from error


def _content(header: Dataset, findings: Sequence[Finding], algorithm: Algorithm) -> sr.MeasurementReport:
    """Return the content tree: who observed, and one group per finding."""
    import highdicom
    from highdicom import sr
    from pydicom.sr.codedict import codes

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=highdicom.UID(), name=algorithm.name[:64], manufacturer_name="medvit", model_name=algorithm.name[:64]
    )
    context = sr.ObservationContext(
        observer_device_context=sr.ObserverContext(codes.DCM.Device, observer_identifying_attributes=device)
    )
    image = sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID)
    return sr.MeasurementReport(
        observation_context=context,
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=[_group(finding, algorithm, image) for finding in findings],
    )


def _group(finding: Finding, algorithm: Algorithm, image: object) -> object:
    """Return the TID 1501 group of one finding: probability, decision, threshold and the algorithm."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    code = sr.CodedConcept(*(finding.code or (_short(finding.name), _OWN, finding.name[:64])))
    parameters = [NOTICE, f"bundle={algorithm.bundle}"]
    parameters += [] if finding.threshold is None else [f"threshold={finding.threshold:.6g}"]
    said = sr.CodedConcept(*_SAID.get(finding.decision, ("82334004", "SCT", "Indeterminate")))
    probability = sr.Measurement(
        name=sr.CodedConcept("probability", _OWN, "Calibrated probability of the finding"),
        value=round(finding.probability, 6),
        unit=codes.UCUM.NoUnits,
    )
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(identifier=_short(finding.name)),
        finding_type=code,
        algorithm_id=sr.AlgorithmIdentification(algorithm.name[:64], algorithm.version, parameters),
        measurements=[probability],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(sr.CodedConcept("presence", _OWN, "Presence of finding"), said)
        ],
        source_images=[image],
    )


def _short(name: str) -> str:
    return "".join(letter for letter in name if letter.isalnum() or letter in "_-")[:16] or "finding"
