"""Transforms of MONAI and of one's own between the fused steps: what they see and must not do."""

from __future__ import annotations

import pickle
import re
import sys

import cv2
import numpy as np
import pytest

from medvit.config_targets import trust_only
from medvit.errors import ConfigError, DicomRefusal
from medvit.preprocess import FilmPreprocess, VolumePreprocess, from_json
from medvit.preprocess.step_trial import problems
from medvit.preprocess.steps import not_exportable
from medvit.types import Facts, Volume

PLACES = ("after_reading", "after_resampling", "before_normalisation")
MEDIAN = {"_target_": "monai.transforms.MedianSmoothd", "radius": 2}
OWN = '''
import numpy as np
from monai.transforms import MapTransform

class Halved(MapTransform):
    def __call__(self, data):
        return {**data, **{key: data[key] * 0.5 for key in self.keys}}

class Brightest(MapTransform):
    """Keeps the brightest value it ever saw."""
    top = 0.0
    def __call__(self, data):
        Brightest.top = max(Brightest.top, float(data["image"].max()) + 0.1)
        return {"image": data["image"] / Brightest.top}

class Noisy(MapTransform):
    def __call__(self, data):
        return {"image": data["image"] + np.random.rand()}

class Endless(MapTransform):
    def __call__(self, data):
        return {"image": data["image"] / 0.0 if data["image"].max() > 0.9 else data["image"]}

class Needy(MapTransform):
    def __init__(self, keys):
        import package_that_nobody_has
    def __call__(self, data):
        return data
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A file of the user's own in the folder the command is started in, trusted on the command line."""
    (tmp_path / "my_steps.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    trust_only(
        [f"trust=[{', '.join('my_steps.' + name for name in ('Halved', 'Brightest', 'Noisy', 'Endless', 'Needy'))}]"]
    )
    yield tmp_path / "my_steps.py"
    sys.modules.pop("my_steps", None)
    trust_only([])


def film(tmp_path, shape=(90, 70)):
    pixels = (np.random.default_rng(0).random(shape) * 60000).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "film.png"), cv2.GaussianBlur(pixels, (0, 0), 1))
    return tmp_path / "film.png"


def volume(shape=(7, 30, 26)):
    values = cv2.GaussianBlur(np.random.default_rng(0).random(shape).astype(np.float32) * 900, (0, 0), 1.5)
    return Volume(values.reshape(shape), np.diag([1.0, 1.0, 4.0, 1.0])[:, [2, 1, 0, 3]], Facts())


@pytest.mark.parametrize("place", PLACES)
def test_a_step_of_a_film_does_what_plain_monai_does_at_its_place(tmp_path, place):
    from medvit.data.monai_transforms import compose

    pre = FilmPreprocess(size=(32, 32), steps={place: [MEDIAN]})
    bare = FilmPreprocess(size=(32, 32))
    file = film(tmp_path)
    fused, plain = pre(file), compose(pre)({"image": str(file)})["image"].numpy()
    assert np.abs(fused - plain).max() <= 1.01 * pre.scale
    assert np.abs(fused - bare(file)).max() > 5 * pre.scale


@pytest.mark.parametrize("mode", ["volume", "slices"])
@pytest.mark.parametrize("place", PLACES)
def test_a_step_of_a_volume_does_what_plain_monai_does_at_its_place(tmp_path, mode, place):
    nibabel = pytest.importorskip("nibabel")
    from medvit.data.monai_transforms import compose

    values = np.random.default_rng(1).integers(0, 900, (20, 24, 7)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.5, 1, 4, 1])), tmp_path / "0.nii.gz")
    pre = VolumePreprocess(size=(5, 16, 16), mode=mode, steps={place: [MEDIAN]})
    fused = pre(tmp_path / "0.nii.gz")
    plain = compose(pre)({"image": str(tmp_path / "0.nii.gz")})["image"].numpy()
    plain = plain[0][:, None] if mode == "slices" else plain
    assert np.abs(fused - plain).max() <= 1.01 * pre.scale
    bare = VolumePreprocess(size=(5, 16, 16), mode=mode)
    assert np.abs(fused - bare(tmp_path / "0.nii.gz")).max() > 5 * pre.scale


def test_a_step_is_told_the_millimetres_of_what_it_gets(monkeypatch):
    seen = {}

    def run(nodes, image, affine):
        seen[nodes[0]["_target_"]] = image.shape, np.abs(affine[:3, :3]).sum(axis=0).round(6).tolist()
        return image

    monkeypatch.setattr("medvit.preprocess.definition.run", run)
    steps = {
        place: [{"_target_": f"monai.transforms.{name}d"}]
        for place, name in zip(PLACES, ("Identity", "MedianSmooth", "GaussianSmooth"), strict=True)
    }
    VolumePreprocess(size=(14, 20, 20), spacing_mm=(2.0, 2.0, 2.0), steps=steps).prepare(volume())
    assert seen == {
        "monai.transforms.Identityd": ((7, 30, 26), [4.0, 1.0, 1.0]),
        "monai.transforms.MedianSmoothd": ((14, 15, 13), [2.0, 2.0, 2.0]),
        "monai.transforms.GaussianSmoothd": ((14, 20, 20), [2.0, 2.0, 2.0]),
    }


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"_target_": "monai.transforms.SpatialPadd", "spatial_size": [99, 99]}, "SpatialPadd changes the shape from"),
        ({"_target_": "monai.transforms.Rotate90d"}, "Rotate90d changes the shape from"),
        ({"_target_": "monai.transforms.GridSplitd", "grid": [2, 2]}, "GridSplitd makes"),
        ({"_target_": "monai.transforms.MedianSmooth"}, r"MedianSmooth is no MapTransform.*MedianSmoothd of MONAI"),
        ({"_target_": "monai.transforms.MedianSmoothd", "diameter": 3}, r"MedianSmoothd cannot be built.*diameter"),
        ({"_target_": "monai.transforms.MedianSmoothy"}, "monai.transforms.MedianSmoothy does not exist"),
        ({"_target_": "monai.transforms.Compose"}, "Compose is no MapTransform"),
        ({"_target_": "my_steps.Noisy"}, "another result for the same image after another one: it is random, or keeps"),
        ({"_target_": "my_steps.Brightest"}, "or keeps something of the image before"),
        ({"_target_": "my_steps.Needy"}, "Needy needs a package that is not installed.*package_that_nobody_has"),
    ],
)
def test_a_step_that_is_none_is_refused_before_training(own, step, said):
    pre = FilmPreprocess(size=(32, 24), steps={"before_normalisation": [step]})
    (found,) = problems(pre).refused
    assert re.search(said, found), found
    assert found.startswith("before_normalisation, step 1: ")


def test_good_steps_pass_the_trial_and_all_bad_ones_are_named(own):
    first = [MEDIAN, {"_target_": "my_steps.Noisy"}, {"_target_": "my_steps.Halved"}]
    last = [{"_target_": "my_steps.Brightest"}]
    found = problems(
        FilmPreprocess(size=(32, 24), steps={"after_reading": first, "before_normalisation": last})
    ).refused
    assert [one.split(":")[0] for one in found] == ["after_reading, step 2", "before_normalisation, step 1"]


def test_a_step_that_fails_on_one_image_refuses_that_image(own, tmp_path):
    pre = FilmPreprocess(size=(16, 16), voi={}, steps={"after_reading": [{"_target_": "my_steps.Endless"}]})
    dark = film(tmp_path)
    pre.prepare(dark)
    bright = cv2.imread(str(dark), -1)
    bright[0] = 65535
    cv2.imwrite(str(tmp_path / "bright.png"), bright)
    with pytest.raises(DicomRefusal, match="E-STEP Endless gives values that are not finite"):
        pre.prepare(tmp_path / "bright.png")


def test_own_code_is_known_by_its_hash_and_no_bundle_can_carry_it(own, tmp_path):
    pre = FilmPreprocess(size=(16, 16), steps={"after_reading": [{"_target_": "my_steps.Halved"}, MEDIAN]})
    assert not_exportable(pre.steps) == [
        "my_steps.Halved (after_reading) is code of your own, and a bundle carries none"
    ]
    assert from_json(pre.to_json()).digest == pre.digest
    bare = FilmPreprocess(size=(16, 16))
    file = film(tmp_path)
    assert pre.prepare(file).pixels.mean() == pytest.approx(bare.prepare(file).pixels.mean() / 2, abs=2)
    own.write_text(OWN + "# another\n")
    with pytest.raises(ConfigError, match=r"the file of my_steps.Halved is another than when this was trained"):
        from_json(pre.to_json())
    assert (
        FilmPreprocess(size=(16, 16), steps={"after_reading": [{"_target_": "my_steps.Halved"}, MEDIAN]}).digest
        != pre.digest
    )


def test_what_needs_trust_cannot_leave_for_a_bundle_gives_none():
    """Such a run trained to its end and failed in the parity gate."""
    scale = {"_target_": "monai.transforms.ScaleIntensityd"}
    trust_only(["trust=[monai.transforms.Lambdad,my_steps.half]"])
    step = {"_target_": "monai.transforms.Lambdad", "func": {"_target_": "my_steps.half"}}
    lost = not_exportable({"after_reading": [step, scale, MEDIAN]})
    trust_only([])
    assert lost == [
        "monai.transforms.Lambdad (after_reading) needs trust, which no bundle can give",
        "my_steps.half (after_reading) is code of your own, and a bundle carries none",
    ]


def test_another_version_of_monai_is_told_and_counts(caplog):
    pre = FilmPreprocess(steps={"after_reading": [MEDIAN]})
    old = pre.to_json()
    old["steps"]["after_reading"][0]["made_by"] = "monai 1.5.0"
    assert from_json(old).digest != pre.digest
    assert "W-STEP MedianSmoothd was made by monai 1.5.0, here is monai 1." in caplog.text


def test_code_that_is_not_trusted_is_not_read_from_a_runs_folder(own):
    pre = FilmPreprocess(steps={"after_reading": [{"_target_": "my_steps.Halved"}]})
    trust_only([])
    with pytest.raises(ConfigError, match=r"add trust=\[my_steps.Halved\] to the command line"):
        from_json(pre.to_json())


def test_a_preprocessing_with_steps_travels_to_other_processes(tmp_path):
    pre = FilmPreprocess(size=(16, 16), steps={"after_resampling": [MEDIAN]})
    again = pickle.loads(pickle.dumps(pre))  # noqa: S301 - as joblib sends it
    assert np.array_equal(again.prepare(film(tmp_path)).pixels, pre.prepare(film(tmp_path)).pixels)
