"""The tensor is bit-identical whichever way it is asked for: the call, the cache, or a MONAI Compose."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from medvit.augment.fused import Fused
from medvit.data import contact_sheet
from medvit.data.cache import Cache
from medvit.data.units import Units
from medvit.errors import DicomRefusal
from medvit.preprocess import FilmPreprocess, VolumePreprocess, from_json


class NoLabels:
    def encode(self, frame):
        return np.zeros((len(frame), 1), np.float32), np.zeros((len(frame), 1), np.float32)


def film_rows(root, count):
    generator = np.random.default_rng(0)
    for number in range(count):
        cv2.imwrite(str(root / f"{number}.png"), generator.integers(0, 65536, (90, 70)).astype(np.uint16))
    names = [[f"{n}.png"] for n in range(count)]
    return pd.DataFrame({"uid": [f"{n:032x}" for n in range(count)], "files": names, "volume_key": ""})


def nifti(path, shape=(20, 24, 7)):
    nibabel = pytest.importorskip("nibabel")
    values = np.random.default_rng(1).integers(0, 900, shape).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.5, 1, 4, 1])), path)
    return values


def test_films_are_the_same_by_call_cache_json_and_monai(tmp_path):
    from monai.transforms import Compose

    from medvit.data.monai_transforms import Preprocessed, Preprocessedd

    rows = film_rows(tmp_path, 3)
    pre = FilmPreprocess(size=(32, 32), dtype="uint16", mean=0.45, std=0.22)
    cache = Cache.build(rows, tmp_path, pre, tmp_path / "cache", workers=1)
    cached = pre.normalise(cache.gather(range(3)))
    on_device = torch.from_numpy(cache.gather(range(3))).float() * pre.scale + pre.shift
    for number in range(3):
        path = tmp_path / f"{number}.png"
        called = pre(path)
        assert np.array_equal(called, cached[number])
        assert np.array_equal(called, on_device[number].numpy())
        assert np.array_equal(called, pre(path.read_bytes()))
        assert np.array_equal(called, pre(pre.read(path)))
        assert np.array_equal(called, from_json(pre.to_json())(path))
        assert np.array_equal(called, Compose([Preprocessed(pre)])(str(path)).numpy())
        assert np.array_equal(called, Compose([Preprocessedd("image", pre)])({"image": str(path)})["image"].numpy())


@pytest.mark.parametrize("mode", ["volume", "slices"])
def test_volumes_are_the_same_by_call_cache_and_monai(tmp_path, mode):
    from medvit.data.monai_transforms import Preprocessed

    nifti(tmp_path / "0.nii.gz")
    rows = pd.DataFrame({"uid": ["a" * 32], "files": [["0.nii.gz"]], "volume_key": ""})
    pre = VolumePreprocess(size=(6, 16, 16), mode=mode)
    cached = pre.normalise(Cache.build(rows, tmp_path, pre, tmp_path / "cache", workers=1).gather([0]))
    called = pre(tmp_path / "0.nii.gz")
    assert np.array_equal(called, cached if mode == "slices" else cached[0])
    assert np.array_equal(called, Preprocessed(pre)([str(tmp_path / "0.nii.gz")]).numpy())
    units = Units(Cache.build(rows, tmp_path, pre, tmp_path / "cache", workers=1), np.arange(1), NoLabels())
    sheet = cv2.imread(str(contact_sheet.write(units, Fused(), tmp_path / "sheet.png", draws=2)), -1)
    assert sheet.shape == (18, 3 * 18)  # the middle slice as it is, and twice augmented


def test_the_monai_wrapper_refuses_as_the_reader_does(tmp_path):
    from medvit.data.monai_transforms import Preprocessed

    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DicomRefusal, match="E-IMAGE"):
        Preprocessed(FilmPreprocess())(tmp_path / "x.png")


def test_the_contact_sheet_shows_the_images_and_their_draws(tmp_path):
    rows = film_rows(tmp_path, 5)
    pre = FilmPreprocess(size=(30, 20))
    units = Units(Cache.build(rows, tmp_path, pre, tmp_path / "cache", workers=1), np.arange(5), NoLabels())
    sheet = cv2.imread(str(contact_sheet.write(units, Fused(), tmp_path / "run" / "sheet.png", rows=3, draws=4)), -1)
    assert sheet.shape == (3 * 32, 5 * 22)
    assert np.array_equal(sheet[32:62, :20], units.cache.gather([2])[0, 0])
    assert not np.array_equal(sheet[32:62, 22:42], sheet[32:62, 44:64])
    plain = cv2.imread(str(contact_sheet.write(units, None, tmp_path / "plain.png")), -1)
    assert plain.shape == (5 * 32, 22)


def test_what_is_cropped_or_padded_lies_where_it_lay_in_millimetres():
    from monai.data.meta_tensor import MetaTensor

    from medvit.data.monai_transforms import CropBorderd, CropOrPadd

    grid = np.diag([3.0, 2.0, 1.0, 1.0])
    volume = MetaTensor(torch.rand(1, 4, 6, 8), affine=torch.from_numpy(grid))
    found = CropOrPadd("image", (2, 6, 12))({"image": volume})["image"]
    assert np.array_equal(found.affine, [[3, 0, 0, 3], [0, 2, 0, 0], [0, 0, 1, -2], [0, 0, 0, 1]])
    film = torch.zeros(1, 40, 40)
    film[:, 10:30, 5:35] = torch.linspace(0.5, 1, 600).reshape(20, 30)
    found = CropBorderd("image")({"image": MetaTensor(film, affine=torch.from_numpy(grid))})["image"]
    assert found.shape == (1, 20, 30)
    assert np.array_equal(found.affine[:2, 3], [10 * 3, 5 * 2])
    assert torch.equal(CropBorderd("image")({"image": film})["image"], film[:, 10:30, 5:35])
