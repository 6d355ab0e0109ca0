"""What a deterministic step does to values and places, found on generated images before anything is trained."""

from __future__ import annotations

import pytest
from own_steps import trusted

from medvit.engine.pipeline import refuse_wrong_steps
from medvit.errors import ConfigError
from medvit.preprocess import FilmPreprocess, VolumePreprocess
from medvit.preprocess.step_trial import problems

PLACES = ("after_reading", "after_resampling", "before_normalisation")
OWN = '''
import numpy as np
import torch
from monai.transforms import MapTransform

class Own(MapTransform):
    def __call__(self, data):
        return {"image": self.change(np.asarray(data["image"]))}

class Mirrored(Own):
    def change(self, image):
        return image[..., ::-1].copy()

class Lifted(Own):
    def change(self, image):
        return np.roll(image, image.shape[1] // 10, axis=1)

class Handed(Own):
    """Every image with its dense side left, as some do with mammograms."""
    def change(self, image):
        half = image.shape[-1] // 2
        return image[..., ::-1].copy() if image[..., :half].sum() < image[..., -half:].sum() else image

class Stripped(Own):
    def change(self, image):
        return np.where(image > 0.6 * image.max(), image, 0)
'''


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    with trusted("my_moves", OWN, ("Mirrored", "Lifted", "Handed", "Stripped"), tmp_path, monkeypatch):
        yield


def step(name, **arguments):
    return {"_target_": name if "." in name else f"monai.transforms.{name}", **arguments}


def film(*steps, place="after_resampling", **settings):
    return FilmPreprocess(size=(64, 64), steps={place: list(steps)}, **settings)


def volume(*steps, place="after_resampling", mode="volume", **settings):
    return VolumePreprocess(size=(24, 48, 48), mode=mode, steps={place: list(steps)}, **settings)


MOVES = [
    step("Flipd", spatial_axis=1),
    step("Rotated", angle=0.1),
    step("Zoomd", zoom=1.1),
    step("Affined", translate_params=[3, 0]),
    step("GridDistortiond", num_cells=3, distort_steps=[[1.2, 1.0, 0.9], [1.1, 0.8, 1.0]]),
    step("my_moves.Mirrored"),
    step("my_moves.Lifted"),
    step("my_moves.Handed"),
]
STAYS = [
    step("MedianSmoothd", radius=1),
    step("GaussianSmoothd", sigma=1.0),
    step("GaussianSharpend"),
    step("AdjustContrastd", gamma=2.0),
    step("HistogramNormalized", min=0, max=1),
    step("ThresholdIntensityd", threshold=0.3),
    step("ScaleIntensityRangePercentilesd", lower=1, upper=99, b_min=0, b_max=1, clip=True),
    step("EnsureTyped"),
    step("my_moves.Stripped"),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("moves", MOVES, ids=lambda node: node["_target_"].rpartition(".")[2])
def test_a_step_that_moves_a_film_is_refused_by_name(moves, place):
    (found,) = problems(film(moves, place=place)).refused
    name = moves["_target_"].rpartition(".")[2]
    assert found.startswith(f"{place}, step 1: {name} moves the image: maps and boxes would point to other places")


def test_a_quarter_turn_is_refused_before_the_run_also_where_the_canvas_is_square():
    for place in PLACES:
        (found,) = problems(film(step("Rotate90d"), place=place)).refused
        assert "Rotate90d moves the image" in found or "Rotate90d changes the shape" in found


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("mode", ["volume", "slices"])
def test_a_step_that_mirrors_a_volume_is_refused_along_every_axis(axis, mode):
    (found,) = problems(volume(step("Flipd", spatial_axis=axis), mode=mode)).refused
    assert "Flipd moves the image" in found


def test_an_orientation_that_volumes_do_not_have_is_refused_and_the_one_they_have_is_not():
    assert problems(volume(step("Orientationd", axcodes="SPL"))).refused == []
    (found,) = problems(volume(step("Orientationd", axcodes="IPL"))).refused
    assert "Orientationd moves the image" in found
    assert problems(volume(step("Orientationd", axcodes="SPL"), place="after_reading")).refused


@pytest.mark.parametrize("stays", STAYS, ids=lambda node: node["_target_"].rpartition(".")[2])
def test_a_step_that_changes_values_alone_moves_nothing(stays):
    made = [film(stays, place=place) for place in PLACES]
    made += [volume(stays, place=place, mode=mode) for place in PLACES for mode in ("volume", "slices")]
    assert [problems(each).refused for each in made] == [[]] * len(made)


@pytest.mark.parametrize(
    ("beyond", "share"),
    [
        (step("NormalizeIntensityd"), "[4-9][0-9]"),
        (step("ScaleIntensityRanged", a_min=0, a_max=1, b_min=0, b_max=255), "100"),
        (step("HistogramNormalized"), "100"),
    ],
)
def test_values_that_the_clipping_would_make_black_or_white_are_refused_with_what_to_do(beyond, share):
    name = beyond["_target_"].rpartition(".")[2]
    with pytest.raises(ConfigError, match=rf"step 1: {name} drives {share}% of the grey pixels.*b_min: 0, b_max: 1"):
        refuse_wrong_steps(film(beyond))
    with pytest.raises(ConfigError, match=f"{name} drives"):
        refuse_wrong_steps(volume(beyond))


def test_a_few_values_beyond_are_told_with_their_share_and_a_step_that_brings_all_back_is_enough(caplog):
    refuse_wrong_steps(film(step("ShiftIntensityd", offset=0.1)))
    assert "W-STEP preprocess: after_resampling, step 1: ShiftIntensityd drives 3% of the grey pixels" in caplog.text
    caplog.clear()
    refuse_wrong_steps(film(step("NormalizeIntensityd"), step("ScaleIntensityd", minv=0, maxv=1)))
    assert caplog.text == ""


def test_a_volume_as_it_was_read_may_have_any_values():
    assert problems(volume(step("NormalizeIntensityd"), place="after_reading")) == ([], [])
    assert problems(film(step("NormalizeIntensityd"), place="after_reading")).refused


def test_a_list_that_is_another_chain_is_tried_as_a_whole():
    resize = step("Resized", spatial_size=[64, 64])
    assert FilmPreprocess(size=(64, 64), steps={"whole": [resize]}).steps
    for extra, said in (
        (step("Flipd", spatial_axis=1), None),  # it says so, and the maps are turned back
        (step("my_moves.Mirrored"), "a step moves the image without saying so in its affine"),
        (step("NormalizeIntensityd"), "the list drives"),
    ):
        found = problems(FilmPreprocess(size=(64, 64), steps={"whole": [extra, resize]})).refused
        assert (found == []) if said is None else said in found[0]
