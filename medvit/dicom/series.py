"""From the objects of one or more series to volumes with an exact affine, or a refusal by name (RE-03)."""

from __future__ import annotations

import difflib
import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pydicom

from medvit.dicom import tags
from medvit.dicom.alike import Alike
from medvit.dicom.assemble import fill
from medvit.dicom.frames import enhanced, is_enhanced
from medvit.dicom.geometry import ORIENTATION, Stack, normal_of, refuse_tilted, refuse_uneven, stack
from medvit.dicom.grouping import Group, split_series
from medvit.dicom.header import read_dataset
from medvit.dicom.mosaic import is_mosaic, tiles
from medvit.dicom.series_policy import SeriesPolicy
from medvit.dicom.slices import Slice, classic, whole_number
from medvit.dicom.storage import Source
from medvit.errors import DicomRefusal
from medvit.types import Volume

__all__ = ["Plan", "SeriesPolicy", "holds_slices", "plan_series", "read_series", "read_volume"]

_DEFAULT = SeriesPolicy()
_JUNK_NAMES = ("._", "thumbs.db", ".ds_store", "desktop.ini")
_JUNK_STARTS = (b"\xd0\xcf\x11\xe0", b"\x00\x05\x16\x07")  # Thumbs.db (OLE2), AppleDouble
_COLOURS = {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420", "PALETTE COLOR"}
_WIDEST_BRIDGED = 3.5  # spacings: with gap=resample up to two missing slices in a row are interpolated
_DERIVED_OBJECTS = {"SEG", "RTDOSE"}  # they have pixels and places, and show no patient

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """One volume as the headers describe it: slices in order along the normal and the stack they make.

    `files` are indices of sources in slice order (repeated where one file holds several slices); `series` is the number
    of its series among the sources, in order of appearance.
    """

    slices: tuple[Slice, ...]
    stack: Stack
    key: str
    series: int
    warnings: tuple[str, ...]
    steps: tuple[str, ...]

    @property
    def files(self) -> tuple[int, ...]:
        """Indices of the sources in slice order."""
        return tuple(one.source for one in self.slices)


@dataclass
class _Objects:
    """What was opened: data sets by source index, and what was left out, counted by reason."""

    total: int
    datasets: dict[int, pydicom.Dataset] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)

    def step(self) -> tuple[str, ...]:
        """Say what was skipped, for the record."""
        return (f"skip {', '.join(f'{n} {why}' for why, n in sorted(self.skipped.items()))}",) if self.skipped else ()


def read_series(sources: Sequence[Source], policy: SeriesPolicy = _DEFAULT) -> list[Volume]:
    """Read files of one or more series into volumes (slice, row, column), float32 after rescale, affines in LPS mm.

    Volumes come by series in order of appearance, then orientation, image type, echo, b-value, time. Anything that
    cannot be read exactly is refused: `DicomRefusal` with a code of the table of bad inputs.
    """
    objects = _open(sources, pixels=True)
    return [fill(plan, objects.datasets, policy) for plan in _plan(objects, policy)]


def read_volume(sources: Sequence[Source], key: str = "", policy: SeriesPolicy = _DEFAULT) -> Volume:
    """Read the one volume `key` of the sources, as `read_series` does.

    Where the sources are the files of that volume alone, as a manifest lists them, nothing else is left to tell it
    apart and its key is empty: then it is taken. `E-4D` if the sources hold several volumes and `key` is empty, `E-KEY`
    if none of them is `key`.
    """
    volumes = read_series(sources, policy)
    keys = [volume.key for volume in volumes]
    if keys.count(key) == 1:
        return volumes[keys.index(key)]
    if keys == [""]:
        return volumes[0]
    names = ", ".join(name or "(plain)" for name in keys)
    if not key or key in keys:  # in keys: more than once, in several series
        raise DicomRefusal("E-4D", f"{len(keys)} volumes: {names}", allowed="one volume", fix="name one of one series")
    near = difflib.get_close_matches(key, keys, 1, 0.5)
    fix = f"did you mean {near[0]!r}?" if near else "name one of them"
    raise DicomRefusal("E-KEY", f"no volume {key!r}", allowed=names, fix=fix)


def plan_series(sources: Sequence[Source], policy: SeriesPolicy = _DEFAULT) -> list[Plan]:
    """Say from the headers alone which volumes `read_series` would give, with the same refusals but those of pixels."""
    return _plan(_open(sources, pixels=False), policy)


def holds_slices(dataset: pydicom.Dataset) -> bool:
    """Say whether one object may hold several slices: an enhanced object or a mosaic."""
    return is_enhanced(dataset) or is_mosaic(dataset)


def _open(sources: Sequence[Source], *, pixels: bool) -> _Objects:
    objects = _Objects(len(sources))
    seen: dict[str, int] = {}
    alike = Alike()
    for index, source in enumerate(sources):
        if _is_junk(source):
            objects.skipped["junk"] += 1
            continue
        try:
            dataset = read_dataset(source, pixels=pixels, alike=alike)
        except DicomRefusal as refusal:
            if refusal.code == "I-SKIP":
                objects.skipped["not an image"] += 1
                continue
            raise _at(refusal, index, len(sources)) from None
        if tags.word(dataset, "Modality") in _DERIVED_OBJECTS:
            objects.skipped["not an image"] += 1
            continue
        instance = tags.word(dataset, "SOPInstanceUID")
        if instance and instance in seen:
            _require_equal(sources, seen[instance], index)
            objects.skipped["copy"] += 1
            continue
        seen[instance] = index
        objects.datasets[index] = dataset
    if not objects.datasets:
        raise DicomRefusal("E-EMPTY", f"no image among {len(sources)} files", allowed="a DICOM series")
    if objects.skipped:
        log.info("series: %s", objects.step()[0])
    return objects


def _is_junk(source: Source) -> bool:
    if isinstance(source, Path):
        return source.name.lower().startswith(_JUNK_NAMES)
    return source[:4] in _JUNK_STARTS


def _at(refusal: DicomRefusal, index: int, total: int) -> DicomRefusal:
    """Say which file a refusal is about, by its place in the list: a name could hold an identifier."""
    found = f"file {index + 1} of {total}: {refusal.found}"
    return DicomRefusal(refusal.code, found, allowed=refusal.allowed, tag=refusal.tag, fix=refusal.fix)


def _require_equal(sources: Sequence[Source], first: int, second: int) -> None:
    digests = [
        hashlib.sha256(one.read_bytes() if isinstance(one, Path) else one).digest()
        for one in (sources[first], sources[second])
    ]
    if digests[0] != digests[1]:
        found = f"files {first + 1} and {second + 1} of {len(sources)} are one SOP instance with different content"
        raise DicomRefusal("E-DUPSOP", found, allowed="equal copies", tag="(0008,0018)", fix="keep the right one")


def _plan(objects: _Objects, policy: SeriesPolicy) -> list[Plan]:
    by_series: dict[str, list[Slice]] = defaultdict(list)
    for index, dataset in objects.datasets.items():
        try:
            records = _records(dataset, index, policy)
        except DicomRefusal as refusal:
            raise _at(refusal, index, objects.total) from None
        for one in records:
            if "LOCALIZER" in one.kind[0]:
                objects.skipped["localizer"] += 1
            else:
                by_series[one.identity.series].append(one)
    _check(by_series, policy, objects.total)
    if not by_series:
        raise DicomRefusal(
            "E-EMPTY", f"nothing but localizers among {len(objects.datasets)} files", allowed="a DICOM series"
        )
    plans = []
    for number, slices in enumerate(by_series.values()):
        groups = split_series(slices, policy)
        warnings = _count_warning(slices, objects.datasets)
        plans += [_volume(group, number, policy, warnings, objects.step()) for group in groups]
    return plans


def _check(by_series: dict[str, list[Slice]], policy: SeriesPolicy, total: int) -> None:
    """Refuse too many voxels in all (`E-SIZE`) before any is decoded, and axes that are not orthonormal."""
    slices = [one for members in by_series.values() for one in members]
    voxels = sum(one.shape[0] * one.shape[1] for one in slices)
    if voxels > policy.max_voxels:
        raise DicomRefusal("E-SIZE", f"{voxels} voxels in all", allowed=f"<= {policy.max_voxels}", fix="set max_voxels")
    for orientation, source in {one.orientation: one.source for one in reversed(slices)}.items():
        try:
            normal_of(orientation, policy.orientation_tolerance)
        except DicomRefusal as refusal:
            raise _at(refusal, source, total) from None


def _records(dataset: pydicom.Dataset, index: int, policy: SeriesPolicy) -> list[Slice]:
    """Return the slices of one object; refuses colour, MONOCHROME1 and mosaics as the policy says."""
    photometric = tags.word(dataset, "PhotometricInterpretation")
    if photometric in _COLOURS and (policy.colour == "refuse" or photometric == "PALETTE COLOR"):
        raise DicomRefusal(
            "E-COLOUR",
            f"{photometric} in a volume",
            allowed="MONOCHROME2",
            tag="(0028,0004)",
            fix="set colour=luminance",
        )
    if is_enhanced(dataset):
        return enhanced(dataset, index)
    if is_mosaic(dataset):
        if policy.mosaic == "refuse":
            raise DicomRefusal(
                "E-MOSAIC", "a mosaic", allowed="one slice per image", fix="set mosaic=unpack, or use dcm2niix"
            )
        return tiles(dataset, index, policy.orientation_tolerance)
    frames = tags.integer(dataset, "NumberOfFrames", 1)
    if frames > 1:
        found = f"{frames} frames without functional groups to place them"
        raise DicomRefusal("E-FRAMES", found, allowed="1, or an enhanced object", tag="(0028,0008)")
    return [classic(dataset, index)]


def _count_warning(slices: list[Slice], datasets: dict[int, pydicom.Dataset]) -> tuple[str, ...]:
    """Compare with ImagesInAcquisition, all a header says on how many images there should be (PS3.3 C.7.6.1)."""
    expected = max(whole_number(datasets[one.source], "ImagesInAcquisition") or 0 for one in slices)
    return (f"W-COUNT {len(slices)} slices, ImagesInAcquisition says {expected}",) if len(slices) < expected else ()


def _volume(group: Group, series: int, policy: SeriesPolicy, warnings: tuple[str, ...], steps: tuple[str, ...]) -> Plan:
    first = group.slices[0]
    if first.identity.photometric == "MONOCHROME1":
        raise DicomRefusal(
            "E-MIXED",
            "MONOCHROME1 in a volume",
            allowed="MONOCHROME2",
            tag="(0028,0004)",
            fix="export the series again",
        )
    count = len(group.slices)
    if count < policy.min_slices or count < 2:
        name = f" in volume {group.key}" if group.key else ""
        found = f"{count} slice{'s' if count > 1 else ''} < min {max(policy.min_slices, 2)}{name}"
        raise DicomRefusal(
            "E-SHAPE", found, allowed=f">= {max(policy.min_slices, 2)} slices", tag=ORIENTATION, fix="set min_slices"
        )
    lie = stack([one.position for one in group.slices], first.orientation, policy.tolerance)
    if not lie.even and (policy.gap == "refuse" or lie.widest > _WIDEST_BRIDGED):
        refuse_uneven(lie, policy.tolerance)
    if not lie.straight and policy.tilt == "refuse":
        refuse_tilted(lie)
    ordered = tuple(group.slices[i] for i in lie.order)
    sort = f"sort {count} slices along the normal"
    return Plan(ordered, lie, group.key, series, (*group.warnings, *warnings), (*steps, sort))
