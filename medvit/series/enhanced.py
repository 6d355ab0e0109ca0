"""The slices of an enhanced multi-frame object, from its functional groups (PS3.3 C.7.6.16).

A macro is taken from the frame's own item, else from the shared item, else (some low-field scanners) from the data set.
"""

from __future__ import annotations

from typing import Final

import pydicom

from medvit.dicom import tags
from medvit.errors import DicomRefusal
from medvit.series.private_elements import Private
from medvit.series.slices import (
    MOMENTS,
    Kind,
    Rescale,
    Slice,
    binary,
    identity,
    pixel_spacing,
    required,
    rescale,
)

_PHILIPS_FRAME: Final = 0x2005140F  # the classic header Philips packs into each frame


def is_enhanced(dataset: pydicom.Dataset) -> bool:
    """Say whether the frames are placed by functional groups (a per-frame or a shared sequence is there)."""
    return "PerFrameFunctionalGroupsSequence" in dataset


def enhanced(dataset: pydicom.Dataset, source: int) -> list[Slice]:
    """Return one record per frame; refuses (`E-TAG`, `E-FRAMES`) frames without geometry or without their item."""
    items = tags.items_of(dataset, "PerFrameFunctionalGroupsSequence")
    frames = tags.integer(dataset, "NumberOfFrames", 1)
    if len(items) != frames:
        found = f"{frames} frames, but functional groups for {len(items)}"
        raise DicomRefusal(
            "E-FRAMES", found, allowed="one item per frame", tag="(5200,9230)", fix="export the object again"
        )
    shared = next(iter(tags.items_of(dataset, "SharedFunctionalGroupsSequence")), pydicom.Dataset())
    shape = (tags.integer16(dataset, "Rows"), tags.integer16(dataset, "Columns"))
    who = identity(dataset)
    slices = []
    for frame, item in enumerate(items):
        groups = _Groups(item, shared, dataset)
        slices.append(
            Slice(
                source=source,
                frame=frame,
                shape=shape,
                position=required(groups.macro("PlanePositionSequence"), "ImagePositionPatient", 3),
                orientation=required(groups.macro("PlaneOrientationSequence"), "ImageOrientationPatient", 6),
                spacing=pixel_spacing(groups.macro("PixelMeasuresSequence")),
                identity=who,
                kind=_kind(groups),
                moments=tuple(_moment(groups, keyword) for _, keyword in MOMENTS),
                instance=frame,
                rescale=_rescale(groups, item),
            )
        )
    return slices


class _Groups:
    """Looks a macro up: frame, shared, data set."""

    def __init__(self, item: pydicom.Dataset, shared: pydicom.Dataset, dataset: pydicom.Dataset) -> None:
        self.levels, self.dataset = (item, shared), dataset

    def macro(self, sequence: str) -> pydicom.Dataset:
        """Return the item of `sequence`, or the data set itself where neither level has one."""
        for level in self.levels:
            found = tags.items_of(level, sequence)
            if found:
                return found[0]
        return self.dataset


def _kind(groups: _Groups) -> Kind:
    frame_type = groups.macro("MRImageFrameTypeSequence")
    words = tags.text_values(frame_type, "FrameType") or tags.text_values(groups.dataset, "ImageType")
    component = tags.text_values(frame_type, "ComplexImageComponent")
    echo = binary(groups.macro("MREchoSequence"), "EffectiveEchoTime")
    diffusion = groups.macro("MRDiffusionSequence")
    return (
        tuple(word.upper() for word in words + component),
        None if echo is None else round(echo, 3),
        binary(diffusion, "DiffusionBValue"),
    )


def _moment(groups: _Groups, keyword: str) -> object:
    if keyword == "TemporalPositionIndex":
        return binary(groups.macro("FrameContentSequence"), keyword, "I")
    if keyword == "TriggerTime":
        return binary(groups.macro("CardiacSynchronizationSequence"), "NominalCardiacTriggerDelayTime")
    if keyword == "DiffusionGradientOrientation":
        diffusion = groups.macro("MRDiffusionSequence")
        direction = next(iter(tags.items_of(diffusion, "DiffusionGradientDirectionSequence")), None)
        return None if direction is None else tags.raw(direction, keyword)[0]
    if keyword in {"AcquisitionDateTime", "AcquisitionTime", "InstanceNumber"}:
        return tags.text_values(groups.dataset, keyword) or None  # one object for each time point
    return None


def _rescale(groups: _Groups, item: pydicom.Dataset) -> Rescale:
    values = rescale(groups.macro("PixelValueTransformationSequence"))
    packed = next(iter(tags.items_of(item, _PHILIPS_FRAME)), None)
    return values if packed is None else values._replace(philips=Private(packed).philips_scale())
