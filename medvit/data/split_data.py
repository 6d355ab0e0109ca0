"""The images of a data set folder side by side (manifest, splits, cache); the test side only when allowed."""

from __future__ import annotations

import logging
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from medvit.data.cache import Cache
from medvit.data.cache_layout import Preprocess
from medvit.data.loading import Loading
from medvit.data.sampler import Sampler
from medvit.data.units import LabelTask, Units
from medvit.errors import ConfigError, DataError, SplitError

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)


class SplitData:
    """The cached images of one data set. `folder` holds manifest.parquet, splits.parquet and cache/.

    `loading` are the fields of `Loading` by name. Images come as integers; `normalise` (or `image.float() * scale +
    shift`) makes the model's input on the device. Raises ConfigError for an unknown setting, SplitError for the test
    split without allow_test. Needs neither torch nor Lightning; `DataModule` adds the loaders of a training.
    """

    draw: Sampler | None = None  # order of the training side, where it is learnt from

    def __init__(self, folder: str | Path, preprocess: Preprocess, task: LabelTask, **loading: Any) -> None:
        self.folder, self.preprocess, self.task = Path(folder), preprocess, task
        self.loading = _loading(loading)
        self.scale, self.shift = preprocess.scale, preprocess.shift
        self.cache: Cache | None = None
        self.hashes: dict[str, str] = {}
        self._units: dict[str, Units] = {}
        self._learnt: set[str] | None = None  # patients, where the training side is not learnt from whole

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - every stage needs the same cache
        """Read the manifest and splits and bring the cache up to date; further calls do nothing."""
        if self.cache is not None:
            return
        from medvit.dataset import manifest, splits, subset

        table = manifest.read(self.folder)
        frozen = splits.read(self.folder, table)
        self.hashes = {"manifest": table.digest, "split": frozen.digest, "preprocess": self.preprocess.digest}
        together = self.loading.fold == splits.ALL_FOLDS
        sides = ["train", *([] if together else ["val"]), *(["test"] if self.loading.allow_test else [])]
        learn = self.loading.learn
        parts = [
            frozen.rows(table, side, self.loading.fold).assign(_side="train" if side in learn else side)
            for side in sides
        ]
        if self.loading.subset is not None:
            self._learnt = set(subset.learnt(parts[0], self.loading.subset)["patient"])
        self.prepare_rows(pd.concat(parts, ignore_index=True), table.root)
        if together:
            self._units["val"] = self._units["train"]  # as `Splits.rows` has it
        self._tell_written_since((self.folder / manifest.MANIFEST).stat().st_mtime_ns)

    def _tell_written_since(self, indexed_ns: int) -> None:
        """Warn of files that were written after the manifest: another film may lie at the place of the indexed one."""
        if self.cache is None or self._rank() != 0:
            return
        late = sum(any(stat[1] > indexed_ns for stat in record.stats) for record in self.cache.records)
        if late:
            said = (
                "%d of %d images were written after they were indexed, and may be others than those that the labels "
                "and patients belong to: run python -m medvit.index again (what did not change is not read twice)"
            )
            _log.warning(said, late, len(self.cache))

    def prepare_rows(self, rows: pd.DataFrame, root: Path) -> None:
        """Build the cache of `rows` (manifest columns and `_side`) and the units of every side."""
        _refuse_other_kind(rows, self.preprocess.kind)
        self.task.encode(rows)  # a label that the task does not know is told before images are decoded for hours
        workers, on_bad, shown = self.loading.build_workers, self.loading.on_bad, self._rank() == 0
        self.cache = Cache.build(rows, root, self.preprocess, self.folder / "cache", workers, on_bad, shown)
        sides = self.cache.rows["_side"].to_numpy()
        for side in dict.fromkeys(rows["_side"]):
            mine = np.flatnonzero(sides == side)
            if side == "train" and self._learnt is not None:  # the cache, and so cached features, are of the whole side
                mine = mine[self.cache.rows["patient"].iloc[mine].isin(self._learnt).to_numpy()]
            if not len(mine):
                raise SplitError(f"the {side} side has no readable image; make another split")
            self._units[side] = Units(self.cache, mine, self.task, self.loading.bag)

    def units(self, side: str) -> Units:
        """Return the units of "train", "val" or "test", in the order that validation and test loaders give them."""
        if side == "test" and not self.loading.allow_test:
            raise SplitError("the test split is read by `python -m medvit.evaluate` only")
        self.setup()
        return self._units[side]

    def has(self, side: str) -> bool:
        """Return whether a side has units: "val" has none where it is learnt from."""
        self.setup()
        return side in self._units

    def normalise(self, image: Tensor) -> Tensor:
        """Return the model's input, float32, from integers [B C *S] on any device."""
        return image.float() * self.scale + self.shift

    def _rank(self) -> int:
        return 0


def _refuse_other_kind(rows: pd.DataFrame, kind: str) -> None:
    """Say once, and not for each file, that films are asked for where the index found volumes, or the other way."""
    if "kind" not in rows or not (other := int((rows["kind"] != kind).sum())):
        return
    word = "preprocess=volume or preprocess=slices" if kind == "film" else "preprocess=film"
    found = "volumes" if kind == "film" else "films"
    raise DataError(
        f"{other} of {len(rows)} images of the data set are {found}, and the preprocessing is for {kind}s: {word}, or "
        f"index them as {kind}s (data.kind={kind})"
    )


def _loading(options: dict[str, Any]) -> Loading:
    """Return the settings; raises ConfigError that names every unknown one with the nearest valid name."""
    valid = [field.name for field in fields(Loading)]
    unknown = [name for name in options if name not in valid]
    if unknown:
        near = [f"{name} (did you mean {''.join(get_close_matches(name, valid, 1)) or valid})" for name in unknown]
        raise ConfigError(f"DataModule has no setting {'; '.join(near)}")
    return Loading(**options)
