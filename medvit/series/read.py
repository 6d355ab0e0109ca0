"""From the objects of one or more series to volumes with an exact affine, or a refusal by name (RE-03)."""

from __future__ import annotations

import difflib
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import pydicom

from medvit.dicom import tags
from medvit.dicom.header import read_dataset
from medvit.dicom.header_reuse import HeaderReuse
from medvit.dicom.storage import Source
from medvit.errors import DicomRefusal
from medvit.series.assemble import fill
from medvit.series.enhanced import is_enhanced
from medvit.series.mosaic import is_mosaic
from medvit.series.plan import OpenedObjects, Plan, at_file, plan_volumes
from medvit.series.policy import SeriesPolicy
from medvit.types import Volume

__all__ = ["Plan", "SeriesPolicy", "holds_slices", "one_volume", "plan_series", "read_series", "read_volume"]

_DEFAULT = SeriesPolicy()
_JUNK_NAMES = ("._", "thumbs.db", ".ds_store", "desktop.ini")
_JUNK_STARTS = (b"\xd0\xcf\x11\xe0", b"\x00\x05\x16\x07")  # Thumbs.db (OLE2), AppleDouble
_DERIVED_OBJECTS = {"SEG", "RTDOSE"}  # they have pixels and places, and show no patient

log = logging.getLogger(__name__)


def read_series(sources: Sequence[Source], policy: SeriesPolicy = _DEFAULT) -> list[Volume]:
    """Read files of one or more series into volumes (slice, row, column), float32 after rescale, affines in LPS mm.

    Volumes come by series in order of appearance, then orientation, image type, echo, b-value, time. Anything that
    cannot be read exactly is refused: `DicomRefusal` with a code of the table of bad inputs.
    """
    objects = _open(sources, pixels=True)
    return [fill(plan, objects.datasets, policy) for plan in plan_volumes(objects, policy)]


def read_volume(sources: Sequence[Source], key: str = "", policy: SeriesPolicy = _DEFAULT) -> Volume:
    """Read the one volume `key` of the sources, as `read_series` does.

    Where the sources are the files of that volume alone, as a manifest lists them, nothing else is left to tell it
    apart and its key is empty: then it is taken. `E-4D` if the sources hold several volumes and `key` is empty, `E-KEY`
    if none of them is `key`.
    """
    return one_volume(read_series(sources, policy), key)


def one_volume(volumes: Sequence[Volume], key: str = "") -> Volume:
    """Return the volume named `key` of those of one series; `E-4D` and `E-KEY` as `read_volume` says."""
    keys = [volume.key for volume in volumes]
    if keys.count(key) == 1:
        return volumes[keys.index(key)]
    if keys == [""] or (len(keys) == 1 and not key):
        return volumes[0]
    names = ", ".join(name or "(plain)" for name in keys)
    if not key or key in keys:  # in keys: more than once, in several series
        raise DicomRefusal("E-4D", f"{len(keys)} volumes: {names}", allowed="one volume", fix="name one of one series")
    near = difflib.get_close_matches(key, keys, 1, 0.5)
    fix = f"did you mean {near[0]!r}?" if near else "name one of them"
    raise DicomRefusal("E-KEY", f"no volume {key!r}", allowed=names, fix=fix)


def plan_series(sources: Sequence[Source], policy: SeriesPolicy = _DEFAULT) -> list[Plan]:
    """Say from the headers alone which volumes `read_series` would give, with the same refusals but those of pixels."""
    return plan_volumes(_open(sources, pixels=False), policy)


def holds_slices(dataset: pydicom.Dataset) -> bool:
    """Say whether one object may hold several slices: an enhanced object or a mosaic."""
    return is_enhanced(dataset) or is_mosaic(dataset)


def _open(sources: Sequence[Source], *, pixels: bool) -> OpenedObjects:
    objects = OpenedObjects(len(sources))
    seen: dict[str, int] = {}
    alike = HeaderReuse()
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
            raise at_file(refusal, index, len(sources)) from None
        if tags.text_value(dataset, "Modality") in _DERIVED_OBJECTS:
            objects.skipped["not an image"] += 1
            continue
        instance = tags.text_value(dataset, "SOPInstanceUID")
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


def _require_equal(sources: Sequence[Source], first: int, second: int) -> None:
    digests = [
        hashlib.sha256(one.read_bytes() if isinstance(one, Path) else one).digest()
        for one in (sources[first], sources[second])
    ]
    if digests[0] != digests[1]:
        found = f"files {first + 1} and {second + 1} of {len(sources)} are one SOP instance with different content"
        raise DicomRefusal("E-DUPSOP", found, allowed="equal copies", tag="(0008,0018)", fix="keep the right one")
