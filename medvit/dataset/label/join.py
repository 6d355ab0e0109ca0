"""Join a label table to images by keyed hashes; assumptions and mismatches are reported (B111, B112, B121)."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Literal

import pandas as pd

from medvit.dataset.label.table import PATH, LabelSpec, Table, read_table
from medvit.dataset.manifest import KEPT, LABEL
from medvit.dataset.scan import JOINS, Pseudonymise, normalised_identifier
from medvit.errors import DataError

__all__ = ["LabelSpec", "Table", "join", "read_table"]
_ZEROS_TRIED, _LONGEST = 1000, 16  # rows looked at for lost zeros; characters of an AccessionNumber (VR SH)
_QUOTES = " []'\""  # PadChest writes its findings as a Python list


def join(
    images: pd.DataFrame, excluded: pd.DataFrame, table: Table, spec: LabelSpec, mask: Pseudonymise
) -> tuple[pd.DataFrame, list[str]]:
    """Add `label.*` and `table.*` columns to the images; return them and the account of the join.

    `images` and `excluded` hold `on.<identifier>` hashes and `files`; a label row of an excluded object is explained,
    not unmatched.

    Raises:
        DataError: `E-LABEL` rows of one key disagree; images or rows without a counterpart (`unmatched: refuse`); no
            match at all (with the identifiers that would match); or a target with one value only. All in one message.
    """
    name = spec.key
    keyed = table.rows.dropna(subset=[name])
    rows, notes, problems = _unique_rows(keyed, name, spec, mask)
    nameless = len(table.rows) - len(keyed)
    notes = [*table.notes, *[f"{nameless} rows are left out, {name} is empty"] * bool(nameless), *notes]
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
        why = _path_hint(images, rows[name]) if spec.on == PATH else ""
        hint = f"labels: no image matches on {spec.on}{why or _hint(images, rows[name], mask)}"
        raise DataError("; ".join([*problems, hint, *notes]))
    if spec.unmatched == "refuse" and (len(lost) or not matched.all()):
        problems.append(_unmatched(images[~matched], lost, spec, mask))
    kind: Literal["left", "inner"] = "inner" if spec.unmatched == "drop" else "left"
    joined = images.assign(_key=keys).merge(rows.add_prefix("row."), left_on="_key", right_on="row._key", how=kind)
    result = joined[images.columns].copy()
    joined = joined.filter(regex=r"^row\.").rename(columns=lambda column: column.removeprefix("row."))
    _override_identity(result, joined, spec, mask)
    result = result.assign(**_targets(joined, spec))
    for column in spec.keep:
        result[KEPT + column] = joined[column]
    problems += _one_value(result)
    if problems:
        raise DataError("\n".join(problems))
    return result, notes


def _unique_rows(
    rows: pd.DataFrame, name: str, spec: LabelSpec, mask: Pseudonymise
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Keep one row per key, with notes, and `E-LABEL` where rows differ in what is used."""
    used = [column for column in spec.used if column != name]
    notes, problems = [], []
    if spec.repeated != "refuse":
        rows = _settled(rows[[name, *used]], name, spec)
        notes.append(f"repeated rows: {spec.repeated} of the targets")
    distinct = rows[[name, *used]].drop_duplicates()
    conflict = distinct[distinct[name].duplicated(keep=False)]
    if len(conflict):
        odd = conflict.groupby(name).nunique(dropna=False).gt(1)
        which = ", ".join(str(column) for column in odd.columns[odd.any()])
        ids = [mask(f"on.{spec.on}", str(key))[:12] for key in conflict[name].unique()[:20]]
        problems.append(
            f"E-LABEL {conflict[name].nunique()} keys have label rows that disagree in {which}: {', '.join(ids)} "
            "(pseudonymous); join on an identifier that is unique, correct the table, or set labels.repeated"
        )
    copies = len(rows) - len(distinct)
    notes += [f"{copies} repeated label rows that agree"] * bool(copies)
    return distinct.drop_duplicates(name), notes, problems


def _settled(rows: pd.DataFrame, name: str, spec: LabelSpec) -> pd.DataFrame:
    """Return the rows with the targets of one key made equal: their majority (a tie is 0) or their maximum.

    Raises:
        DataError: words; other numbers than 0 and 1 for a majority; an uncertain -1, which has no rank beside 0 and 1.
    """
    wrong = []
    for column in spec.target:
        if not pd.api.types.is_numeric_dtype(rows[column]):
            wrong.append(f"{column} holds words")
            continue
        found = set(rows[column].dropna())
        if (found - {0, 1}) if spec.repeated == "majority" else (-1 in found <= {-1, 0, 1}):
            wrong.append(f"{column} holds {', '.join(f'{value:g}' for value in sorted(found)[:8])}")
    if wrong:
        needs = {"majority": "only 0 and 1", "max": "numbers with an order, and -1 (uncertain) has none"}[spec.repeated]
        raise DataError(f"labels.repeated={spec.repeated} needs {needs}: {'; '.join(wrong)}; correct the table")
    groups, changed = rows.groupby(name), rows.copy()
    for column in spec.target:
        mean = groups[column].transform("mean")
        vote = (mean > 0.5).astype(float).where(mean.notna())
        changed[column] = vote if spec.repeated == "majority" else groups[column].transform("max")
    return changed


def _slashes(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode().replace("\\", "/").removeprefix("./").rstrip("/")


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[0] or path.name


def _path_hint(images: pd.DataFrame, values: pd.Series) -> str:
    """Say whether folders, leading zeros or a decimal point keep the table's paths from matching."""
    paths = [Path(names[0]) for names in images["files"]]
    names = {name for path in paths for name in (path.name, _stem(path))}
    numbers = {name.lstrip("0") for name in names}
    last = [_slashes(value).rpartition("/")[2] for value in values]
    bare = sum(name in names for name in last)
    plain = sum(name.removesuffix(".0").lstrip("0") in numbers for name in last)
    if bare:
        return f" ({bare} rows would match without their folders; give data.root the folder that the paths start from)"
    if plain:
        return f" ({plain} rows would match without leading zeros and '.0'; save the column as text, not as numbers)"
    alike = {_same_name(name) for name in names}
    near = sum(_same_name(name) in alike for name in last)
    told = f" ({near} rows would match but for capitals, the suffix or the Unicode form; correct the table)"
    return told * bool(near)


def _same_name(name: str) -> str:
    """Return what spellings of one file name share: no capitals, no image suffix, composed letters (Unicode NFC)."""
    return re.sub(r"\.(dcm|png|jpe?g|tiff?|bmp|nii(\.gz)?)$", "", unicodedata.normalize("NFC", name).casefold())


def _path_keys(images: pd.DataFrame, values: pd.Series) -> tuple[pd.Series, str]:
    """Return for each image the table value that names it, and how: the way that matches most images."""
    wanted = {_slashes(value) for value in values}
    paths = [Path(names[0]) for names in images["files"]]
    ways = {
        "relative path": [path.as_posix() for path in paths],
        "folder": [path.parent.as_posix() for path in paths],
        "first folder": [path.parts[0] if len(path.parts) > 1 else "" for path in paths],
        "file name": [path.name for path in paths],
        "file name without suffix": [_stem(path) for path in paths],
    }
    best = max(ways, key=lambda way: sum(key in wanted for key in ways[way]))
    keys = pd.Series([_slashes(key) for key in ways[best]], index=images.index, dtype=str)
    repeated = keys[keys.isin(wanted)].duplicated().sum()
    if repeated and best.startswith("file name"):
        raise DataError(
            f"labels.on=path: {repeated} file names stand in several folders; put the relative path in the table"
        )
    return keys, best


def _hint(images: pd.DataFrame, values: pd.Series, mask: Pseudonymise) -> str:
    """Say which other identifier the column would match, and whether leading zeros are the reason."""
    found = []
    for key in JOINS:
        here = set(images[f"on.{key}"]) - {""}
        for how, change in (("", str), (" with leading zeros removed", lambda text: text.lstrip("0"))):
            hits = sum(mask(f"on.{key}", change(value)) in here for value in values)
            found += [f"{hits} rows would match on {key}{how}"] * bool(hits)
        found += [told for told in [_zeros_lost(images, values, key, mask)] if told]
    return " (" + "; ".join(found) + ")" if found else " nor on any other identifier"


def _zeros_lost(images: pd.DataFrame, values: pd.Series, key: str, mask: Pseudonymise) -> str:
    """Say how many table values are an identifier of the images as a number: 12 for 000012, as spreadsheets save it."""
    here = set(images[f"on.{key}"]) - {""}
    hits = 0
    for value in values[:_ZEROS_TRIED]:
        plain = str(value).removesuffix(".0")
        sizes = range(len(plain), _LONGEST + 1) if plain.isdecimal() else ()
        same = any(mask(f"on.{key}", plain.zfill(size)) in here for size in sizes)
        hits += same and mask(f"on.{key}", str(value)) not in here
    told = (
        f"{hits} of {min(len(values), _ZEROS_TRIED)} rows are the {key} of an image as a number: leading zeros are "
        "lost in the table (spreadsheets drop them), save the column as text"
    )
    return told if hits else ""


def _unmatched(images: pd.DataFrame, rows: pd.DataFrame, spec: LabelSpec, mask: Pseudonymise) -> str:
    parts, fix = [], "correct the table or set labels.unmatched=keep or drop"
    if len(images):
        parts.append(f"{len(images)} images have no label row: {', '.join(uid[:12] for uid in images['uid'][:20])}")
        fix += "; with keep, manifest.parquet holds these images too: column files names the file of a uid"
    if len(rows):
        ids = (mask(f"on.{spec.on}", str(value))[:12] for value in rows[spec.key][:20])
        parts.append(f"{len(rows)} label rows have no image: {', '.join(ids)}")
        parts += [told for told in [spec.on != PATH and _zeros_lost(images, rows[spec.key], spec.on, mask)] if told]
    return f"labels: {'; '.join(parts)} (pseudonymous); {fix}"


def _override_identity(result: pd.DataFrame, joined: pd.DataFrame, spec: LabelSpec, mask: Pseudonymise) -> None:
    """Take patients and studies from the table; a study is one of its patient: "visit 1" of two people are two."""
    if spec.patient:
        known = joined[spec.patient].notna()
        words = [str(value) for value in joined.loc[known, spec.patient]]
        result.loc[known, "patient"] = [mask("patient", "", word) for word in words]
        result.loc[known, "alike"] = [mask("alike", "", normalised_identifier(word)) for word in words]
    if spec.study:
        known = joined[spec.study].notna()
        pairs = zip(result.loc[known, "patient"], joined.loc[known, spec.study], strict=True)
        result.loc[known, "study"] = [mask("study", patient, str(value)) for patient, value in pairs]


def _targets(joined: pd.DataFrame, spec: LabelSpec) -> dict[str, pd.Series]:
    """Return the label columns: as they are, or one 0/1 column per finding where a column lists findings.

    Raises:
        DataError: two columns list the same finding.
    """
    if not spec.separator:
        return {LABEL + name: joined[name] for name in spec.target}
    found: dict[str, pd.Series] = {}
    for column in [spec.listed_in] if spec.listed_in else spec.target:
        values = joined[column]
        parts = values.dropna().str.split(spec.separator, regex=False)
        parts = parts.map(lambda row: {part.strip(_QUOTES) for part in row} - {""})
        names = spec.target if spec.listed_in else sorted(set().union(*parts))
        if both := [name for name in names if LABEL + name in found]:
            raise DataError(
                f"labels.separator: {column} and a column before it both list {len(both)} findings, such as "
                f"{both[0][:24]!r}; take one of the columns, or join them in the table"
            )
        found |= {
            LABEL + name: parts.map(lambda row, name=name: int(name in row)).reindex(values.index) for name in names
        }
    return found


def _one_value(result: pd.DataFrame) -> list[str]:
    """Return `E-LABEL` where a target has fewer than two values."""
    found = [
        f"{name.removeprefix(LABEL)} has {result[name].nunique()} value in {int(result[name].count())} labelled images"
        for name in result.columns
        if name.startswith(LABEL) and result[name].nunique() < 2
    ]
    told = f"E-LABEL one class only: {'; '.join(found)}; a model needs two, check labels.target and the join"
    return [told] * bool(found)
