"""The shortcut baselines of a report, fitted on the training images and scored on the same test units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from medvit.errors import DataError, EvaluationError
from medvit.metric.baseline import SIDE, downsample, metadata_table, nearest_neighbour, ridge
from medvit.optim.probe import fit_path

Array = NDArray[np.float64]
_LOGISTIC_SIDE = 24  # pixels: a quarter of the ridge's, and a hundredth of its time
_NUMBERS, _WORDS = ("age_years",), ("sex", "view", "manufacturer")


@dataclass(frozen=True)
class BaselineSide:
    """What a baseline may use of one split: `uid` [n], grey `images` [n H W] or None, and `table` with facts [n rows].

    `table` has `target.<name>` (NaN where missing) for training; of the test set the targets are never read.
    """

    uid: Sequence[str]
    images: ArrayLike | None
    table: pd.DataFrame


def shortcut_baselines(
    train: BaselineSide, test: BaselineSide, names: Sequence[str], logistic: bool = False
) -> dict[str, pd.DataFrame]:
    """Return what `Extras.baselines` takes: pixel ridge, pixel 1-nearest neighbour, and metadata alone.

    With `logistic` a logistic regression on coarser pixels besides, its strength cross-validated over patients.

    Pixels are averaged to 48 x 48, or to the shorter side of smaller images. A finding whose known training labels are
    all alike is left out.

    Raises:
        EvaluationError: images of one split only, or numbers of rows that differ.
    """
    for known in (train, test):
        images = known.uid if known.images is None else np.asarray(known.images)
        lengths = {len(known.uid), len(known.table), len(images)}
        if len(lengths) > 1:
            raise EvaluationError(f"baseline rows differ: {sorted(lengths)}; expected one image and one row per uid")
    if (train.images is None) != (test.images is None):
        raise EvaluationError("baseline images were given for one split only; give both or none")
    made: dict[str, pd.DataFrame] = {}
    if train.images is not None and test.images is not None:
        side = min(SIDE, *np.asarray(train.images).shape[1:])
        pixels = downsample(train.images, side), downsample(test.images, side)
        made[f"pixel ridge, {side}×{side}"] = _scored(ridge, *pixels, train, test, names)
        made["pixel 1-nearest neighbour"] = _scored(nearest_neighbour, *pixels, train, test, names)
        if logistic:
            side = min(_LOGISTIC_SIDE, side)
            pixels = downsample(train.images, side), downsample(test.images, side)
            made[f"pixel logistic regression, {side}×{side}"] = _logistic(*pixels, train, test, names)
    facts = [name for name in (*_NUMBERS, *_WORDS) if name in train.table and name in test.table]
    if facts:
        first, second = metadata_table(_columns(train.table, facts), _columns(test.table, facts))
        made[f"metadata only ({', '.join(facts)})"] = _scored(ridge, first, second, train, test, names)
    return made


def _scored(
    score: Callable[[Array, ArrayLike, Array], Array],
    first: Array,
    second: Array,
    train: BaselineSide,
    test: BaselineSide,
    names: Sequence[str],
) -> pd.DataFrame:
    columns: dict[str, Array] = {}
    for name in names:
        target = train.table[f"target.{name}"].to_numpy(np.float64)
        known = np.isfinite(target)
        if 0 < target[known].sum() < known.sum():
            columns[f"score.{name}"] = score(first[known], target[known], second)
    return pd.DataFrame({"uid": list(test.uid), **columns})


def _logistic(
    first: Array, second: Array, train: BaselineSide, test: BaselineSide, names: Sequence[str]
) -> pd.DataFrame:
    """Return the logits of every finding; one of too few patients for cross-validation is left out."""
    patients, columns = train.table["patient"].to_numpy(), dict[str, Array]()
    for name in names:
        target = train.table[f"target.{name}"].to_numpy(np.float64)
        with suppress(DataError):
            columns[f"score.{name}"] = fit_path(first, target[:, None], patients).logits(second)[:, 0]
    return pd.DataFrame({"uid": list(test.uid), **columns})


def _columns(table: pd.DataFrame, names: Sequence[str]) -> Mapping[str, ArrayLike]:
    return {
        name: pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
        if name in _NUMBERS
        else table[name].fillna("").astype(str).to_numpy()
        for name in names
    }
