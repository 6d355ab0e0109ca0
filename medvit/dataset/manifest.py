"""The manifest: one row per film or volume, identifiers pseudonymised, with a digest that names its content."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medvit import atomic_file
from medvit.command_line import anywhere, command_line
from medvit.errors import DataError
from medvit.types import Facts

MANIFEST = "manifest.parquet"
EXCLUSIONS = "exclusions.csv"
SPACING = ("spacing_row_mm", "spacing_column_mm")
MASKS = ("table.mask", "table.truth")  # kept columns that name files of masks: they stay in the manifest
IDENTITY = ("uid", "patient", "study", "series", "kind", "files", "volume_key")
FACTS = tuple(
    name for item in dataclasses.fields(Facts) for name in (SPACING if item.name == "spacing_mm" else (item.name,))
)
LABEL, KEPT = "label.", "table."
_META = b"medvit"
_INTEGERS = ("rows", "columns", "frames")
_NUMBERS = ("age_years", *SPACING)


@dataclass(frozen=True)
class Manifest:
    """The table (see `IDENTITY`, `FACTS`, `label.*`, `table.*`), the image root, and what was known when it was made.

    `digest` is a SHA-256 (hex) over the content sorted by `uid`; it does not depend on the root or on the row order.
    `task_hint` holds `targets` (label names), `key_id` (of the pseudonym key) and, where 16-bit pictures do not
    say it, `picture_bits` (`medvit.dataset.picture_range`).
    """

    table: pd.DataFrame
    root: Path
    digest: str
    task_hint: dict[str, Any] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the names of the label columns, without their prefix."""
        return tuple(name.removeprefix(LABEL) for name in self.table.columns if name.startswith(LABEL))

    def facts(self, row: int) -> Facts:
        """Return the facts of one row (by position) as they were read from the header."""
        values = self.table.iloc[row]
        spacing = tuple(values[name] for name in SPACING)
        known = {name: _plain(values[name]) for name in FACTS if name not in (*SPACING, "age_years")}
        age = None if pd.isna(values["age_years"]) else float(values["age_years"])
        pair = None if any(pd.isna(value) for value in spacing) else (float(spacing[0]), float(spacing[1]))
        return Facts(**{**known, "age_years": age, "spacing_mm": pair})

    def paths(self, row: int) -> list[Path]:
        """Return the files of one row (by position) in slice order."""
        root = self.root.absolute()  # a worker may have been started in another working directory
        return [root / name for name in self.table["files"].iloc[row]]


def fact_columns(facts: Facts) -> dict[str, Any]:
    """Return the facts as manifest columns; the spacing becomes two columns (row, column, mm)."""
    values = {item.name: getattr(facts, item.name) for item in dataclasses.fields(facts)}
    pair = values.pop("spacing_mm") or (None, None)
    return {**values, SPACING[0]: pair[0], SPACING[1]: pair[1]}


def read(folder: Path) -> Manifest:
    """Read `folder/manifest.parquet` and check that it is whole.

    Raises:
        DataError: there is no manifest, it is no manifest, or its content no longer equals its digest.
    """
    import pyarrow as pa
    from pyarrow import parquet

    path = Path(folder) / MANIFEST
    if not path.is_file():
        line = anywhere(command_line("index", {"data.root": "DIR", "data.folder": folder}))
        raise DataError(f"manifest: the data folder holds no manifest.parquet; index the images (DIR) first: {line}")
    try:
        stored = parquet.read_table(path)
        meta = json.loads((stored.schema.metadata or {})[_META])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DataError(
            "manifest: manifest.parquet is not a whole medvit manifest; run python -m medvit.index again"
        ) from error
    table = _typed(stored.to_pandas())
    digest = digest_of(table)
    if digest != meta["digest"]:
        raise DataError(
            "manifest: the content differs from its digest; it was edited or damaged, run python -m medvit.index again"
        )
    return Manifest(table, Path(meta["root"]), digest, meta["task_hint"])


def task_hint(folder: Path) -> dict[str, Any]:
    """Return the `task_hint` of a manifest without reading its rows; empty where there is no manifest."""
    from pyarrow import parquet

    path = Path(folder) / MANIFEST
    meta = (parquet.read_schema(path).metadata or {}) if path.is_file() else {}
    return dict(json.loads(meta[_META])["task_hint"]) if _META in meta else {}


def write(table: pd.DataFrame, root: Path, folder: Path, task_hint: dict[str, Any] | None = None) -> Manifest:
    """Check the table, sort it by `uid` and write `folder/manifest.parquet` atomically.

    Raises:
        DataError: columns or rows are missing, a `uid` is empty or repeated, or the folder cannot be written.
    """
    import pyarrow as pa
    from pyarrow import parquet

    _check(table)
    table = _typed(table).sort_values("uid", ignore_index=True)
    manifest = Manifest(table, Path(root).resolve(), digest_of(table), dict(task_hint or {}))
    meta = {"digest": manifest.digest, "root": str(manifest.root), "task_hint": manifest.task_hint}
    encoded = pd.Series([[os.fsencode(name) for name in names] for names in table["files"]], dtype=object)
    stored = pa.Table.from_pandas(table.assign(files=encoded), preserve_index=False)  # names need not be UTF-8
    stored = stored.replace_schema_metadata({**(stored.schema.metadata or {}), _META: json.dumps(meta).encode()})
    replace_file(Path(folder) / MANIFEST, lambda draft: parquet.write_table(stored, draft))
    return manifest


def digest_of(table: pd.DataFrame) -> str:
    """Return the SHA-256 (hex) of the content: columns by name, rows by `uid`, every missing value alike."""
    state = hashlib.sha256()
    ordered = table.sort_values("uid", ignore_index=True)
    for name in sorted(ordered.columns):
        state.update(f"\0column {name}\0".encode())
        for value in ordered[name].tolist():
            state.update(_canonical(value))
    return state.hexdigest()


def label_text(table: pd.DataFrame) -> pd.Series:
    """Return all labels of each row as one text, missing ones as such: equal labels give equal texts."""
    names = [str(name) for name in table.columns if str(name).startswith(LABEL)]
    joined = pd.Series("", index=table.index, dtype="string")
    for name in names:
        joined = joined + "|" + table[name].astype("string").fillna("missing")
    return joined


def _plain(value: Any) -> Any:
    """Return what pandas and numpy hold as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


def _canonical(value: Any) -> bytes:
    if not isinstance(value, str) and hasattr(value, "__iter__"):
        return b"[" + b"".join(_canonical(item) for item in value) + b"]"
    if pd.isna(value):
        return b"\0-"
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # an integer column with a gap comes back as floats
    return f"\0{value!s}".encode("utf-8", "surrogateescape")


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the same column types whether it was just built or read back."""
    kinds: dict[str, str] = dict.fromkeys(_INTEGERS, "int64") | dict.fromkeys(_NUMBERS, "float64")
    kinds["lossy"] = "bool"
    typed = table.astype({name: kind for name, kind in kinds.items() if name in table})
    typed["files"] = [[os.fsdecode(name) for name in names] for names in typed["files"]]
    return typed


def _check(table: pd.DataFrame) -> None:
    problems = []
    missing = [name for name in (*IDENTITY, *FACTS) if name not in table.columns]
    if missing:
        problems.append(f"missing columns: {', '.join(missing)}")
    if table.empty:
        problems.append("no row: nothing readable was found")
    if "uid" in table and not table.empty:
        empty, repeated = int((table["uid"].fillna("") == "").sum()), int(table["uid"].duplicated().sum())
        problems += [f"{empty} rows without uid"] * bool(empty) + [f"{repeated} repeated uids"] * bool(repeated)
    if problems:
        raise DataError("manifest: " + "; ".join(problems))


def replace_file(path: Path, write_draft: Callable[[Path], object]) -> None:
    """Write a file under a temporary name beside `path`, flush it to the disk, and rename it: all of it or nothing.

    Raises:
        DataError: `E-DISK` the disk is full, or the folder cannot be written.
    """
    try:
        atomic_file.replace_file(path, write_draft)
    except OSError as error:
        raise DataError(
            f"E-DISK {path.name} cannot be written: {error.strerror or 'input/output error'}; "
            "free space or set data.folder to a folder you may write"
        ) from error
