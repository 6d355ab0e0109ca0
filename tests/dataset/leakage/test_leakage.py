"""Leakage audit: what stands on two sides is counted exactly, copies are found, and training stops on exact leaks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from medvit.config import conf_dir
from medvit.config_check import preflight
from medvit.data.cache import Cache
from medvit.dataset import manifest as manifests
from medvit.dataset import splits as division
from medvit.dataset.leakage import audit as audits
from medvit.dataset.leakage import fingerprint
from medvit.dataset.leakage import near_duplicates as similar
from medvit.engine.embedding.embeddings import Embedder, near_duplicates_by_embedding
from medvit.errors import DataError, SplitError
from medvit.index import index
from medvit.model.backbone import vit
from medvit.model.network import Network
from medvit.model.pool import MeanPool
from medvit.phantom import films as phantom
from medvit.preprocess import FilmPreprocess
from medvit.quality import leakage_page as page
from medvit.split import audit, check, split

COPIES = {
    "resized": lambda image: cv2.resize(image, (150, 140), interpolation=cv2.INTER_AREA),
    "windowed": lambda image: np.clip((image.astype(float) - 15) * 1.2, 0, 255).astype(np.uint8),
    "darkened": lambda image: (255 * (image / 255.0) ** 2).astype(np.uint8),
    "inverted": lambda image: 255 - image,
    "recompressed": lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], 0),
    "cropped": lambda image: image[25:240, 15:238],
    "cropped and windowed": lambda image: np.clip(image[10:230, 30:].astype(float) * 1.15 - 10, 0, 255).astype(
        np.uint8
    ),
}


@pytest.fixture(scope="session")
def films(tmp_path_factory) -> list[np.ndarray]:
    """Twelve generated chests, uint8 256 x 256, with a texture of their own: smooth ellipses alone are all alike."""
    folder = tmp_path_factory.mktemp("chests")
    phantom.write_films(folder / "set", patients=12, seed=5)
    found: dict[str, np.ndarray] = {}
    table = pd.read_csv(folder / "set" / "labels.csv")
    for path, patient in zip(table["path"], table["PatientID"], strict=True):
        film = FilmPreprocess().read(folder / "set" / path)
        found.setdefault(patient, np.asarray(np.round(film.display() * 255), np.uint8))
    rng = np.random.default_rng(0)
    small = [cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA).astype(float) for image in found.values()]
    noise = [cv2.GaussianBlur(rng.standard_normal((256, 256)), (0, 0), 5) * 150 for _ in small]
    return [np.clip(40 + 0.7 * image + more, 0, 255).astype(np.uint8) for image, more in zip(small, noise, strict=True)]


def folder_of(root: Path, images: list[np.ndarray], rows: list[dict[str, object]]) -> Path:
    """Write images and a label table (finding, patient, side), index them, and return the data folder."""
    (root / "png").mkdir()
    for number, image in enumerate(images):
        cv2.imwrite(str(root / "png" / f"{number:03d}.png"), image)
    names = [f"{number:03d}.png" for number in range(len(images))]
    pd.DataFrame(rows).assign(file=names).to_csv(root / "labels.csv", index=False)
    labels = {"csv": root / "labels.csv", "on": "path", "column": "file", "target": ["finding"],
              "patient": "patient", "keep": ["side"]}  # fmt: skip
    index(root / "png", root / "out", labels)
    return root / "out"


def row(number: int, side: str, finding: int | None = None, patient: str = "") -> dict[str, object]:
    return {"finding": number % 2 if finding is None else finding, "patient": patient or f"P{number}", "side": side}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_film_is_found_and_no_other_pair(films, way):
    sketches = np.stack([fingerprint.sketch(image) for image in (*films, COPIES[way](films[3]))])
    found = fingerprint.near_pairs(sketches, list(range(13)))
    assert list(zip(found["row"], found["other"], strict=True)) == [(3, 12)]
    assert found["score"].iloc[0] >= fingerprint.ALIKE


def test_a_monotone_change_of_grey_values_leaves_the_sketch_as_it_is(films):
    squeezed = cv2.LUT(films[0], (255 * (np.arange(256) / 255.0) ** 0.8).astype(np.uint8))
    apart = np.abs(fingerprint.sketch(films[0]).astype(int) - fingerprint.sketch(squeezed))
    assert apart.max() <= 4


def test_blank_images_match_nothing():
    blank = np.full((3, 96, 96), 128, np.uint8)
    assert fingerprint.near_pairs(blank, [0, 1, 2]).empty


def test_every_leak_is_counted_and_told_with_thumbnails_but_without_identifiers(films, tmp_path):
    images = [*films, films[0], films[1], COPIES["cropped"](films[2])]
    rows = [row(number, "train" if number < 8 else "test") for number in range(12)]
    rows += [
        row(20, "test", 0),
        row(21, "train", 0),
        row(22, "test", 0),
    ]
    rows[9]["patient"] = rows[4]["patient"]  # one patient on two sides
    folder = folder_of(tmp_path, images, rows)
    found = audit(folder, strategy="given", column="table.side")
    assert found.verdict == "leak"
    assert found.leaks == ("1 patients on two sides", "1 images with identical pixels on two sides")
    assert found.exact["group"].nunique() == 2
    assert found.exact.loc[found.exact["conflict"], "group"].nunique() == 1
    assert [(pair.how, bool(pair.across)) for pair in found.near.itertuples()] == [("crop", True)]
    assert list(found.given["shared"]) == [1]
    stored = json.loads((folder / "audit.json").read_text())
    assert stored["verdict"] == "leak"
    html = (folder / "audit.html").read_text()
    assert html.count("data:image/jpeg;base64,") == 6
    for text in (html, (folder / "audit.json").read_text()):
        assert not re.search(r"\bP\d+\b", text)
        assert ".png" not in text
        assert "http" not in text
    assert not (folder / "splits.parquet").exists()


def test_a_clean_split_is_clean(films, tmp_path):
    folder = folder_of(tmp_path, films, [row(number, "train" if number < 8 else "test") for number in range(12)])
    found = audit(folder)
    assert (found.verdict, found.leaks, found.doubts) == ("clean", (), ())
    assert "clean" in page.summary(found)
    assert (folder / "splits.parquet").is_file()


def test_the_frozen_split_is_audited_and_not_made_again(films, tmp_path):
    folder = folder_of(tmp_path, films, [row(number, "train" if number < 8 else "test") for number in range(12)])
    frozen = split(folder, strategy="kfold", folds=3)
    audit(folder)
    assert division.read(folder, manifests.read(folder)).digest == frozen.digest
    assert json.loads((folder / "audit.json").read_text())["split"] == frozen.digest


def test_folds_count_as_sides(films, tmp_path):
    images = [*films, films[0]]
    folder = folder_of(tmp_path, images, [row(number, "train") | {"side": number} for number in range(13)])
    table = manifests.read(folder)
    splits = division.make(table, division.SplitSpec(strategy="kfold", folds=13))
    found = audits.find_leaks(table, audits.sides_of(table, splits), fingerprint.of_manifest(table))
    assert found.leaks == ("1 images with identical pixels on two sides",)


def cached(folder: Path) -> Cache:
    table = manifests.read(folder)
    splits = division.read(folder, table)
    rows = pd.concat([splits.rows(table, side).assign(_side=side) for side in ("train", "val")], ignore_index=True)
    return Cache.build(rows, table.root, FilmPreprocess(size=(64, 64)), folder / "cache", workers=1)


def test_training_stops_on_identical_pixels_unless_the_setting_allows_it(films, tmp_path):
    rows = [row(number, ("train", "val", "test")[number % 3]) for number in range(12)] + [row(20, "val")]
    folder = folder_of(tmp_path, [*films, films[0]], rows)
    split(folder, strategy="given", column="table.side")
    cache = cached(folder)
    with pytest.raises(SplitError, match="E-LEAK 1 images with identical pixels on two sides"):
        audits.audit_before_training(folder, None, cache, allow=False)
    told = audits.audit_before_training(folder, None, cache, allow=True)
    assert told == "LEAKS ALLOWED BY SETTING: 1 images with identical pixels on two sides"


def test_training_stops_on_a_leak_into_the_test_side_that_an_audit_has_seen(films, tmp_path):
    rows = [row(number, ("train", "val", "test")[number % 3]) for number in range(12)] + [row(20, "test")]
    folder = folder_of(tmp_path, [*films, films[0]], rows)
    split(folder, strategy="given", column="table.side")
    cache = cached(folder)
    assert audits.audit_before_training(folder, None, cache, allow=False) == "no exact leak"
    audit(folder)
    with pytest.raises(SplitError, match=r"audit\.json"):
        audits.audit_before_training(folder, None, cache, allow=False)
    (folder / "audit.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        audits.audit_before_training(folder, None, cache, allow=False)


@pytest.mark.real
def test_person_numbers_on_both_sides_of_the_pneumonia_set_are_counted_exactly(real_data):
    """The full set of 5,856 films has 170; the 2,296 films at hand have 63, by two other ways of counting."""
    table = pd.read_csv(real_data / "labelled" / "cxr_pneumonia_224" / "labels.csv")
    number = table["path"].str.extract(r"person(\d+)_")[0]
    numbers = {side: set(number[table["split"] == side].dropna()) for side in ("train", "test")}
    marked = table.loc[table["patient_in_both_splits"] == 1, "patient_id"].nunique()
    made = pd.DataFrame({"patient": table["patient_id"], "table.split": table["split"], "label.y": table["label"]})
    made = made.assign(uid=[f"{number:032x}" for number in range(len(made))], study="", series="")
    found = audits.find_leaks(manifests.Manifest(made, Path(), "d"), made["table.split"], None)
    assert len(numbers["train"] & numbers["test"]) == marked == 63
    assert found.leaks == ("63 patients on two sides",)
    assert list(found.given["shared"]) == [63]


def vectors(count: int = 120) -> np.ndarray:
    """Embeddings of different patients as a network gives them: all near one direction, each a little apart."""
    rng = np.random.default_rng(3)
    return 10 + rng.standard_normal((count, 40)) @ np.diag(np.linspace(2, 0.1, 40))


def test_copies_lie_closer_in_the_embedding_than_patients_do_and_the_measurement_is_told():
    base = vectors()
    base[100:103] = base[3:6] + 0.02 * np.random.default_rng(4).standard_normal((3, 40))
    planted = {"resized": base[similar.altered_rows(120)] + 0.01, "lost": vectors(240)[120:][similar.altered_rows(120)]}
    found = similar.find_near_duplicates(base, planted, np.arange(120), "run 1234")
    assert list(found.pairs[["row", "other"]].itertuples(index=False, name=None)) == [(3, 100), (4, 101), (5, 102)]
    head = r"by run 1234, cosine above 0\.\d\d of 40 whitened components; found of 24 planted: "
    assert re.fullmatch(head + "resized (95|96|100)%, lost 0%", found.told)
    alone = similar.find_near_duplicates(base, planted, np.array([*range(100), 3, 4, 5, *range(103, 120)]), "run 1234")
    assert alone.pairs.empty


def test_too_few_or_equal_vectors_are_said_and_give_nothing():
    assert "too few" in similar.find_near_duplicates(vectors(20), {}, np.arange(20), "x").told
    assert "do not differ" in similar.find_near_duplicates(np.ones((80, 5)), {}, np.arange(80), "x").told


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_planted_copies_keep_shape_and_type_and_differ(dtype):
    images = (np.random.default_rng(0).random((2, 3, 1, 40, 50)) * np.iinfo(dtype).max).astype(dtype)
    for way in similar.WAYS:
        copies = similar.altered_copies(images, way)
        assert (copies.shape, copies.dtype) == (images.shape, images.dtype)
        assert (copies != images).mean() > 0.5


def test_a_backbone_joins_the_audit_and_is_named_in_what_was_sought(films, tmp_path):
    torch.manual_seed(0)
    noise = np.random.default_rng(1)
    images = [np.clip(films[n % 12] + noise.normal(0, 40, (256, 256)), 0, 255).astype(np.uint8) for n in range(70)]
    sides = [row(n, ("train", "val", "test")[n % 3]) for n in range(70)] + [row(99, "test", 0)]
    folder = folder_of(tmp_path, [*images, np.clip(images[3], 1, 254)], sides)
    backbone = vit([32, 32], patch_size=[8, 8], width=32, depth=1, heads=2)
    embedder = Embedder(Network(backbone, MeanPool(), 1).eval(), FilmPreprocess(size=(32, 32)), "run 12345678")
    table = manifests.read(folder)
    look = near_duplicates_by_embedding(embedder, table, folder, workers=1)
    side = pd.Series(["train", "test"] * 35 + ["test"])
    found = audits.find_leaks(table, side, fingerprint.of_manifest(table), crops=False, alike=look)
    assert found.sought["embedding"].startswith("by run 12345678, cosine above ")
    name = {table.paths(place)[0].name: place for place in range(71)}
    copy = tuple(sorted((name["003.png"], name["070.png"])))
    assert copy in set(look.pairs[["row", "other"]].itertuples(index=False, name=None))
    assert copy in {(pair.row, pair.other) for pair in found.near.itertuples()}
    assert "left out" not in look.told


def test_a_backbone_without_an_audit_is_a_setting_ignored_and_therefore_an_error():
    told = ["embed is used with audit=true alone: give that, or leave embed out"]
    assert preflight(conf_dir(), "split", ["data.folder=x", "embed=latest"], check) == told
    assert preflight(conf_dir(), "split", ["data.folder=x", "embed=latest", "audit=true"], check) == []


def test_copies_whose_labels_are_partly_missing_are_compared_label_by_label():
    table = pd.DataFrame({"label.a": [1.0, 1.0, np.nan], "label.b": [0.0, np.nan, np.nan], "label.c": ["x", "x", None]})
    text = audits.label_text(table)
    assert text.nunique() == 3
    assert audits.label_text(table.iloc[[0, 0]]).nunique() == 1
    assert audits.label_text(table.filter(["uid"])).tolist() == [""] * 3


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("nih_chestxray14", "NIH ChestX-ray14"),
        ("mimic_cxr_jpg", "MIMIC-CXR"),
        ("kermany", ""),
        ("folder", ""),
    ],
)
def test_a_data_set_that_the_makers_of_the_weights_pretrained_on_is_told(name: str, seen: str) -> None:
    from medvit.dataset.leakage.audit import seen_in_pretraining

    told = seen_in_pretraining(name, "MIMIC-CXR; CheXpert; NIH ChestX-ray14; PadChest; BRAX")
    assert told.startswith(f"the starting weights were pretrained on {seen}: ") if seen else told == ""
