"""Named builders of single objects that are bent in more than one place, and the display images they should give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kit
import numpy as np
from kit import PHANTOM, SHOWN, film
from numpy.typing import NDArray
from pydicom.uid import ImplicitVRLittleEndian


def shown() -> NDArray:
    return SHOWN


def negative() -> NDArray:
    return 1 - SHOWN


def windowed(center: float, width: float) -> Callable[[], NDArray]:
    return lambda: np.clip((PHANTOM - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def curve() -> NDArray[np.uint16]:
    return np.round((np.arange(4096) / 4095.0) ** 2 * 65535).astype(np.uint16)


def curved() -> NDArray:
    return curve()[PHANTOM] / 65535.0


def rgb() -> NDArray[np.uint8]:
    grey = (PHANTOM >> 4).astype(np.uint8)
    return np.stack([grey, grey, grey], axis=-1)


def colour(photometric: str, stored: NDArray, **elements: Any) -> bytes:
    return film(
        stored, bits=8, PhotometricInterpretation=photometric, SamplesPerPixel=3, PlanarConfiguration=0, **elements
    )


def palette() -> bytes:
    entries = {"Descriptor": [256, 0, 16]}
    ramp = (np.arange(256, dtype="<u2") * 257).tobytes()
    bent = {
        f"{c}PaletteColorLookupTable{k}": v
        for c in ("Red", "Green", "Blue")
        for k, v in (*entries.items(), ("Data", ramp))
    }
    return film((PHANTOM >> 4).astype(np.uint8), bits=8, PhotometricInterpretation="PALETTE COLOR", **bent)


def full_422() -> bytes:
    grey, (rows, columns) = (PHANTOM >> 4).astype(np.uint8), PHANTOM.shape
    packed = np.full((rows, columns // 2, 4), 128, np.uint8)
    packed[..., :2] = grey.reshape(rows, columns // 2, 2)
    return colour("YBR_FULL_422", rgb(), PixelData=packed.tobytes())


def bordered(value: int) -> NDArray[np.uint16]:
    image = PHANTOM.copy()
    image[:, :5] = value
    return image


def bordered_truth(top: int) -> Callable[[], NDArray]:
    return lambda: np.where(np.arange(PHANTOM.shape[1]) < 5, 0, PHANTOM / top)


def without_pixels(sop_class: str, modality: str) -> bytes:
    return kit.write(kit.dataset(SOPClassUID=sop_class, Modality=modality, Rows=None, Columns=None, BitsAllocated=None))


def overlay() -> bytes:
    ds = kit.dataset()
    ds.add_new(0x60000010, "US", PHANTOM.shape[0])
    ds.add_new(0x60000011, "US", PHANTOM.shape[1])
    ds.add_new(0x60000100, "US", 16)
    ds.add_new(0x60000102, "US", 15)
    ds.PixelData = (PHANTOM | (PHANTOM > 2000).astype(np.uint16) << 15).tobytes()
    ds["PixelData"].VR = "OW"
    return kit.write(ds)


def lying(declared: str) -> bytes:
    ds = kit.dataset()
    ds.PixelData = PHANTOM.tobytes()
    ds["PixelData"].VR = "OW"
    return kit.write(ds, declared=declared)


def no_preamble() -> bytes:
    return film(syntax=ImplicitVRLittleEndian)[132:]


def flat(value: int) -> bytes:
    return film(np.full_like(PHANTOM, value))


def window(center: object, width: object, **elements: object) -> bytes:
    return film(WindowCenter=center, WindowWidth=width, **elements)


NOISE = np.random.default_rng(0).bytes(4096)
WRAPPED = (PHANTOM.astype(np.uint32) * 16).astype(np.uint16).view(np.int16)


def unsigned_codestream() -> bytes:
    """Signed 12-bit values whose bits were compressed as unsigned ones."""
    bits = (PHANTOM.astype(np.int16) - 2048).view(np.uint16) & 0xFFF
    return kit.compressed([kit.jpeg2000(bits)], kit.J2K, PixelRepresentation=1, Modality="CT")


def float_film() -> bytes:
    ds = kit.dataset(PHANTOM.astype(np.float32), bits=32, BitsStored=None, HighBit=None, PixelRepresentation=None)
    ds.add_new(0x7FE00008, "OF", PHANTOM.astype("<f4").tobytes())
    return kit.write(ds)


def stretched() -> NDArray:
    """Every second row again, by linear interpolation between row centres."""
    kept = np.clip((np.arange(PHANTOM.shape[0]) - 0.5) / 2, 0, PHANTOM.shape[0] // 2 - 1)
    low = np.minimum(kept.astype(int), PHANTOM.shape[0] // 2 - 2)
    share = (kept - low)[:, None]
    half = PHANTOM[::2] / 4095.0
    return half[low] * (1 - share) + half[low + 1] * share
