"""Array files as images that `medvit.index` reads: MedMNIST's .npz and MRNet's folders of .npy, as PNG or NIfTI.

Arrays are read one image at a time by their header (NumPy format, `numpy.lib.format`), never by `pickle`: an array of
objects is refused before its content is looked at. Arrays carry no spacing and no orientation.
"""

from __future__ import annotations

import csv
import logging
import shutil
import zipfile
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from medvit.errors import DataError

SIDES = {"train": "TRAIN", "val": "VALIDATION", "test": "TEST"}  # the words of medmnist's own tables
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_KINDS = "biuf"
_log = logging.getLogger(__name__)
Spacing = tuple[float, float, float]


def unpack(source: Path, out: Path, spacing_mm: Spacing | None = None, step: Callable[[int], object] = id) -> int:
    """Write the images of a MedMNIST .npz, or of all .npy volumes below a folder, into `out`; return how many.

    An .npz gives `out/NAME/` and `out/NAME.csv` (no header: side, file, labels), as `medmnist save` does. Volumes
    [slice row column] become NIfTI whose (slice, row, column) are those of the array; `spacing_mm` is theirs (slice,
    row, column), 1 mm if it is not given, which is a guess and is said so. Tables (.csv) of a folder are copied.

    Raises:
        DataError: `out` is there already, or a file is no such array, damaged, or holds Python objects (E-PICKLE).
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError("out=... is there already and not empty; give a folder that is not there")
    files = [source] if source.is_file() else sorted(source.rglob("*.npy"))
    if not files:
        raise DataError("E-EMPTY no .npz file and no .npy file below source")
    spacing = spacing_mm or (1.0, 1.0, 1.0)
    try:
        if source.is_file():
            count = _unpack_npz(source, out, spacing, step)
        else:
            count = _unpack_folder(source, files, out, spacing, step)
    except OSError as error:
        raise DataError(f"E-DISK out cannot be written: {error.strerror or 'input/output error'}") from error
    if spacing_mm is None and next(out.rglob("*.nii.gz"), None) is not None:
        _log.warning("W-SPACING arrays carry no spacing: volumes got 1 mm, a guess (spacing_mm=[slice,row,column])")
    return count


def _unpack_npz(source: Path, out: Path, spacing: Spacing, step: Callable[[int], object]) -> int:
    name, total = source.stem, 0
    (out / name).mkdir(parents=True)
    try:
        with zipfile.ZipFile(source) as bundle, (out / f"{name}.csv").open("w", newline="", encoding="utf-8") as table:
            writer = csv.writer(table, lineterminator="\n")
            there = set(bundle.namelist())
            sides = [side for side in SIDES if {f"{side}_images.npy", f"{side}_labels.npy"} <= there]
            if not sides:
                raise DataError("the .npz holds no train_images and train_labels as MedMNIST has them")
            for side in sides:
                with bundle.open(f"{side}_labels.npy") as file:
                    labels = [np.atleast_1d(label) for label in read_each(file, f"{side}_labels")]
                with bundle.open(f"{side}_images.npy") as file:
                    count = 0
                    for image in read_each(file, f"{side}_images"):
                        if count == len(labels):
                            raise DataError(f"{side}: more images than its {len(labels)} labels")
                        words = [str(value) for value in labels[count]]
                        place = f"{side}{count}_{'_'.join(words)}"
                        file_name = _write(image, out / name / place, spacing, f"{side} image {count + 1}")
                        writer.writerow([SIDES[side], file_name, *words])
                        count += 1
                        step(1)
                if count != len(labels):
                    raise DataError(f"{side}: {count} images and {len(labels)} labels")
                total += count
    except zipfile.BadZipFile as error:
        raise DataError("source is a damaged .npz file; download it again") from error
    return total


def _unpack_folder(source: Path, files: list[Path], out: Path, spacing: Spacing, step: Callable[[int], object]) -> int:
    for number, path in enumerate(files, start=1):
        told = f"file {number} of {len(files)}"
        with path.open("rb") as file:
            shape, dtype = _header(file, told)
            volume = _take(file, shape, dtype, told)
        if volume.ndim != 3:
            raise DataError(f"{told}: an array of {volume.ndim} axes where [slice row column] is expected")
        target = out / path.relative_to(source).with_suffix("")
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(volume, target, spacing, told)
        step(1)
    for path in sorted(source.rglob("*.csv")):
        (out / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / path.relative_to(source))
    return len(files)


def read_each(file: IO[bytes] | BufferedIOBase, told: str) -> Iterator[NDArray[Any]]:
    """Yield the items along the first axis of a .npy stream, one in memory at a time.

    Raises:
        DataError: no .npy of numbers, cut short, or an array of Python objects.
    """
    (count, *rest), dtype = _header(file, told)
    for number in range(count):
        yield _take(file, tuple(rest), dtype, f"{told} {number + 1} of {count}")


def _header(file: IO[bytes] | BufferedIOBase, told: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        shape, fortran, dtype = _HEADERS[npy.read_magic(file)](file)
    except (ValueError, KeyError) as error:
        raise DataError(f"{told}: no NumPy array file of version 1 or 2") from error
    if dtype.hasobject:
        raise DataError(f"E-PICKLE {told}: an array of Python objects, which only pickle reads; it is not opened")
    if fortran or dtype.kind not in _KINDS or not shape:
        raise DataError(f"{told}: a {dtype} array {list(shape)}; expected numbers in C order with one axis or more")
    return tuple(shape), dtype


def _take(file: IO[bytes] | BufferedIOBase, shape: tuple[int, ...], dtype: np.dtype[Any], told: str) -> NDArray[Any]:
    wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
    data = file.read(wanted)
    if len(data) != wanted:
        raise DataError(f"{told}: the array is cut short ({len(data)} of {wanted} bytes)")
    return np.frombuffer(data, dtype).reshape(shape)


def _write(image: NDArray[Any], place: Path, spacing: Spacing, told: str) -> str:
    """Write a film as PNG or a volume as NIfTI beside `place`, and return the file's name."""
    if image.ndim == 3 and image.shape[2] in (3, 4):
        raise DataError(f"{told}: colour ({list(image.shape)}); medvit reads grey images")
    if image.ndim == 2:
        import cv2

        if image.dtype not in (np.uint8, np.uint16):
            raise DataError(f"{told}: {image.dtype} pixels; expected uint8 or uint16")
        target = place.with_name(place.name + ".png")
        target.write_bytes(cv2.imencode(".png", image)[1].tobytes())
        return target.name
    if image.ndim != 3:
        raise DataError(f"{told}: an image of {image.ndim} axes; expected [row column] or [slice row column]")
    import nibabel

    kept = image if image.dtype.itemsize < 8 else image.astype(np.float32 if image.dtype.kind == "f" else np.int32)
    affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])  # RAS: columns to the left, rows to the back
    target = place.with_name(place.name + ".nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(kept.T), affine), target)  # type: ignore[attr-defined]
    return target.name
