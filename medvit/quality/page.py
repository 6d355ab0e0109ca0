"""`index ... report=true`: one self-contained page: what is in the folder and what looks wrong. No identifier."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.dataset.leakage.fingerprint import Item, items, read_image
from medvit.dataset.manifest import KEPT, LABEL, Manifest, replace_file
from medvit.dicom.tags import uid_name
from medvit.errors import DicomRefusal
from medvit.quality.findings import FAIL, UNDECODABLE, WARN, Finding, findings
from medvit.quality.measures import measure

REPORT = "quality.html"
THUMB = 132
_SHEET = 60
_SHOWN = 8
_COARSE = 10
_FACTS = ("modality", "sop_class", "body_part", "view", "laterality", "manufacturer", "model_name", "transfer_syntax",
          "photometric", "spacing_kind", "sex")  # fmt: skip
Bars = tuple[str, list[tuple[str, int, float]]]  # title, rows of value, count, share of the largest in percent


@dataclass(frozen=True)
class Thumbnail:
    """A small PNG as a data URI, with the pseudonym's first digits and the label under it."""

    source: str
    caption: str


def write(
    manifest: Manifest,
    folder: Path,
    excluded: pd.DataFrame,
    counts: dict[str, int],
    workers: int = 1,
    progress: Callable[[int], object] | None = None,
) -> list[Finding]:
    """Decode every image once, judge the set, write `folder/quality.html`, and return the findings.

    Images that do not decode are listed in `folder/undecodable.csv`: uid (pseudonym), kind, code, found.

    `excluded` and `counts` are what the index refused and skipped. Raises DataError when the page cannot be written.
    """
    measured = measure(manifest, workers, progress)
    refused = int((~excluded["code"].str.startswith("I-")).sum())
    measures, found = measured.table, findings(manifest.table, measured, refused)
    _write_undecodable(manifest.table, measures, folder / UNDECODABLE)
    pictures = Pictures(manifest, measures)
    values = {
        "images": len(manifest.table),
        "patients": manifest.table["patient"].nunique(),
        "digest": manifest.digest,
        "findings": [(one, pictures.of(one.rows[:_SHOWN])) for one in found],
        "fails": sum(one.level == FAIL for one in found),
        "warns": sum(one.level == WARN for one in found),
        "bars": _bars(manifest.table),
        "labels": _label_bars(manifest.table),
        "sheet": pictures.of(_sample(manifest.table, measures)),
        "excluded": _counts(excluded["code"] + " " + excluded["found"]) if len(excluded) else [],
        "skipped": sorted(counts.items()),
    }
    write_page("quality.html", values, folder / REPORT)
    return found


def _write_undecodable(table: pd.DataFrame, measures: pd.DataFrame, path: Path) -> None:
    bad = (measures["code"] != "").to_numpy()
    path.unlink(missing_ok=True)
    if bad.any():
        listed = pd.concat([table[["uid", "kind"]].reset_index(drop=True), measures[["code", "found"]]], axis=1)[bad]
        replace_file(path, lambda draft: listed.to_csv(draft, index=False))


def write_page(template: str, values: dict[str, Any], path: Path) -> None:
    """Write a template of this folder, filled with `values`; raises DataError when the page cannot be written."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("medvit.quality"), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template(template).render(values)
    replace_file(path, lambda draft: draft.write_text(page, encoding="utf-8"))


class Pictures:
    """Thumbnails by row; where text is suspected they are so coarse that no letter can be read."""

    def __init__(self, manifest: Manifest, measures: pd.DataFrame) -> None:
        self._items: list[Item] = items(manifest)
        self._table = manifest.table
        self._coarse = (measures["text"] | (manifest.table["burned_in"] == "yes")).to_numpy()
        self._readable = (measures["code"] == "").to_numpy()
        self._label = next((name for name in self._table.columns if name.startswith(LABEL)), "")

    def of(self, rows: Iterable[int]) -> list[Thumbnail]:
        """Return the thumbnails of those rows that can be read."""
        return [self._one(row) for row in rows if self._readable[row]]

    def _one(self, row: int) -> Thumbnail:
        try:
            image = np.asarray(np.round(read_image(self._items[row]) * 255), np.uint8)
        except DicomRefusal as refusal:  # readable a minute ago: the storage stutters
            return Thumbnail("", refusal.code)
        known = self._table.iloc[row]
        caption = f"{known['uid'][:8]} {known[self._label] if self._label else ''} {known['view']}".strip()
        return Thumbnail(_data_uri(_fit(image, _COARSE if self._coarse[row] else THUMB)), caption)


def _fit(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    scale = side / max(image.shape)
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if side < THUMB:
        small = cv2.resize(small, None, fx=THUMB / side, fy=THUMB / side, interpolation=cv2.INTER_NEAREST)
    return np.asarray(small, np.uint8)


def _data_uri(image: NDArray[np.uint8]) -> str:
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 82])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def _sample(table: pd.DataFrame, measures: pd.DataFrame) -> list[int]:
    """Return readable rows for the contact sheet: a fixed draw, one per patient as long as there are enough."""
    rows = np.flatnonzero((measures["code"] == "").to_numpy())
    order = np.random.default_rng(0).permutation(rows)
    first = [int(row) for row in order if row in set(table.iloc[order].drop_duplicates("patient").index)]
    rest = [int(row) for row in order if int(row) not in set(first)]
    return (first + rest)[:_SHEET]


def _counts(values: pd.Series, top: int = 12) -> list[tuple[str, int]]:
    counts = values.astype(object).where(values.notna(), "missing").replace("", "unknown").value_counts()
    rows = [(str(value), int(number)) for value, number in counts.head(top).items()]
    return rows + ([(f"{len(counts) - top} more", int(counts.iloc[top:].sum()))] if len(counts) > top else [])


def _with_shares(title: str, counts: list[tuple[str, int]]) -> Bars:
    largest = max((number for _, number in counts), default=1) or 1
    return title, [(value, number, 100 * number / largest) for value, number in counts]


def _bars(table: pd.DataFrame) -> list[Bars]:
    names = [name for name in _FACTS if (table[name] != "").any()]
    bars = [_with_shares(name.replace("_", " "), _counts(table[name].map(uid_name))) for name in names]
    matrix = table["rows"].astype(str) + " × " + table["columns"].astype(str)
    bars.append(_with_shares("matrix (rows × columns)", _counts(matrix)))
    for title, name, edges in (
        ("age in years (90 means 90 and over)", "age_years", [0, 1, 6, 18, 30, 45, 60, 75, 90, 121]),
        ("row spacing in mm", "spacing_row_mm", [0, 0.1, 0.125, 0.15, 0.175, 0.2, 0.3, 0.5, 1, 2, 100]),
    ):
        binned = pd.cut(table[name], edges, right=False).cat.rename_categories(
            [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
        )
        counts = [(str(value), int(number)) for value, number in binned.value_counts(sort=False).items() if number]
        unknown = int(table[name].isna().sum())
        bars.append(_with_shares(title, counts + [("unknown", unknown)] * bool(unknown)))
    extra = [name for name in table.columns if name.startswith(KEPT) and table[name].nunique() <= 20]
    return bars + [_with_shares(name.removeprefix(KEPT).replace("_", " "), _counts(table[name])) for name in extra]


def _label_bars(table: pd.DataFrame) -> list[Bars]:
    names = [name for name in table.columns if name.startswith(LABEL) and table[name].nunique() <= 20]
    return [_with_shares(name.removeprefix(LABEL), _counts(table[name])) for name in names]


def summary(found: list[Finding]) -> str:
    """Return the findings that are no pass as lines of text."""
    lines: list[Any] = [
        f"{one.level.upper()} {one.name}: {one.text}; {one.advice}" if one.rows and one.name == "Readable"
        else f"{one.level.upper()} {one.name}: {one.text}"
        for one in found
        if one.level in {WARN, FAIL}
    ]  # fmt: skip
    return "\n".join(lines or ["quality: all pass"])
