"""Every preset in conf/augment is built by the one config builder, runs, repeats itself, and mirrors nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvit.config import build, conf_dir

PRESETS = sorted(path.stem for path in (conf_dir() / "augment").glob("*.yaml"))


def settings(name):
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(Path(conf_dir()) / "augment" / f"{name}.yaml"), resolve=False)


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
