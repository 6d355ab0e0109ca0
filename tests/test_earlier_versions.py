"""What medvit 0.1 wrote before the packages were renamed is read by the code of today (tests/earlier_versions)."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

ARCHIVE = Path(__file__).parent / "earlier_versions" / "v0.1.tar.xz"
RUN = "248a5e6c09f545fea0085c4d24af9a36"
PIXELS = (
    "5ce314e1b751d599e664bbe191d6e89037c66f9173928b0be313df069a7230b8"  # of all cached rows, by the code that wrote
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder of medvit 0.1: data set, cache, run, store, MLflow model and bundle, moved here."""
    place = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(place, filter="data")
    return place


@pytest.fixture(scope="module")
def data(written: Path) -> Path:
    return written / "work" / "phantom_cxr"


def test_manifest_and_split_are_read_and_keep_their_digests(data: Path) -> None:
    from medvit.dataset import manifest, splits

    table = manifest.read(data)
    assert table.digest == "81157921b6ca5ebe83efcf4857dc488ca7b976df711e805c877e8fc97ceead20"
    frozen = splits.read(data, table)
    assert frozen.digest == "84816278c512588a4bba6962d154b6d2ba3b6c2bb2998695cfdccb07ee98df86"
    assert len(table.table) == 45


def test_the_cache_holds_the_same_pixels(written: Path, data: Path) -> None:
    from medvit.data import cache_journal
    from medvit.data.cache import Cache
    from medvit.dataset import manifest
    from medvit.preprocess import from_json

    (home,) = (path for path in (data / "cache").iterdir() if path.is_dir())
    found, _ = cache_journal.read(home / "journal")
    records = {record.uid: record for record in found}
    table = manifest.read(data)
    preprocess = from_json(json.loads((written / "runs" / RUN / "preprocess.json").read_text()))
    cache = Cache(table.table, [records[uid] for uid in table.table["uid"]], table.root, preprocess, home)
    assert hashlib.sha256(cache.gather(range(len(cache))).tobytes()).hexdigest() == PIXELS


def test_a_run_gives_the_validation_predictions_it_gave(written: Path, data: Path) -> None:
    import torch

    from medvit.data import cache_journal
    from medvit.data.cache import Cache
    from medvit.dataset import manifest
    from medvit.engine.checkpoint import load_run

    trained = load_run(written / "runs" / RUN)
    said = pd.read_parquet(written / "runs" / RUN / "validation.parquet").set_index("uid")
    (home,) = (path for path in (data / "cache").iterdir() if path.is_dir())
    records = {record.uid: record for record in cache_journal.read(home / "journal")[0]}
    table = manifest.read(data)
    cache = Cache(table.table, [records[u] for u in table.table["uid"]], table.root, trained.preprocess, home)
    rows = [list(table.table["uid"]).index(uid) for uid in said.index]
    image = torch.from_numpy(trained.preprocess.normalise(cache.gather(rows)))
    with torch.inference_mode():
        logits = trained.network(image).float().numpy()
    np.testing.assert_allclose(logits[:, 0], said["logit.finding"], atol=2e-2)  # bf16 there, fp32 here


def differences(old: Any, new: Any, place: str) -> list[str]:
    """Return where `new` lacks or contradicts `old`; numbers may differ by what another processor's sums do (1e-9)."""
    if isinstance(old, dict):
        return [line for key, value in old.items() for line in differences(value, new.get(key), f"{place}.{key}")]
    if isinstance(old, list) and len(old) == len(new):
        return [
            line for n, pair in enumerate(zip(old, new, strict=True)) for line in differences(*pair, f"{place}[{n}]")
        ]
    same = math.isclose(old, new, rel_tol=1e-9) if isinstance(old, float) and isinstance(new, float) else old == new
    return [] if same else [f"{place}: {old} became {new}"]


def test_every_number_of_an_evaluation_is_reported_again(written: Path, tmp_path: Path) -> None:
    folder = written / "runs" / RUN / "evaluation_test"
    command = [sys.executable, "-m", "medvit.evaluate", f"predictions={folder / 'predictions.parquet'}"]
    subprocess.run([*command, f"out={tmp_path / 'again'}"], check=True, cwd=written, capture_output=True)
    before, after = (json.loads((place / "report.json").read_text()) for place in (folder, tmp_path / "again"))
    for name, table in before["tables"].items():  # today's tables may have further columns
        assert differences(table["rows"], after["tables"][name]["rows"], name) == []


def test_a_bundle_verifies_and_says_what_training_said(written: Path) -> None:
    from medvit.predict import verified

    assert verified(written / "bundle").names == ("finding",)


def test_an_mlflow_model_of_the_registry_is_loaded_by_its_name(written: Path) -> None:
    import mlflow

    from medvit.tracking.store import open_client, store_uri

    open_client(written / "runs")  # the folder was moved here
    mlflow.set_tracking_uri(store_uri(written / "runs"))
    try:
        model = mlflow.pyfunc.load_model("models:/golden@candidate")
    finally:
        mlflow.set_tracking_uri(None)
    golden = json.loads((written / "bundle" / "medvit" / "golden" / "expected.json").read_text())
    files = [written / "bundle" / "medvit" / "golden" / case["files"][0] for case in golden]
    answer = model.predict(pd.DataFrame({"dicom": [file.read_bytes() for file in files]}))
    assert list(answer["status"]) == ["OK"] * len(files)


def test_earlier_targets_of_a_config_have_their_present_names() -> None:
    from medvit.config import build
    from medvit.renamed import TARGETS, with_present_targets

    assert build({"_target_": "medvit.data.augment.nothing"}) is None
    node = {"a": [{"_target_": old} for old in TARGETS]}
    assert [one["_target_"] for one in with_present_targets(node)["a"]] == list(TARGETS.values())
