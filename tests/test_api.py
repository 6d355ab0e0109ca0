"""`import medvit`: the commands as functions, from a folder of films to the table of a bundle's predictions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest

import medvit
from medvit.config import settings_of
from medvit.config_words import overrides_of
from medvit.errors import ConfigError, DataError

LABELS = {"on": "AccessionNumber", "target": ["finding"]}
VALUES = {"normal": 0, "opacity": 1}
SMALL = {"model": {"image_size": [64, 64], "depth": 2}, "trainer__epochs": 2, "trainer__progress_bar": False}


def loaded(code: str) -> list[str]:
    ask = f"{code}\nimport sys; print(*sorted(m for m in sys.modules if '.' not in m))"
    return subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.split()


def test_importing_medvit_loads_nothing_heavy() -> None:
    assert not {"torch", "hydra", "omegaconf", "numpy", "pandas", "pydicom", "mlflow"} & set(loaded("import medvit"))


@pytest.mark.parametrize("first", ["import medvit.train", "from medvit.train import train", "import medvit"])
def test_a_command_can_be_called_in_whatever_way_its_module_was_imported(first: str) -> None:
    asked = f"{first}; import medvit; assert callable(medvit.train) and callable(medvit.index), medvit.train"
    assert loaded(asked)


def test_every_function_of_the_front_door_is_documented_and_typed() -> None:
    from medvit import api

    assert set(api.__all__) <= set(dir(medvit))
    for name in api.__all__:
        function = getattr(api, name)
        assert function.__doc__, name
        assert function.__annotations__["return"], name


@pytest.mark.parametrize(
    "value",
    [
        *("a b", 'say "yes"', "C:\\films\\", "null", "1e3", "a,b=c", "$ {x}", "Größe", ""),
        *(True, None, 3, 0.1, -1e-7, [], [1, "x, y"]),
    ],
)
def test_a_setting_of_python_arrives_as_it_was_given(value: Any) -> None:
    found = settings_of("index", {"data.root": value, "data.folder": "x", "data.accept": {"of x": value}})
    assert found["data"]["root"] == value
    assert found["data"]["accept"] == {"of x": value}


def test_mappings_set_each_key_and_two_underscores_are_a_dot() -> None:
    given = {"data": {"fold": 1, "folder": Path("x y")}, "trainer__epochs": 2, "labels": {"values": {"no": 0}}}
    assert overrides_of(given) == ["data.fold=1", 'data.folder="x y"', "trainer.epochs=2", "labels.values={no: 0}"]
    with pytest.raises(ConfigError, match=r"trainer\.epochs: expected a number.*found object"):
        overrides_of({"trainer__epochs": object()})
    loss = {"_target_": "monai.losses.FocalLoss", "gamma": 2}
    assert overrides_of({"task__loss": loss}) == ['task.loss={_target_: "monai.losses.FocalLoss", gamma: 2}']
    assert overrides_of({"callbacks.accumulation.scheduling": {0: 2}}) == ["callbacks.accumulation.scheduling={0: 2}"]


def test_a_program_with_hydra_of_its_own_keeps_it(tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir

    (tmp_path / "mine.yaml").write_text("a: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        settings_of("split", {"data.folder": "x"})
        with pytest.raises(ConfigError):
            settings_of("split", {"data.foldre": "x"})
        assert compose("mine")["a"] == 1


def test_type_checkers_of_users_see_the_annotations() -> None:
    assert (Path(medvit.__file__).parent / "py.typed").is_file()


def test_all_wrong_settings_are_told_at_once_and_before_torch() -> None:
    with pytest.raises(ConfigError, match=r"2 problems(.|\n)*model=vit_pcio does not exist(.|\n)*trainer\.epochs"):
        medvit.train(trainer__epoch=2, model="vit_pcio")
    assert "torch" not in loaded(
        "import medvit\ntry: medvit.train(trainer__epoch=2)\nexcept medvit.errors.ConfigError: 0".replace("\n", chr(10))
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """From films to a bundle, all in Python."""
    from medvit.phantom.films import write_films

    folder = tmp_path_factory.mktemp("api")
    write_films(folder / "raw", patients=24)
    films, data, runs = folder / "raw" / "dicom", folder / "data", {"folder": folder / "runs"}
    indexed = medvit.index(films, data, labels={**LABELS, "csv": folder / "raw" / "labels.csv"})
    frozen = medvit.split(str(data), split__seed=1)
    settings = {
        "data": {"folder": data, "name": "mine", "generate": None},
        "labels": {"target": ["finding"], "values": VALUES},
    }
    run = medvit.train(**settings, **SMALL, tracking=runs)
    report = medvit.evaluate(run, bootstrap__draws=100)
    bundle = medvit.export(run, folder / "bundle", acceptance={"age_years": None})
    return SimpleNamespace(
        folder=folder, films=films, indexed=indexed, frozen=frozen, run=run, report=report, bundle=bundle
    )


@pytest.mark.slow
def test_the_commands_return_what_they_made(done: Any) -> None:
    assert len(done.indexed.table) == len(list(done.films.rglob("IM*")))
    assert set(done.frozen.table["split"]) == {"train", "val", "test"}
    assert done.run.status == "FINISHED"
    assert done.run.folder.parent == (done.folder / "runs").resolve()
    assert done.report.headline
    assert "findings" in done.report.tables
    assert medvit.register(done.run, "films", acceptance={"age_years": None}) == "1"
    registered = done.run.client.get_model_version("films", "1").tags["medvit.bundle"]
    assert registered == done.bundle.runtime.bundle.digest == done.run.labels["medvit.bundle"]  # one hash for one run
    assert medvit.compare(done.run, done.run, out=done.folder / "same").headline


@pytest.mark.slow
def test_a_loaded_bundle_says_of_each_film_what_the_evaluation_said(done: Any) -> None:
    said = done.bundle.predict(done.films)
    tested = pd.read_parquet(done.run.folder / "evaluation_test" / "predictions.parquet")
    both = said.merge(tested, on="uid")
    assert len(both) == len(tested) > 0
    assert (both["probability.finding"] - both["calibrated.finding"]).abs().max() < 1e-5
    written = medvit.predict(done.bundle.folder, done.films, done.folder / "said")
    assert np.array_equal(written["probability.finding"], said["probability.finding"])
    assert list(written["uid"]) == list(said["uid"])


@pytest.mark.slow
def test_file_bytes_and_data_set_of_one_film_give_the_same_prediction(done: Any) -> None:
    file = sorted(done.films.rglob("IM*"))[3]
    said = done.bundle.predict([file, str(file), file.read_bytes(), pydicom.dcmread(file)])
    assert list(said["status"]) == ["OK"] * 4
    assert said["probability.finding"].nunique() == 1
    display = medvit.read_film(file).display()
    array = done.bundle.predict(np.round(display * 65535).astype(np.uint16))
    assert "W-ARRAY" in array["warnings"][0]
    assert array["probability.finding"][0] == pytest.approx(said["probability.finding"][0], abs=1e-3)


@pytest.mark.slow
def test_the_encoder_of_a_run_is_a_module_that_gives_tokens(done: Any) -> None:
    import torch

    encoder = medvit.vit(done.run.folder, image_size=(64, 64))
    with torch.no_grad():
        tokens = encoder(torch.zeros(2, 1, 64, 64))
    assert tokens.patches.shape == (2, 16, 96)
    assert tokens.grid == (4, 4)


def test_a_film_is_the_same_from_path_text_bytes_data_set_and_array(tmp_path: Path) -> None:
    from medvit.phantom.films import write_films

    write_films(tmp_path, patients=1)
    file = next((tmp_path / "dicom").rglob("IM*"))
    display = medvit.read_film(file).display()
    for source in (str(file), file.read_bytes(), pydicom.dcmread(file)):
        assert np.array_equal(medvit.read_film(source).display(), display)
    assert np.abs(medvit.read_film(display).display() - display).max() <= 0.5 / 65535 + 1e-7
    inverted = pydicom.dcmread(file)
    inverted.PhotometricInterpretation = (
        "MONOCHROME1" if inverted.PhotometricInterpretation == "MONOCHROME2" else "MONOCHROME2"
    )
    assert np.abs(medvit.read_film(inverted).display() + display - 1).max() < 1e-3


def test_arrays_that_are_no_display_values_are_refused() -> None:
    with pytest.raises(DataError, match="from 0 to 4000"):
        medvit.read_film(np.linspace(0, 4000, 16, dtype=np.float32).reshape(4, 4))
    with pytest.raises(DataError, match=r"3 axes\. Volumes need their files"):
        medvit.read_film(np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(DataError, match="file_meta"):
        medvit.read_film(pydicom.Dataset())


@pytest.mark.real
def test_a_volume_is_read_from_the_folder_of_its_series(real_data: Path) -> None:
    from medvit.series.read import SeriesPolicy, read_series

    folder = min(file.parent for file in (real_data / "mri_series").rglob("*.dcm"))
    expected = read_series(sorted(folder.iterdir()), SeriesPolicy(tilt="resample"))
    found = medvit.read_volume(folder, expected[0].key, tilt="resample")
    assert np.array_equal(found.values, expected[0].values)
    assert np.array_equal(found.affine, expected[0].affine)
