"""Ground-truth boxes and masks of a unit from the label table, at the model's input.

Boxes are the columns box_x0, box_y0, box_x1, box_y1 (pixel columns and rows, ends included). A mask is a file named in
the column `mask` or `truth`, relative to the folder of the label table: a picture for a film, NIfTI, or .npz with
`mask` (slice, row, column) and `affine` (indices to LPS mm) for a volume. The manifest has to keep the columns
(labels.keep); of masks only the scores leave this module, never a file name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.data.units import Units
from medvit.dataset.manifest import MASKS, SPACING
from medvit.errors import EvaluationError
from medvit.explain.localisation import Annotation, Mask, box_mask
from medvit.preprocess.placement import Placement

BOX = tuple(f"table.box_{end}" for end in ("x0", "y0", "x1", "y1"))


def annotations_of(units: Units, rows: NDArray[np.intp], folder: Path | None) -> dict[int, Annotation]:
    """Return the truth of those units of `rows` that have one; `folder` is that of the label table.

    Units of several series or views are left out: nothing says which of them the finding was drawn on.

    Raises:
        EvaluationError: a mask that cannot be read, lies elsewhere, or does not fit its image.
    """
    found: dict[int, Annotation] = {}
    column = next((name for name in MASKS if name in units.frame), None) if folder is not None else None
    for number in rows.tolist():
        row = units.frame.iloc[number]
        if len(units.members[number]) != 1:
            continue
        if column is not None and isinstance(row[column], str) and row[column]:
            found[number] = from_mask(units, number, Path(str(folder)) / row[column])
        elif set(BOX) <= set(row.index) and len(units.cache.preprocess.shape) == 3 and not units.bagged:
            box = pd.to_numeric(row[list(BOX)], errors="coerce").to_numpy(np.float64)
            if np.isfinite(box).all():
                found[number] = from_box(units, number, box)
    return {number: truth for number, truth in found.items() if truth.mask.any()}


def from_box(units: Units, number: int, box: NDArray[np.float64]) -> Annotation:
    """Return the truth of a film with a box (x0, y0, x1, y1)."""
    row, placement = units.frame.iloc[number], units.cache.placement(int(units.members[number][0]))
    corners = placement.to_model(np.array([[box[1], box[0]], [box[3], box[2]]]))
    mask = box_mask(placement.size, np.sort(corners, axis=0))
    return Annotation(mask, _steps(placement, _spacing(row)), str(row["patient"]))


def from_mask(units: Units, number: int, file: Path) -> Annotation:
    """Return the truth of a film or series with a mask; raises EvaluationError."""
    row, member = units.frame.iloc[number], int(units.members[number][0])
    placement, uid = units.cache.placement(member), str(row["uid"])
    mask, affine = _read(file, uid)
    if len(placement.original) == 2:
        if mask.shape != placement.original:
            raise EvaluationError(f"the mask of {uid} is {mask.shape}, its image {placement.original}")
        return Annotation(mask_at_model(mask, placement), _steps(placement, _spacing(row)), str(row["patient"]))
    if affine is None:
        raise EvaluationError(f"the mask of {uid} has no affine; expected NIfTI, or .npz with mask and affine")
    source = units.cache.rows.iloc[member]
    step: Any = units.cache.preprocess
    volume = step.read([units.cache.root / name for name in source["files"]], str(source["volume_key"]))
    steps = np.asarray(np.linalg.norm(volume.affine[:3, :3], axis=0), np.float64)
    there = np.linalg.inv(affine) @ volume.affine
    return Annotation(mask_at_model(mask, placement, there), _steps(placement, steps), str(row["patient"]))


def mask_at_model(mask: Mask, placement: Placement, there: NDArray[np.float64] | None = None) -> Mask:
    """Return a mask at the model's input, whatever was cropped, padded, turned or flipped.

    A pixel belongs to it if its middle lies in a pixel of the mask, or the middle of a pixel of the mask in it: nothing
    small is lost. `there` maps indices of the original to those of the mask (homogeneous) where they differ.
    """
    there = np.eye(mask.ndim + 1) if there is None else there
    grid = np.indices(placement.size).reshape(mask.ndim, -1).T
    inside, index = _indices(_moved(placement.to_original(grid), there), mask.shape)
    found = np.zeros(placement.size, bool)
    found.reshape(-1)[inside] = mask[tuple(index.T)]
    back = _moved(np.argwhere(mask), np.asarray(np.linalg.inv(there), np.float64))
    _, index = _indices(placement.to_model(back), placement.size)
    found[tuple(index.T)] = True
    return found


def _moved(points: NDArray[Any], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(points @ matrix[:-1, :-1].T + matrix[:-1, -1])


def _indices(points: NDArray[np.float64], shape: tuple[int, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return which points lie in an array of `shape`, and the indices they lie at."""
    index = np.floor(points + 0.5).astype(np.intp)  # as slices are chosen: a half belongs to the next
    inside = np.flatnonzero(((index >= 0) & (index < np.array(shape))).all(axis=1))
    return inside, index[inside]


def _read(file: Path, uid: str) -> tuple[Mask, NDArray[np.float64] | None]:
    from medvit.preprocess.nifti import is_nifti, read_nifti

    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as kept:
                return kept["mask"].astype(bool), kept["affine"].astype(np.float64)
        data = file.read_bytes()
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise EvaluationError(f"the mask of {uid} cannot be read ({type(error).__name__})") from error
    if is_nifti(data):
        volume = read_nifti(data)[0]
        return volume.values > 0, volume.affine
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise EvaluationError(f"the mask of {uid} is no picture, NIfTI or .npz")
    return np.asarray(picture) > 0, None


def _spacing(row: pd.Series) -> NDArray[np.float64]:
    mm = np.array([row.get(name, np.nan) for name in SPACING], np.float64)
    return mm if np.isfinite(mm).all() else np.full(2, np.nan)


def _steps(placement: Placement, spacing: NDArray[np.float64]) -> tuple[float, ...]:
    """Return mm per pixel of the model's input; where the spacing is unknown 1, so that mm stand for pixels."""
    if not np.isfinite(spacing).all():
        return (1.0,) * len(placement.size)
    steps = spacing[list(placement.axes)] * np.divide(placement.extent, placement.inner)
    return tuple(float(step) for step in steps)
