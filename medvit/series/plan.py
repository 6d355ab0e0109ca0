"""From headers to volumes: which slices of a series make which volume, in which order, or why not (RE-03)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import pydicom

from medvit.dicom import tags
from medvit.errors import DicomRefusal
from medvit.series.enhanced import enhanced, is_enhanced
from medvit.series.geometry import ORIENTATION, Stack, normal_of, refuse_tilted, refuse_uneven, stack
from medvit.series.grouping import Group, split_series
from medvit.series.mosaic import is_mosaic, tiles
from medvit.series.policy import SeriesPolicy
from medvit.series.slices import Slice, classic, whole_number

_COLOURS = {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420", "PALETTE COLOR"}
_WIDEST_BRIDGED = 3.5  # spacings: with gap=resample up to two missing slices in a row are interpolated


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
class OpenedObjects:
    """What was opened: data sets by source index, and what was left out, counted by reason."""

    total: int
    datasets: dict[int, pydicom.Dataset] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)

    def step(self) -> tuple[str, ...]:
        """Say what was skipped, for the record."""
        return (f"skip {', '.join(f'{n} {why}' for why, n in sorted(self.skipped.items()))}",) if self.skipped else ()


def plan_volumes(objects: OpenedObjects, policy: SeriesPolicy) -> list[Plan]:
    """Return the volumes of opened objects by series, in order of appearance; refuses what cannot be placed exactly."""
    by_series: dict[str, list[Slice]] = defaultdict(list)
    for index, dataset in objects.datasets.items():
        try:
            records = _records(dataset, index, policy)
        except DicomRefusal as refusal:
            raise at_file(refusal, index, objects.total) from None
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
    _require_parts(objects.datasets.values())
    plans = []
    for number, slices in enumerate(by_series.values()):
        groups = split_series(slices, policy)
        warnings = _count_warning(slices, objects.datasets)
        plans += [_volume(group, number, policy, warnings, objects.step()) for group in groups]
    return plans


def _require_parts(datasets: Iterable[pydicom.Dataset]) -> None:
    """Refuse (`E-PARTS`) a concatenation of which a part is missing (PS3.3 C.7.6.16.2.2.4)."""
    parts: dict[str, set[int]] = defaultdict(set)
    total: Counter[str] = Counter()
    for dataset in datasets:
        whole = tags.text_value(dataset, "ConcatenationUID")
        if whole:
            parts[whole].add(tags.integer16(dataset, "InConcatenationNumber"))
            total[whole] = max(total[whole], *parts[whole], tags.integer16(dataset, "InConcatenationTotalNumber", 0))
    for whole, there in parts.items():
        missing = sorted(set(range(1, total[whole] + 1)) - there)
        if missing:
            found = f"part {', '.join(map(str, missing[:5]))} of {total[whole]} of a concatenation is missing"
            raise DicomRefusal("E-PARTS", found, allowed="all parts", tag="(0020,9162)", fix="export the series again")


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
            raise at_file(refusal, source, total) from None


def _records(dataset: pydicom.Dataset, index: int, policy: SeriesPolicy) -> list[Slice]:
    """Return the slices of one object; refuses colour, MONOCHROME1 and mosaics as the policy says."""
    photometric = tags.text_value(dataset, "PhotometricInterpretation")
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


def at_file(refusal: DicomRefusal, index: int, total: int) -> DicomRefusal:
    """Say which file a refusal is about, by its place in the list: a name could hold an identifier."""
    found = f"file {index + 1} of {total}: {refusal.found}"
    return DicomRefusal(refusal.code, found, allowed=refusal.allowed, tag=refusal.tag, fix=refusal.fix)
