"""The steps of `medvit.index`: scan, rows, label join, summary. Each can be called by itself."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from medvit.dataset import pseudonym, rows
from medvit.dataset.label import join as label_tables
from medvit.dataset.label.table import FILES, LabelSpec
from medvit.dataset.manifest import EXCLUSIONS, FACTS, IDENTITY, KEPT, LABEL, replace_file
from medvit.dataset.pseudonym import Pseudonymiser
from medvit.dataset.scan import scan
from medvit.dicom.policy import Accept
from medvit.errors import ConfigError, DataError
from medvit.series.policy import SeriesPolicy

PARTS = ".scan"
YEAR = KEPT + "study_year"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What is indexed and how: see conf/index.yaml. `workers` 0 is one per core."""

    kind: str = "auto"
    patient_fallback: str = ""
    leave_out: tuple[str, ...] = ()
    accept: Accept = field(default_factory=Accept)
    series: SeriesPolicy = field(default_factory=SeriesPolicy)
    workers: int = 1

    def __post_init__(self) -> None:
        """Raises ConfigError for a word that is none of those of conf/index.yaml."""
        words = (("kind", rows.KINDS), ("patient_fallback", rows.FALLBACKS))
        wrong = [
            f"data.{name}={getattr(self, name)!r}: expected one of {', '.join(map(repr, known))}"
            for name, known in words
            if getattr(self, name) not in known
        ]
        if wrong:
            raise ConfigError("; ".join(wrong))

    @classmethod
    def of(cls, values: dict[str, Any], workers: int) -> Options:
        """Build from plain values; every unknown key is named. Raises ConfigError."""
        problems = []
        for name, kind, given in (
            ("data", cls, {**values}),
            ("data.accept", Accept, values.get("accept") or {}),
            ("data.series", SeriesPolicy, values.get("series") or {}),
        ):
            known = [item.name for item in dataclasses.fields(kind) if item.name != "workers"]
            for key in set(given) - set(known):
                near = difflib.get_close_matches(key, known, 1)
                problems.append(f"{name}.{key} is not known{f' (nearest: {near[0]})' if near else ''}")
        if problems:
            raise ConfigError("; ".join(sorted(problems)))
        built = {"accept": Accept.of(values.get("accept") or {}), "series": SeriesPolicy(**values.get("series") or {})}
        built["leave_out"] = tuple(values.get("leave_out") or ())
        return cls(**{**values, **built}, workers=workers or os.cpu_count() or 1)


@dataclass(frozen=True)
class Indexed:
    """Rows that can be used and rows that cannot, counts of what was skipped, and what is to be told."""

    images: pd.DataFrame
    excluded: pd.DataFrame
    counts: dict[str, int]
    mask: Pseudonymiser
    workers: int = 1
    notes: tuple[str, ...] = ()


def collect(root: Path, folder: Path, options: Options) -> Indexed:
    """Scan `root` (parts are kept in `folder/.scan` for the next time) and catalogue what is there.

    Raises:
        DataError: `E-EMPTY` no image at all, or the folder cannot be written (`E-DISK`).
    """
    mask = pseudonym.load()
    parts = folder / PARTS
    if parts.resolve().is_relative_to(root.resolve()):
        raise ConfigError("data.folder lies inside data.root; choose a folder beside the images")
    workers = options.workers
    try:
        with progress("reading headers") as step:
            scanned, skipped = scan(root, parts, mask, options.accept, workers=workers, progress=step)
    except OSError as error:
        raise DataError(
            f"E-DISK data.folder cannot be written: {error.strerror or 'input/output error'}; "
            "free space or choose another"
        ) from error
    if scanned.empty or (scanned["code"] == "I-SKIP").all():
        told = "; ".join(f"{number} {why}" for why, number in skipped.items()) or "no file at all"
        for place in (folder / PARTS, folder):
            with suppress(OSError):  # it holds something: not ours alone
                place.rmdir()
        raise DataError(f"E-EMPTY no DICOM, picture or NIfTI below data.root ({told}, {len(scanned)} opened)")
    scanned = _left_out(scanned, options.leave_out, skipped)
    with progress("planning series") as step:
        found = rows.rows_of_scan(
            scanned,
            root,
            skipped,
            kind=options.kind,
            patient_fallback=options.patient_fallback,
            policy=options.series,
            exposure=options.accept.exposure,
            workers=workers,
            progress=step,
        )
    return Indexed(found.images, found.excluded, found.counts, mask, workers)


def _left_out(scanned: pd.DataFrame, patterns: tuple[str, ...], skipped: Counter[str]) -> pd.DataFrame:
    """Leave out the files whose relative path matches one of the shell patterns; they are counted as skipped."""
    names = [os.fsdecode(name) for name in scanned["name"]]
    out = [any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns) for name in names]
    if any(out):
        skipped["named in data.leave_out"] += sum(out)
    return scanned[[not one for one in out]].reset_index(drop=True)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error if it is a terminal; yields what to call with the number of files done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(what), BarColumn(), TextColumn("{task.completed} files"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda count: bar.advance(task, count)


def label_spec(values: dict[str, Any] | None) -> LabelSpec | None:
    """Return the spec of plain values, None without a table. Raises ConfigError for unknown keys."""
    if not values or not values.get("csv"):
        return None
    known = [item.name for item in dataclasses.fields(LabelSpec)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(f"labels: unknown {', '.join(unknown)}; known are {', '.join(known)}")
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    given["lists"] = {side: Path(path) for side, path in (values.get("lists") or {}).items()}
    source = values["csv"]
    if isinstance(source, dict):
        given["csv"] = {side: Path(path) for side, path in source.items()}
    else:
        given["csv"] = source if source == FILES else Path(source)
    return LabelSpec(**given)


def label(found: Indexed, spec: LabelSpec) -> tuple[Indexed, list[str]]:
    """Join the label table (see `labels.join`); problems are returned, so that refused files are told with them."""
    try:
        table = label_tables.read_table(spec, [Path(names[0]).as_posix() for names in found.images["files"]])
        images, notes = label_tables.join(found.images, found.excluded, table, spec, found.mask)
    except DataError as error:
        return found if spec.patient else unlabelled(found), [str(error)]
    excluded = rows.exclude_without_label(found.images, images, found.excluded)
    return unlabelled(dataclasses.replace(found, images=images, excluded=excluded, notes=tuple(notes))), []


def unlabelled(found: Indexed) -> Indexed:
    """Take the images as they are; those without a patient are excluded."""
    images, excluded = rows.exclude_without_patient(found.images, found.excluded)
    return dataclasses.replace(found, images=images, excluded=excluded)


def picture_range(found: Indexed, root: Path) -> int | None:
    """Return how many bits the films use that do not say it (`picture_range.picture_bits`), and log it."""
    from medvit.dataset.picture_range import picture_bits

    films = found.images[found.images["kind"] == "film"]
    with progress("looking for the range of films that do not state it") as step:
        bits = picture_bits([root / names[0] for names in films["files"]], found.workers, step)
    if bits:
        log.info("films without a declared range: %d bits hold 99 %% of them and become black to white", bits)
    return bits


def columns(images: pd.DataFrame) -> pd.DataFrame:
    """Return the manifest's columns alone: join keys and refusal parts stay behind."""
    carried = [name for name in images.columns if name.startswith((LABEL, KEPT))]
    known = images[[*IDENTITY, *FACTS, *carried]].copy()
    if rows.VOLUME in known and known[rows.VOLUME].fillna("").eq("").all():
        known = known.drop(columns=rows.VOLUME)
    if YEAR not in known and images["study_year"].notna().any():
        known[YEAR] = images["study_year"].astype("Int64")
    return known


def write_exclusions(excluded: pd.DataFrame, folder: Path) -> None:
    """Write `exclusions.csv`: uid (pseudonym), kind, files (how many), code, tag, found, allowed, fix."""
    names = ["uid", "kind", *rows.REFUSAL]
    table = excluded.reindex(columns=names).assign(files=[len(files) for files in excluded.get("files", [])])
    table = table[["uid", "kind", "files", *rows.REFUSAL]].sort_values(["code", "uid"])
    replace_file(folder / EXCLUSIONS, lambda draft: table.to_csv(draft, index=False))


def summary_text(found: Indexed) -> str:
    """Return the counts by kind, reason, vendor, transfer syntax, view and label, as lines of text."""
    images = found.images
    lines = [f"{len(images)} images of {images['patient'].nunique() if len(images) else 0} patients can be used"]
    lines += _spelt_alike(images)
    lines += [f"labels: {note}" for note in found.notes]
    lines += [f"skipped: {number} x {why}" for why, number in sorted(found.counts.items())]
    for name in ("kind", "modality", "manufacturer", "transfer_syntax", "view", "photometric"):
        if name in images:
            lines.append(f"{name}: {_counted(images[name])}")
    lines += [
        f"{name}: {_counted(images[name])}"
        for name in images.columns
        if name.startswith(LABEL) and images[name].nunique() <= 12
    ]
    if len(found.excluded):
        lines.append(f"left out: {_counted(found.excluded['code'])} (see {EXCLUSIONS})")
    return "\n".join(lines)


def _spelt_alike(images: pd.DataFrame) -> list[str]:
    """Tell of patients whose identifiers hardly differ: one patient under two spellings may stand on two sides."""
    known = images[images["alike"].fillna("") != ""] if "alike" in images else images[:0]
    spellings = known.groupby("alike")["patient"].nunique() if len(known) else pd.Series(dtype=int)
    many = int(spellings[spellings > 1].sum())
    told = (
        f"WARN {many} patients have an identifier that differs from another's only by capitals, blanks, signs at its "
        "ends or leading zeros: if they are the same people, a split may part them; give one spelling for each in a "
        "column of the label table (labels.patient=COLUMN)"
    )
    return [told] * bool(many)


def _counted(values: pd.Series) -> str:
    counts = values.fillna("missing").replace("", "unknown").value_counts()
    more = f", {len(counts) - 12} more" if len(counts) > 12 else ""
    return ", ".join(f"{value} {number}" for value, number in counts.head(12).items()) + more


def refusal_text(excluded: pd.DataFrame) -> str:
    """Return the table of refusals by reason, for the error that stops the command."""
    lines = [f"{len(excluded)} objects are refused and nothing was indexed (on_bad=refuse):"]
    reasons = Counter(zip(*(excluded[name] for name in ("code", "tag", "found", "fix")), strict=True))
    first = dict(zip(excluded["found"][::-1], excluded["uid"][::-1], strict=True))
    for (code, tag, found, remedy), number in reasons.most_common(20):
        fix = f'; fix="{remedy}"' if remedy else ""
        lines.append(f"  {number} x {code} {tag} {found} (e.g. {first[found][:12]}){fix}")
    lines.append(f"all are listed in {EXCLUSIONS}; repair them, or leave them out with on_bad=skip")
    return "\n".join(lines)
