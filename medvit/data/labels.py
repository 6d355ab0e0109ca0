"""A label table joined to images by keyed hashes, with every assumption and every mismatch told (B111, B112, B121)."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from medvit.data.manifest import KEPT, LABEL
from medvit.dicom.scan import JOINS, Mask
from medvit.errors import ConfigError, DataError

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL")
PATH = "path"


@dataclass(frozen=True)
class LabelSpec:
    """How the table is read.

    `on`: the identifier to join on (`JOINS` or "path"); `column`: the table's column that holds it (default: `on`).
    `target`: label columns; `keep`: columns to carry along (site, split, boxes); `patient`, `study`: columns that
    override the identifiers of the files. `separator`: a target column holds several findings ("A|B"), each of which
    becomes a 0/1 column. `unmatched`: "refuse", "keep" images without a label, or "drop" them.
    """

    csv: Path
    target: tuple[str, ...]
    on: str = "AccessionNumber"
    column: str = ""
    keep: tuple[str, ...] = ()
    patient: str = ""
    study: str = ""
    separator: str = ""
    unmatched: str = "refuse"

    def __post_init__(self) -> None:
        problems = []
        if self.on not in (*JOINS, PATH):
            problems.append(
                f"labels.on={self.on!r}: expected one of {', '.join((*JOINS, PATH))}{_near(self.on, (*JOINS, PATH))}"
            )
        if self.unmatched not in {"refuse", "keep", "drop"}:
            problems.append(f"labels.unmatched={self.unmatched!r}: expected refuse, keep or drop")
        if not self.target:
            problems.append("labels.target is empty: name at least one column")
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True)
class Table:
    """A label table as text, one row per key, and what was assumed to read it."""

    rows: pd.DataFrame
    notes: tuple[str, ...]


def read_table(spec: LabelSpec) -> Table:
    """Read the CSV as text: encoding, delimiter and decimal comma are sniffed and stated (B121).

    Raises:
        DataError: the file cannot be read or is ragged, or columns are missing (all named, with the nearest ones).
    """
    try:
        raw = spec.csv.read_bytes()
    except OSError as error:
        raise DataError(f"labels.csv cannot be read ({error.strerror}); check the path") from error
    text, encoding = _decode(raw)
    delimiter = _delimiter(text)
    try:
        rows = pd.read_csv(
            io.StringIO(text),
            sep=delimiter,
            dtype=str,
            keep_default_na=False,
            na_values=list(MISSING),
            skipinitialspace=True,
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(
            f"labels.csv is no table with {delimiter!r} between its columns: a row has another length"
        ) from error
    rows.columns = [str(name).strip() for name in rows.columns]
    _require_columns(rows, spec)
    rows = rows.apply(lambda column: column.str.strip())
    ends = "CRLF" if "\r\n" in text else "LF"
    notes = [f"{len(rows)} rows, {encoding}, {delimiter!r} between columns, {ends} line ends"]
    for name in dict.fromkeys((*spec.target, *spec.keep)):
        if spec.separator and name in spec.target:
            continue
        rows[name], comma = _numbers(rows[name], decimal_comma=delimiter == ";")
        notes += [f"column {name}: decimal comma"] * comma
    return Table(rows, tuple(notes))


def _decode(raw: bytes) -> tuple[str, str]:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16"), "UTF-16"
    try:
        return raw.decode("utf-8-sig"), "UTF-8 with BOM" if raw.startswith(b"\xef\xbb\xbf") else "UTF-8"
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace"), "Windows-1252 (it is no UTF-8)"


def _delimiter(text: str) -> str:
    """Return the candidate that cuts header and first rows into equally many columns; of several, the most columns."""
    lines = text.splitlines()[:20]
    widths = {sep: {len(row) for row in csv.reader(lines, delimiter=sep) if row} for sep in ",;\t|"}
    even = {sep: max(found) for sep, found in widths.items() if len(found) == 1}
    best = max(even, key=lambda sep: even[sep], default=",")
    return best if even.get(best, 1) > 1 else ","


def _require_columns(rows: pd.DataFrame, spec: LabelSpec) -> None:
    wanted = {
        "labels.column" if spec.column else "labels.on": [spec.column or spec.on],
        "labels.target": list(spec.target),
        "labels.keep": list(spec.keep),
        "labels.patient": [spec.patient] if spec.patient else [],
        "labels.study": [spec.study] if spec.study else [],
    }
    there = list(rows.columns)
    problems = [
        f"{setting}: no column {name!r}{_near(name, there)}"
        for setting, names in wanted.items()
        for name in names
        if name not in there
    ]
    if problems:
        raise DataError("labels.csv: " + "; ".join(problems) + f"; it has {', '.join(there[:40])}")


def _near(name: str, there: Sequence[str]) -> str:
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


def join(
    images: pd.DataFrame, excluded: pd.DataFrame, table: Table, spec: LabelSpec, mask: Mask
) -> tuple[pd.DataFrame, list[str]]:
    """Add `label.*` and `table.*` columns to the images; return them and the account of the join.

    `images` and `excluded` hold `on.<identifier>` hashes and `files`; a label row of an excluded object is explained,
    not unmatched.

    Raises:
        DataError: `E-LABEL` rows of one key disagree; images or rows without a counterpart (`unmatched: refuse`); no
            match at all (with the identifiers that would match); or a target with one value only.
    """
    name = spec.column or spec.on
    rows, notes = _unique_rows(table.rows.dropna(subset=[name]), name, spec, mask)
    notes = [*table.notes, *notes]
    if spec.on == PATH:
        keys, how = _path_keys(images, rows[name])
        gone = _path_keys(excluded, rows[name])[0] if len(excluded) else pd.Series(dtype=str)
        notes.append(f"joined on path by {how}")
        rows = rows.assign(_key=rows[name].map(_slashes))
    else:
        keys, gone = images[f"on.{spec.on}"], excluded.get(f"on.{spec.on}", pd.Series(dtype=str))
        rows = rows.assign(_key=[mask(f"on.{spec.on}", value) for value in rows[name]])
    matched = keys.isin(rows["_key"])
    lost = rows[~rows["_key"].isin(keys) & ~rows["_key"].isin(gone)]
    notes.append(
        f"{int(matched.sum())} of {len(images)} images and {len(rows) - len(lost)} of {len(rows)} label rows match"
    )
    if not matched.any():
        raise DataError(f"labels: no image matches on {spec.on}{_hint(images, rows[name], mask)}; " + "; ".join(notes))
    if spec.unmatched == "refuse" and (len(lost) or not matched.all()):
        raise DataError(_unmatched(images[~matched], lost, spec, mask))
    kind: Literal["left", "inner"] = "inner" if spec.unmatched == "drop" else "left"
    joined = images.assign(_key=keys).merge(rows.add_prefix("row."), left_on="_key", right_on="row._key", how=kind)
    result = joined[images.columns].copy()
    joined = joined.filter(regex=r"^row\.").rename(columns=lambda column: column.removeprefix("row."))
    _override_identity(result, joined, spec, mask)
    for column in spec.target:
        result = result.assign(**_targets(joined[column], column, spec.separator))
    for column in spec.keep:
        result[KEPT + column] = joined[column]
    _require_two_values(result)
    return result, notes


def _unique_rows(rows: pd.DataFrame, name: str, spec: LabelSpec, mask: Mask) -> tuple[pd.DataFrame, list[str]]:
    """Keep one row per key; `E-LABEL` when rows of one key differ in what is used."""
    used = list(dict.fromkeys((*spec.target, *spec.keep, *filter(None, (spec.patient, spec.study)))))
    distinct = rows[[name, *[column for column in used if column != name]]].drop_duplicates()
    conflict = distinct[distinct[name].duplicated(keep=False)]
    if len(conflict):
        odd = conflict.groupby(name).nunique(dropna=False).gt(1)
        which = ", ".join(str(column) for column in odd.columns[odd.any()])
        ids = [mask(f"on.{spec.on}", str(key))[:12] for key in conflict[name].unique()[:20]]
        raise DataError(
            f"E-LABEL {conflict[name].nunique()} keys have label rows that disagree in {which}: {', '.join(ids)} "
            "(pseudonymous); join on an identifier that is unique, or correct the table"
        )
    copies = len(rows) - len(distinct)
    return distinct, [f"{copies} repeated label rows that agree"] * bool(copies)


def _slashes(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode().replace("\\", "/").removeprefix("./")


def _path_keys(images: pd.DataFrame, values: pd.Series) -> tuple[pd.Series, str]:
    """Return for each image the table value that names it, and how: the way that matches most images."""
    wanted = {_slashes(value) for value in values}
    paths = [Path(names[0]) for names in images["files"]]
    ways = {
        "relative path": [path.as_posix() for path in paths],
        "folder": [path.parent.as_posix() for path in paths],
        "file name": [path.name for path in paths],
        "file name without suffix": [path.name.removesuffix(".gz").rpartition(".")[0] or path.name for path in paths],
    }
    best = max(ways, key=lambda way: sum(key in wanted for key in ways[way]))
    keys = pd.Series([_slashes(key) for key in ways[best]], index=images.index, dtype=str)
    repeated = keys[keys.isin(wanted)].duplicated().sum()
    if repeated and best.startswith("file name"):
        raise DataError(
            f"labels.on=path: {repeated} file names stand in several folders; put the relative path in the table"
        )
    return keys, best


def _hint(images: pd.DataFrame, values: pd.Series, mask: Mask) -> str:
    """Say which other identifier the column would match, and whether leading zeros are the reason."""
    found = []
    for key in JOINS:
        here = set(images[f"on.{key}"]) - {""}
        for how, change in (("", str), (" with leading zeros removed", lambda text: text.lstrip("0"))):
            hits = sum(mask(f"on.{key}", change(value)) in here for value in values)
            found += [f"{hits} rows would match on {key}{how}"] * bool(hits)
    return " (" + "; ".join(found) + ")" if found else " nor on any other identifier"


def _unmatched(images: pd.DataFrame, rows: pd.DataFrame, spec: LabelSpec, mask: Mask) -> str:
    parts = []
    if len(images):
        parts.append(f"{len(images)} images have no label row: {', '.join(uid[:12] for uid in images['uid'][:20])}")
    if len(rows):
        ids = (mask(f"on.{spec.on}", str(value))[:12] for value in rows[spec.column or spec.on][:20])
        parts.append(f"{len(rows)} label rows have no image: {', '.join(ids)}")
    return "labels: " + "; ".join(parts) + " (pseudonymous); correct the table or set labels.unmatched=keep or drop"


def _override_identity(result: pd.DataFrame, joined: pd.DataFrame, spec: LabelSpec, mask: Mask) -> None:
    for kind, column in (("patient", spec.patient), ("study", spec.study)):
        if column:
            known = joined[column].notna()
            result.loc[known, kind] = [mask(kind, "", str(value)) for value in joined.loc[known, column]]


def _targets(values: pd.Series, name: str, separator: str) -> dict[str, pd.Series]:
    if not separator:
        return {LABEL + name: values}
    parts = values.dropna().str.split(separator, regex=False)
    names = sorted({part.strip() for row in parts for part in row if part.strip()})
    found = {LABEL + one: parts.map(lambda row, one=one: int(one in [part.strip() for part in row])) for one in names}
    return {key: column.reindex(values.index) for key, column in found.items()}


def _require_two_values(result: pd.DataFrame) -> None:
    problems = [
        f"{name.removeprefix(LABEL)} has {result[name].nunique()} value in {int(result[name].count())} labelled images"
        for name in result.columns
        if name.startswith(LABEL) and result[name].nunique() < 2
    ]
    if problems:
        raise DataError(
            "E-LABEL one class only: " + "; ".join(problems) + "; a model needs two, check labels.target and the join"
        )
