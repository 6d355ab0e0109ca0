"""One page for the reader of a study: what the model says of each image, as a PDF inside DICOM (PS3.3 A.45.1)."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvit.clinical.identity import NOTICE, Algorithm, copying

if TYPE_CHECKING:
    from pydicom import Dataset

MOST_ROWS, MOST_PICTURES = 26, 2
_HEAD = ("image", "finding", "value", "threshold", "decision")
_COPIED = (  # patient and study, as highdicom copies them for the other results
    *("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID"),
    *("StudyID", "AccessionNumber", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)


@dataclass(frozen=True)
class Page:
    """What stands on the page: table rows (image, finding, value, threshold, decision), warnings and pictures.

    The patient is named by the DICOM header alone, so a page that is printed names nobody.
    """

    rows: Sequence[Sequence[str]]
    warnings: Sequence[str]
    pictures: Sequence[NDArray[np.uint8]] = ()


def pdf(page: Page, algorithm: Algorithm) -> bytes:
    """Return the page (A4) as PDF, the same bytes for the same content; what does not fit is counted on it."""
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    figure = Figure(figsize=(8.27, 11.69))
    FigureCanvasPdf(figure)
    title = f"{'DRAFT: ' if algorithm.draft else ''}AI result of {algorithm.name}"
    figure.text(0.07, 0.955, title[:70], size=15, weight="bold", parse_math=False)
    figure.text(0.07, 0.932, f"{NOTICE}. Research only.", size=12, color="darkred", weight="bold")
    told = f"medvit {algorithm.version}, bundle {algorithm.bundle[:12]}. Patient and study: see the DICOM header."
    figure.text(0.07, 0.913, told, size=9)
    shown = page.rows[:MOST_ROWS]
    height = 0.0185 * (len(shown) + 1)
    area = figure.add_axes((0.07, 0.895 - height, 0.86, height))
    area.axis("off")
    widths = (0.3, 0.34, 0.12, 0.12, 0.12)
    table = area.table([[*map(_short, row)] for row in shown], colLabels=_HEAD, colWidths=widths, cellLoc="left",
                       bbox=Bbox.unit())  # fmt: skip
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    for cell in table.get_celld().values():
        cell.get_text().set_parse_math(False)
    top = 0.88 - height
    notes = [f"{len(page.rows) - MOST_ROWS} more rows stand in the structured report."] * (len(page.rows) > MOST_ROWS)
    for line in [*notes, *page.warnings][:6]:
        figure.text(0.07, top, line[:115], size=8, parse_math=False)
        top -= 0.015
    pictures = page.pictures[:MOST_PICTURES]
    room = (top - 0.04) / max(1, len(pictures))
    for number, picture in enumerate(pictures):
        panel = figure.add_axes((0.07, top - room * (number + 1), 0.86, room * 0.97))
        panel.imshow(picture)
        panel.axis("off")
    held = io.BytesIO()
    figure.savefig(held, format="pdf", dpi=150, metadata={"CreationDate": None, "Creator": "medvit", "Producer": None})
    return held.getvalue()


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


def encapsulated(headers: Sequence[Dataset], content: bytes, names: dict[str, Any], model: str) -> Dataset:
    """Return a PDF as a DICOM object in the study of its sources.

    Raises:
        DicomRefusal: E-TAG, a header that no object may copy.
    """
    from highdicom.sr import CodedConcept
    from pydicom import FileDataset, FileMetaDataset
    from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, EncapsulatedPDFStorage, ExplicitVRLittleEndian

    with copying():
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
            EncapsulatedPDFStorage,
            names["sop_instance_uid"],
        )
        meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, PYDICOM_IMPLEMENTATION_UID
        made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        made.SpecificCharacterSet = "ISO_IR 192"
        for keyword in _COPIED:
            if keyword in headers[0]:
                setattr(made, keyword, headers[0].get(keyword))
        made.SOPClassUID, made.SOPInstanceUID = EncapsulatedPDFStorage, names["sop_instance_uid"]
        made.SeriesInstanceUID, made.SeriesNumber = names["series_instance_uid"], names["series_number"]
        made.InstanceNumber, made.SeriesDescription = names["instance_number"], names["series_description"]
        made.Modality, made.ConversionType, made.Manufacturer = "DOC", "WSD", "medvit"
        made.ManufacturerModelName = model[:64]
        now = dt.datetime.now()  # noqa: DTZ005 (DICOM times are local)
        made.ContentDate, made.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
        made.InstanceCreationDate, made.InstanceCreationTime = made.ContentDate, made.ContentTime
        made.AcquisitionDateTime = None
        made.BurnedInAnnotation, made.VerificationFlag = "NO", "UNVERIFIED"  # the page names nobody
        made.DocumentTitle = f"AI summary page, {NOTICE}"
        made.ConceptNameCodeSequence = [CodedConcept("18748-4", "LN", "Diagnostic imaging study")]
        made.SourceInstanceSequence = [_reference(header) for header in headers]
        made.MIMETypeOfEncapsulatedDocument = "application/pdf"
        made.EncapsulatedDocumentLength = len(content)
        made.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    return made


def _reference(header: Dataset) -> Dataset:
    from medvit.clinical.secondary_capture import source_of

    item = source_of(header)
    del item.PurposeOfReferenceCodeSequence
    return item
