"""What a random transform must not do to training images, found before a run is opened."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from own_steps import trusted

from medvit.augment.random_trial import problems
from medvit.config import build, conf_dir
from medvit.engine.pipeline import refuse_wrong_augment
from medvit.errors import ConfigError
from medvit.preprocess import FilmPreprocess, VolumePreprocess

NAMES = ("OfTorch", "OfNumpy", "Blended", "Unseeded", "Rarely", "Proper", "Forgotten", "Endless")
OWN = """
import numpy as np
import torch
from monai.transforms import MapTransform, RandGaussianNoise, RandomizableTransform

class OfTorch(RandomizableTransform, MapTransform):
    def __init__(self, keys, prob=0.3):
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
    def __call__(self, data):
        self.randomize(None)
        return {"image": data["image"] * (0.5 + 0.5 * torch.rand(1)) if self._do_transform else data["image"]}

class OfNumpy(OfTorch):
    def __call__(self, data):
        return {"image": data["image"] * np.random.uniform(0.5, 1)} if self.R.rand() < 0.3 else data

class Blended(OfTorch):
    last = None
    def __call__(self, data):
        image, before = data["image"], self.last
        self.last = image
        return {"image": image if before is None else 0.9 * image + 0.1 * before}

class Unseeded(OfTorch):
    def __init__(self, keys):
        super().__init__(keys)
        self.noise = RandGaussianNoise(prob=1.0)
    def __call__(self, data):
        return {"image": self.noise(data["image"])}

class Rarely(RandomizableTransform, MapTransform):
    def __init__(self, keys):
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self)
        del self.prob
    def __call__(self, data):
        return {"image": data["image"][..., 1:]} if self.R.rand() < 0.3 else data

class Proper(OfTorch):
    def __call__(self, data):
        self.randomize(None)
        return {"image": data["image"] * self.R.uniform(0.5, 1) if self._do_transform else data["image"]}

class Forgotten(MapTransform):
    def __call__(self, data):
        return {"image": data["image"] * torch.rand(1)}

class Endless(OfTorch):
    def __call__(self, data):
        return {"image": data["image"] / 0}
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    with trusted("my_random", OWN, NAMES, tmp_path, monkeypatch):
        yield


def settings(name):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("train", [f"augment={name}"]), resolve=True)["augment"]


def step(name, **arguments):
    return {"_target_": name if "." in name else f"monai.transforms.{name}", **arguments}


def told(*more, preprocess=None, **changed):
    augment = build({**settings("xray"), "more": list(more), "transforms": [], **changed})
    try:
        refuse_wrong_augment(augment, preprocess or FilmPreprocess(size=(48, 40)))
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (step("my_random.OfTorch"), "it draws from the global numbers of torch; draw from self.R"),
        (step("my_random.OfNumpy"), "it draws from the global numbers of numpy; draw from self.R"),
        (step("my_random.Blended"), "it keeps something of the image before"),
        (step("my_random.Unseeded"), "draws from numbers of its own; draw from self.R"),
        (step("my_random.Forgotten"), "derive from monai.transforms.RandomizableTransform"),
        (step("my_random.Endless"), "gives values that are not finite"),
        (step("ScaleIntensityd"), "is not random: it would change the training images alone; put it into preprocess."),
        (step("NormalizeIntensityd"), "is not random"),
        (step("RandSpatialCropd", roi_size=8, random_size=False, prob=0.1), "cannot be built"),
        (
            step("RandSpatialCropd", roi_size=8, random_size=False),
            "changes the shape from [1, 48, 40] to [1, 8, 8], and",
        ),
        (step("my_random.Rarely"), "changes the shape from [1, 48, 40] to [1, 48, 39], and"),
        (
            step("RandZoomd", prob=0.01, keep_size=False, min_zoom=0.5, max_zoom=0.6),
            "changes the shape from [1, 48, 40]",
        ),
        (
            step("RandShiftIntensityd", offsets=10, prob=1.0),
            "are clipped: a random step gets 0 black to 1 white, before the",
        ),
        (step("RandScaleIntensityd", factors=[3, 4], prob=0.1), "of the grey pixels of a generated image beyond 0"),
        (step("RandBiasFieldd", degree=-1), "cannot be built"),
    ],
    ids=lambda value: value["_target_"].rpartition(".")[2] if isinstance(value, dict) else "",
)
def test_a_random_step_that_is_none_is_refused_by_name_before_a_run_is_opened(node, said):
    name = node["_target_"].rpartition(".")[2]
    try:
        found = told(step("RandAdjustContrastd"), node)
    except ConfigError as error:
        found = str(error)
    assert said in found, found
    assert "cannot be built" in said or found.startswith(f"augment.more, step 2: {name} "), found


def test_all_wrong_steps_of_a_list_are_told_at_once():
    found = told(step("ScaleIntensityd"), step("my_random.OfTorch"), step("my_random.Blended"))
    names = enumerate(("ScaleIntensityd", "OfTorch", "Blended"), 1)
    assert all(f"augment.more, step {number}: {name} " in found for number, name in names)


RIGHT = [
    step("RandBiasFieldd", prob=0.3),
    step("RandGaussianNoised", prob=0.2, std=0.05),
    step("RandCoarseDropoutd", holes=2, spatial_size=8, fill_value=0, prob=0.2),
    step("RandFlipd", spatial_axis=1, prob=0.5),
    step("RandHistogramShiftd", prob=0.3),
    step("RandAffined", prob=0.3, rotate_range=0.2),
    step("RandGibbsNoised", prob=0.2),
    step("OneOf", transforms=[step("GaussianSmoothd", sigma=1.0), step("RandGaussianSmoothd", keys="image", prob=1.0)]),
    step(
        "Compose", transforms=[step("RandGaussianSmoothd", keys="image", prob=1.0), step("EnsureTyped", keys="image")]
    ),
    step("EnsureTyped"),
    step("my_random.Proper"),
]


@pytest.mark.parametrize("node", RIGHT, ids=lambda node: node["_target_"].rpartition(".")[2])
def test_random_steps_of_monai_and_of_ones_own_pass_on_films_and_volumes(node):
    assert told(node) == ""
    if node["_target_"] != "monai.transforms.RandCoarseDropoutd":
        assert told(node, preprocess=VolumePreprocess(size=(6, 24, 24))) == ""


def test_a_plain_compose_hides_no_step_that_is_not_random():
    held = [step("RandGaussianSmoothd"), step("ScaleIntensityd", minv=0.1, maxv=0.9)]
    assert "Compose holds ScaleIntensityd, which is not random" in told(step("Compose", transforms=held))


def test_a_crop_that_is_resized_to_what_it_was_passes_and_one_that_is_not_names_the_crop():
    crop = step("RandSpatialCropd", roi_size=[30, 30], random_size=False)
    assert told(crop, step("Resized", spatial_size=[48, 40])) == ""
    assert "step 1: RandSpatialCropd changes the shape from [1, 48, 40] to [1, 30, 30]" in told(
        crop, step("Resized", spatial_size=[32, 32])
    )


def test_a_few_pixels_beyond_are_told_with_their_share(caplog):
    assert told(step("RandScaleIntensityd", factors=0.9, prob=0.1)) == ""
    assert "W-STEP augment.more, step 1: RandScaleIntensityd drives " in caplog.text
    caplog.clear()
    assert told(step("RandAdjustContrastd")) == ""
    assert caplog.text == ""


def test_the_trial_leaves_the_global_random_numbers_as_they_are_and_takes_less_than_a_second_a_step():
    part = build({**settings("xray"), "more": [step("my_random.OfTorch"), RIGHT[0]], "transforms": []}).in_monai[0]
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    wanted = torch.rand(1).item(), np.random.rand()  # noqa: NPY002
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    problems(part, (1, 224, 224))
    assert wanted == (torch.rand(1).item(), np.random.rand())  # noqa: NPY002
    start = time.perf_counter()
    problems(part, (1, 224, 224))
    assert time.perf_counter() - start < 4  # of a machine that does other things too; 0.3 s on an idle one


def test_a_shape_that_is_lost_while_training_names_the_step_too():
    part = build({**settings("xray"), "more": [step("my_random.Rarely")], "transforms": []})
    images = np.zeros((40, 1, 16, 16), np.uint8)
    with pytest.raises(ConfigError, match=r"Rarely, augment.more, step 1, changed the shape from \[1, 16, 16\]"):
        part(images, 0, 0, np.arange(40), np.zeros(40, np.int64))
