"""Every preset in conf/augment is built by the one config builder, runs, repeats itself, and mirrors nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from monai.transforms import RandBiasFieldd, RandFlip
from omegaconf import OmegaConf

from medvit.augment.chain import compose as plain
from medvit.augment.fused import Fused
from medvit.augment.monai_random import Monai
from medvit.config import build, conf_dir
from medvit.engine.pipeline import refuse_wrong_augment
from medvit.errors import ConfigError
from medvit.preprocess import FilmPreprocess

PRESETS = sorted(path.stem for path in (conf_dir() / "augment").glob("*.yaml"))


def settings(name, *words):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("train", [f"augment={name}", *words]), resolve=True)["augment"]


def test_the_presets_named_in_the_documentation_are_there():
    assert {"none", "xray", "mri", "monai"} <= set(PRESETS)


@pytest.mark.parametrize("name", [preset for preset in PRESETS if preset != "none"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_preset_builds_and_repeats_itself(name, dtype):
    made = build(settings(name))
    images = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (4, 1, 64, 64)).astype(dtype)
    position, member = np.arange(4), np.zeros(4, np.int64)
    first = made(images, 1, 2, position, member)
    assert first.shape == images.shape
    assert first.dtype == dtype
    assert not np.array_equal(first, images)
    assert np.array_equal(first, made(images, 1, 2, position, member))
    assert np.array_equal(first, build(settings(name))(images, 1, 2, position, member))
    assert not getattr(made, "mirrors", [])


def test_none_builds_to_no_augmentation():
    assert build(settings("none")) is None


def test_the_xray_preset_is_the_default_of_the_class():
    from medvit.augment.fused import Fused

    images = np.random.default_rng(0).integers(0, 256, (3, 1, 48, 48), dtype=np.uint8)
    arguments = (images, 0, 0, np.arange(3), np.zeros(3, np.int64))
    assert np.array_equal(build(settings("xray"))(*arguments), Fused()(*arguments))


BIAS = {"_target_": "monai.transforms.RandBiasFieldd", "prob": 1.0}
ARGUMENTS = (7, 3, np.arange(3), np.zeros(3, np.int64))


def images(shape=(3, 1, 48, 48)):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("name", ["xray", "mri"])
def test_a_preset_is_fused_whole_and_gives_what_the_fused_class_gives_bit_for_bit(name):
    node = settings(name)
    made = build(node)
    assert [step.place for step in made.plan] == [""] * 7
    assert "monai.transforms.RandGaussianNoised" in {step.name for step in made.plan}
    fields = {key: node[key] for key in Fused.__dataclass_fields__}
    assert np.array_equal(made(images(), *ARGUMENTS), Fused(**fields)(images(), *ARGUMENTS))


def test_a_setting_that_is_typed_reaches_the_list():
    made = build(settings("xray", "augment.geometry.rotate_deg=3", "augment.noise=0.2", "augment.chance.blur=0.7"))
    assert [step.place for step in made.plan] == [""] * 7
    assert (made.geometry["rotate_deg"], made.noise, made.chance["blur"]) == (3, 0.2, 0.7)


def test_further_transforms_run_in_monai_after_the_fused_ones_in_the_order_given():
    more = [
        "{_target_: monai.transforms.RandBiasFieldd, prob: 1.0}",
        "{_target_: monai.transforms.RandFlip, prob: 1.0}",
    ]
    made = build(settings("xray", f"augment.more=[{', '.join(more)}]"))
    assert [step.place for step in made.plan] == [""] * 7 + ["augment"] * 2
    assert [step.name.rpartition(".")[2] for step in made.plan[7:]] == ["RandBiasFieldd", "RandFlip"]
    fused = made.fused_alone(images(), *ARGUMENTS)
    assert np.array_equal(
        made(images(), *ARGUMENTS), Monai([RandBiasFieldd("image", prob=1.0), RandFlip(1.0)])(fused, *ARGUMENTS)
    )


def test_one_transform_between_the_fused_ones_and_all_of_them_run_in_monai():
    node = settings("xray")
    node["transforms"].insert(2, BIAS)
    made = build(node)
    assert [step.place for step in made.plan] == ["augment"] * 8
    assert made.fused_alone is None
    found = made(images(), *ARGUMENTS)
    assert np.array_equal(found, made(images(), *ARGUMENTS))
    assert not np.array_equal(found, images())
    node["transforms"] = [BIAS, *settings("xray")["transforms"]]
    assert [step.place for step in build(node).plan] == ["augment", *[""] * 7]


def test_the_planes_of_a_volume_are_changed_alike_by_the_list_in_monai():
    volume = np.repeat(images((1, 1, 1, 32, 32)), 5, axis=2)
    found = plain(Fused(chance={"noise": 0.0, "bias": 1.0}))(volume, 1, 2, np.arange(1), np.zeros(1, np.int64))
    assert found.shape == volume.shape
    assert all(np.array_equal(found[0, 0, 0], plane) for plane in found[0, 0])


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"_target_": "monai.transforms.MixUpd", "batch_size": 4}, "MixUpd mixes the images of a batch"),
        ({"_target_": "monai.transforms.CutMixd", "batch_size": 4}, "CutMixd mixes the images of a batch"),
        (
            {"_target_": "monai.transforms.RandSpatialCropSamplesd", "roi_size": 8, "num_samples": 2},
            "RandSpatialCropSamplesd makes several images of one",
        ),
    ],
)
def test_what_mixes_images_or_makes_several_of_one_is_refused(node, said):
    with pytest.raises(ConfigError, match=said):
        build({**settings("xray"), "transforms": [node]})


def test_what_changes_the_shape_of_the_images_is_refused_before_training():
    crop = {"_target_": "monai.transforms.RandSpatialCropd", "roi_size": 8, "random_size": False}
    augment = build({**settings("xray"), "more": [crop], "transforms": []})
    with pytest.raises(ConfigError, match=r"augment.more, step 1: RandSpatialCropd changes the shape"):
        refuse_wrong_augment(augment, FilmPreprocess(size=(32, 32)))
    refuse_wrong_augment(build(settings("monai")), FilmPreprocess(size=(32, 32)))
