"""The manifest and its split as a data list of MONAI, in the layout of the Medical Segmentation Decathlon."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medvit.dataset import manifest, splits
from medvit.errors import DataError

SIDES = {"train": "training", "val": "validation", "test": "test"}


class LabelTask(Protocol):
    """The part of a task that turns label columns into numbers."""

    kind: ClassVar[str]
    names: tuple[str, ...]

    def encode(self, frame: pd.DataFrame) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return target and weight [n K]."""


def decathlon(folder: Path, task: LabelTask, fold: int | None = None, test: bool = False) -> dict[str, Any]:
    """Return {"training": [...], "validation": [...]}, and "test" where it is asked for, as plain values (JSON).

    An entry has `image` (a file, or the files of a series in slice order), `label`, `uid` (pseudonym), and `volume`
    (for `MedvitReader(volume=...)`) where a series holds several. `label` is a number, of a multiclass task the number
    of the class, or a list of them with None where one is missing; rows without any known label are left out and
    counted in `left_out`. Patients are on one side only.

    Raises:
        DataError, SplitError: no manifest or split, an unknown label, or a side without a labelled row.
    """
    table = manifest.read(folder)
    frozen = splits.read(folder, table)
    found: dict[str, Any] = {"labels": list(task.names), "left_out": {}}
    for side, word in SIDES.items():
        if side == "test" and not test:
            continue
        rows = frozen.rows(table, side, fold)
        target, weight = task.encode(rows)
        known = (weight > 0) & (target >= 0)
        kept = np.flatnonzero(known.any(axis=1))
        if not len(kept):
            raise DataError(
                f"the {side} side of {folder.name} has no row with a known label of {', '.join(task.names)}"
            )
        found["left_out"][word] = len(rows) - len(kept)
        root = table.root.absolute()
        found[word] = [
            _entry(rows.iloc[row], root) | {"label": _label(target[row], known[row], task.kind)} for row in kept
        ]
    return found


def _entry(row: Any, root: Path) -> dict[str, Any]:
    files = [str(root / name) for name in row["files"]]
    key = {"volume": row["volume_key"]} if row["volume_key"] else {}
    return {"image": files[0] if len(files) == 1 else files, "uid": row["uid"], **key}


def _label(target: NDArray[np.float32], known: NDArray[np.bool_], kind: str) -> Any:
    if kind == "multiclass":
        return int(target.argmax())
    values = [float(value) if there else None for value, there in zip(target, known, strict=True)]
    return values[0] if len(values) == 1 else values
