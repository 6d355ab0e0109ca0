"""A bundle of a network on MR series: its golden cases, predictions from folders, and the model in MLflow."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest

from medvit.bundle import golden
from medvit.bundle.runtime import Runtime
from medvit.errors import BundleError, DicomRefusal
from medvit.predict import predict
from medvit.preprocess import VolumePreprocess


@pytest.fixture(scope="module")
def series() -> list[list[bytes]]:
    return golden.generated_series()


@pytest.fixture(scope="module")
def heads(series: list[list[bytes]]) -> Any:
    import torch

    from medvit.bundle.decision import Decider
    from medvit.bundle.parity import Trained
    from medvit.model.network import Network
    from medvit.model.pool import MeanPool
    from medvit.model.vit import ViT

    torch.manual_seed(0)
    backbone = ViT(image_size=(8, 16, 16), patch_size=(4, 8, 8), in_channels=1, width=24, depth=1, heads=2)
    preprocess = VolumePreprocess(size=(8, 16, 16))
    network = Network(backbone, MeanPool(), outputs=1).eval()
    with torch.no_grad():
        network.head.weight.mul_(40)
    probabilities = Decider(("opacity",), {"name": "sigmoid"}, {}, {}).probabilities
    assert golden.generated_cases(preprocess) == series
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
    original = VolumePreprocess.display_range
    monkeypatch.setattr(VolumePreprocess, "display_range", lambda self, values: (0.0, original(self, values)[1] * 1.2))
    with pytest.raises(BundleError, match="does not reproduce the model"):
        golden.check(Runtime(bundle))


def test_the_files_of_a_folder_become_series_again(bundle, heads, series, folder, tmp_path, monkeypatch) -> None:
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

    from medvit.tracking import model, store
    from medvit.tracking import run as tracking

    with tracking.start(tmp_path / "runs", "heads", "one") as run:
        logged = model.log(run, bundle, "heads", ("opacity",))
    mlflow.set_tracking_uri(store.store_uri(tmp_path / "runs"))
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


@pytest.fixture(scope="module")
def several(series: list[list[bytes]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A series of two echoes, one of one, one with a broken file, and a NIfTI file of three time points."""
    import io

    import nibabel

    root = tmp_path_factory.mktemp("several")
    changes = [("two", 0, None), ("two", 0, 80.0), ("one", 1, None), ("torn", 1, None)]
    for number, (name, which, echo) in enumerate(changes):
        for slot, data in enumerate(series[which]):
            dataset = pydicom.dcmread(io.BytesIO(data))
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number + 1}.{slot + 1}"
            dataset.SeriesInstanceUID = f"1.3.{1 + ['two', 'one', 'torn'].index(name)}"
            if echo:
                dataset.EchoTime, dataset.PixelData = echo, (dataset.pixel_array // 2 + slot).astype("<u2").tobytes()
            dataset.save_as(root / f"{name}_{number}_{slot:02d}")
    broken = root / "torn_3_07"
    broken.write_bytes(broken.read_bytes()[:300])
    values = np.random.default_rng(0).random((16, 16, 8, 3)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 3, 1])), root / "times.nii.gz")
    return root


def test_prediction_makes_the_volumes_that_the_index_makes_and_says_of_each_what_training_says(
    heads, contents, several, tmp_path, monkeypatch
) -> None:
    """Two echoes in one series: `predict` rejected with E-KEY what the network was trained on, 48 of 48."""
    import torch

    from medvit.bundle.build import export
    from medvit.index import index
    from medvit.preprocess import VolumeFiles

    known = index(several, tmp_path / "data", options={"patient_fallback": "file"}, on_bad="skip")
    keys = known.table["volume_key"]
    assert sorted(known.table["table.volume"]) == ["", "echo=1", "echo=2", "t=0", "t=1", "t=2"]
    assert len(pd.read_csv(tmp_path / "data" / "exclusions.csv")) == 2
    samples = [VolumeFiles(known.paths(row), keys[row]) for row in range(len(known.table))]
    limits, plain = {"burned_in": ["no", "unknown"]}, {"opacity": {"slope": 1.0, "intercept": 0.0}}
    its = replace(contents, preprocess=heads.preprocess.to_json(), acceptance=limits, calibration=plain)
    parity = export(heads, its, samples, tmp_path / "bundle").parity
    assert (parity.images, parity.rejected) == (6, 0)  # the time points were refused by both
    assert predict(tmp_path / "bundle", several, tmp_path / "out", isolate=False) == 10
    table = pd.read_csv(tmp_path / "out" / "predictions.csv", dtype=str).set_index("uid")
    assert table["status"].value_counts().to_dict() == {"OK": 6, "REJECTED": 2}
    assert table.loc[table["file"] == "26+22", "code"].tolist() == ["E-GAP"]
    with torch.no_grad():
        logits = [float(heads.network(torch.from_numpy(heads.preprocess(sample))[None])) for sample in samples]
    ours = table.loc[known.table["uid"], "probability.opacity"].astype(float)
    np.testing.assert_allclose(ours, 1 / (1 + np.exp(-np.array(logits))), atol=1e-5)
    assert len(set(ours.round(6))) == 6


def test_rows_of_a_series_with_two_volumes_are_answered_by_volume(several) -> None:
    from medvit.clinical.units import volumes_in
    from medvit.series.policy import SeriesPolicy

    files = [path.read_bytes() for path in sorted(several.iterdir(), reverse=True)]
    found = volumes_in(files, SeriesPolicy())
    sizes = sorted((len(places), unit.volume_key) for places, unit in found)
    assert sizes == [(1, ""), (1, ""), (23, ""), (24, ""), (24, ""), (24, "")]  # times.nii.gz is refused whole: E-4D
    assert sorted(place for places, _ in found for place in places) == list(range(len(files)))
    with pytest.raises(DicomRefusal, match="E-4D 3 volumes: t=0, t=1, t=2"):
        VolumePreprocess().read(next(unit for places, unit in found if unit.files[0][:2] == b"\x1f\x8b"))
