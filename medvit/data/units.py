"""Units of prediction made of cached rows (an image, a study's views, a series' slices) and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.data.cache import Cache
from medvit.data.cache_layout import uid_in_errors
from medvit.dataset.leakage.fingerprint import pixel_digest
from medvit.dicom.mr_sequence import SEQUENCES
from medvit.errors import ConfigError, DataError
from medvit.types import Bag, Batch

if TYPE_CHECKING:
    from torch import Tensor

# What `Bag.kind` counts, in this order for good: networks have learnt it. 0 is unknown.
KINDS = ("", "PA", "AP", "LL", "RL", "LAO", "RAO", "CC", "MLO", *SEQUENCES, "LATERAL")


@runtime_checkable
class Augmentation(Protocol):
    """What changes images at random, by draws that follow from (seed, epoch, position) alone."""

    def __call__(
        self, images: NDArray[Any], seed: int, epoch: int, position: NDArray[np.int64], member: NDArray[np.int64]
    ) -> NDArray[Any]:
        """Return augmented integers [n C *S]; images of one position share their draws but for noise."""


@runtime_checkable
class LabelTask(Protocol):
    """The part of a task that turns label columns into numbers."""

    def encode(self, frame: pd.DataFrame) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return target [n K] and weight [n K]."""


class Units:
    """The units of one side of a split. `frame` has one row per unit, in order; `uid` names it (pseudonym).

    bag: None (one image is one unit, or one series of slices is one bag) or the manifest column whose rows belong
    together: "study", "series" or "patient". Raises DataError when labels within a unit disagree, or its patients do.
    """

    def __init__(self, cache: Cache, rows: NDArray[np.int64], task: LabelTask, bag: str | None = None) -> None:
        if bag not in {None, "study", "series", "patient"}:
            raise ConfigError(f"bag={bag!r}: expected null, study, series or patient")
        self.cache = cache
        frame = cache.rows.iloc[rows].drop(columns="_side", errors="ignore")
        if bag is None:
            self.members = [np.array([row]) for row in rows]
            self.frame = frame.reset_index(drop=True)
        else:
            groups = frame.assign(_row=rows).groupby(bag, sort=True)
            self.members = [group["_row"].to_numpy() for _, group in groups]
            self.frame = _one_row_each(frame, bag)
        self.bagged = bag is not None or getattr(cache.preprocess, "mode", "") == "slices"
        self.uid = self.frame["uid"].to_numpy()
        self.target, self.weight = task.encode(self.frame)
        self.one_label = bool(getattr(task, "one_label", False))
        grouped = bag is not None  # one series by itself has nothing to be told from; so it is exported, too
        self._kind = _kinds(cache.rows) if grouped else np.zeros(len(cache.rows), np.int64)

    def __len__(self) -> int:
        return len(self.members)

    def with_digests(self) -> pd.DataFrame:
        """Return `frame` with `pixel_sha256`: the digests of each unit's cached films or series, parted by "|"."""
        rows = [[pixel_digest(self.cache.gather([int(row)])) for row in mine] for mine in self.members]
        return self.frame.assign(pixel_sha256=["|".join(each) for each in rows])

    def batch(
        self,
        positions: NDArray[np.int64],
        units: NDArray[np.int64],
        augment: Augmentation | None = None,
        draw: tuple[int, int] = (0, 0),
        pin: bool = False,
    ) -> Batch:
        """Gather the units `units`, which stand at `positions` of the epoch, augmented by (seed, epoch) = `draw`."""
        import torch

        members = [self.members[unit] for unit in units]
        rows = np.concatenate(members) if members else np.empty(0, np.int64)
        counts = [int(self.cache.counts[mine].sum()) for mine in members]
        image = self.images(rows, pin)
        if augment is not None:
            position = np.repeat(positions, counts)
            member = np.concatenate([np.arange(count) for count in counts])
            with uid_in_errors(", ".join(self.uid[units])):
                image = torch.from_numpy(augment(image.numpy(), *draw, position, member))
        bag = None
        if self.bagged:
            image, bag = self._bags(image, members, counts)
        target, weight = torch.from_numpy(self.target[units]), torch.from_numpy(self.weight[units])
        return Batch(image, target, weight, tuple(self.uid[units]), bag)

    def images(self, rows: NDArray[np.int64], pin: bool = False) -> Tensor:
        """Return the cached images of `rows`, integers [n C *S]; a series of slices has several.

        Pinned rooms come from torch's pool, which waits for copies still under way.
        """
        import torch

        kind = {"uint8": torch.uint8, "uint16": torch.uint16}[self.cache.preprocess.dtype]
        size = int(self.cache.counts[rows].sum())
        room = torch.empty((size, *self.cache.preprocess.shape), dtype=kind, pin_memory=pin)
        self.cache.gather(rows, out=room.numpy())
        return room

    def _bags(self, image: Tensor, members: Sequence[NDArray[np.int64]], counts: Sequence[int]) -> tuple[Tensor, Bag]:
        """Lay the images of each unit into [B I C *S], with zeros and a false mask where a bag is shorter."""
        import torch

        most = max(counts, default=0)
        shape = (len(members), most, *image.shape[1:])
        bags = torch.zeros(shape, dtype=image.dtype, pin_memory=image.is_pinned())
        mask = torch.zeros(shape[:2], dtype=torch.bool)
        position = torch.zeros(shape[:2])
        kind = torch.zeros(shape[:2], dtype=torch.int64)
        start = 0
        for slot, (rows, count) in enumerate(zip(members, counts, strict=True)):
            bags[slot, :count] = image[start : start + count]
            mask[slot, :count] = True
            places = [self.cache.position_mm(int(row)) for row in rows]
            position[slot, :count] = torch.from_numpy(np.concatenate(places))
            kind[slot, :count] = torch.from_numpy(np.repeat(self._kind[rows], self.cache.counts[rows]))
            start += count
        return bags, Bag(mask, position, kind)


def _one_row_each(frame: pd.DataFrame, bag: str) -> pd.DataFrame:
    """Return the first known value of every column per unit.

    Raises:
        DataError: rows without a unit, units of several patients, or labels within a unit that disagree (all of them).
    """
    if frame[bag].isna().any():
        raise DataError(f"{int(frame[bag].isna().sum())} rows have no {bag}; set bag=null or mend the manifest")
    labels = [name for name in frame.columns if name.startswith("label.")]
    groups = frame.groupby(bag, sort=True)
    mixed = int(groups["patient"].nunique().gt(1).sum())
    if mixed:
        raise DataError(f"{mixed} units (by {bag}) hold images of several patients; set bag=null or mend the manifest")
    clash = groups[labels].nunique(dropna=True).gt(1) if labels else pd.DataFrame(index=groups.size().index)
    wrong = clash.index[clash.any(axis=1)]
    if len(wrong):
        listed = ", ".join(str(uid) for uid in wrong[:20])
        raise DataError(
            f"{len(wrong)} units (by {bag}) have images whose labels disagree: {listed}; set bag=null or mend them"
        )
    first = groups.first().reset_index()
    return first.assign(uid=first[bag])


def _kinds(rows: pd.DataFrame) -> NDArray[np.int64]:
    """Return the view of each film, or the sequence of each MR series, as its number in KINDS; 0 where unknown."""
    number = {kind: index for index, kind in enumerate(KINDS)}
    found = np.zeros(len(rows), np.int64)
    for column in ("view", "sequence"):
        if column in rows:
            found = np.where(found > 0, found, [number.get(str(value), 0) for value in rows[column]])
    return found
