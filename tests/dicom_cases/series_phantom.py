"""Small MR series made here: classic stacks, enhanced objects, mosaics. Their intensity shows the world.

That is, each voxel holds a linear function of its position in LPS mm, so that any reader's volume can be checked
against its own affine.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

MR, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
DIRECTORY = "1.2.840.10008.1.3.10"
ROOT = "2.25.9973100100"
WORLD = np.array([2.0, 3.0, 5.0])  # intensity per mm along x, y, z (LPS)
ZERO = 2000.0
SHAPE, SPACING, STEP, COUNT = (20, 24), (1.5, 1.25), 4.0, 8

Attributes = dict[str, Any]


def world(points: np.ndarray) -> np.ndarray:
    """Return the phantom's intensity at LPS points [..., 3] in mm, before rounding to an integer."""
    return points @ WORLD + ZERO


@dataclass(frozen=True)
class Plane:
    """How a stack lies: directions of growing column and row index, first corner, spacings in mm, matrix, count."""

    along_row: tuple[float, float, float] = (1.0, 0.0, 0.0)
    along_column: tuple[float, float, float] = (0.0, 1.0, 0.0)
    origin: tuple[float, float, float] = (-14.0, -21.0, 33.0)
    spacing: tuple[float, float] = SPACING
    step: float = STEP
    shape: tuple[int, int] = SHAPE
    count: int = COUNT

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.along_row, self.along_column)

    def position(self, index: float) -> np.ndarray:
        return np.array(self.origin) + self.normal * self.step * index

    def pixels(self, index: float) -> np.ndarray:
        rows, columns = np.indices(self.shape)
        offset = rows[..., None] * np.array(self.along_column) * self.spacing[0]
        offset = offset + columns[..., None] * np.array(self.along_row) * self.spacing[1]
        return np.rint(world(self.position(index) + offset)).astype(np.uint16)


AXIAL = Plane()
SAGITTAL = Plane((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
CORONAL = Plane((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))
_TILT = np.radians(25.0)
OBLIQUE = Plane((float(np.cos(_TILT)), float(np.sin(_TILT)), 0.0), (0.0, 0.0, -1.0))


def texts(values: Iterable[float]) -> list[str]:
    """Write numbers as decimal strings of at most 16 characters."""
    return [next(text for digits in range(15, 5, -1) if len(text := f"{value:.{digits}g}") <= 16) for value in values]


def dataset_of(plane: Plane, index: float, **changes: Any) -> Dataset:
    """Return one classic MR slice; `changes` by keyword, None deletes."""
    dataset = base(MR, f"{ROOT}.9.{round(index * 100)}")
    dataset.ImagePositionPatient = texts(plane.position(index))
    dataset.ImageOrientationPatient = texts((*plane.along_row, *plane.along_column))
    dataset.PixelSpacing = texts(plane.spacing)
    (dataset.SliceThickness,) = texts([plane.step])
    dataset.InstanceNumber = str(round(index) + 1)
    dataset.EchoTime = "30"
    pixels = changes.pop("pixels", plane.pixels(index))
    set_pixels(dataset, pixels)
    apply(dataset, changes)
    return dataset


def base(sop_class: str, instance: str) -> Dataset:
    """Return what every object has, as DICOM wants it."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = instance
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, instance
    dataset.Modality, dataset.Manufacturer, dataset.PatientID = "MR", "medvit tests", "CANARY"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = (
        f"{ROOT}.1",
        f"{ROOT}.2",
        f"{ROOT}.3",
    )
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "NORM"]
    dataset.AcquisitionNumber = "1"
    return dataset


def set_pixels(dataset: Dataset, pixels: np.ndarray) -> None:
    """Put 16-bit pixels, (row, column) or (frame, row, column), into the data set."""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.add_new("PixelData", "OW", np.ascontiguousarray(pixels, "<u2").tobytes())


def apply(dataset: Dataset, changes: Attributes) -> None:
    """Set elements by keyword (None deletes), decimal strings as they are, however long or wrong."""
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        elif isinstance(value, (str, list)) and not isinstance(value, Items) and keyword != "PixelData":
            tag = Tag(keyword)
            vr = pydicom.datadict.dictionary_VR(tag)
            if vr in ("DS", "IS"):  # raw: pydicom would not write some of them
                text = (value if isinstance(value, str) else "\\".join(value)).encode()
                text += b" " * (len(text) % 2)
                dataset[tag] = RawDataElement(tag, vr, len(text), text, 0, is_implicit_VR=False, is_little_endian=True)
            else:
                dataset[tag] = DataElement(tag, vr, value, validation_mode=pydicom.config.IGNORE)
        else:
            setattr(dataset, keyword, value)


def save(dataset: Dataset) -> bytes:
    """Return the object as the bytes of a Part 10 file."""
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def stack(
    plane: Plane = AXIAL, change: Callable[[int], Attributes] | None = None, indices: Iterable[float] | None = None
) -> list[bytes]:
    """Return the files of one stack, slice by slice; `change(i)` gives what differs in slice i."""
    chosen = range(plane.count) if indices is None else indices
    return [save(dataset_of(plane, index, **(change(int(index)) if change else {}))) for index in chosen]


def only(slice_: int, **changes: Any) -> Callable[[int], Attributes]:
    """Return a change that concerns one slice."""
    return lambda index: dict(changes) if index == slice_ else {}


def always(**changes: Any) -> Callable[[int], Attributes]:
    """Return a change that concerns every slice."""
    return lambda _: dict(changes)


def doubled(first: Attributes, second: Attributes, scale: float = 0.5) -> list[bytes]:
    """Return two volumes at the same positions, interleaved; the second is `scale` times as bright."""
    files = []
    for index in range(COUNT):
        dim = (AXIAL.pixels(index) * scale).astype(np.uint16)
        again = {"SOPInstanceUID": f"{ROOT}.8.{index}", "InstanceNumber": str(COUNT + index + 1), "pixels": dim}
        files += [save(dataset_of(AXIAL, index, **first)), save(dataset_of(AXIAL, index, **again, **second))]
    return files


def enhanced(
    plane: Plane = AXIAL,
    order: Iterable[int] | None = None,
    rescale: Callable[[int], tuple[float, float]] | None = None,
) -> bytes:
    """Return one enhanced multi-frame object; `order` holds the stack index of each frame."""
    chosen = list(range(plane.count)) if order is None else list(order)
    dataset = base(ENHANCED_MR, f"{ROOT}.7")
    dataset.NumberOfFrames = str(len(chosen))
    shared = Dataset()
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = texts(plane.spacing)
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = texts((*plane.along_row, *plane.along_column))
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames, planes = [], []
    for index in chosen:
        slope, intercept = rescale(index) if rescale else (1.0, 0.0)
        item = Dataset()
        item.PlanePositionSequence = [Dataset()]
        item.PlanePositionSequence[0].ImagePositionPatient = texts(plane.position(index))
        item.PixelValueTransformationSequence = [Dataset()]
        transformation = item.PixelValueTransformationSequence[0]
        transformation.RescaleSlope, transformation.RescaleIntercept = str(slope), str(intercept)
        transformation.RescaleType = "US"
        frames.append(item)
        planes.append(np.rint((plane.pixels(index) - intercept) / slope).astype(np.uint16))
    dataset.PerFrameFunctionalGroupsSequence = frames
    set_pixels(dataset, np.array(planes))
    return save(dataset)


def csa_header(fields: dict[str, list[str]]) -> bytes:
    """Return a Siemens CSA2 header with these fields, each padded to six items as scanners do."""
    blob = b"SV10\x04\x03\x02\x01" + struct.pack("<II", len(fields), 77)
    for name, values in fields.items():
        blob += struct.pack("<64si4siii", name.encode(), len(values), b"FD", 4, max(6, len(values)), 77)
        for value in [*values, *[""] * (6 - len(values))]:
            raw = value.encode() + b"\0" if value else b""
            blob += struct.pack("<4i", len(raw), len(raw), 77, len(raw)) + raw + b"\0" * (-len(raw) % 4)
    return blob


def mosaic(plane: Plane = AXIAL, *, header: bool = True, downwards: bool = False) -> bytes:
    """Return a Siemens mosaic of the stack; `downwards` tiles run against the normal."""
    side = int(np.ceil(np.sqrt(plane.count)))
    indices = range(plane.count)[::-1] if downwards else range(plane.count)
    image = np.zeros((side * plane.shape[0], side * plane.shape[1]), np.uint16)
    for tile, index in enumerate(indices):
        row, column = tile // side * plane.shape[0], tile % side * plane.shape[1]
        image[row : row + plane.shape[0], column : column + plane.shape[1]] = plane.pixels(index)
    corner = plane.position(indices[0])
    corner = corner - np.array(plane.along_row) * plane.spacing[1] * (side - 1) * plane.shape[1] / 2
    corner = corner - np.array(plane.along_column) * plane.spacing[0] * (side - 1) * plane.shape[0] / 2
    dataset = dataset_of(
        plane, 0, pixels=image, ImagePositionPatient=texts(corner), SpacingBetweenSlices=texts([plane.step])
    )
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    if header:
        direction = -plane.normal if downwards else plane.normal
        fields = {"EchoLinePosition": ["32"], "NumberOfImagesInMosaic": [str(plane.count)]}
        fields["SliceNormalVector"] = [f"{value:.10f}" for value in direction]
        dataset.add_new(0x00290010, "LO", "SIEMENS CSA HEADER")
        dataset.add_new(0x00291010, "OB", csa_header(fields))
    return save(dataset)


def uih_mosaic() -> bytes:
    """Return a grid image as United Imaging scanners write it."""
    dataset = dataset_of(AXIAL, 0, pixels=np.tile(AXIAL.pixels(0), (3, 3)))
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "VFRAME"]
    dataset.add_new(0x00650010, "LO", "Image Private Header")
    dataset.add_new(0x00651050, "DS", "8")
    return save(dataset)


def philips() -> list[bytes]:
    """Return a stack with a private scale slope next to slope 0.5, intercept 10, which give the world."""
    files = []
    for index in range(COUNT):
        stored = np.rint((AXIAL.pixels(index) - 10.0) / 0.5).astype(np.uint16)
        dataset = dataset_of(AXIAL, index, pixels=stored, RescaleSlope="0.5", RescaleIntercept="10")
        dataset.add_new(0x20050010, "LO", "Philips MR Imaging DD 001")
        dataset.add_new(0x2005100D, "FL", 0.0)
        dataset.add_new(0x2005100E, "FL", 0.004)
        files.append(save(dataset))
    return files


def per_slice_rescale() -> list[bytes]:
    """Return a stack in which each slice has its own slope."""

    def change(index: int) -> Attributes:
        slope = 0.1 * (index + 1)
        return {
            "RescaleSlope": f"{slope:.1f}",
            "RescaleIntercept": "-3",
            "pixels": np.rint((AXIAL.pixels(index) + 3.0) / slope).astype(np.uint16),
        }

    return stack(change=change)


def localizer(instance: int, plane: Plane, **changes: Any) -> bytes:
    """Return one scout image across the stack, in the same series."""
    return save(
        dataset_of(plane, 0, SOPInstanceUID=f"{ROOT}.6.{instance}", InstanceNumber=str(90 + instance), **changes)
    )


def tilted() -> list[bytes]:
    """Return a stack whose positions run 20 degrees beside the normal, as a CT with its gantry tilted."""
    side = np.tan(np.radians(20.0))

    def change(index: int) -> Attributes:
        moved = Plane(origin=(AXIAL.origin[0], AXIAL.origin[1] + side * STEP * index, AXIAL.origin[2]))
        return {"ImagePositionPatient": texts(moved.position(index)), "pixels": moved.pixels(index)}

    return stack(change=change)


def directory() -> bytes:
    """Return a DICOMDIR without records."""
    dataset = base(DIRECTORY, f"{ROOT}.5")
    dataset.FileSetID = "TESTS"
    return save(dataset)


def with_replaced(position: int, make: Callable[[bytes], bytes]) -> list[bytes]:
    """Return a stack with the bytes of one file changed."""
    files = stack()
    files[position] = make(files[position])
    return files
