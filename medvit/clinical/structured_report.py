"""What a model says of one image or a study as a DICOM structured report: TID 1500, one group per image and finding.

Root template TID 1500 (Measurement Report), groups TID 1501, algorithm TID 4019 (DICOM PS3.16); Comprehensive 3D SR
(PS3.3 A.35.13), partial and unverified. The report goes back into the patient's study, so it copies the patient and
study of its source: keep it where the source may be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvit.clinical.identity import NOTICE, OWN, Algorithm, copying, derived_uid, refuse_several_patients, settled

if TYPE_CHECKING:
    from highdicom import sr
    from pydicom import Dataset

_SAID = {"present": ("52101004", "SCT", "Present"), "absent": ("2667000", "SCT", "Absent")}  # PS3.16 CID 240
_UCUM = {"years": "a", "months": "mo", "days": "d", "mm": "mm", "cm": "cm", "ml": "mL", "%": "%"}


@dataclass(frozen=True)
class Finding:
    """One finding: its name and code, calibrated probability in [0, 1], threshold, and the decision ("" for none).

    `code` is (value, scheme, meaning), for example ("233604007", "SCT", "Pneumonia"); None gives a private code.
    With a `unit`, "" for none known, `probability` is a quantity's value in that unit.
    """

    name: str
    probability: float
    threshold: float | None = None
    decision: str = ""
    code: tuple[str, str, str] | None = None
    unit: str | None = None


@dataclass(frozen=True)
class Judged:
    """The headers of one image, or of the files of one volume, with what the model says of it."""

    headers: Sequence[Dataset]
    findings: Sequence[Finding]


def structured_report(judged: Sequence[Judged], algorithm: Algorithm, names: dict[str, Any]) -> Dataset:
    """Return the report on the images of one study; `names` is what `medvit.clinical.identity.identity` returns.

    Raises:
        DicomRefusal: E-TAG, a report may not copy the patient or study part (a date that is none); E-ID, the images
            are of several patients.
    """
    from highdicom import sr

    evidence = [header for one in judged for header in one.headers]
    refuse_several_patients(evidence)
    with copying():
        report: Dataset = sr.Comprehensive3DSR(
            evidence=evidence, content=_content(judged, algorithm, names["sop_instance_uid"]), manufacturer="medvit",
            **names,
        )  # fmt: skip
        return settled(report)


def _content(judged: Sequence[Judged], algorithm: Algorithm, report: str) -> sr.MeasurementReport:
    """Return the content tree: who observed, and one group per image and finding."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=derived_uid("model", algorithm.bundle), name=algorithm.name[:64], manufacturer_name="medvit",
        model_name=algorithm.name[:64],
    )  # fmt: skip
    context = sr.ObservationContext(
        observer_device_context=sr.ObserverContext(codes.DCM.Device, observer_identifying_attributes=device)
    )
    groups: list[Any] = []
    for one in judged:
        images = [sr.SourceImageForMeasurementGroup(each.SOPClassUID, each.SOPInstanceUID) for each in one.headers]
        for finding in one.findings:
            uid = derived_uid("group", report, str(len(groups)))
            groups.append(_group(finding, algorithm, images, uid))
    return sr.MeasurementReport(
        observation_context=context, procedure_reported=codes.SCT.ImagingProcedure, imaging_measurements=groups
    )


def _group(finding: Finding, algorithm: Algorithm, images: Sequence[Any], uid: str) -> object:
    """Return the TID 1501 group of one finding: probability or quantity, decision, threshold and the algorithm."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    code = code_of(finding.name, finding.code)
    parameters = [NOTICE, f"bundle={algorithm.bundle[:12]}"]
    parameters += ["probability is calibrated on validation images"] if finding.unit is None else []
    parameters += [] if finding.threshold is None else [f"threshold={finding.threshold:.6g}"]
    if finding.unit is None:
        said = sr.CodedConcept(*_SAID.get(finding.decision, ("82334004", "SCT", "Indeterminate")))
        name, unit, stated = codes.DCM.Probability, codes.UCUM.NoUnits, [
            sr.QualitativeEvaluation(codes.DCM.PresenceOfProperty, said)
        ]  # fmt: skip
    else:
        name, unit, stated = code, _unit(finding.unit), []
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=uid, identifier=_short(finding.name)),
        finding_type=code,
        algorithm_id=sr.AlgorithmIdentification(algorithm.name[:64], algorithm.version, parameters),
        measurements=[sr.Measurement(name=name, value=round(finding.probability, 6), unit=unit)],
        qualitative_evaluations=stated or None,
        source_images=images,
    )


def code_of(name: str, code: Sequence[str] | None) -> Any:
    """Return the code of a finding as a concept, a private one where it has none."""
    from highdicom import sr

    return sr.CodedConcept(*(code or (_short(name), OWN, name[:64])))


def _unit(unit: str) -> Any:
    """Return a unit as UCUM has it, or under its own name; PS3.16 wants a code even for what has no unit."""
    from highdicom import sr

    if not unit:
        return sr.CodedConcept("1", "UCUM", "no units")
    known = _UCUM.get(unit.lower())
    return sr.CodedConcept(known, "UCUM", unit) if known else sr.CodedConcept(_short(unit), OWN, unit[:64])


def _short(name: str) -> str:
    return "".join(letter for letter in name if letter.isalnum() or letter in "_-")[:16] or "finding"
