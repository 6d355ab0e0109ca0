"""The pixel description of one object (PS3.3 C.7.6.3), each element read once and checked against the others."""

from __future__ import annotations

from dataclasses import dataclass

import pydicom

from medvit.dicom import tags
from medvit.errors import DicomRefusal

_FLOATS = {0x7FE00008: 32, 0x7FE00009: 64}


@dataclass(frozen=True)
class PixelDescription:
    """Sizes, bits and colour of the stored values; `pixel_tag` is the element that holds them."""

    rows: int
    columns: int
    samples: int
    frames: int
    allocated: int
    stored: int
    high: int
    signed: bool
    photometric: str
    planar: bool
    pixel_tag: int

    @property
    def is_float(self) -> bool:
        """Whether the pixels are Float or Double Float Pixel Data."""
        return self.pixel_tag in _FLOATS

    @property
    def count(self) -> int:
        """Values over all frames."""
        return self.rows * self.columns * self.samples * self.frames

    @property
    def native_bytes(self) -> int:
        """Bytes of the uncompressed pixels, without the byte that makes the length even."""
        values = self.count * 2 // 3 if self.photometric == "YBR_FULL_422" else self.count
        return (values * self.allocated + 7) // 8

    @property
    def shape(self) -> tuple[int, ...]:
        """[F R C] or [F R C 3]."""
        return (self.frames, self.rows, self.columns) + ((self.samples,) if self.samples > 1 else ())


def pixel_description(dataset: pydicom.Dataset) -> PixelDescription:
    """Read and check the image pixel module; `E-TAG` and `E-BITS` name what is missing or contradictory."""
    pixel_tag = next((tag for tag in (0x7FE00010, 0x7FE00008, 0x7FE00009) if tag in dataset), 0x7FE00010)
    rows, columns = _side(dataset, "Rows"), _side(dataset, "Columns")
    samples = tags.integer16(dataset, "SamplesPerPixel", 1)
    photometric = tags.text_value(dataset, "PhotometricInterpretation")
    if not photometric:
        raise tags.refuse("PhotometricInterpretation", "missing: the polarity is unknown", fix="correct the element")
    if samples != (1 if photometric in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR") else 3):
        raise tags.refuse("SamplesPerPixel", f"{samples} with {photometric}", allowed="1 for grey, 3 for colour")
    allocated = tags.integer16(dataset, "BitsAllocated")
    if pixel_tag in _FLOATS:
        stored, high, signed = allocated, allocated - 1, True
    else:
        stored = tags.integer16(dataset, "BitsStored")
        high = tags.integer16(dataset, "HighBit", stored - 1)
        signed = tags.integer16(dataset, "PixelRepresentation") == 1
    _check_bits(allocated, stored, high, _FLOATS.get(pixel_tag))
    planar = tags.integer16(dataset, "PlanarConfiguration", 0) == 1
    return PixelDescription(
        rows, columns, samples, frame_count(dataset), allocated, stored, high, signed, photometric, planar, pixel_tag
    )


def frame_count(dataset: pydicom.Dataset) -> int:
    """Return NumberOfFrames, 1 if it is absent; 0 counts as 1 with a note; `E-TAG` for anything else."""
    frames = tags.integer(dataset, "NumberOfFrames", 1)
    if frames == 0:
        note = "W-FRAMES NumberOfFrames is 0, read as 1"
        if note not in dataset.notes:
            dataset.notes.append(note)
        return 1
    if frames < 0:
        raise tags.refuse("NumberOfFrames", f"is {frames}", allowed=">= 1")
    return frames


def _side(dataset: pydicom.Dataset, keyword: str) -> int:
    found = tags.integer16(dataset, keyword)
    if found == 0:
        raise tags.refuse(keyword, "is 0", allowed="1 to 65535", fix="correct the element")
    return found


def _check_bits(allocated: int, stored: int, high: int, float_bits: int | None) -> None:
    if float_bits:
        if allocated != float_bits:
            raise DicomRefusal("E-BITS", f"BitsAllocated {allocated}", allowed=str(float_bits), tag="(0028,0100)")
        return
    if allocated not in (1, 8, 16, 32):
        raise DicomRefusal("E-BITS", f"BitsAllocated {allocated}", allowed="1, 8, 16 or 32", tag="(0028,0100)")
    if not 1 <= stored <= allocated:
        found = f"BitsStored {stored} with BitsAllocated {allocated}"
        raise DicomRefusal("E-BITS", found, allowed="1 <= BitsStored <= BitsAllocated", tag="(0028,0101)")
    if not stored - 1 <= high < allocated:
        found = f"HighBit {high} with BitsStored {stored} and BitsAllocated {allocated}"
        raise DicomRefusal("E-BITS", found, allowed="BitsStored-1 <= HighBit < BitsAllocated", tag="(0028,0102)")
