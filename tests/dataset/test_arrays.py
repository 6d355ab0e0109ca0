"""MedMNIST and MRNet arrays become what `index` reads, one image in memory at a time, and never by pickle."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.config import conf_dir
from medvit.dataset.arrays import read_each, unpack
from medvit.errors import DataError
from medvit.index import index
from medvit.preprocess.nifti import read_nifti
from medvit.split import split


def medmnist(path, count=12, shape=(64, 64), labels=1):
    rng = np.random.default_rng(0)
    arrays = {}
    for side in ("train", "val", "test"):
        arrays[f"{side}_images"] = rng.integers(0, 255, (count, *shape), dtype=np.uint8)
        arrays[f"{side}_labels"] = (np.arange(count * labels).reshape(count, labels) % 2).astype(np.uint8)
    np.savez_compressed(path, **arrays)
    return arrays


def preset(name, root):
    content = yaml.safe_load((conf_dir() / "data" / f"{name}.yaml").read_text())
    text = yaml.safe_dump(content).replace("${data.root}", str(root)).replace("${data.set}", "pneumoniamnist")
    return yaml.safe_load(text)


def test_medmnist_goes_from_its_npz_through_the_preset_to_a_split(tmp_path):
    arrays = medmnist(tmp_path / "pneumoniamnist_224.npz")
    assert unpack(tmp_path / "pneumoniamnist_224.npz", tmp_path / "png") == 36
    settings = preset("medmnist", tmp_path / "png")
    labels = {key: value for key, value in settings["labels"].items() if key != "values"}
    made = index(tmp_path / "png", tmp_path / "out", labels, {"kind": "film", "patient_fallback": "file"})
    for row in range(36):
        path = made.paths(row)[0]
        side, number = re.match(r"([a-z]+)([0-9]+)_", path.name).groups()
        assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), arrays[f"{side}_images"][int(number)])
        assert made.table["label.finding"].iloc[row] == arrays[f"{side}_labels"][int(number), 0]
    frozen = split(tmp_path / "out", **settings["split"])
    assert frozen.table["split"].value_counts().to_dict() == {"train": 12, "val": 12, "test": 12}


def test_several_labels_and_volumes_keep_their_order(tmp_path):
    arrays = medmnist(tmp_path / "multi.npz", count=3, shape=(6, 7, 8), labels=3)
    unpack(tmp_path / "multi.npz", tmp_path / "out", (3.0, 0.5, 0.25))
    table = pd.read_csv(tmp_path / "out" / "multi.csv", header=None)
    assert table.shape == (9, 5)
    (volume,) = read_nifti(tmp_path / "out" / "multi" / table.iloc[4, 1])
    assert table.iloc[4, 0] == "VALIDATION"
    assert np.array_equal(volume.values, arrays["val_images"][1])
    assert np.allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), (3.0, 0.5, 0.25))


def test_a_folder_of_volumes_keeps_its_layout_and_its_tables(tmp_path, caplog):
    volumes = np.random.default_rng(1).integers(0, 255, (3, 5, 6, 7), dtype=np.uint8)
    for number, volume in enumerate(volumes):
        place = tmp_path / "MRNet-v1.0" / "train" / "axial"
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / f"{number:04d}.npy", volume)
    (tmp_path / "MRNet-v1.0" / "train-acl.csv").write_text("0000,1\n")
    assert unpack(tmp_path / "MRNet-v1.0", tmp_path / "out") == 3
    assert "W-SPACING" in caplog.text
    (volume,) = read_nifti(tmp_path / "out" / "train" / "axial" / "0002.nii.gz")
    assert np.array_equal(volume.values, volumes[2])
    assert (tmp_path / "out" / "train-acl.csv").read_text() == "0000,1\n"


class Bomb:
    """Pickles to a call; if it is ever unpickled the test sees it."""

    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.parametrize("name", ["evil.npz", "folder"])
def test_arrays_of_objects_are_refused_before_anything_is_unpickled(name, tmp_path, capsys):
    evil = np.array([Bomb()], dtype=object)
    if name == "folder":
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "a.npy", evil, allow_pickle=True)
    else:
        np.savez(tmp_path / name, train_images=np.zeros((1, 4, 4), np.uint8), train_labels=evil)
    with pytest.raises(DataError, match="E-PICKLE"):
        unpack(tmp_path / name, tmp_path / "out")
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"train_images": np.zeros((2, 4, 4), np.uint8), "train_labels": np.zeros((3, 1))}, "2 images and 3 labels"),
        ({"train_images": np.zeros((3, 4, 4), np.uint8), "train_labels": np.zeros((2, 1))}, "more images than its 2"),
        ({"train_images": np.zeros((1, 4, 4, 3), np.uint8), "train_labels": np.zeros((1, 1))}, "colour"),
        ({"train_images": np.zeros((1, 4, 4)), "train_labels": np.zeros((1, 1))}, "float64 pixels"),
        ({"images": np.zeros((1, 4, 4))}, "no train_images"),
    ],
)
def test_what_is_not_medmnist_is_said(arrays, words, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=words):
        unpack(tmp_path / "a.npz", tmp_path / "out")


def test_a_torn_download_and_a_folder_in_use_are_refused(tmp_path):
    medmnist(tmp_path / "whole.npz")
    (tmp_path / "torn.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:-200])
    with pytest.raises(DataError, match="damaged"):
        unpack(tmp_path / "torn.npz", tmp_path / "a")
    with pytest.raises(DataError, match="not empty"):
        unpack(tmp_path / "whole.npz", tmp_path)
    with pytest.raises(DataError, match="E-EMPTY"):
        unpack(tmp_path / "a", tmp_path / "b")


@settings(deadline=None)
@given(st.data())
def test_any_array_comes_back_item_by_item_and_a_cut_one_never_does(data):
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    dtype = data.draw(st.sampled_from(["uint8", "<u2", ">i4", "float32", "bool"]))
    values = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    stream = io.BytesIO()
    np.save(stream, values)
    whole = stream.getvalue()
    assert np.array_equal(np.stack(list(read_each(io.BytesIO(whole), "x"))), values)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(DataError):
        list(read_each(io.BytesIO(whole[:cut]), "x"))


def test_the_command_names_what_is_wrong(tmp_path):
    command = [sys.executable, "-m", "medvit.unpack", f"source={tmp_path}/none.npz", "out=x", "spacing_mm=[1,2]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "neither an .npz" in done.stderr
    assert "spacing_mm" in done.stderr
