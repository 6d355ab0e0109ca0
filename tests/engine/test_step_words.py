"""What is typed wrongly about steps is told as a sentence with the name that was meant, all of it in one message."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medvit.config import conf_dir
from medvit.config_check import preflight
from medvit.config_words import readable
from medvit.engine.pipeline import _cost_always
from medvit.preprocess import FilmPreprocess
from medvit.train import check, trial

M = "_target_: monai.transforms."


def told(*words: str) -> list[str]:
    return preflight(conf_dir(), "train", readable(["model.image_size=[64,64]", *words]), check, trial)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["augment=xray", "augment.more=[{_target_: RandBiasFieldd}]"], "write monai.transforms.RandBiasFieldd"),
        (["augment=xray", "augment.more=[{_target_: RandBiasFielddd}]"], "mean 'monai.transforms.RandBiasFieldd'"),
        (["augment=xray", "augment.more=[{_target_: Mine}]"], "names no module; expected the module too, such as"),
        (["preprocess.after_reading=[{_target_: MedianSmoothd}]"], "write monai.transforms.MedianSmoothd"),
        (["augment.more=[{_target_: monai.transforms.RandBiasFieldd}]"],
         "'augment.more' is not a setting; augment=mri and augment=xray have it: give one of them too"),
    ],
)  # fmt: skip
def test_a_class_without_its_module_and_a_list_without_its_preset_are_told_with_the_words_to_write(
    given: list[str], said: str
) -> None:
    found = told(*given)
    assert any(said in one for one in found), found
    assert not any("Empty module name" in one or "trust=" in one for one in found)


WRONG = ["trainer.precision=fp16", "augment=xray"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (f"augment.more=[{{{M}RandBiasFielddd}}]", r"step 1: .*did you mean 'monai.transforms.RandBiasFieldd'\?"),
        (f"augment.more=[{{{M}RandBiasFieldd, probability: 0.3}}]", "takes no 'probability'; did you mean 'prob'"),
        ("augment.more=[RandBiasFieldd]", "augment.more, step 1: 'RandBiasFieldd' has no _target_; expected {_target_"),
        (f"preprocess.after_reading=[{{{M}MedianSmoothd, radiu: 3}}]", "takes no 'radiu'; did you mean 'radius'"),
        (f"preprocess.after_reading=[{{{M}MedianSmoothdd}}]", "did you mean 'monai.transforms.MedianSmoothd'"),
    ],
)
def test_a_misspelt_class_and_argument_get_the_nearest_name(given: str, said: str) -> None:
    found = told(*WRONG, given)
    assert any(re.search(said, one) for one in found), found


def test_bad_steps_at_every_place_are_told_in_one_message() -> None:
    words = {
        f"preprocess.after_reading=[{{{M}RandFlipd}}, {{{M}Flipd, spatial_axis: 0}}]": ["RandFlipd", "Flipd moves"],
        f"preprocess.after_resampling=[{{{M}NormalizeIntensityd}}]": ["NormalizeIntensityd drives"],
        f"preprocess.before_normalisation=[{{{M}MedianSmoothy}}, {{{M}MedianSmooth}}]": [
            "MedianSmoothy does not exist",
            "MedianSmooth is no MapTransform",
        ],
        f"augment.more=[{{{M}RandBiasField, degre: 2}}, {{{M}RandNone}}, {{{M}ScaleIntensityd}}, "
        f"{{{M}RandSpatialCropd, roi_size: 8, random_size: false}}]": [
            "takes no 'degre'",
            "RandNone does not exist",
            "ScaleIntensityd is not random",
        ],
    }
    found = "\n".join(told(*WRONG, *words))
    assert [said for sayings in words.values() for said in sayings if said not in found] == [], found


def test_the_cost_of_steps_is_never_told_below_nothing(tmp_path: Path) -> None:
    class Quick:
        fused_alone = staticmethod(lambda images, *_: sorted(range(300_000), key=lambda n: -n) and images)

        def __call__(self, images: object, *_: object) -> object:
            return images

    assert _cost_always(Quick(), FilmPreprocess(size=(8, 8))).startswith("0.0 ms")
