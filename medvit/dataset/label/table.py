"""Label tables as text: sniffed files, put together from several tables, file names and lists if asked (B121)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from medvit.dataset.label import delimited
from medvit.dataset.scan import JOINS
from medvit.errors import ConfigError, DataError

PATH, FILES, SPLIT = "path", "files", "split"
_MORE, _DERIVE = {"csv", "on", "header"}, {"column", "pattern", "found", "missing"}


@dataclass(frozen=True)
class LabelSpec:
    """How the table is read.

    `csv`: a file; or {side: file}, whose rows get a column `split`; or "files": a table of the images' own relative
    paths (column `path`). `header`: the column names of a table without a header line. `derive`: {new column: {column,
    pattern}}: the first group of the regular expression where it is found; with `found` (and `missing`): that value,
    none where the cell is empty. `lists`: {side: text file of keys}, which makes a column `split`. `where`: {column:
    value or values}: other rows are left out and counted. `more`: further tables [{csv, on, header}], merged on the
    columns `on`.
    `on`: the identifier to join on (`JOINS` or "path"); `column`: the table's column that holds it (default: `on`).
    `target`: label columns; `keep`: columns to carry along (site, split, boxes); `patient`, `study`: columns that
    override the identifiers of the files. `separator`: a target column holds several findings ("A|B"), each of which
    becomes a 0/1 column; with `listed_in` that column holds them, and `target` names those to take.
    `repeated`: rows of one key that differ: "refuse", "majority" or "max" of the targets. `unmatched`: "refuse", "keep"
    images without a label, or "drop" them.
    """

    csv: Path | str | dict[str, Path]
    target: tuple[str, ...]
    on: str = "AccessionNumber"
    column: str = ""
    keep: tuple[str, ...] = ()
    patient: str = ""
    study: str = ""
    separator: str = ""
    listed_in: str = ""
    repeated: str = "refuse"
    unmatched: str = "refuse"
    header: tuple[str, ...] = ()
    derive: dict[str, dict[str, Any]] = field(default_factory=dict)
    lists: dict[str, Path] = field(default_factory=dict)
    more: tuple[dict[str, Any], ...] = ()
    where: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = []
        if self.on not in (*JOINS, PATH):
            problems.append(
                f"labels.on={self.on!r}: expected one of {', '.join((*JOINS, PATH))}, what the images are known by"
                f"{near(self.on, (*JOINS, PATH))}; if it is the column of the table that holds one of these, give "
                f"labels.column={self.on} and say with labels.on which"
            )
        for name, words in (("unmatched", ("refuse", "keep", "drop")), ("repeated", ("refuse", "majority", "max"))):
            if getattr(self, name) not in words:
                problems.append(f"labels.{name}={getattr(self, name)!r}: expected {', '.join(words)}")
        if not self.target:
            problems.append("labels.target is empty: name the label columns, e.g. labels.target=[finding]")
        names = {self.patient, self.study, *JOINS, "PatientName"} | ({self.key} if self.on in JOINS else set())
        problems += [
            f"labels.{setting}={name}: it identifies patients or studies and would stand in the manifest; leave it out"
            for setting, columns in (("target", self.target), ("keep", self.keep))
            for name in columns
            if name in names
        ]
        if self.listed_in and not self.separator:
            problems.append("labels.listed_in needs labels.separator")
        problems += [f"labels.derive.{name}: {text}" for name, one in self.derive.items() for text in _bad_rule(one)]
        problems += [
            "labels.more: each needs csv and on" for one in self.more if not {"csv", "on"} <= set(one) <= _MORE
        ]
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def key(self) -> str:
        """Return the column to join on."""
        return self.column or self.on

    @property
    def used(self) -> list[str]:
        """Return the columns whose values reach the manifest, each once."""
        targets = (self.listed_in,) if self.listed_in else self.target
        return list(dict.fromkeys((*targets, *self.keep, *filter(None, (self.patient, self.study)))))


@dataclass(frozen=True)
class Table:
    """A label table as text, one row per key, and what was assumed to read it."""

    rows: pd.DataFrame
    notes: tuple[str, ...]


def read_table(spec: LabelSpec, files: Sequence[str] = ()) -> Table:
    """Read the tables as text: encoding, delimiter and decimal comma are sniffed and stated.

    `files`: the images' relative paths, for csv="files".

    Raises:
        DataError: a file cannot be read or is ragged, rows of one table have none in another (`unmatched: refuse`), or
            columns are missing (all named, with the nearest ones).
    """
    if spec.csv == FILES:
        rows, notes, comma = pd.DataFrame({PATH: list(files)}, dtype=str), [f"{len(files)} file names"], False
    else:
        rows, notes, comma = _read(spec.csv, spec.header)
    rows = _derived(rows, spec)
    rows = _kept(rows, spec, notes)
    rows = _listed(rows, spec)
    for one in spec.more:
        other, told, _ = _read(one["csv"], tuple(one.get("header", ())))
        rows = _merged(rows, other, one["on"], spec, notes)
        notes += told
    _require_columns(rows, spec)
    as_text = {spec.key, spec.patient, spec.study}  # 007 is not 7, and an identifier has no decimals
    as_text |= {*spec.target, spec.listed_in} if spec.separator else set()
    for name in spec.used:
        if name in as_text:
            continue
        rows[name], found = _numbers(rows[name], decimal_comma=comma)
        notes += [f"column {name}: decimal comma"] * found
    return Table(rows, tuple(notes))


def _bad_rule(rule: Mapping[str, Any]) -> list[str]:
    problems = (
        [] if {"column", "pattern"} <= set(rule) <= _DERIVE else [f"needs column, pattern; knows {sorted(_DERIVE)}"]
    )
    try:
        groups = re.compile(str(rule.get("pattern", ""))).groups
    except re.error as error:
        return [*problems, f"the pattern is no regular expression ({error})"]
    return problems + ["the pattern has no group ( )"] * (groups < 1 and "found" not in rule)


def _read(source: Path | str | Mapping[str, Path | str], header: Sequence[str]) -> tuple[pd.DataFrame, list[str], bool]:
    """Return the rows of one file, or of one file per side with a column `split`; what was assumed; decimal comma."""
    if not isinstance(source, Mapping):
        return delimited.read(Path(source), header)
    parts, notes, commas = [], [], []
    for side, path in source.items():
        rows, told, comma = delimited.read(Path(path), header)
        parts.append(rows.assign(**{SPLIT: str(side)}))
        notes += [f"{side}: {note}" for note in told]
        commas.append(comma)
    return pd.concat(parts, ignore_index=True), notes, any(commas)


def _derived(rows: pd.DataFrame, spec: LabelSpec) -> pd.DataFrame:
    for name, rule in spec.derive.items():
        if rule["column"] not in rows:
            there = list(rows.columns)
            raise DataError(f"labels.derive.{name}: no column {rule['column']!r}{near(rule['column'], there)}")
        values = rows[rule["column"]].fillna("")
        if "found" in rule:
            hit = values.map(lambda value, sought=re.compile(rule["pattern"]): sought.search(value) is not None)
            missing = rule.get("missing")
            told = hit.map({True: str(rule["found"]), False: None if missing is None else str(missing)})
            rows[name] = told.where(rows[rule["column"]].notna())  # nothing written is no finding looked for
        else:
            rows[name] = values.str.extract(rule["pattern"], expand=True)[0]
    return rows


def _kept(rows: pd.DataFrame, spec: LabelSpec, notes: list[str]) -> pd.DataFrame:
    """Return the rows that `where` asks for, compared as text; none left is an error."""
    for name, wanted in spec.where.items():
        if name not in rows:
            raise DataError(f"labels.where: no column {name!r}{near(name, list(rows.columns))}")
        words = [str(one) for one in (wanted if isinstance(wanted, (list, tuple)) else [wanted])]
        mine = rows[name].isin(words)
        if not mine.any():
            raise DataError(f"labels.where: no row has {' or '.join(words)} in column {name!r}")
        notes.append(f"{int((~mine).sum())} of {len(rows)} rows left out, {name} is not {' or '.join(words)}")
        rows = rows[mine].reset_index(drop=True)
    return rows


def _listed(rows: pd.DataFrame, spec: LabelSpec) -> pd.DataFrame:
    if not spec.lists:
        return rows
    side: dict[str, str] = {}
    twice = 0
    for name, path in spec.lists.items():
        try:
            keys = {key.strip() for key in Path(path).read_text("utf-8-sig").split("\n")} - {""}
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"labels.lists.{name} cannot be read as text; check the path") from error
        twice += len(keys & side.keys())
        side |= dict.fromkeys(keys, str(name))
    if twice:
        raise DataError(f"labels.lists: {twice} keys stand in several lists; an image has one side, correct the lists")
    if spec.key not in rows:
        _require_columns(rows, spec)
    return rows.assign(**{SPLIT: rows[spec.key].map(side)})


def _merged(rows: pd.DataFrame, other: pd.DataFrame, on: Any, spec: LabelSpec, notes: list[str]) -> pd.DataFrame:
    keys = [on] if isinstance(on, str) else list(on)
    gone = [f"{key!r}{near(key, list(table.columns))}" for table in (rows, other) for key in keys if key not in table]
    if gone:
        raise DataError(f"labels.more: no column {', '.join(gone)}")
    asked = {*spec.target, spec.listed_in, spec.patient, spec.study} - set(keys)
    if twice := [name for name in other.columns if name in rows and name in asked]:
        raise DataError(f"labels.more: {', '.join(twice)} stands in two tables; rename the column in one of them")
    fresh = [name for name in other.columns if name in keys or name not in rows]
    known = other[fresh].dropna(subset=keys).drop_duplicates()  # pandas joins an empty key to an empty key
    merged = rows.merge(known, on=keys, how="left", indicator="_both")
    alone = merged.pop("_both") == "left_only"
    if alone.any() and spec.unmatched == "refuse":
        raise DataError(
            f"labels.more: {int(alone.sum())} of {len(rows)} rows have no counterpart by {', '.join(keys)}; "
            "correct the tables or set labels.unmatched=keep or drop"
        )
    notes += [f"{int(alone.sum())} rows have no counterpart by {', '.join(keys)}"] * bool(alone.any())
    return merged[~alone].reset_index(drop=True) if spec.unmatched == "drop" else merged


def _require_columns(rows: pd.DataFrame, spec: LabelSpec) -> None:
    wanted = {
        "labels.column" if spec.column else "labels.on": [spec.key],
        "labels.listed_in" if spec.listed_in else "labels.target": [spec.listed_in]
        if spec.listed_in
        else list(spec.target),
        "labels.keep": list(spec.keep),
        "labels.patient": [spec.patient] if spec.patient else [],
        "labels.study": [spec.study] if spec.study else [],
    }
    there = list(rows.columns)
    problems = [
        f"{setting}: no column {name!r}{near(name, there)}"
        for setting, names in wanted.items()
        for name in names
        if name not in there
    ]
    if problems:
        raise DataError("labels.csv: " + "; ".join(problems) + f"; it has {', '.join(there[:40])}")


def near(name: str, there: Sequence[str]) -> str:
    """Return the nearest of `there` as " (nearest: 'x')", or nothing."""
    lower = {one.lower(): one for one in there}
    near = difflib.get_close_matches(name.lower(), list(lower), 1, 0.6)
    return f" (nearest: {lower[near[0]]!r})" if near else ""


def _numbers(column: pd.Series, *, decimal_comma: bool) -> tuple[pd.Series, bool]:
    """Return the column as numbers if every value is one, else as text; and whether a decimal comma was read."""
    comma = decimal_comma and bool(column.str.fullmatch(r"[+-]?\d+,\d+").any())
    found = pd.to_numeric(column.str.replace(",", ".", regex=False) if comma else column, errors="coerce")
    if found.isna().equals(column.isna()) and found.notna().any():
        return found, comma
    return column, False
