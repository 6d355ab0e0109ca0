"""MONAI's LoadImaged with our reader reads as medvit does, whatever else is installed, and never falls back."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "dicom_cases"))

from monai.data import image_reader
from monai.transforms import LoadImage, LoadImaged
from series_cases import CASES
from series_phantom import AXIAL, OBLIQUE, dataset_of, save, stack, world

from medvit.data.monai_reader import MedvitReader
from medvit.dicom.read import read_film
from medvit.errors import ConfigError, DicomRefusal
from medvit.series.read import read_series


def write(folder: Path, files: list[bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, file in enumerate(files):
        (folder / f"{number:03d}.dcm").write_bytes(file)
    return folder


@pytest.fixture(params=["without itk", "with itk"])
def itk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An itk that fails the test when MONAI uses it, or none at all."""

    def touched(*_: object, **__: object) -> None:
        pytest.fail("MONAI went to itk")

    if request.param == "with itk":
        stub = types.ModuleType("itk")
        stub.imread = stub.GDCMSeriesFileNames = stub.ImageSeriesReader = touched
        monkeypatch.setitem(sys.modules, "itk", stub)
    else:
        monkeypatch.setitem(sys.modules, "itk", None)
    monkeypatch.setattr(image_reader, "itk", sys.modules["itk"], raising=False)
    monkeypatch.setattr(image_reader, "has_itk", request.param == "with itk", raising=False)
    names = {type(reader).__name__ for reader in LoadImage().readers}
    assert ("ITKReader" in names) == (request.param == "with itk")
    return request.param


def test_a_folder_loads_as_read_series_reads_it_with_and_without_itk(itk: str, tmp_path: Path) -> None:
    files = stack(OBLIQUE)
    loaded = LoadImaged("image", reader=MedvitReader())({"image": str(write(tmp_path / "series", files))})["image"]
    (volume,) = read_series(files)
    assert np.array_equal(loaded.numpy(), volume.values)
    assert np.allclose(np.diag([-1, -1, 1, 1]) @ loaded.affine.numpy(), volume.affine, atol=1e-6)
    assert loaded.meta["space"] == "RAS"


def test_a_film_loads_as_read_film_reads_it_with_and_without_itk(itk: str, tmp_path: Path) -> None:
    file = tmp_path / "film.dcm"
    pixels = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)
    file.write_bytes(save(dataset_of(AXIAL, 0, pixels=pixels, Modality="DX", PixelSpacing=["0.5", "0.5"])))
    loaded = LoadImaged("image", reader=MedvitReader(), ensure_channel_first=True)({"image": file})["image"]
    assert np.array_equal(loaded.numpy()[0], read_film(file).display())
    assert np.allclose(loaded.affine.numpy(), np.diag([0.5, 0.5, 1, 1]))


@pytest.mark.parametrize("name", ["B070", "B081", "B095", "B100"])
def test_a_refusal_reaches_the_user_instead_of_another_readers_guess(itk: str, tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "series", CASES[name].build())
    with pytest.raises(DicomRefusal, match=CASES[name].code):
        LoadImaged("image", reader=MedvitReader())({"image": str(folder)})


def test_the_affine_is_in_the_convention_of_monai_s_own_readers(tmp_path: Path) -> None:
    """MONAI's NibabelReader and ours put the same voxel at the same place."""
    nibabel = pytest.importorskip("nibabel")
    files = stack(OBLIQUE)
    (volume,) = read_series(files)
    nibabel.save(
        nibabel.Nifti1Image(volume.values, np.diag([-1, -1, 1, 1]) @ volume.affine), str(tmp_path / "volume.nii")
    )
    theirs = LoadImage(reader="NibabelReader")(tmp_path / "volume.nii")
    ours = LoadImage(reader=MedvitReader())(write(tmp_path / "series", files))
    assert np.allclose(theirs.affine, ours.affine, atol=1e-5)
    assert np.array_equal(theirs.numpy(), ours.numpy())


def test_lps_is_given_when_asked_for_and_shows_the_world(tmp_path: Path) -> None:
    loaded = LoadImage(MedvitReader(affine_lps_to_ras=False))(write(tmp_path / "series", stack(OBLIQUE)))
    index = np.moveaxis(np.indices(loaded.shape), 0, -1)
    affine = loaded.affine.numpy()
    assert np.abs(world(index @ affine[:3, :3].T + affine[:3, 3]) - loaded.numpy()).max() < 1
    assert loaded.meta["space"] == "LPS"


def test_one_of_several_volumes_is_taken_by_its_key_and_never_guessed(tmp_path: Path) -> None:
    folder = write(tmp_path / "series", CASES["B076"].build())
    with pytest.raises(DicomRefusal, match=r"E-4D 2 volumes: echo=1, echo=2"):
        LoadImage(MedvitReader())(folder)
    second = LoadImage(MedvitReader(volume="echo=2"))(folder)
    assert second.meta["volume_key"] == "echo=2"
    assert np.array_equal(second.numpy(), read_series(CASES["B076"].build())[1].values)


def test_one_enhanced_file_is_a_volume_and_a_mosaic_too(tmp_path: Path) -> None:
    for name in ("B105", "B080-csa"):
        (file,) = CASES[name].build()
        (tmp_path / name).write_bytes(file)
        assert LoadImage(MedvitReader())(tmp_path / name).shape == (8, 20, 24)


def test_policies_come_as_plain_settings_and_wrong_ones_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "series", CASES["B070"].build())
    assert LoadImage(MedvitReader(series={"gap": "resample"}))(folder).shape == (8, 20, 24)
    with pytest.raises(ConfigError, match="expected auto, film or volume"):
        MedvitReader(kind="movie")
    with pytest.raises(ConfigError, match="gap"):
        MedvitReader(series={"gap": "guess"})


def test_suffixes_do_not_matter_but_the_dicm_mark_does(tmp_path: Path) -> None:
    good, bad = tmp_path / "1.2.3", tmp_path / "photo.dcm"
    good.write_bytes(save(dataset_of(AXIAL, 0)))
    bad.write_bytes(b"\xff\xd8" + bytes(200))
    reader = MedvitReader()
    assert reader.verify_suffix(good)
    assert reader.verify_suffix([tmp_path, good])
    assert not reader.verify_suffix(bad)
    assert not reader.verify_suffix(tmp_path / "absent")
