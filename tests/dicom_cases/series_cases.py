"""Cases B065 to B105 of the bad-input table: id -> how to build the series, the action due, the code, the volumes.

Used by the tests and by `benchmarks/silent_errors`; both import it by name, with this folder on `sys.path`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from series_phantom import (
    AXIAL,
    CORONAL,
    COUNT,
    OBLIQUE,
    ROOT,
    SAGITTAL,
    Plane,
    always,
    dataset_of,
    directory,
    doubled,
    enhanced,
    localizer,
    mosaic,
    only,
    per_slice_rescale,
    philips,
    save,
    stack,
    tilted,
    uih_mosaic,
    with_replaced,
)


@dataclass(frozen=True)
class Case:
    """One row of the table: what it is, the files, the action due, the codes that count as it, and the volumes due.

    `action`: READ, CONVERT, SPLIT and SKIP give `volumes` correct volumes, WARN also a warning of `code`, REFUSE a
    refusal of `code`. `scales`: brightness of each volume against the world phantom.
    """

    title: str
    build: Callable[[], list[bytes]]
    action: str
    code: str = ""
    volumes: int = 1
    scales: tuple[float, ...] = field(default=(1.0,))


_SHUFFLE = (3, 7, 1, 6, 2, 8, 5, 4)
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)
_APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00" + b"Mac OS X        " + bytes(60)
_NOISE = np.random.default_rng(7).integers(0, 256, 4000, dtype=np.uint8).tobytes()
_OTHER = Plane(shape=(16, 24))
_TWO = (1.0, 0.5)

CASES: dict[str, Case] = {
    "B065": Case(
        "InstanceNumber runs against position",
        lambda: stack(change=lambda i: {"InstanceNumber": str(COUNT - i)}),
        "READ",
    ),
    "B066": Case(
        "InstanceNumber shuffled", lambda: stack(change=lambda i: {"InstanceNumber": str(_SHUFFLE[i])}), "READ"
    ),
    "B067": Case("InstanceNumber missing everywhere", lambda: stack(change=always(InstanceNumber=None)), "READ"),
    "B068": Case("InstanceNumber missing in one slice", lambda: stack(change=only(3, InstanceNumber=None)), "READ"),
    "B069": Case(
        "InstanceNumber all equal",
        lambda: stack(change=always(InstanceNumber="1"), indices=(5, 0, 3, 7, 1, 4, 2, 6)),
        "READ",
    ),
    "B070": Case("one slice missing", lambda: stack(indices=(0, 1, 2, 3, 5, 6, 7)), "REFUSE", "E-GAP"),
    "B071": Case(
        "last slice missing", lambda: stack(change=always(ImagesInAcquisition="8"), indices=range(7)), "WARN", "W-COUNT"
    ),
    "B072": Case(
        "two slices at one position",
        lambda: [*stack(), save(dataset_of(AXIAL, 4, SOPInstanceUID=f"{ROOT}.4.1", InstanceNumber="9"))],
        "REFUSE",
        "E-DUPPOS",
    ),
    "B073": Case("same SOP instance twice, equal bytes", lambda: [*stack(), stack()[2]], "SKIP"),
    "B073-differs": Case(
        "same SOP instance twice, other bytes",
        lambda: [*stack(), save(dataset_of(AXIAL, 2, EchoTime="31"))],
        "REFUSE",
        "E-DUPSOP",
    ),
    "B074": Case(
        "localizer mixed in",
        lambda: [localizer(1, SAGITTAL, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), *stack()],
        "SKIP",
    ),
    "B074-untold": Case(
        "localizer known by its orientation only",
        lambda: [*stack(), localizer(1, SAGITTAL), localizer(2, CORONAL)],
        "SKIP",
    ),
    "B075": Case(
        "two series in a folder",
        lambda: [
            *stack(),
            *stack(SAGITTAL, lambda i: {"SeriesInstanceUID": f"{ROOT}.22", "SOPInstanceUID": f"{ROOT}.4.{i}"}),
        ],
        "SPLIT",
        volumes=2,
        scales=(1.0, 1.0),
    ),
    "B076": Case(
        "two echoes in one series",
        lambda: doubled({"EchoTime": "30"}, {"EchoTime": "90"}),
        "SPLIT",
        volumes=2,
        scales=_TWO,
    ),
    "B077": Case(
        "two b-values interleaved",
        lambda: doubled({"DiffusionBValue": 0.0}, {"DiffusionBValue": 1000.0}),
        "SPLIT",
        volumes=2,
        scales=_TWO,
    ),
    "B078": Case(
        "magnitude and phase in one series",
        lambda: doubled({}, {"ImageType": ["ORIGINAL", "PRIMARY", "P", "NORM"]}),
        "SPLIT",
        volumes=2,
        scales=_TWO,
    ),
    "B079": Case(
        "time points, TemporalPositionIdentifier",
        lambda: doubled({"TemporalPositionIdentifier": "1"}, {"TemporalPositionIdentifier": "2"}),
        "SPLIT",
        volumes=2,
        scales=_TWO,
    ),
    "B079-time": Case(
        "time points, AcquisitionTime",
        lambda: doubled({"AcquisitionTime": "101500.00"}, {"AcquisitionTime": "101530.00"}),
        "SPLIT",
        volumes=2,
        scales=_TWO,
    ),
    "B080": Case("Siemens mosaic without its private header", lambda: [mosaic(header=False)], "REFUSE", "E-MOSAIC"),
    "B080-csa": Case("Siemens mosaic", lambda: [mosaic()], "CONVERT"),
    "B080-down": Case(
        "Siemens mosaic, tiles against the normal, oblique", lambda: [mosaic(OBLIQUE, downwards=True)], "CONVERT"
    ),
    "B080-uih": Case("United Imaging mosaic", lambda: [uih_mosaic()], "REFUSE", "E-MOSAIC"),
    "B081": Case(
        "one slice with another matrix",
        lambda: stack(change=lambda i: {"pixels": _OTHER.pixels(i)} if i == 4 else {}),
        "REFUSE",
        "E-SHAPE",
    ),
    "B082": Case(
        "one slice with other PixelSpacing",
        lambda: stack(change=only(4, PixelSpacing=["1.6", "1.25"])),
        "REFUSE",
        "E-SPACING",
    ),
    "B083": Case(
        "position missing in one slice", lambda: stack(change=only(4, ImagePositionPatient=None)), "REFUSE", "E-TAG"
    ),
    "B084": Case(
        "position missing everywhere", lambda: stack(change=always(ImagePositionPatient=None)), "REFUSE", "E-TAG"
    ),
    "B085": Case("orientation missing", lambda: stack(change=always(ImageOrientationPatient=None)), "REFUSE", "E-TAG"),
    "B086": Case(
        "position with two values", lambda: stack(change=only(4, ImagePositionPatient=["1", "2"])), "REFUSE", "E-TAG"
    ),
    "B087": Case(
        "orientation all zeros", lambda: stack(change=always(ImageOrientationPatient=["0"] * 6)), "REFUSE", "E-ORIENT"
    ),
    "B088": Case(
        "orientation row = column",
        lambda: stack(change=always(ImageOrientationPatient=["1", "0", "0"] * 2)),
        "REFUSE",
        "E-ORIENT",
    ),
    "B089": Case("oblique stack", lambda: stack(OBLIQUE), "READ"),
    "B090": Case("sagittal stack", lambda: stack(SAGITTAL), "READ"),
    "B091": Case("coronal stack", lambda: stack(CORONAL), "READ"),
    "B092": Case("positions not along the normal", tilted, "REFUSE", "E-TILT"),
    "B093": Case("RescaleSlope differs per slice", per_slice_rescale, "READ"),
    "B094": Case("Philips private scale slope", philips, "WARN", "W-PHILIPS"),
    "B095": Case("one slice truncated", lambda: with_replaced(4, lambda file: file[:-300]), "REFUSE", "E-TRUNC"),
    "B096": Case("one file unreadable", lambda: with_replaced(4, lambda _: _NOISE), "REFUSE", "E-NOTDICOM"),
    "B097": Case("Thumbs.db and ._ files", lambda: [_OLE, *stack(), _APPLE_DOUBLE], "SKIP"),
    "B098": Case("DICOMDIR in the folder", lambda: [directory(), *stack()], "SKIP"),
    "B099": Case(
        "one slice MONOCHROME1",
        lambda: stack(change=only(4, PhotometricInterpretation="MONOCHROME1")),
        "REFUSE",
        "E-MIXED",
    ),
    "B100": Case(
        "two patients in one series",
        lambda: stack(change=lambda i: {"PatientID": "OTHER"} if i > 3 else {}),
        "REFUSE",
        "E-PATIENT",
    ),
    "B101": Case(
        "two frames of reference",
        lambda: stack(change=lambda i: {"FrameOfReferenceUID": f"{ROOT}.33"} if i > 3 else {}),
        "REFUSE",
        "E-FOR",
    ),
    "B102": Case(
        "SpacingBetweenSlices -4, SliceThickness 2",
        lambda: stack(change=always(SpacingBetweenSlices="-4", SliceThickness="2")),
        "READ",
    ),
    "B103": Case("one slice where 3-D is expected", lambda: stack(indices=(0,)), "REFUSE", "E-SHAPE"),
    "B104": Case("empty folder", list, "REFUSE", "E-EMPTY"),
    "B105": Case("enhanced multi-frame, frames top-down", lambda: [enhanced(order=range(COUNT)[::-1])], "READ"),
    "B105-scaled": Case(
        "enhanced multi-frame, frames top-down, another slope in each",
        lambda: [enhanced(order=range(COUNT)[::-1], rescale=lambda i: (0.25 + 0.0625 * i, -4.0))],
        "READ",
    ),
}
