"""`embed`: one self-contained page of nearest neighbours and clusters, with thumbnails, without identifiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.dataset.leakage.near_duplicates import nearest_of_others
from medvit.dataset.manifest import LABEL, label_text
from medvit.engine.embedding.table import Embeddings
from medvit.quality.leakage_page import measures_of
from medvit.quality.page import Pictures, write_page

REPORT = "embeddings.html"
_QUERIES = 16  # pictures whose neighbours are shown
_OF_A_CLUSTER = 8  # pictures nearest to its centre
Floats = NDArray[np.float64]


def write(made: Embeddings, neighbours: int, clusters: int, seed: int) -> None:
    """Write `embeddings.html` beside the table; raises DataError when it cannot be written."""
    unit = unit_vectors(made.vectors)
    code, names = pd.factorize(made.table["patient"])
    close = _neighbours(unit, code, neighbours, seed)
    groups = cluster(unit, clusters, seed)
    asked = [(row, rows) for row, rows, _ in close]
    shown = sorted(
        {int(made.place[n]) for row, rows in [*asked, *((g[0], g) for g in groups[1])] for n in [row, *rows]}
    )
    known = made.manifest.table
    labels = [str(name) for name in known.columns if str(name).startswith(LABEL)]
    hidden = known.index.isin(made.place[made.table["split"].eq("test").to_numpy()])
    table = known.assign(**{name: known[name].astype(object).where(~hidden, "") for name in labels})
    pictures = Pictures(replace(made.manifest, table=table), measures_of(made.manifest, shown))
    values = {
        "about": made.about,
        "count": len(made.table),
        "patients": len(names),
        "width": made.vectors.shape[1],
        "agree": _agreement(unit, code, made.table),
        "neighbours": [
            [(one, note) for row, note in zip(rows, notes, strict=True) for one in pictures.of([made.place[row]])]
            for rows, notes in (([row, *rows], ["", *map("{:.3f}".format, cosine)]) for row, rows, cosine in close)
        ],
        "clusters": [
            (number + 1, int((groups[0] == number).sum()), _share(made.table[groups[0] == number], labels),
             [(picture, "") for picture in pictures.of(made.place[rows])])
            for number, rows in enumerate(groups[1])
        ],
    }  # fmt: skip
    write_page("embedding.html", values, made.folder / REPORT)


def unit_vectors(vectors: NDArray[np.float32]) -> Floats:
    """Return vectors [n W] less their mean, of length 1: a network's lie near one direction, which tells nothing."""
    away = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    unit: Floats = away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)
    return unit


def cluster(unit: Floats, count: int, seed: int) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """Return the k-means cluster of each unit vector, largest first, and the rows nearest to each centre."""
    from sklearn.cluster import KMeans

    fitted = KMeans(min(count, len(np.unique(unit, axis=0))), n_init=4, random_state=seed).fit(unit)
    order = np.argsort(-np.bincount(fitted.labels_), kind="stable")
    number = np.argsort(order)[fitted.labels_]
    nearest = []
    for place, old in enumerate(order):
        rows = np.flatnonzero(number == place)
        away = ((unit[rows] - fitted.cluster_centers_[old]) ** 2).sum(axis=1)
        nearest.append(rows[np.argsort(away, kind="stable")[:_OF_A_CLUSTER]])
    return number, nearest


def _neighbours(
    unit: Floats, owner: NDArray[np.int64], count: int, seed: int
) -> list[tuple[int, NDArray[np.int64], Floats]]:
    """Return drawn rows with the rows of other patients nearest to each, and their cosines."""
    drawn = np.sort(np.random.default_rng(seed).choice(len(unit), min(_QUERIES, len(unit)), replace=False))
    found = []
    for row in drawn:
        agree = np.where(owner == owner[row], -np.inf, unit @ unit[row])
        rows = np.argsort(-agree, kind="stable")[:count]
        rows = rows[np.isfinite(agree[rows])]
        found.append((int(row), rows, agree[rows]))
    return found


def _agreement(unit: Floats, owner: NDArray[np.int64], table: pd.DataFrame) -> str:
    """Return in words how often the nearest image of another patient has the same labels, beside chance."""
    labels = [str(name) for name in table.columns if str(name).startswith(LABEL)]
    known = table[labels].notna().all(axis=1).to_numpy() if labels else np.zeros(len(table), bool)
    if known.sum() < 2 or len(np.unique(owner[known])) < 2:
        return ""
    text = label_text(table[known]).to_numpy()
    _, other = nearest_of_others(unit[known], owner[known])
    shares = pd.Series(text).value_counts(normalize=True).to_numpy()
    same = float(np.mean(text == text[other]))
    return f"{same:.1%} of {known.sum()} labelled, by chance {float((shares**2).sum()):.1%}"


def _share(table: pd.DataFrame, labels: Sequence[str]) -> str:
    """Return how the first label is divided within a cluster, in words."""
    if not labels or table[labels[0]].nunique() > 12:
        return ""
    counts = table[labels[0]].value_counts(normalize=True)
    return ", ".join(f"{value} {share:.0%}" for value, share in counts.items())
