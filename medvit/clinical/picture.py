"""The picture of a Secondary Capture: image and map side by side, a scale bar, and below them what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medvit.preprocess import FilmPreprocess, VolumePreprocess
from medvit.preprocess.film import turned
from medvit.preprocess.resize import resize_exact
from medvit.types import Film, Volume

NOTICE = "RESEARCH USE, NOT FOR DIAGNOSIS"
_SIDE = 768  # pixels of the longer side of each of the two panels
_HOT = np.array([255.0, 60.0, 0.0])  # RGB; one hue, so that grey stays the film's own
_COVER = 0.55  # of the image that the highest value hides
_BARS = (200, 100, 50, 20, 10, 5, 2, 1)  # mm


@dataclass(frozen=True)
class Plane:
    """One plane to show: `grey` and `heat` [row column] of any two sizes, and what is known of its geometry.

    `extent_mm` is (height, width), or in pixels where `scale` is "" (no spacing known); `scale` says what a millimetre
    of the bar is. `slot` is the slice shown of a volume. `flip` says which axes reading reversed.
    """

    grey: NDArray[np.float32]
    heat: NDArray[np.float32]
    extent_mm: tuple[float, float]
    scale: str
    slot: int | None = None
    flip: tuple[bool, bool] = (False, False)


def plane_of(
    image: Film | Volume, preprocess: FilmPreprocess | VolumePreprocess, on_original: NDArray[np.float32]
) -> Plane:
    """Return the film, or the slice of a volume that holds the map's highest value, with the map on it."""
    if isinstance(image, Film):
        flip = turned(image)
        heat = np.flip(on_original, tuple(axis for axis, reverse in enumerate(flip) if reverse))
        rows, columns = on_original.shape
        row, column = image.facts.spacing_mm or (1.0, 1.0)
        said = {"PixelSpacing": "", "ImagerPixelSpacing": " at the detector"}.get(image.facts.spacing_kind)
        scale = "" if said is None or image.facts.spacing_mm is None else f"mm{said}"
        return Plane(image.display(), heat, (rows * row, columns * column), scale, flip=flip)
    tops = on_original.max(axis=(1, 2))
    highest = np.flatnonzero(tops >= tops.max() - 1e-6 * abs(tops.max()))
    slot = int(highest[len(highest) // 2])  # a patch is many slices deep: its middle one
    low, high = preprocess.display_range(image.values)  # type: ignore[union-attr]
    grey = np.clip((image.values[slot] - low) / (high - low), 0, 1).astype(np.float32)
    row, column = np.linalg.norm(image.affine[:3, 1:3], axis=0)
    # of the whole volume, so that the highest value is as red here as it is there
    return Plane(grey, on_original[slot], (grey.shape[0] * row, grey.shape[1] * column), "mm", slot)


def picture(plane: Plane, lines: Sequence[str], side: int = _SIDE) -> NDArray[np.uint8]:
    """Return uint8 [H W 3] (RGB): the plane, the plane under the positive part of the map, and lines of text below.

    The last line drawn is always the notice. Nothing is written on the image itself.
    """
    longest = max(plane.extent_mm)
    height, width = (max(1, round(side * length / longest)) for length in plane.extent_mm)
    grey = resize_exact(plane.grey, (height, width))[..., None] * 255.0
    heat = cv2.resize(np.maximum(plane.heat, 0), (width, height), interpolation=cv2.INTER_LINEAR)
    share = _COVER * (heat / max(float(heat.max()), 1e-12))[..., None]
    plain = np.repeat(grey, 3, axis=2)
    both = np.concatenate([plain, plain * (1 - share) + _HOT * share], axis=1)
    strip = _strip(2 * width, [*lines, NOTICE], plane.scale, side / longest)
    return np.concatenate([np.rint(np.clip(both, 0, 255)).astype(np.uint8), strip])


def _strip(width: int, lines: Sequence[str], scale: str, pixels_per_mm: float) -> NDArray[np.uint8]:
    """Return a black strip with the scale bar, where there is a scale, and the lines, the last in yellow."""
    from PIL import Image, ImageDraw

    font = _font(18)
    wrapped = [part for line in lines for part in _wrapped(line, font, width - 20)]
    notice = len(_wrapped(lines[-1], font, width - 20))
    strip = Image.new("RGB", (width, 26 * len(wrapped) + (40 if scale else 12)))
    draw = ImageDraw.Draw(strip)
    top = 6
    if scale:
        length = next((mm for mm in _BARS if mm * pixels_per_mm <= width / 6), _BARS[-1])
        draw.rectangle((10, 12, 10 + round(length * pixels_per_mm) - 1, 17), fill="white")
        draw.text((20 + length * pixels_per_mm, 4), f"{length} {scale}", font=font, fill="white")
        top = 34
    for number, line in enumerate(wrapped):
        colour = "yellow" if number >= len(wrapped) - notice else "white"
        draw.text((10, top + 26 * number), line, font=font, fill=colour)
    return np.asarray(strip)


def _wrapped(line: str, font: Any, width: int) -> list[str]:
    """Break a line where it is wider than the picture, at spaces where there are any."""
    found = [""]
    for word in line.split():
        longer = f"{found[-1]} {word}".strip()
        if font.getlength(longer) <= width or not found[-1]:
            found[-1] = longer
        else:
            found.append(word)
    return found


def _font(size: int) -> Any:
    """Return DejaVu Sans of matplotlib, which has the letters of all European languages."""
    import matplotlib as mpl
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
