"""The lists of conf/preprocess are compiled to the fused code, or refused: nothing in them is left unread."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from preset_nodes import MODELS, node

from medvit.config import build, conf_dir
from medvit.config_targets import trust_only
from medvit.engine.pipeline import refuse_wrong_steps
from medvit.errors import ConfigError
from medvit.preprocess import from_json
from medvit.preprocess.chain import plan
from medvit.types import Facts, Volume

DIGESTS = {  # of these presets as medvit had them before they were lists (e085db8): caches, runs and bundles go by them
    "film": "1031bbb20dd56a37142ecc2dc50d7bc98a578bcfe7ae0d0368acbd2cc6801c14",
    "slices": "c1fa4826a10584f4bef8bc7ffb676f99a4642f070a2a075080fffaef0c5c3154",
    "volume": "7510226a5f9297e0c693b58f90c7233babeaeff715fed12d47a6c0ce90da0d6b",
}
MEDIAN = {"_target_": "monai.transforms.MedianSmoothd", "radius": 1}


@pytest.mark.parametrize("preset", MODELS)
def test_a_preset_is_fused_whole_and_has_the_digest_it_always_had(preset):
    assert sorted(MODELS) == sorted(file.stem for file in (conf_dir() / "preprocess").glob("*.yaml"))
    made = build(node(preset))
    assert made.digest == DIGESTS[preset]
    assert all(not step.place for step in plan(made))
    assert {"monai.transforms.LoadImaged", "monai.transforms.NormalizeIntensityd"} <= {step.name for step in plan(made)}
    assert from_json(made.to_json()).digest == made.digest


@pytest.mark.parametrize(
    ("preset", "word", "field", "value"),
    [
        ("film", "preprocess.size=[64,48]", "size", (64, 48)),
        ("film", "preprocess.voi={voi: percentile}", "voi", {"voi": "percentile"}),
        ("film", "preprocess.fit=stretch", "fit", "stretch"),
        ("film", "preprocess.border=black", "border", "black"),
        ("film", "preprocess.dtype=uint16", "dtype", "uint16"),
        ("film", "preprocess.picture_bits=12", "picture_bits", 12),
        ("slices", "preprocess.size=[16,64,64]", "size", (16, 64, 64)),
        ("slices", "preprocess.orientation=acquired", "orientation", "acquired"),
        ("volume", "preprocess.orientation=axial", "orientation", "axial"),
        ("volume", "preprocess.orientation=RAS", "orientation", "RAS"),
        ("volume", "preprocess.spacing_mm=[3,null,1]", "spacing_mm", (3.0, None, 1.0)),
        ("volume", "preprocess.intensity=window", "intensity", "window"),
        ("volume", "preprocess.limits=[1,99]", "limits", (1.0, 99.0)),
    ],
)
def test_a_setting_that_is_typed_reaches_the_list_and_the_fused_code(preset, word, field, value):
    made = build(node(preset, word))
    assert getattr(made, field) == value
    assert all(not step.place for step in plan(made))


@pytest.mark.parametrize("place", ["after_reading", "after_resampling", "before_normalisation"])
@pytest.mark.parametrize("preset", MODELS)
def test_a_transform_of_monai_stands_at_the_place_that_is_named(preset, place):
    made = build({**node(preset), place: [MEDIAN], "transforms": replaced(node(preset), place)})
    assert [(step.name, step.place) for step in plan(made) if step.place] == [(MEDIAN["_target_"], place)]
    bare = build(node(preset))
    assert made.digest != bare.digest
    again = from_json(made.to_json())
    assert again.digest == made.digest
    assert again.steps[place][0]["made_by"].startswith("monai 1.")
    assert made.without_steps().digest == bare.digest


def replaced(settings: dict, place: str) -> list:
    """Return the list as interpolation gives it when `preprocess.<place>=[...]` is typed."""
    found = copy.deepcopy(settings["transforms"])
    places = [at for at, one in enumerate(found) if one == []]
    found[places[("after_reading", "after_resampling", "before_normalisation").index(place)]] = [MEDIAN]
    return found


def test_what_is_typed_arrives_by_interpolation():
    word = "preprocess.after_reading=[{_target_: monai.transforms.MedianSmoothd, radius: 1}]"
    assert [step.place for step in plan(build(node("film", word))) if step.place] == ["after_reading"]


def test_a_transform_may_stand_in_the_list_itself_between_the_fused_ones():
    settings = node("volume")
    settings["transforms"].insert(-2, MEDIAN)
    assert [(step.place) for step in plan(build(settings)) if step.place] == ["before_normalisation"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(0), r"a list has to begin with LoadImaged, and this one does with CropBorderd"),
        (lambda t: t.pop(), r"a list has to end with NormalizeIntensityd, and this one does with RoundToLevelsd"),
        (lambda t: t.reverse(), r"begin with LoadImaged, and this one does with NormalizeIntensityd; .*has to end"),
        (lambda t: t[3].update(fit="stretch"), r"AreaResized.fit=stretch, and the settings say pad: write the setting"),
        (lambda t: t[3].update(sharpen=2), r"AreaResized.sharpen is none that the fused code knows"),
        (lambda t: t[0].update(reader="ITKReader"), r"LoadImaged.reader=ITKReader, and the settings say"),
        (lambda t: t.insert(0, 3), r"step 1: 3 has no _target_"),
        (lambda t: t[2].update(keys="label"), r"CropBorderd.keys: there is one, image"),
    ],
)
def test_a_list_that_contradicts_its_settings_or_reads_otherwise_is_refused(change, said):
    settings = node("film")
    change(settings["transforms"])
    with pytest.raises(ConfigError, match=said):
        build(settings)


def test_steps_that_the_list_leaves_out_are_refused():
    settings = node("film")
    with pytest.raises(ConfigError, match=r"after_reading is not in the list: put \${preprocess.after_reading} there"):
        build({**settings, "after_reading": [MEDIAN]})


def test_all_that_is_wrong_with_steps_is_told_at_once():
    trust_only([])
    wrong = [
        {"_target_": "monai.transforms.RandGaussianNoised"},
        {"_target_": "my_steps.Sharpen"},
        {"_target_": "monai.transforms.SaveImaged"},
        {"_target_": "monai.transforms.MedianSmoothd", "keys": "label"},
        {"radius": 1},
    ]
    with pytest.raises(ConfigError) as caught:
        build({"_target_": "medvit.preprocess.chain.FilmChain", "before_normalisation": wrong[:1] + wrong[3:]})
    told = str(caught.value)
    assert "step 1: RandGaussianNoised: random steps belong to augment" in told
    assert "step 2: MedianSmoothd has keys=label: there is one, image" in told
    assert "step 3: {'radius': 1}: expected {_target_: monai.transforms.NAME, argument: value}" in told
    with pytest.raises(ConfigError) as caught:
        build({"_target_": "medvit.preprocess.chain.FilmChain", "after_reading": wrong[1:3]})
    assert "my_steps.Sharpen" in str(caught.value)
    assert "monai.transforms.SaveImaged" in str(caught.value)


def test_a_reader_named_by_a_text_is_never_called():
    """LoadImage of MONAI imports and calls whatever dotted name its reader is."""
    load = {"_target_": "monai.transforms.LoadImaged", "keys": "image", "reader": "subprocess.Popen"}
    with pytest.raises(ConfigError, match="reads, writes, prints or calls what it is given"):
        build({"_target_": "medvit.augment.monai_random.Monai", "transforms": [load]})


def monai_list(size) -> list:
    """Return a list as MONAI's tutorials have it, around medvit's reader."""
    first = node("volume")["transforms"][0]
    names = [
        {"_target_": "monai.transforms.EnsureChannelFirstd", "keys": ["image"]},
        {"_target_": "monai.transforms.Orientationd", "axcodes": "SPL"},
        {"_target_": "monai.transforms.Spacingd", "pixdim": [2, 2, 2]},
        {
            "_target_": "monai.transforms.ScaleIntensityRangePercentilesd",
            "lower": 1,
            "upper": 99,
            "b_min": 0,
            "b_max": 1,
        },
        {"_target_": "monai.transforms.ResizeWithPadOrCropd", "spatial_size": size},
    ]
    return [first, *names, {"_target_": "monai.transforms.NormalizeIntensityd", "subtrahend": None, "divisor": None}]


@pytest.mark.parametrize("mode", ["volume", "slices"])
def test_any_other_list_runs_in_monai_and_leads_back_to_the_original(mode):
    size = [12, 20, 24]
    settings = {**node("volume"), "size": size, "mode": mode}
    made = build({**settings, "transforms": monai_list(size)})
    assert [step.place for step in plan(made)].count("whole") == 5
    refuse_wrong_steps(made)
    z, y, x = np.meshgrid(np.arange(9), np.arange(40), np.arange(40), indexing="ij")
    ball = np.exp(-(((z - 3) * 4) ** 2 + (y - 22) ** 2 + (x - 15) ** 2) / 60).astype(np.float32) * 900
    affine = np.diag([-1.0, 1.0, 4.0, 1.0])[:, [2, 1, 0, 3]]  # columns run to the patient's right: they are turned
    prepared = made.prepare(Volume(ball, affine, Facts()))
    assert prepared.pixels.shape == ((1, 1, *size) if mode == "volume" else (12, 1, 20, 24))
    where = np.argwhere(prepared.pixels.reshape(size) > 0.9 * made.levels).mean(axis=0)
    assert np.abs(prepared.placement.to_original(where) - [3, 22, 15]).max() < 1.0
    assert from_json(made.to_json()).digest == made.digest
    if mode == "slices":
        assert np.allclose(np.diff(prepared.position_mm), 2.0)


def test_a_list_whose_result_has_another_size_is_refused_before_training():
    settings = {**node("volume"), "size": [12, 20, 24]}
    made = build({**settings, "transforms": monai_list([12, 20, 20])})
    with pytest.raises(
        ConfigError, match=r"make \[12, 20, 20\] of an image of .*, and preprocess.size is \[12, 20, 24\]"
    ):
        refuse_wrong_steps(made)
