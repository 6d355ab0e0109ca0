"""The bad and odd single objects B001 to B064 (shared reference `bad-inputs.md`), each with what a reader owes for it.

A case builds the bytes of one object. `truth` is the right display image (0 black, 1 white) where there is one;
`code` the refusal, or the warning that must come with the image. Variants of a case carry a letter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import bent
import imagecodecs
import kit
import numpy as np
from kit import PHANTOM, film
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

READ, CONVERT, WARN, SKIP, REFUSE, QUARANTINE = "READ", "CONVERT", "WARN", "SKIP", "REFUSE", "QUARANTINE"
CHEST = {"accept": {"modalities": ["CR", "DX"], "views": ["PA", "AP"], "body_parts": ["CHEST"], "min_side": 32}}


@dataclass(frozen=True)
class Case:
    """One input: how to build it, what to do with it, and how to know that it was done."""

    id: str
    what: str
    action: str
    build: Callable[[], bytes]
    code: str = ""
    truth: Callable[[], NDArray] | None = None
    policy: dict[str, Any] = field(default_factory=dict)
    within: float = 1e-4


def bend(*stored: NDArray, **elements: Any) -> Callable[[], bytes]:
    """The builder of an uncompressed film with these elements bent."""
    return partial(film, *stored, **elements)


def show(id: str, what: str, action: str, build: Callable[[], bytes], *, code: str = "", **rest: Any) -> Case:  # noqa: A002
    """A case that gives an image; `code` is the warning that comes with it."""
    return Case(id, what, action, build, code, **{"truth": bent.shown, **rest})


def refuse(id: str, what: str, code: str, build: Callable[[], bytes], action: str = REFUSE, **rest: Any) -> Case:  # noqa: A002
    """A case that gives a refusal with this code."""
    return Case(id, what, action, build, code, **rest)


CASES: tuple[Case, ...] = (
    show("B001", "MONOCHROME1", CONVERT, bend(PhotometricInterpretation="MONOCHROME1"), truth=bent.negative),
    show("B002", "PresentationLUTShape INVERSE", CONVERT, bend(PresentationLUTShape="INVERSE"), truth=bent.negative),
    show(
        "B002b",
        "MONOCHROME1 and INVERSE mean one inversion",
        CONVERT,
        bend(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE"),
        truth=bent.negative,
    ),
    show(
        "B003",
        "MONOCHROME1 with slope 2, intercept -1024",
        CONVERT,
        bend(PhotometricInterpretation="MONOCHROME1", RescaleSlope=2, RescaleIntercept=-1024),
        truth=bent.negative,
    ),
    show("B004", "slope -1", CONVERT, bend(RescaleSlope=-1, RescaleIntercept=4095), truth=bent.negative),
    show("B005", "modality LUT", CONVERT, bend(ModalityLUTSequence=kit.lookup(bent.curve())), truth=bent.curved),
    refuse(
        "B005b",
        "modality LUT shorter than its descriptor says",
        "E-LUT",
        bend(ModalityLUTSequence=kit.lookup(bent.curve()[:100], count=4096)),
    ),
    show(
        "B006",
        "two windows, the second asked for",
        CONVERT,
        lambda: bent.window([1000, 2000], [500, 1001]),
        code="W-WINDOW",
        truth=bent.windowed(2000, 1001),
        policy={"voi": "window", "window_index": 1},
    ),
    show(
        "B006b",
        "VOI LUT",
        CONVERT,
        bend(VOILUTSequence=kit.lookup(bent.curve())),
        truth=bent.curved,
        policy={"voi": "lut"},
    ),
    show("B006c", "a window, but voi: none", CONVERT, lambda: bent.window(1000, 500), policy={"voi": "none"}),
    refuse("B006d", "voi: window and no window", "E-TAG", film, policy={"voi": "window"}),
    show("B007", "overlay packed in bit 15", CONVERT, bent.overlay, code="W-OVERLAY"),
    refuse("B008", "values above BitsStored", "E-BITS", bend(PHANTOM * 15)),
    show("B009", "HighBit 15 with BitsStored 12", CONVERT, bend(PHANTOM << 4, HighBit=15), code="W-BITS"),
    refuse("B009b", "HighBit 15, but the values are right-aligned", "E-BITS", bend(HighBit=15)),
    refuse("B010", "BitsAllocated 8 < BitsStored 12", "E-BITS", bend((PHANTOM >> 4).astype(np.uint8))),
    refuse("B011", "unsigned flagged signed", "E-SIGN", bend(bent.WRAPPED, bits=16)),
    show(
        "B012",
        "padding 65535, 16 bits",
        CONVERT,
        bend(bent.bordered(65535), bits=16, PixelPaddingValue=65535),
        truth=bent.bordered_truth(65535),
    ),
    show(
        "B012b",
        "padding above BitsStored",
        CONVERT,
        bend(bent.bordered(65535), PixelPaddingValue=65535),
        truth=bent.bordered_truth(4095),
    ),
    show(
        "B013",
        "32 bits",
        CONVERT,
        bend(PHANTOM.astype(np.uint32) * 128, bits=32),
        truth=lambda: PHANTOM * 128.0 / (2**19 - 1),
        policy={"bits": 19},
    ),
    show("B014", "Float Pixel Data", CONVERT, bent.float_film, code="W-RANGE", truth=lambda: PHANTOM / PHANTOM.max()),
    refuse("B015", "RGB", "E-COLOUR", lambda: bent.colour("RGB", bent.rgb())),
    show(
        "B015b",
        "RGB, luminance",
        CONVERT,
        lambda: bent.colour("RGB", bent.rgb()),
        policy={"allow_rgb": "luminance"},
        within=0.005,
    ),
    refuse("B016", "PALETTE COLOR", "E-COLOUR", bent.palette),
    show("B016b", "palette, luminance", CONVERT, bent.palette, policy={"allow_rgb": "luminance"}, within=0.005),
    refuse("B017", "YBR_FULL_422", "E-COLOUR", bent.full_422),
    show("B017b", "YBR_FULL_422, luminance", CONVERT, bent.full_422, policy={"allow_rgb": "luminance"}, within=0.005),
    show(
        "B018",
        "JPEG Extended 12-bit lossy",
        WARN,
        lambda: kit.compressed(
            [kit.jpeg12()], "1.2.840.10008.1.2.4.51", LossyImageCompression="01", LossyImageCompressionRatio=10
        ),
        code="W-LOSSY",
        within=0.02,
    ),
    show("B019", "JPEG 2000 codestream unsigned, header signed", CONVERT, bent.unsigned_codestream, code="W-SIGN"),
    show(
        "B019b",
        "JPEG 2000 codestream signed, header unsigned",
        CONVERT,
        lambda: kit.compressed(
            [kit.jpeg2000(PHANTOM.astype(np.int16))], kit.J2K, bits=16, WindowCenter=2048, WindowWidth=4096
        ),
        code="W-SIGN",
    ),
    refuse(
        "B020",
        "transfer syntax nobody decodes",
        "E-CODEC",
        lambda: kit.compressed([b"\x00\x00"], "1.2.840.10008.1.2.4.94"),
    ),
    show("B021", "RLE", READ, kit.run_length),
    show("B022", "big endian", READ, bend(syntax=ExplicitVRBigEndian)),
    show("B023", "deflated", READ, bend(syntax="1.2.840.10008.1.2.1.99")),
    refuse("B024", "no preamble, no meta", "E-NOTDICOM", bent.no_preamble),
    show("B024b", "no preamble, forced", READ, bent.no_preamble, code="W-PREAMBLE", policy={"force": True}),
    show(
        "B025",
        "meta lies: implicit declared, explicit found",
        WARN,
        lambda: bent.lying(ImplicitVRLittleEndian),
        code="W-TSYNTAX",
    ),
    show(
        "B025b",
        "meta lies: JPEG declared, no fragments",
        WARN,
        lambda: bent.lying("1.2.840.10008.1.2.4.70"),
        code="W-TSYNTAX",
    ),
    refuse("B026", "pixel data truncated", "E-TRUNC", lambda: film()[:-3072]),
    refuse("B026b", "short pixel element", "E-TRUNC", bend(PixelData=PHANTOM.tobytes()[:3072])),
    show(
        "B027", "extra bytes in the pixel element", WARN, bend(PixelData=PHANTOM.tobytes() + bytes(64)), code="W-EXTRA"
    ),
    refuse("B028", "pixel data of length 0", "E-NOPIXELS", bend(PixelData=b"")),
    refuse("B029", "no pixel data", "E-NOPIXELS", lambda: kit.write(kit.dataset())),
    refuse(
        "B030",
        "structured report",
        "I-SKIP",
        lambda: bent.without_pixels("1.2.840.10008.5.1.4.1.1.88.33", "SR"),
        action=SKIP,
    ),
    refuse(
        "B030b",
        "RT structure set",
        "I-SKIP",
        lambda: bent.without_pixels("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"),
        action=SKIP,
    ),
    refuse("B031", "DICOMDIR", "I-SKIP", lambda: bent.without_pixels("1.2.840.10008.1.3.10", "OT"), action=SKIP),
    refuse("B032", "Rows missing", "E-TAG", bend(Rows=None)),
    refuse("B033", "PhotometricInterpretation missing", "E-TAG", bend(PhotometricInterpretation=None)),
    refuse("B034", "BitsStored missing", "E-TAG", bend(BitsStored=None)),
    refuse("B034b", "PixelRepresentation missing", "E-TAG", bend(PixelRepresentation=None)),
    refuse("B035", "JPEG renamed", "E-NOTDICOM", lambda: imagecodecs.jpeg8_encode((PHANTOM >> 4).astype(np.uint8))),
    refuse("B036", "0 bytes", "E-EMPTY", lambda: b""),
    refuse("B037", "HTML page", "E-NOTDICOM", lambda: b"<html><body>Please log in</body></html>" * 20),
    refuse("B038", "random bytes", "E-NOTDICOM", lambda: bent.NOISE),
    refuse("B039", "3 frames", "E-FRAMES", bend(np.stack([PHANTOM] * 3), NumberOfFrames=3)),
    refuse("B040", "NumberOfFrames larger than the data", "E-TRUNC", bend(NumberOfFrames=5)),
    show("B041", "NumberOfFrames 0", WARN, bend(NumberOfFrames=0), code="W-FRAMES"),
    refuse("B042", "burned-in annotation", "Q-PHI", bend(BurnedInAnnotation="YES"), action=QUARANTINE),
    refuse("B043", "CT for a chest film model", "E-ACCEPT", bend(Modality="CT"), policy=CHEST),
    refuse("B044", "lateral view", "E-ACCEPT", bend(ViewPosition="LL"), policy=CHEST),
    show("B044b", "view missing, taken", READ, bend(ViewPosition=None), policy=CHEST),
    refuse("B045", "hand", "E-ACCEPT", bend(BodyPartExamined="HAND"), policy=CHEST),
    show("B045b", "a synonym of chest", READ, bend(BodyPartExamined="Thorax pa"), policy=CHEST),
    show("B046", "PatientOrientation R\\F", CONVERT, bend(PHANTOM[:, ::-1], PatientOrientation=["R", "F"])),
    refuse("B046b", "R\\F, refused", "E-ORIENT", bend(PatientOrientation=["R", "F"]), policy={"orientation": "refuse"}),
    refuse("B047", "all zero", "E-CONST", lambda: bent.flat(0)),
    refuse("B048", "saturated", "E-CONST", lambda: bent.flat(4095)),
    refuse("B049", "1x1", "E-SIZE", bend(PHANTOM[:1, :1]), policy={"accept": {"min_side": 256}}),
    refuse("B050", "65535x65535 in 6 KB", "E-SIZE", bend(Rows=65535, Columns=65535)),
    show(
        "B051",
        "only ImagerPixelSpacing",
        WARN,
        bend(PixelSpacing=None, ImagerPixelSpacing=[0.15, 0.15]),
        code="W-SPACING",
    ),
    show(
        "B052", "PixelSpacing 0.28\\0.14", CONVERT, bend(PHANTOM[::2], PixelSpacing=[0.28, 0.14]), truth=bent.stretched
    ),
    refuse(
        "B052b",
        "non-square, refused",
        "E-SPACING",
        bend(PixelSpacing=[0.28, 0.14]),
        policy={"accept": {"aspect": "refuse"}},
    ),
    show(
        "B053",
        "PixelAspectRatio 2:1",
        CONVERT,
        bend(PHANTOM[::2], PixelSpacing=None, PixelAspectRatio=[2, 1]),
        truth=bent.stretched,
    ),
    refuse("B054", "PixelSpacing with letters", "E-TAG", bend(PixelSpacing=b"0.14\\abcd ")),
    refuse("B055", "PixelSpacing 0\\0", "E-TAG", bend(PixelSpacing=b"0\\0 ")),
    refuse("B056", "PixelSpacing negative", "E-TAG", bend(PixelSpacing=[-0.14, -0.14])),
    refuse("B057", "RescaleSlope nan", "E-TAG", bend(RescaleSlope=b"nan ")),
    refuse("B058", "RescaleSlope 0", "E-TAG", bend(RescaleSlope=0)),
    refuse("B059", "RescaleSlope with a comma", "E-TAG", bend(RescaleSlope=b"2,0 ")),
    show("B060", "unknown SpecificCharacterSet", READ, bend(SpecificCharacterSet=b"ISO_IR 999")),
    refuse("B061", "IS '1A' in use", "E-TAG", bend(NumberOfFrames=b"1A")),
    show("B061b", "IS '1A' not in use", READ, bend(SeriesNumber=b"1A")),
    refuse("B062", "600 nested sequences", "E-DEPTH", lambda: kit.nested(600)),
    refuse("B062b", "600 nested sequences of known length", "E-DEPTH", lambda: kit.nested(600, known_length=True)),
    show("B062c", "20 nested sequences", READ, lambda: kit.nested(20)),
    refuse("B063", "12.5 MB of RLE that decode to 800 MB", "E-SIZE", lambda: kit.run_length_bomb(20000)),
    refuse("B064", "1.5 MB that inflate to 1.5 GB", "E-INFLATE", lambda: kit.deflate_bomb(1500)),
)
