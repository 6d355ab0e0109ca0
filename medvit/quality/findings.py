"""Findings of the data-quality report: check, level (pass, warn, fail), and the images it is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.dataset.leakage.audit import NEAR_UP_TO
from medvit.dataset.leakage.fingerprint import near_pairs
from medvit.dataset.manifest import KEPT, LABEL, label_text
from medvit.quality.measures import Measured

PASS, WARN, FAIL = "pass", "warn", "fail"
UNDECODABLE = "undecodable.csv"
_NAMED = 20  # images that a sentence names; the table has all
_ENOUGH = 12  # images of one kind before one of them can be called unlike the others
_FRONTAL = {"PA": "frontal", "AP": "frontal", "": "any"}


@dataclass(frozen=True)
class Finding:
    """`name` is what was looked at, `text` what was found, `advice` what to do; `rows` are manifest row positions.

    A pass has neither advice nor rows.
    """

    name: str
    level: str
    text: str
    advice: str = ""
    rows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.level == PASS:
            object.__setattr__(self, "advice", "")
            object.__setattr__(self, "rows", ())


def findings(table: pd.DataFrame, measured: Measured, excluded: int) -> list[Finding]:
    """Judge the whole set; worst findings first."""
    measures = measured.table
    found = [
        _refused(table, measures, excluded),
        *_copies(table, measures, measured.sketch),
        *_outliers(table, measures, measured.small),
        _dark(measures),
        _text(table, measures),
        _lossy(table),
        _unknown(table),
        *_labels(table),
        *_mix(table),
    ]
    return sorted(found, key=lambda one: (FAIL, WARN, PASS).index(one.level))


def _rows(flags: pd.Series | NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(row) for row in np.flatnonzero(np.asarray(flags)))


def _refused(table: pd.DataFrame, measures: pd.DataFrame, excluded: int) -> Finding:
    bad, count = measures["code"] != "", len(table)
    codes = ", ".join(f"{code} {number}" for code, number in measures.loc[bad, "code"].value_counts().items())
    share = (excluded + bad.sum()) / max(count + excluded, 1)
    text = f"{excluded} objects are left out by their header; {int(bad.sum())} of {count} images do not decode"
    text += f" ({codes})" if codes else ""
    level = FAIL if bad.any() or share > 0.1 else WARN if excluded else PASS
    advice = "see exclusions.csv; export the objects again"
    if bad.any():
        named = ", ".join(uid[:12] for uid in table.loc[bad.to_numpy(), "uid"][:_NAMED])
        text += f": {named}{' ...' if bad.sum() > _NAMED else ''}"
        advice = f"{UNDECODABLE} lists them, column files of manifest.parquet names their files; train stops at them"
    return Finding("Readable", level, text, advice, _rows(bad))


def _copies(table: pd.DataFrame, measures: pd.DataFrame, sketches: NDArray[np.uint8]) -> list[Finding]:
    patients = table["patient"].to_numpy()
    labels = label_text(table).to_numpy()
    groups = [rows for rows in measures.groupby("exact").indices.values() if len(rows) > 1]
    exact = [tuple(int(row) for row in rows) for rows in groups if measures["exact"].iloc[rows[0]]]
    return [
        _copy_finding("Exact duplicates", exact, patients, labels, FAIL),
        _near_copies(sketches, {pair for rows in exact for pair in _pairs(rows)}, patients, labels),
    ]


def _near_copies(
    sketches: NDArray[np.uint8], known: set[tuple[int, int]], patients: NDArray[Any], labels: NDArray[Any]
) -> Finding:
    if len(sketches) > NEAR_UP_TO:
        text = f"not sought: {len(sketches)} images, at most {NEAR_UP_TO} are compared with each other"
        return Finding("Near duplicates", WARN, text)
    alike = near_pairs(sketches, range(len(sketches)), crops=False)
    near = sorted(set(zip(alike["row"], alike["other"], strict=True)) - known)
    return _copy_finding("Near duplicates", near, patients, labels, WARN)


def _pairs(rows: tuple[int, ...]) -> Iterable[tuple[int, int]]:
    return ((one, other) for place, one in enumerate(rows) for other in rows[place + 1 :])


def _copy_finding(
    name: str, groups: Sequence[tuple[int, ...]], patients: NDArray[Any], labels: NDArray[Any], level: str
) -> Finding:
    if not groups:
        return Finding(name, PASS, "none")
    across = [rows for rows in groups if len(set(patients[list(rows)])) > 1]
    differ = [rows for rows in groups if len(set(labels[list(rows)])) > 1]
    text = f"{len(groups)} groups, {len(across)} of them across patients, {len(differ)} with different labels"
    advice = "the same image twice weighs twice; keep one"
    if across or differ:
        advice = (
            "one image under two patients leaks between splits, under two labels it teaches nothing: correct or remove"
        )
    shown = tuple(row for rows in (across or differ or groups)[:6] for row in rows[:2])
    return Finding(name, level if across or differ else WARN, text, advice, shown)


def _outliers(table: pd.DataFrame, measures: pd.DataFrame, small: NDArray[np.uint8]) -> list[Finding]:
    """Compare each film with the mean of its kind: the negative of it, or it turned, should fit worse."""
    negative, turned = np.zeros(len(table), bool), np.zeros(len(table), bool)
    kind = table["modality"] + "/" + table["body_part"] + "/" + table["view"].map(lambda view: _FRONTAL.get(view, view))
    kind = kind.where((measures["code"] == "").to_numpy() & (table["kind"] == "film").to_numpy(), "left out")
    for name, rows in kind.groupby(kind).indices.items():
        if name != "left out" and len(rows) >= _ENOUGH:
            negative[rows], turned[rows] = flag_outliers(small[rows])
    side = "turned films teach a wrong side; mirrored ones cannot be told by pixels"
    return [
        Finding(name, WARN if odd.any() else PASS, _counted(odd, what), f"look at these images: {advice}", _rows(odd))
        for name, odd, what, advice in (
            ("Polarity", negative, "looks negative to the others", "is the polarity tag right?"),
            ("Orientation", turned, "fits the others better turned or upside down", side),
        )
    ]


def flag_outliers(small: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which of the pictures [n 32 32] look negative, and which fit the mean better turned or upside down.

    Margins are from 574 real chest films: none of them is called turned, nor negative; of those turned by 180 degrees
    over nine in ten are found.
    A film mirrored left to right fits nearly as well as it should and is not found here. The mean is that of the
    median half by correlation, so that a few odd images do not shape what is usual.
    """
    flat = _unit(small.astype(np.float32))
    usual = np.median(flat, axis=0)
    typical = flat[np.argsort(np.tensordot(flat, usual, 2))[len(flat) // 2 :]].mean(0)
    typical /= max(float(np.linalg.norm(typical)), 1e-6)
    as_is = np.tensordot(flat, typical, 2)
    others = [np.tensordot(np.rot90(flat, turns, (1, 2)), typical, 2) for turns in (1, 2, 3)]
    others.append(np.tensordot(flat[:, ::-1], typical, 2))
    best = np.max(others, axis=0)
    negative = as_is < -0.3
    return negative, ~negative & (best > as_is + 0.05) & (best > 0.4)


def _unit(images: NDArray[np.float32]) -> NDArray[np.float32]:
    images = images - images.mean((1, 2), keepdims=True)
    return np.asarray(images / np.maximum(np.linalg.norm(images, axis=(1, 2), keepdims=True), 1e-6), np.float32)


def _counted(flags: NDArray[np.bool_] | pd.Series, what: str) -> str:
    return f"{int(np.sum(flags))} of {len(flags)} images: {what}" if np.any(flags) else f"no image {what}"


def _dark(measures: pd.DataFrame) -> Finding:
    read = measures["code"] == ""
    odd = read & ((measures["black"] > 0.9) | (measures["white"] > 0.5) | (measures["spread"] < 0.03))
    level = FAIL if odd.sum() > 0.05 * len(odd) else WARN if odd.any() else PASS
    text = _counted(odd, "is nearly black, saturated or flat")
    return Finding("Exposure", level, text, "is the window of these files right? see voi", _rows(odd))


def _text(table: pd.DataFrame, measures: pd.DataFrame) -> Finding:
    declared = (table["burned_in"] == "yes").to_numpy()
    seen = measures["text"].to_numpy()
    others = int((seen & ~declared).sum())
    text = f"{int(declared.sum())} images declare burned-in annotation, {others} others hold a line of letters"
    level = FAIL if declared.any() else WARN if seen.any() else PASS
    advice = "names may stand in the pixels: look before anything leaves the house (their thumbnails are coarse here)"
    return Finding("Text in the pixels", level, text, advice, _rows(declared | seen))


def _lossy(table: pd.DataFrame) -> Finding:
    share = float(table["lossy"].mean())
    text = f"{share:.0%} of the images were compressed with loss"
    level = WARN if 0.02 < share < 0.98 else PASS
    return Finding("Compression", level, text, "check that loss does not go with the label")


def _unknown(table: pd.DataFrame) -> Finding:
    films = table[table["kind"] == "film"]
    names = [
        name
        for name in ("view", "body_part", "manufacturer", "sex")
        if len(films) and (films[name] == "").mean() > 0.05
    ]
    names += ["age_years"] * bool(table["age_years"].isna().mean() > 0.05)
    names += ["spacing"] * bool(len(films) and (films["spacing_kind"] == "none").mean() > 0.05)
    if not names:
        return Finding("Header facts", PASS, "view, body part, maker, sex, age and spacing are known")
    text = f"more than one in twenty lack: {', '.join(names)}"
    return Finding("Header facts", WARN, text, "subgroups cannot be told apart by what is missing")


def _labels(table: pd.DataFrame) -> list[Finding]:
    found = []
    for name in (column for column in table.columns if column.startswith(LABEL)):
        values = table[name].dropna()
        title = f"Label {name.removeprefix(LABEL)}"
        missing = f", {len(table) - len(values)} images without" if len(values) < len(table) else ""
        if values.nunique() > 12:
            found.append(Finding(title, PASS, f"{len(values)} values from {values.min()} to {values.max()}{missing}"))
            continue
        shares = values.value_counts(normalize=True)
        text = ", ".join(f"{value} {share:.0%}" for value, share in shares.items()) + missing
        advice = "a rare class needs more patients" if len(shares) and shares.min() < 0.05 else ""
        found.append(Finding(title, WARN if advice or missing else PASS, text, advice))
    return found


def _mix(table: pd.DataFrame) -> list[Finding]:
    """Ask whether a label can be told from how an image was made: Cramer's V against site, maker, syntax, view."""
    makers = [KEPT + "site", "manufacturer", "transfer_syntax", "photometric", "view", "lossy"]
    found = []
    for label in (column for column in table.columns if column.startswith(LABEL) and table[column].nunique() <= 12):
        strong = {
            name: cramers_v(table[label], table[name]) for name in makers if name in table and table[name].nunique() > 1
        }
        worst = sorted(((value, name) for name, value in strong.items() if value > 0.2), reverse=True)
        told = ", ".join(f"{name.removeprefix(KEPT)} (V = {value:.2f})" for value, name in worst)
        level = FAIL if worst and worst[0][0] > 0.6 else WARN if worst else PASS
        text = f"goes together with {told}" if worst else "does not go with site, maker, compression, polarity or view"
        advice = "a model may learn the machine instead of the finding: balance, or evaluate by subgroup"
        found.append(Finding(f"Mix of {label.removeprefix(LABEL)}", level, text, advice))
    return found


def cramers_v(one: pd.Series, other: pd.Series) -> float:
    """Return the bias-corrected Cramer's V (0 independent, 1 determined; Bergsma 2013) of two columns."""
    counts = pd.crosstab(one, other).to_numpy(float)
    total = counts.sum()
    if min(counts.shape) < 2 or total < 2:
        return 0.0
    expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / total
    rows, columns = counts.shape
    phi = max(0.0, ((counts - expected) ** 2 / expected).sum() / total - (rows - 1) * (columns - 1) / (total - 1))
    rows, columns = rows - (rows - 1) ** 2 / (total - 1), columns - (columns - 1) ** 2 / (total - 1)
    return float(np.sqrt(phi / max(min(rows - 1, columns - 1), 1e-9)))
