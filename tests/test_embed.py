"""`medvit embed`: vectors as the network gives them, of the sides asked for, and a page without identifiers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pyarrow import parquet
from whole_path import QUICK, UNCHECKED, generated

import medvit
from medvit.config import conf_dir
from medvit.config_check import preflight
from medvit.dataset import manifest, splits
from medvit.embed import check
from medvit.engine.checkpoint import load_run
from medvit.quality.embedding_page import cluster, unit_vectors

SMALL = {"tracking.log_model": False, "model.image_size": [32, 32], "model.patch_size": [8, 8], "model.depth": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embed")


@pytest.fixture(scope="module")
def run(place: Path) -> Any:
    asked = {**QUICK, **generated(place, "films"), **SMALL, "labels.target": ["finding"], "model": "vit_pico"}
    return medvit.train(**asked, tracking__folder=place / "runs")


@pytest.fixture(scope="module")
def of_run(run: Any, place: Path) -> pd.DataFrame:
    return medvit.embed(place / "films", run=run.id, tracking__folder=place / "runs", out=place / "of_run")


def weights(run: Any) -> dict[str, Any]:
    return {"model.weights": str(run.folder), "model.image_size": [32, 32], "preprocess": "film"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "give one of run=RUN_ID, bundle=DIR or model.weights=CHECKPOINT; found none"),
        (
            ["run=latest", "bundle=."],
            "give one of run=RUN_ID, bundle=DIR or model.weights=CHECKPOINT; found run, bundle",
        ),
        (
            ["run=latest", "preprocess=film"],
            "preprocess=... is of model.weights alone; run brings its own: leave it out",
        ),
        (["run=latest", "pool=mean"], "pool=... is of model.weights alone; run brings its own: leave it out"),
        (["run=latest", "model.image_size=[64,64]"], "model.image_size is used with model.weights=... alone"),
        (["bundle=.", "batch_size=3"], "batch_size is used with run=... alone"),
        (["run=latest", "page=false", "clusters=3"], "clusters is used with page=true alone"),
        (["model.weights=x/y"], "model.weights needs a preprocessing: give preprocess=film"),
        (["model.weights=x/y", "preprocess=film", "pool=attention"], "pool: attention has queries of its own"),
        (["run=latest", "data.include=[tset]"], "data.include: 'tset' is no side of a split"),
        (
            ["run=latest", "unit=studies"],
            "unit=studies: expected null, series, study or patient; did you mean 'study'?",
        ),
        (["run=latest", "neighbours=0"], "neighbours=0: expected 1 to 20"),
        (["bundle=/nowhere/at/all"], "bundle: no such folder"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_read(given: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.parquet").touch()
    (found,) = preflight(conf_dir(), "embed", [f"data.folder={tmp_path}", *given], check)
    assert found.startswith(said)


def test_a_vector_of_a_run_is_what_its_head_reads_of_the_file(run: Any, of_run: pd.DataFrame, place: Path) -> None:
    trained, known = load_run(run.folder), manifest.read(place / "films")
    row = int(np.flatnonzero(known.table["uid"] == of_run["uid"][3])[0])
    image = torch.from_numpy(trained.preprocess(known.paths(row)[0]))[None]
    with torch.no_grad():
        expected = trained.network.norm(trained.network.pool(trained.network.backbone(image)))[0].numpy()
    np.testing.assert_allclose(of_run["vector"][3], expected, atol=2e-5)


def test_the_test_side_has_no_vector_unless_it_is_asked_for_and_then_no_label(
    run: Any, of_run: pd.DataFrame, place: Path
) -> None:
    known = manifest.read(place / "films")
    side = known.table.set_index("uid")["patient"].map(splits.read(place / "films", known).sides())
    assert set(of_run["split"]) == {"train", "val"} == set(side[of_run["uid"]])
    assert of_run["label.finding"].notna().all()
    with_test = medvit.embed(place / "films", run=run.id, tracking__folder=place / "runs", page=False,
                             data__include=["train", "test"], out=place / "with_test")  # fmt: skip
    assert set(with_test["uid"]) == set(side.index[side != "val"])
    hidden = with_test[with_test["split"] == "test"].filter(like="label.")
    assert hidden.isna().all().all()
    assert with_test.loc[with_test["split"] == "train", "label.finding"].notna().all()


def test_the_table_is_a_list_of_float32_and_says_what_made_it(run: Any, of_run: pd.DataFrame, place: Path) -> None:
    schema = parquet.read_schema(place / "of_run" / "embeddings.parquet")
    assert str(schema.field("vector").type) == "list<element: float>"
    about = json.loads(schema.metadata[b"medvit"])
    assert about["preprocess"] == load_run(run.folder).preprocess.digest
    assert about["manifest"] == manifest.read(place / "films").digest
    assert (about["unit"], about["pool"], about["left_out"]) == ("image", "MeanPool", 0)
    stored = pd.read_parquet(place / "of_run" / "embeddings.parquet")
    assert np.array_equal(np.stack(stored["vector"]), np.stack(of_run["vector"]))


def test_a_patients_vector_is_the_mean_of_its_images(run: Any, of_run: pd.DataFrame, place: Path) -> None:
    said = medvit.embed(place / "films", run=run.id, tracking__folder=place / "runs", unit="patient", page=False,
                        out=place / "patients")  # fmt: skip
    mean = of_run.groupby("patient")["vector"].apply(lambda each: np.mean(np.stack(each), axis=0))
    assert list(said["uid"]) == list(mean.index)
    np.testing.assert_allclose(np.stack(said["vector"]), np.stack(mean), atol=1e-5)
    several = of_run.groupby("patient")["label.finding"].nunique()
    assert (
        said.set_index("uid")["label.finding"].isna().equals(several.gt(1).rename("label.finding").rename_axis("uid"))
    )


def test_the_page_shows_neighbours_and_clusters_by_pseudonym_and_opens_alone(of_run: pd.DataFrame, place: Path) -> None:
    page = (place / "of_run" / "embeddings.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") > 20
    assert "http" not in page
    assert 'src=""' not in page
    identifiers = pd.read_csv(place / "films" / "raw" / "labels.csv", dtype=str)["PatientID"]
    assert not [name for name in identifiers if name in page]
    assert of_run["uid"].str[:8].map(page.count).gt(0).any()


def test_a_probe_reads_the_features_that_an_embedding_computed(run: Any, place: Path) -> None:
    table = medvit.embed(place / "films", **weights(run), pool="mean", page=False, out=place / "of_checkpoint")
    assert len(list((place / "films" / "features").glob("*.npy"))) == 1
    medvit.train(**{key: value for key, value in QUICK.items() if key != "trainer.epochs"}, **SMALL,
                 **generated(place, "films"), **{"labels.target": ["finding"], "model.weights": str(run.folder)},
                 model="vit_pico", optim="logistic", pool="mean", model__drop_path=0.1,
                 tracking__folder=place / "runs")  # fmt: skip
    assert len(list((place / "films" / "features").glob("*.npy"))) == 1
    patches = (
        load_run(run.folder)
        .network.backbone(torch.from_numpy(load_run(run.folder).preprocess(_file(place, table["uid"][0])))[None])
        .patches
    )
    np.testing.assert_allclose(table["vector"][0], patches.mean(dim=1)[0].detach().numpy(), atol=2e-5)


def _file(place: Path, uid: str) -> Path:
    known = manifest.read(place / "films")
    return known.paths(int(np.flatnonzero(known.table["uid"] == uid)[0]))[0]


def test_planted_groups_are_the_clusters_wherever_the_vectors_lie() -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, 90)
    vectors = (100 + 5 * np.eye(3, 20)[group] + 0.1 * rng.standard_normal((90, 20))).astype(np.float32)
    number, nearest = cluster(unit_vectors(vectors), 3, 0)
    assert len({(one, other) for one, other in zip(group, number, strict=True)}) == 3
    assert list(np.bincount(number)) == sorted(np.bincount(group), reverse=True)
    assert all(set(number[rows]) == {place} for place, rows in enumerate(nearest))


@pytest.mark.slow
def test_a_bundle_gives_the_vectors_of_the_run_it_was_made_of(run: Any, of_run: pd.DataFrame, place: Path) -> None:
    medvit.evaluate(run, **{"detail.figures": False, "bootstrap.draws": 100},
                    **{f"sections.{name}": False for name in ("robustness", "ood", "explain")})  # fmt: skip
    medvit.export(run, place / "bundle", **UNCHECKED)
    said = medvit.embed(place / "films", bundle=place / "bundle", page=False)
    assert list(said["uid"]) == list(of_run["uid"])
    np.testing.assert_allclose(np.stack(said["vector"]), np.stack(of_run["vector"]), atol=1e-4)


@pytest.mark.slow
def test_a_series_has_the_mean_of_its_slices_by_a_film_encoder(run: Any, tmp_path: Path) -> None:
    generated(tmp_path, "heads")
    asked = {**weights(run), "preprocess": "slices", "preprocess.size": [4, 32, 32]}
    said = medvit.embed(tmp_path / "heads", **asked, pool="mean")
    backbone = load_run(run.folder).network.backbone
    known = manifest.read(tmp_path / "heads")
    from medvit.config import build, settings_of
    from medvit.preprocess import VolumeFiles

    node = settings_of("embed", {**asked, "data.folder": tmp_path / "heads"}, check)["preprocess"]
    own = load_run(run.folder).preprocess
    step = build({**node, "mean": own.mean, "std": own.std})
    row = int(np.flatnonzero(known.table["uid"] == said["uid"][0])[0])
    slices = torch.from_numpy(step(VolumeFiles(known.paths(row), known.table["volume_key"][row])))
    with torch.no_grad():
        expected = backbone(slices).patches.mean(dim=(0, 1)).numpy()
    np.testing.assert_allclose(said["vector"][0], expected, atol=2e-5)
