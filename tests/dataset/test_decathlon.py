"""The manifest and its split as MONAI's data list: the same files, labels and sides, and patients on one side only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import medvit
from medvit.dataset import manifest, splits
from medvit.errors import DataError
from medvit.task.binary import Binary
from medvit.task.multiclass import Multiclass
from medvit.task.multilabel import Multilabel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = range(24)
    values = {"label.a": [r % 2 for r in rows], "label.b": [np.nan if r % 3 == 0 else r % 2 for r in rows]}
    values["label.kind"] = [["x", "y", "z"][r % 3] for r in rows]
    table = pd.DataFrame({
        "uid": [f"{r:032x}" for r in rows], "patient": [f"p{r // 2}" for r in rows], "study": [f"s{r}" for r in rows],
        "series": [f"e{r}" for r in rows], "kind": "film", "volume_key": "",
        "files": [[f"{r}.dcm"] if r else ["0/1.dcm", "0/2.dcm"] for r in rows], **values,
    })  # fmt: skip
    for name in manifest.FACTS:
        table[name] = 0 if name in ("rows", "columns", "frames") else np.nan if "mm" in name or "age" in name else ""
    table["lossy"] = False
    made = manifest.write(table, tmp_path, tmp_path)
    splits.make(made, splits.SplitSpec(fractions={"train": 0.5, "val": 0.25, "test": 0.25})).write(tmp_path)
    return tmp_path


def test_every_row_of_a_side_is_there_with_its_files_and_label(folder: Path) -> None:
    table = manifest.read(folder)
    found = medvit.decathlon(folder, Binary("a"))
    assert json.loads(json.dumps(found)) == found
    frozen = splits.read(folder, table)
    for side, word in (("train", "training"), ("val", "validation")):
        rows = frozen.rows(table, side).set_index("uid")
        assert {entry["uid"] for entry in found[word]} == set(rows.index)
        for entry in found[word]:
            files = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
            assert files == [str(folder / name) for name in rows.loc[entry["uid"], "files"]]
            assert entry["label"] == rows.loc[entry["uid"], "label.a"]


def test_the_test_side_comes_only_when_it_is_asked_for_and_no_patient_stands_on_two(folder: Path) -> None:
    assert "test" not in medvit.decathlon(folder, Binary("a"))
    found = medvit.decathlon(folder, Binary("a"), test=True)
    of = manifest.read(folder).table.set_index("uid")["patient"]
    sides = [{of[entry["uid"]] for entry in found[word]} for word in ("training", "validation", "test")]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 12


def test_missing_labels_are_none_rows_without_any_are_left_out_and_classes_are_numbers(folder: Path) -> None:
    both = medvit.decathlon(folder, Multilabel(["a", "b"]))["training"]
    assert {len(entry["label"]) for entry in both} == {2}
    assert any(entry["label"][1] is None for entry in both)
    one = medvit.decathlon(folder, Binary("b"))
    assert len(one["training"]) + one["left_out"]["training"] == len(both)
    kinds = medvit.decathlon(folder, Multiclass("kind", ["x", "y", "z"]))["training"]
    assert {entry["label"] for entry in kinds} <= {0, 1, 2}
    with pytest.raises(DataError, match="label c is not in the manifest"):
        medvit.decathlon(folder, Binary("c"))
