"""What is predicted at once, films or volumes, made of files by the code that makes the rows of a manifest."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvit.bundle.runtime import Result, Runtime, Source
from medvit.dataset.walk import Found, walk
from medvit.errors import DataError, DicomRefusal
from medvit.preprocess import FilmPreprocess, VolumeFiles, VolumePreprocess
from medvit.series.policy import SeriesPolicy

logger = logging.getLogger(__name__)
_NAMED = ("code", "found", "allowed", "tag", "fix")


@dataclass(frozen=True)
class Unit:
    """One film, or one volume: its files, their positions in the sorted list of files (from 1), and pseudonyms.

    `volume_key` tells volumes of one series apart; `refusal` is why the files cannot be used, known before reading.
    """

    files: tuple[Path, ...]
    places: tuple[int, ...]
    uid: str
    study: str
    source: Source
    refusal: DicomRefusal | None = None


def files_in(source: Path) -> list[Path]:
    """Return one file, or all candidates below a folder (see `medvit.dataset.walk`) in the order of their names.

    Raises:
        DataError: there is none.
    """
    root, found = _found(source, Counter())
    return [root / one.name for one in found]


def _found(source: Path, skipped: Counter[str]) -> tuple[Path, list[Found]]:
    if source.is_file():
        state = source.stat()
        return source.parent, [Found(source.name, state.st_size, state.st_mtime_ns)]
    found = sorted(walk(source, skipped), key=lambda one: one.name)
    if not found:
        told = f" ({counted(skipped)})" if skipped else ""
        raise DataError(f"The input folder holds no file{told}. Give input=DIR with images.")
    return source, found


def counted(skipped: Mapping[str, int]) -> str:
    """Return "2 not an image file; 1 link out of the folder" of counts by reason."""
    return "; ".join(f"{number} {why}" for why, number in sorted(skipped.items()))


def units_in(
    source: Path, preprocess: FilmPreprocess | VolumePreprocess, skipped: Counter[str] | None = None
) -> list[Unit]:
    """Return what a file or folder asks to be predicted, named as an index of that folder names it.

    A film is judged whatever lies beside it; volumes are those of `medvit.dataset.rows`, refused ones among them.
    What is no unit is counted in `skipped` by reason, or logged where that is not given.
    """
    from medvit.dataset import pseudonym, scan
    from medvit.dicom.policy import Accept

    told: Counter[str] = Counter() if skipped is None else skipped
    root, found = _found(source, told)
    takes = Accept(min_side=0, burned_in="accept")  # what the model takes is for its bundle to say
    rows = scan.read_chunk(root, found, pseudonym.load(), takes)
    units = [
        Unit((root / one.name,), (place,), row["uid"], row["study"] or row["uid"] * (not row["code"]), root / one.name,
             _refusal(row))
        for place, (one, row) in enumerate(zip(found, rows, strict=True), 1)
    ]  # fmt: skip
    if isinstance(preprocess, FilmPreprocess):
        units = _taken(units, rows, preprocess.policy.accept.exposure)
    else:
        no_image = [unit for unit, row in zip(units, rows, strict=True) if row["code"] == "I-SKIP"]
        volumes = _volumes(root, rows, {one.name: place for place, one in enumerate(found, 1)}, preprocess, told)
        units = sorted(no_image + volumes, key=lambda unit: min(unit.places))
    if skipped is None and told:
        logger.info("skipped: %s", counted(told))
    return units


def _taken(units: list[Unit], rows: list[dict[str, Any]], exposure: str) -> list[Unit]:
    """Return the films with the refusals that the index gives to further films of an exposure."""
    import pandas as pd

    from medvit.dataset.exposures import left_out

    table = pd.DataFrame(rows)
    second = left_out(table[(table["code"] == "") & (table["kind"] == "film")], exposure) if rows else {}
    return [dataclasses.replace(one, refusal=second.get(place, one.refusal)) for place, one in enumerate(units)]


def _volumes(
    root: Path,
    rows: list[dict[str, Any]],
    place: dict[str, int],
    preprocess: VolumePreprocess,
    skipped: Counter[str],
) -> list[Unit]:
    import pandas as pd

    from medvit.dataset.rows import rows_of_scan

    counts: Counter[str] = Counter()
    policy = SeriesPolicy(**preprocess.series)
    made = rows_of_scan(pd.DataFrame(rows), root, counts, kind="volume", policy=policy)
    if copies := made.counts.get("copy of the same object"):
        skipped["copy of the same object"] += copies
    units = []
    for row in [*made.images.to_dict("records"), *made.excluded.to_dict("records")]:
        files = tuple(root / name for name in row["files"])
        key = VolumeFiles(files, str(row.get("volume_key", "")))
        units.append(Unit(files, tuple(place[n] for n in row["files"]), row["uid"], row["study"], key, _refusal(row)))
    return units


def _refusal(row: Mapping[Any, Any]) -> DicomRefusal | None:
    code, found, *more = (row[name] for name in _NAMED)
    return DicomRefusal(code, found, **dict(zip(_NAMED[2:], more, strict=True))) if code else None


def predictions_of(runtime: Runtime, units: Sequence[Unit], *, isolate: bool) -> Iterator[Result]:
    """Yield the result of each unit, in order; see `Runtime.stream` for `isolate`."""
    read = runtime.stream([unit.source for unit in units if unit.refusal is None], isolate=isolate)
    return (
        next(read) if unit.refusal is None else Result.refused(unit.refusal, runtime.bundle.draft) for unit in units
    )


def series_of(files: Sequence[bytes]) -> list[list[int]]:
    """Return which of some files belong together, as lists of their places: those of one series; others alone."""
    from medvit.dicom import tags
    from medvit.dicom.header import read_header

    groups: dict[str, list[int]] = defaultdict(list)
    for place, file in enumerate(files):
        try:
            series = tags.text_value(read_header(file), "SeriesInstanceUID")
        except DicomRefusal:
            series = ""
        groups[series or f" {place}"].append(place)
    return list(groups.values())


def volumes_in(files: Sequence[bytes], policy: SeriesPolicy) -> list[tuple[list[int], VolumeFiles]]:
    """Return the volumes that some files hold: the places of each one's files, and what the runtime reads.

    Each file is of one volume; a series that is refused, or holds several volumes in one file, comes whole and reading
    says why.
    """
    from medvit.dataset.rows import volumes_of

    found = []
    for places in series_of(files):
        try:
            parts = [(part.files, part.key) for part in volumes_of([files[place] for place in places], policy)]
        except DicomRefusal:
            parts = []
        if len(parts) < 2 or len({index for mine, _ in parts for index in mine}) < sum(len(mine) for mine, _ in parts):
            parts = [(tuple(range(len(places))), parts[0][1] if len(parts) == 1 else "")]
        parts += [((index,), "") for index in set(range(len(places))) - {i for mine, _ in parts for i in mine}]
        for mine, key in parts:
            members = [places[index] for index in mine]
            found.append((members, VolumeFiles([files[place] for place in members], key)))
    return found
