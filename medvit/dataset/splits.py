"""Patient-disjoint splits: stratified for several labels at once, frozen, hashed, refused when the manifest changed.

A split is a table of patients, so that no patient can stand on two sides by construction.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medvit.command_line import anywhere, command_line
from medvit.config_words import nearest
from medvit.dataset.manifest import IDENTITY, Manifest, replace_file
from medvit.dataset.stratify import assign, binned, categories
from medvit.errors import SplitError

SIDES = ("train", "val", "test")
ALL_FOLDS = "all"  # in place of a fold, for what the models of all folds are together; nothing is trained on it
SYNONYMS = {"training": "train", "testing": "test"} | dict.fromkeys(
    ("validation", "validate", "valid", "dev", "tune"), "val"
)
_INNER_PARTS = 8
_FOLDED = ("kfold", "nested", "leave_one_out")


@dataclass(frozen=True)
class SplitSpec:
    """How patients are divided.

    strategy: "stratified" (train/val/test by `fractions`), "kfold" (fold i validates; `fractions["test"]` is set
    aside first), "nested" (fold i tests, an eighth of the rest validates), "leave_one_out" (each value of `column`,
    a site or scanner, is one test fold), "after" (patients seen after `cutoff` in `column` are the test side) or
    "given" (`column` holds train/val/test).
    balance: manifest columns whose proportions are kept on every side beside those of the labels; ages by band.
    on_shared: what to do with a patient on two sides of a given split: "refuse" or "to_train".
    """

    strategy: str = "stratified"
    fractions: dict[str, float] | None = None
    folds: int = 5
    column: str | None = None
    cutoff: float | None = None
    balance: tuple[str, ...] = ()
    on_shared: str = "refuse"
    seed: int = 0


@dataclass(frozen=True)
class Splits:
    """A frozen division of patients. `table` has columns patient, split, fold, inner; `digest` covers all of it."""

    table: pd.DataFrame
    manifest_digest: str
    spec: dict[str, Any]

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the division and of the manifest it was made for."""
        text = self.table.sort_values("patient").to_csv(index=False) + self.manifest_digest
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def folds(self) -> int:
        """How many folds there are; 0 for a split without."""
        return int(self.table["fold"].max()) + 1 if self.spec["strategy"] in _FOLDED else 0

    def sides(self, fold: int | str | None = None) -> pd.Series:
        """Return "train", "val" or "test" for each patient (the index), of fold `fold` where there are folds.

        Of ALL_FOLDS: "train" for everyone but the side that all folds set aside.

        Raises:
            SplitError: a fold that is not there, or none named where there are folds.
        """
        table = self.table.set_index("patient")
        if not self.folds:
            if fold is not None:
                raise SplitError(f"this split has no folds; asked for fold {fold}; leave out data.fold, or make folds "
                                 "with split.strategy=kfold")  # fmt: skip
            return table["split"]
        if fold == ALL_FOLDS:
            return table["split"]
        count = self.folds
        if not isinstance(fold, int) or not 0 <= fold < count:
            asked = "none is named" if fold is None else f"asked for fold {fold}"
            raise SplitError(f"this split has folds 0 to {count - 1}; {asked}; give data.fold=N for one of them; "
                             "`medvit crossval` trains them all")  # fmt: skip
        mine = table["fold"] == fold
        if self.spec["strategy"] == "kfold":
            return table["split"].where(table["split"] == "test", mine.map({True: "val", False: "train"}))
        inner = (table["inner"] == 0).map({True: "val", False: "train"})
        return inner.mask(mine, "test")

    def rows(self, manifest: Manifest, split: str, fold: int | str | None = None) -> pd.DataFrame:
        """Return the manifest rows of one side, by `uid`; raises SplitError as `sides`, or for another word.

        Of ALL_FOLDS "val" is what "train" is: everyone was validated by the model of a fold, and taught the others.
        """
        if split not in SIDES:
            raise SplitError(f"asked for split '{split}'; there are {', '.join(SIDES)}")
        side = manifest.table["patient"].map(self.sides(fold))
        split = "train" if (fold, split) == (ALL_FOLDS, "val") else split
        return manifest.table[side == split].sort_values("uid").reset_index(drop=True)

    def write(self, folder: Path) -> Path:
        """Write `splits.parquet` with digests and recipe, atomically; raises DataError where that is not possible."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        meta = {"manifest": self.manifest_digest, "digest": self.digest, "spec": json.dumps(self.spec)}
        table = pa.Table.from_pandas(self.table, preserve_index=False).replace_schema_metadata(meta)
        path = folder / "splits.parquet"
        replace_file(path, lambda draft: pq.write_table(table, draft))
        return path


def stored_digest(folder: Path) -> str | None:
    """Return the digest that `splits.parquet` of a folder states, None where there is none."""
    import pyarrow.parquet as pq

    path = folder / "splits.parquet"
    return (pq.read_schema(path).metadata or {}).get(b"digest", b"").decode() if path.is_file() else None


def read(folder: Path, manifest: Manifest) -> Splits:
    """Read `splits.parquet` and refuse it if it was altered or made for another manifest."""
    import pyarrow.parquet as pq

    path, again = folder / "splits.parquet", anywhere(command_line("split", {"data.folder": folder}))
    if not path.is_file():
        raise SplitError(f"splits.parquet is missing from data.folder; divide the patients first: {again}")
    stored = pq.read_table(path)
    meta = {key.decode(): value.decode() for key, value in (stored.schema.metadata or {}).items()}
    splits = Splits(stored.to_pandas(), meta.get("manifest", ""), json.loads(meta.get("spec", "{}")))
    if splits.digest != meta.get("digest"):
        raise SplitError(f"splits.parquet was altered after it was written; divide the patients again: {again}")
    if splits.manifest_digest != manifest.digest:
        raise SplitError(
            f"the manifest changed (now {manifest.digest[:12]}, the split was made for {splits.manifest_digest[:12]}); "
            f"results before and after are not comparable; divide the patients again: {again}"
        )
    return splits


def problems_of(spec: SplitSpec) -> list[str]:
    """Return what is wrong with a spec whatever the patients are."""
    fractions = spec.fractions or {}
    wrong = [] if spec.strategy in _BUILDERS else [
        f"split.strategy={spec.strategy} does not exist; there are {', '.join(_BUILDERS)}"]  # fmt: skip
    if fractions and (set(fractions) - set(SIDES) or not np.isclose(sum(fractions.values()), 1.0)):
        wrong.append(f"split.fractions={fractions}: expected shares of {', '.join(SIDES)} that sum to 1")
    if spec.folds < 2:
        wrong.append(f"split.folds={spec.folds}: expected 2 and more")
    if spec.strategy in {"leave_one_out", "after", "given"} and spec.column is None:
        wrong.append(f"split.strategy={spec.strategy} needs split.column=NAME, a column of the manifest")
    if spec.strategy == "after" and spec.cutoff is None:
        wrong.append("split.strategy=after needs split.cutoff=NUMBER: patients seen after it are the test side")
    if spec.on_shared not in {"refuse", "to_train"}:
        wrong.append(f"split.on_shared={spec.on_shared}: expected refuse or to_train")
    return wrong


def make(manifest: Manifest, spec: SplitSpec) -> Splits:
    """Divide the patients of a manifest as `spec` says.

    Raises:
        SplitError: too few patients, an unknown strategy or column, or a given split with a patient on two sides.
    """
    if wrong := problems_of(spec) or missing_columns(manifest, spec):
        raise SplitError("; ".join(wrong))
    patients = categories(manifest.table, list(spec.balance))
    table = _BUILDERS[spec.strategy](manifest, spec, patients)
    table = table.rename_axis("patient").reset_index().sort_values("patient").reset_index(drop=True)
    recipe = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(spec).items()}
    return Splits(table[["patient", "split", "fold", "inner"]], manifest.digest, recipe)


def balance_table(manifest: Manifest, splits: Splits, columns: list[str], fold: int | None = None) -> pd.DataFrame:
    """Return patients, images and the share of each value or band of `columns` per side, a row per (column, value)."""
    rows = manifest.table.assign(side=manifest.table["patient"].map(splits.sides(fold)))
    present = [side for side in SIDES if (rows["side"] == side).any()]
    lines: list[dict[str, Any]] = []
    for name, count in (("patients", lambda part: part["patient"].nunique()), ("images", len)):
        lines.append({"column": name, "value": "n", **{s: int(count(rows[rows["side"] == s])) for s in present}})
    for column in columns:
        values = binned(rows[column])
        order = {str(value): place for place, value in enumerate(sorted(values.dropna().unique()))}
        shares = pd.crosstab(values.astype("string").fillna("missing"), rows["side"], normalize="columns")
        shares = shares.loc[sorted(shares.index, key=lambda value: order.get(value, len(order)))]
        lines += [{"column": column, "value": str(value), **dict(row)} for value, row in shares.iterrows()]
    return pd.DataFrame(lines)


def _stratified(_manifest: Manifest, spec: SplitSpec, patients: pd.DataFrame) -> pd.DataFrame:
    fractions = spec.fractions or {"train": 0.7, "val": 0.1, "test": 0.2}
    sides = [side for side in SIDES if fractions.get(side, 0) > 0]
    if len(patients) < len(sides):
        raise SplitError(f"{len(patients)} patients cannot fill {len(sides)} sides; give more patients or fewer sides")
    part = assign(patients, np.array([fractions[s] for s in sides]), spec.seed)
    return _table(patients, split=np.array(sides, dtype=object)[part])


def _kfold(_manifest: Manifest, spec: SplitSpec, patients: pd.DataFrame) -> pd.DataFrame:
    held_out = (spec.fractions or {}).get("test", 0.0) if spec.strategy == "kfold" else 0.0
    test = (
        assign(patients, np.array([held_out, 1 - held_out]), spec.seed) == 0
        if held_out
        else np.zeros(len(patients), bool)
    )
    rest = patients[~test]
    if len(rest) < spec.folds:
        raise SplitError(f"{len(rest)} patients cannot make {spec.folds} folds; choose folds from 2 to {len(rest)}")
    fold = np.full(len(patients), -1)
    fold[~test] = assign(rest, np.full(spec.folds, 1 / spec.folds), spec.seed + 1)
    return _table(patients, split=np.where(test, "test", "train"), fold=fold, inner=_inner(patients, spec))


def _leave_one_out(manifest: Manifest, spec: SplitSpec, patients: pd.DataFrame) -> pd.DataFrame:
    values = _one_value_per_patient(manifest, spec, patients.index)
    names = sorted(values.unique())
    if len(names) < 2:
        raise SplitError(f"column '{spec.column}' has {len(names)} value; leave_one_out needs at least 2")
    fold = values.map({name: number for number, name in enumerate(names)}).to_numpy()
    return _table(patients, split="train", fold=fold, inner=_inner(patients, spec))


def _after(manifest: Manifest, spec: SplitSpec, patients: pd.DataFrame) -> pd.DataFrame:
    last = pd.to_numeric(manifest.table[spec.column], errors="coerce").groupby(manifest.table["patient"]).max()
    if last.isna().any():
        raise SplitError(f"{int(last.isna().sum())} patients have no number in '{spec.column}'; fill it or drop them")
    test = (last.reindex(patients.index) > spec.cutoff).to_numpy()
    if test.all() or not test.any():
        raise SplitError(f"cutoff {spec.cutoff} leaves one side empty; values run from {last.min()} to {last.max()}")
    return _table(patients, split=np.where(test, "test", np.where(_inner(patients, spec) == 0, "val", "train")))


def _given(manifest: Manifest, spec: SplitSpec, patients: pd.DataFrame) -> pd.DataFrame:
    raw = manifest.table[spec.column].astype("string").str.strip().str.lower()
    side = raw.replace(SYNONYMS)
    unknown = sorted(set(side.fillna("missing")) - set(SIDES))
    if unknown:
        raise SplitError(f"column '{spec.column}' holds {unknown[:5]}; it may hold {', '.join(SIDES)}")
    groups = side.groupby(manifest.table["patient"])
    sides, shared = groups.first(), groups.nunique() > 1
    if shared.any() and spec.on_shared != "to_train":
        raise SplitError(
            f"E-LEAK {int(shared.sum())} patients stand on two sides of the given split '{spec.column}'; "
            "make a new split, or set on_shared=to_train to move them to the training side"
        )
    split = sides.mask(shared, "train").reindex(patients.index)
    if not (split == "val").any():
        train = patients[(split == "train").to_numpy()]
        split[train.index[_inner(train, spec) == 0]] = "val"
    return _table(patients, split=split.to_numpy())


def missing_columns(manifest: Manifest, spec: SplitSpec) -> list[str]:
    """Return in words the columns of `spec` that the manifest does not have, with the nearest and all there are."""
    there = [str(column) for column in manifest.table.columns if column not in IDENTITY]
    asked = [("split.balance", name) for name in spec.balance] + [("split.column", spec.column)] * bool(spec.column)
    wrong = [f"{key}: no column '{name}'{nearest(name, there)}" for key, name in asked if name not in manifest.table]
    told = f"there are {', '.join(there)}; keep more of the label table at the index with labels.keep=[...]"
    return [*wrong, told] if wrong else []


def _one_value_per_patient(manifest: Manifest, spec: SplitSpec, index: pd.Index) -> pd.Series:
    values = manifest.table[spec.column].astype("string").fillna("missing").groupby(manifest.table["patient"])
    several = int((values.nunique() > 1).sum())
    if several:
        raise SplitError(f"{several} patients have several values of '{spec.column}'; they would stand on two sides")
    return values.first().reindex(index)


def _inner(patients: pd.DataFrame, spec: SplitSpec) -> np.ndarray:
    parts = min(_INNER_PARTS, len(patients))
    return assign(patients, np.full(parts, 1 / parts), spec.seed + 2)


def _table(patients: pd.DataFrame, split: Any, fold: Any = -1, inner: Any = -1) -> pd.DataFrame:
    return pd.DataFrame({"split": split, "fold": fold, "inner": inner}, index=patients.index)


_BUILDERS = {
    "stratified": _stratified,
    "kfold": _kfold,
    "nested": _kfold,
    "leave_one_out": _leave_one_out,
    "after": _after,
    "given": _given,
}
