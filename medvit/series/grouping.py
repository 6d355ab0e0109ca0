"""Which slices of a series belong to one volume: orientation, type, echo, b-value, and time where positions repeat."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from medvit.errors import DicomRefusal
from medvit.series.geometry import ORIENTATION, POSITION, clusters, normal_of, same_place
from medvit.series.policy import SeriesPolicy
from medvit.series.slices import MOMENTS, Kind, Slice

Members = list[Slice]
_WORDS: Final = {"M": "magnitude", "P": "phase", "R": "real", "I": "imaginary", "W": "water", "F": "fat"}
_CONTRASTS: Final = ("IN_PHASE", "OUT_PHASE", "OPP_PHASE", "ADC", "TRACEW", "FA", "MIXED")
_COMPONENTS: Final = frozenset((*_WORDS, *(word.upper() for word in _WORDS.values()), *_CONTRASTS))
_JITTER: Final = 0.01  # of an echo time or a b-value, within one acquisition
_SCOUT_COSINE: Final = 0.985  # a localizer lies across the stack; less than 10 degrees apart is a damaged slice


@dataclass(frozen=True, slots=True)
class Group:
    """The slices of one volume in no order yet, its key within the series, and warnings."""

    slices: Members
    key: str = ""
    warnings: tuple[str, ...] = ()


def split_series(slices: Members, policy: SeriesPolicy) -> list[Group]:
    """Return the volumes of one series (one SeriesInstanceUID, localizers already left out).

    Refuses `E-PATIENT`, `E-ORIENT`, `E-SHAPE`, `E-SPACING`, `E-FOR`, `E-MIXED`, `E-DUPPOS`, and `E-4D` by policy.
    """
    _agree(slices, "E-PATIENT", "PatientID", lambda one: one.identity.patient, "(0010,0020)", show=False)
    groups = []
    for part in _by_orientation(slices, policy):
        for kind in _by_kind(part):
            check_alike(kind.slices)
            groups += _by_moment(kind)
    if len(groups) > 1 and policy.several == "refuse":
        names = ", ".join(group.key for group in groups[:4])
        raise DicomRefusal(
            "E-4D", f"{len(groups)} volumes in one series: {names}", allowed="1", fix="set several=split"
        )
    return groups


def check_alike(slices: Members) -> None:
    """Refuse slices of one volume that differ in what they must share, naming the odd ones."""
    _agree(slices, "E-SHAPE", "rows x columns", lambda one: "{}x{}".format(*one.shape), "(0028,0010)")
    _agree(slices, "E-SPACING", "PixelSpacing", lambda one: "{:.5g}\\{:.5g}".format(*one.spacing), "(0028,0030)")
    _agree(
        slices, "E-FOR", "FrameOfReferenceUID", lambda one: one.identity.frame_of_reference, "(0020,0052)", show=False
    )
    _agree(slices, "E-MIXED", "PhotometricInterpretation", lambda one: one.identity.photometric, "(0028,0004)")


def _agree(
    slices: Members, code: str, name: str, value: Callable[[Slice], Hashable], tag: str, *, show: bool = True
) -> None:
    counts = Counter(map(value, slices))
    if len(counts) == 1:
        return
    usual = counts.most_common(1)[0][0]
    odd = [one for one in slices if value(one) != usual]
    where = ", ".join(str(one.source + 1) for one in odd[:5]) + (", ..." if len(odd) > 5 else "")
    what = f"{value(odd[0])} where the others have {usual}" if show else f"another {name} than the others"
    raise DicomRefusal(
        code, f"{len(odd)} of {len(slices)} slices (file {where}) with {what}", allowed=f"one {name}", tag=tag
    )


def _by_orientation(slices: Members, policy: SeriesPolicy) -> list[Group]:
    """Split by ImageOrientationPatient; a few slices across a full stack are a localizer, left out with a warning."""
    parts = [
        [slices[i] for i in part]
        for part in clusters([one.orientation for one in slices], policy.orientation_tolerance)
    ]
    normals = [normal_of(part[0].orientation, policy.orientation_tolerance) for part in parts]
    if len(parts) == 1:
        return [Group(parts[0])]
    full = [i for i, part in enumerate(parts) if len(part) >= policy.min_slices]
    scouts = [i for i in range(len(parts)) if i not in full]
    doubtful = [i for i in scouts if any(abs(normals[i] @ normals[j]) > _SCOUT_COSINE for j in full)]
    if not full or doubtful:
        sizes = " + ".join(str(len(part)) for part in parts)
        found = f"{len(parts)} orientations in one series, of {sizes} slices"
        raise DicomRefusal("E-ORIENT", found, allowed="one orientation per volume", tag=ORIENTATION)
    left_out = sum(len(parts[i]) for i in scouts)
    warning = (f"W-LOCALIZER {left_out} slices across the stack left out",) if left_out else ()
    return [Group(parts[i], f"orientation={n}" if len(full) > 1 else "", warning) for n, i in enumerate(full, 1)]


def _by_kind(group: Group) -> list[Group]:
    """Split by image type, echo time and b-value: slices that differ in these share a volume only as jitter."""
    found = _settled(group)
    types = _type_names({image_type for image_type, _, _ in found})
    echoes = sorted({echo for _, echo, _ in found}, key=_sortable)
    b_values = {b_value for _, _, b_value in found}
    out = []
    for (image_type, echo, b_value), members in found.items():
        labels = [group.key] if group.key else []
        labels += [types[image_type]] if len(types) > 1 else []
        labels += [f"echo={echoes.index(echo) + 1}"] if len(echoes) > 1 else []
        labels += ["b=none" if b_value is None else f"b={b_value:g}"] if len(b_values) > 1 else []
        kinds = len({one.kind for one in members})
        told = (f"W-JITTER {kinds} image types, echo times or b-values within one volume",) * (kinds > 1)
        out.append(Group(members, ",".join(labels), (*group.warnings, *told)))
    return sorted(out, key=lambda one: [_sortable(part) for part in one.slices[0].kind])


def _settled(group: Group) -> dict[Kind, Members]:
    """Return the slices by kind, those of kinds that are jitter of one another under the most frequent of these.

    Kinds are jitter of one another where numbers hardly differ and the kinds do not cover the same positions, as
    volumes of their own would; and where image types differ in no word of `_COMPONENTS` and no position repeats.
    """
    found: dict[Kind, Members] = defaultdict(list)
    places: dict[Kind, set[int]] = defaultdict(set)
    for one, place in zip(group.slices, _places(group.slices), strict=True):
        found[one.kind].append(one)
        places[one.kind].add(place)
    if len(found) == 1:
        return dict(found)
    settled: dict[Kind, Members] = {}
    for kind in sorted(found, key=lambda kind: (-len(found[kind]), [_sortable(part) for part in kind])):
        usual = next((one for one in settled if _jitter(one, kind, places[one], places[kind])), kind)
        settled.setdefault(usual, []).extend(found[kind])
        places[usual] = places[usual] | places[kind]
    return settled


def _jitter(usual: Kind, other: Kind, there: set[int], here: set[int]) -> bool:
    near = all(
        a == b or (a is not None and b is not None and abs(a - b) <= least + _JITTER * max(a, b))
        for a, b, least in zip(usual[1:], other[1:], (0.02, 5.0), strict=True)  # ms, s/mm2
    )
    if not near or usual[0] == other[0]:
        return near and not here >= there
    return not (set(usual[0]) ^ set(other[0])) & _COMPONENTS and not there & here


def _type_names(types: set[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Name each image type by the words that the others lack: magnitude, phase, water, adc, ..."""
    common = set.intersection(*map(set, types))
    names: dict[tuple[str, ...], str] = {}
    for image_type in sorted(types):
        name = (
            "+".join(dict.fromkeys(_WORDS.get(word, word.lower()) for word in image_type if word not in common))
            or "plain"
        )
        names[image_type] = name if name not in names.values() else f"{name}.{len(names) + 1}"
    return names


def _sortable(value: object) -> tuple[bool, float, str]:
    """Order None first, then numbers by size, then texts; a text that holds a number is a number."""
    if isinstance(value, (tuple, list)) and len(value) == 1:
        value = value[0]
    try:
        return value is not None, float(value), ""  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return value is not None, float("inf"), "" if value is None else str(value)


def _by_moment(group: Group) -> list[Group]:
    """Split by time point and the like, if and only if positions repeat."""
    return _separate(group, _places(group.slices), list(enumerate(MOMENTS)), frozenset())


def _separate(
    group: Group, places: Sequence[int], moments: list[tuple[int, tuple[str, str]]], used: frozenset[str]
) -> list[Group]:
    if len(set(places)) == len(places):
        return [group]
    for at, (index, (name, _)) in enumerate(moments):
        classes: dict[object, list[int]] = defaultdict(list)
        for number, one in enumerate(group.slices):
            classes[one.moments[index] if one.moments else None].append(number)
        covered = {tuple(sorted(places[i] for i in members)) for members in classes.values()}
        if len(classes) > 1 and len(covered) == 1:  # every value covers the same positions
            label = name if name not in used else "n"
            parts = [classes[value] for value in sorted(classes, key=_sortable)]
            return [
                piece
                for rank, members in enumerate(parts, 1)
                for piece in _separate(
                    _part(group, members, f"{label}={rank}"),
                    [places[i] for i in members],
                    moments[at + 1 :],
                    used | {label},
                )
            ]
    return _by_instance(group, places, "t" if "t" not in used else "n")


def _by_instance(group: Group, places: Sequence[int], label: str) -> list[Group]:
    """Take the k-th slice at each position, by InstanceNumber, as volume k, if the numbers run through whole volumes.

    They do where they run volume after volume, or position after position (Philips), and all positions repeat as often.
    """
    numbers = [one.instance for one in group.slices]
    counts = Counter(places)
    repeats = max(counts.values())
    order = sorted(range(len(places)), key=lambda i: (numbers[i] or 0, i))
    run = [places[i] for i in order]
    whole = [run[i : i + len(counts)] for i in range(0, len(run), len(counts))]
    volumes = all(len(set(part)) == len(counts) for part in whole)
    positions = all(len(set(run[i : i + repeats])) == 1 for i in range(0, len(run), repeats))
    distinct = len({(place, number) for place, number in zip(places, numbers, strict=True)}) == len(places)
    if None in numbers or min(counts.values()) != repeats or not distinct or not (volumes or positions):
        crowded = sum(count > 1 for count in counts.values())
        found = f"{crowded} of {len(counts)} positions hold several slices that nothing in the header tells apart"
        raise DicomRefusal(
            "E-DUPPOS", found, allowed="one slice per position", tag=POSITION, fix="remove the extra slices"
        )
    seen: Counter[int] = Counter()
    ranks: dict[int, list[int]] = defaultdict(list)
    for i in order:
        seen[places[i]] += 1
        ranks[seen[places[i]]].append(i)
    warning = f"W-ORDER {repeats} volumes told apart by InstanceNumber alone"
    parts = [_part(group, members, f"{label}={rank}") for rank, members in ranks.items()]
    return [Group(part.slices, part.key, (*part.warnings, warning)) for part in parts]


def _part(group: Group, members: Sequence[int], label: str) -> Group:
    key = f"{group.key},{label}" if group.key else label
    return Group([group.slices[i] for i in members], key, group.warnings)


def _places(slices: Members) -> list[int]:
    """Number the distinct positions along the normal; slices at one position get one number."""
    along = np.array([one.position for one in slices]) @ normal_of(slices[0].orientation, 0.1)
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    apart = gaps[gaps > same_place(0.0)]
    limit = same_place(float(np.median(apart)) if len(apart) else 0.0)
    numbers = np.empty(len(slices), dtype=np.intp)
    numbers[order] = np.concatenate([[0], np.cumsum(gaps > limit)])
    return [int(number) for number in numbers]
