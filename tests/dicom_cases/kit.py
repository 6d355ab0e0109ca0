"""Building blocks of the bad-input cases: a small asymmetric film as the bytes of a DICOM object."""

from __future__ import annotations

import io
import struct
import zlib

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

J2K, RLE = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
ROWS, COLUMNS = 64, 48


def phantom() -> NDArray[np.uint16]:
    """A ramp with a bright letter-like mark in one corner: no flip, turn or inversion leaves it as it is. 0 to 4095."""
    row, column = np.mgrid[0:ROWS, 0:COLUMNS]
    image = row * 40 + column * 20
    image[6:12, 6:30] = 4095
    image[6:40, 6:12] = 4095
    image[50:, 40:] = 0
    return image.astype(np.uint16)


PHANTOM = phantom()
SHOWN = PHANTOM / 4095.0


def dataset(stored: NDArray = PHANTOM, *, bits: int = 12, **elements: object) -> Dataset:
    """A valid DX data set without pixel data; `elements` are set by keyword, None takes one away."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = DX, "1.2.826.0.1.3680043.10.1.1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.826.0.1.3680043.10.1.2", "1.2.826.0.1.3680043.10.1.3"
    ds.PatientName, ds.PatientID, ds.StudyDate = "CANARY^NAME", "CANARY-ID", "20010203"
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition, ds.Manufacturer = "DX", "CHEST", "PA", "Kit"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape[-2:] if stored.shape[-1] != 3 else stored.shape[-3:-1]
    ds.PixelSpacing = [0.14, 0.14]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = stored.dtype.itemsize * 8, bits, bits - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        elif isinstance(value, bytes) and keyword != "PixelData" and dictionary_VR(keyword) in {"DS", "IS", "CS"}:
            tag = Tag(tag_for_keyword(keyword))  # raw: a value that pydicom would not write
            ds[tag] = RawDataElement(
                tag, dictionary_VR(keyword), len(value), value, 0, is_implicit_VR=False, is_little_endian=True
            )
        else:
            setattr(ds, keyword, value)
    return ds


def write(ds: Dataset, syntax: str = ExplicitVRLittleEndian, *, declared: str | None = None) -> bytes:
    """The object as a Part 10 file; `declared` lets the file meta information lie about the syntax."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", DX)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2.3")
    buffer = io.BytesIO()
    ds.save_as(
        buffer,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=True,
    )
    data = buffer.getvalue()
    return data.replace(_uid(syntax), _uid(declared), 1) if declared else data


def _uid(text: str) -> bytes:
    padded = text.encode() + b"\0" * (len(text) % 2)
    return b"\x02\0\x10\0UI" + struct.pack("<H", len(padded)) + padded


def film(
    stored: NDArray = PHANTOM, *, bits: int = 12, syntax: str = ExplicitVRLittleEndian, **elements: object
) -> bytes:
    """An uncompressed film holding `stored`."""
    pixels = elements.pop("PixelData", None)
    ds = dataset(stored, bits=bits, **elements)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    ds.PixelData = stored.astype(stored.dtype.newbyteorder(order)).tobytes() if pixels is None else pixels
    ds["PixelData"].VR = "OW"
    return write(ds, syntax)


def compressed(
    frames: list[bytes], syntax: str, stored: NDArray = PHANTOM, *, bits: int = 12, **elements: object
) -> bytes:
    """A film whose frames are compressed already."""
    ds = dataset(stored, bits=bits, **elements)
    ds.PixelData = encapsulate(frames)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    known = UID(syntax).is_transfer_syntax  # pydicom does not write syntaxes younger than itself
    return write(ds, syntax) if known else write(ds, J2K, declared=syntax)


def lookup(entries: NDArray, *, first: int = 0, bits: int = 16, count: int | None = None) -> list[Dataset]:
    """A LUT sequence; `count` lets the descriptor lie."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [(count or len(entries)) % 65536, first, bits])
    item.ModalityLUTType = "US"
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return [item]


def nested(depth: int, *, known_length: bool = False) -> bytes:
    """A film with `depth` nested sequences of undefined (or known) length before its pixels."""
    body = b""
    for _ in range(depth):
        head = b"\x08\0\x40\x11SQ\0\0"  # (0008,1140)
        if known_length:
            item = b"\xfe\xff\0\xe0" + struct.pack("<I", len(body)) + body
            body = head + struct.pack("<I", len(item)) + item
        else:
            body = (
                head
                + b"\xff" * 4
                + b"\xfe\xff\0\xe0"
                + b"\xff" * 4
                + body
                + b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
            )
    data = film()
    at = data.index(b"\x10\0\x10\0PN")  # the patient's name follows group 0008
    return data[:at] + body + data[at:]


def deflate_bomb(megabytes: int, noise: int = 0) -> bytes:
    """A deflated film with `megabytes` of zeros behind its pixels: one compressed megabyte, repeated.

    `noise` bytes of each megabyte do not compress, so that the ratio stays harmless.
    """
    plain = film(syntax=ExplicitVRLittleEndian)
    start = plain.index(b"\x08\0\x16\0UI")
    meta = plain[:start].replace(_uid(ExplicitVRLittleEndian), _uid("1.2.840.10008.1.2.1.99"), 1)
    size = 12 + struct.unpack_from("<I", meta, 140)[0] + 4
    meta = meta[:140] + struct.pack("<I", size - 12) + meta[144:]
    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = machine.compress(plain[start:] + b"\xfc\xff\xfc\xffOB\0\0" + struct.pack("<I", megabytes << 20))
    head += machine.flush(zlib.Z_FULL_FLUSH)
    noisy = np.random.default_rng(0).bytes(noise)
    block = machine.compress(noisy + bytes((1 << 20) - noise)) + machine.flush(zlib.Z_FULL_FLUSH)
    return meta + head + block * megabytes + zlib.compressobj(9, zlib.DEFLATED, -15).flush()


def run_length_bomb(side: int) -> bytes:
    """An RLE film of side x side 16-bit zeros: 1/64 of the bytes it decodes to."""
    plane = b"\x81\0" * (side * side // 128 + 1)
    frame = struct.pack("<16I", 2, 64, 64 + len(plane), *([0] * 13)) + plane + plane
    return compressed([frame], "1.2.840.10008.1.2.5", Rows=side, Columns=side)


def run_length(stored: NDArray = PHANTOM) -> bytes:
    """A film in RLE Lossless, by pydicom's encoder."""
    ds = dataset(stored)
    ds.file_meta = FileMetaDataset()
    ds.compress(RLELossless, stored, encoding_plugin="pydicom", generate_instance_uid=False)
    return write(ds, RLELossless)


def jpeg2000(image: NDArray) -> bytes:
    """One frame as a lossless JPEG 2000 codestream, signed if the image is, else of 12 bits."""
    bits = None if image.dtype.kind == "i" else 12
    return imagecodecs.jpeg2k_encode(image, level=0, codecformat="j2k", reversible=True, bitspersample=bits)


def jpeg12(image: NDArray = PHANTOM) -> bytes:
    """One frame as JPEG Extended, 12 bits, lossy."""
    return imagecodecs.jpeg8_encode(image, level=95, bitspersample=12)
