"""A bundle of a network on MR series: its golden cases, predictions from folders, and the model in MLflow."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medvit.bundle import golden
from medvit.bundle.runtime import Runtime
from medvit.errors import BundleError
from medvit.predict import predict
from medvit.preprocess import VolumePreprocess


@pytest.fixture(scope="module")
def series() -> list[list[bytes]]:
    from medvit.release import generated_series

    return generated_series()


@pytest.fixture(scope="module")
def heads(series: list[list[bytes]]) -> Any:
    import torch

    from medvit.bundle.decision import Decider
    from medvit.bundle.parity import Trained
    from medvit.model.network import Network
    from medvit.model.pool import MeanPool
    from medvit.model.vit import ViT
    from medvit.release import generated_cases

    torch.manual_seed(0)
    backbone = ViT(image_size=(8, 16, 16), patch_size=(4, 8, 8), in_channels=1, width=24, depth=1, heads=2)
    preprocess = VolumePreprocess(size=(8, 16, 16))
    network = Network(backbone, MeanPool(), outputs=1).eval()
    with torch.no_grad():
        network.head.weight.mul_(40)
    probabilities = Decider(("opacity",), {"name": "sigmoid"}, {}, {}).probabilities
    assert generated_cases(preprocess) == series
    return Trained(network, preprocess, probabilities, series)


@pytest.fixture(scope="module")
def bundle(heads: Any, contents: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from medvit.bundle.build import write_draft

    its = replace(contents, preprocess=heads.preprocess.to_json(), acceptance={"modality": ["MR"]})
    return write_draft(heads, its, tmp_path_factory.mktemp("volumes") / "bundle")


@pytest.fixture
def folder(series, films, tmp_path) -> Path:
    """Two series whose files lie mixed, and a film."""
    place = tmp_path / "input"
    place.mkdir()
    for number, files in enumerate(series):
        for slot, data in enumerate(files):
            (place / f"{slot:02d}_{number}").write_bytes(data)
    shutil.copy(films[0], place / "film")
    return place


def test_a_site_checks_its_reading_of_series_too(bundle, heads, monkeypatch) -> None:
    cases, worst = golden.check(Runtime(bundle))
    assert (cases, worst < 1e-5) == (2, True)
    original = VolumePreprocess._range
    monkeypatch.setattr(VolumePreprocess, "_range", lambda self, values: (0.0, original(self, values)[1] * 1.2))
    with pytest.raises(BundleError, match="does not reproduce the model"):
        golden.check(Runtime(bundle))


def test_the_files_of_a_folder_become_series_again(bundle, heads, series, folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MEDVIT_PSEUDO_KEY_FILE", str(tmp_path / "key"))
    assert predict(bundle, folder, tmp_path / "out", isolate=False) == 10
    table = pd.read_csv(tmp_path / "out" / "predictions.csv", dtype=str)
    assert table["status"].tolist() == ["OK", "OK", "REJECTED"]
    assert table["file"].tolist() == ["1+23", "2+23", "49"]
    logits = golden_logits(heads, series)
    np.testing.assert_allclose(table["probability.opacity"][:2].astype(float), 1 / (1 + np.exp(-logits)), atol=1e-5)


def golden_logits(heads: Any, series: list[list[bytes]]) -> np.ndarray:
    import torch

    with torch.no_grad():
        images = [torch.from_numpy(heads.preprocess(files)) for files in series]
        return np.array([float(heads.network(image[None])) for image in images])


def test_the_model_in_mlflow_takes_the_files_of_a_series_as_rows(bundle, heads, series, films, tmp_path) -> None:
    import mlflow

    from medvit.tracking import model
    from medvit.tracking import run as tracking

    with tracking.start(tmp_path / "runs", "heads", "one") as run:
        logged = model.log(run, bundle, "heads", ("opacity",))
    mlflow.set_tracking_uri(tracking.store_uri(tmp_path / "runs"))
    try:
        loaded = mlflow.pyfunc.load_model(logged.uri)
    finally:
        mlflow.set_tracking_uri(None)
    rows = [series[0][0], films[0].read_bytes(), *series[1], *series[0][1:], b"no dicom"]
    found = loaded.predict(pd.DataFrame({"dicom": rows}))
    one, other = 1 / (1 + np.exp(-golden_logits(heads, series)))
    expected = [one, np.nan, *[other] * 24, *[one] * 23, np.nan]
    np.testing.assert_allclose(found["probability.opacity"].astype(float), expected, atol=1e-5)
    assert found["code"].iloc[-1] == "E-NOTDICOM"
