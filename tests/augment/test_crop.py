"""Crops for pretraining: windows of the image itself, never mirrored, turned or beyond its edge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.augment.crop import RandomCrop
from medvit.errors import ConfigError


def cropped(crop, images, seed=0, epoch=0):
    position = np.arange(len(images))
    return crop(images, seed, epoch, position, np.zeros(len(images), np.int64)), crop.windows(
        seed, epoch, position, images.shape[2:]
    )


def ramp(size, dtype):
    """Each pixel says where it is: along each axis in turn, in steps that the type can hold."""
    top = np.iinfo(dtype).max
    axes = np.meshgrid(*[np.linspace(0, 1, side) for side in size], indexing="ij")
    return np.stack([(axis * (top - 1)).round() for axis in axes]).astype(dtype)[:, None]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(40, 32), (16, 24, 20)])
def test_every_pixel_of_a_crop_is_the_images_value_at_its_place(size, dtype):
    images = ramp(size, dtype)
    crop = RandomCrop([0.5, 1.0])
    for epoch in range(5):
        for axis in range(len(size)):
            one, window = cropped(crop, images[axis][None], epoch=epoch)
            first, step = window[0, axis]
            place = np.clip(first + step * np.arange(size[axis]), 0, size[axis] - 1)
            expected = place / (size[axis] - 1) * (np.iinfo(dtype).max - 1)
            shape = [-1 if each == axis else 1 for each in range(len(size))]
            away = np.abs(one[0, 0].astype(float) - expected.reshape(shape)) / np.iinfo(dtype).max
            assert away.max() < 0.006  # a 32nd of a pixel, and rounding


@given(st.integers(0, 2**31), st.integers(0, 1000), st.floats(0.5, 1.0))
@settings(max_examples=50, deadline=None)
def test_a_window_lies_within_the_image_and_has_at_least_the_share_of_each_side(seed, epoch, least):
    size = (40, 32)
    windows = RandomCrop([least, 1.0]).windows(seed, epoch, np.arange(20), size)
    first, step = windows[..., 0], windows[..., 1]
    edges = first - step / 2 + 0.5, first + step * (np.array(size) - 0.5) + 0.5  # outer edges of the outer pixels
    assert (edges[0] >= -1e-9).all()
    assert (edges[1] <= np.array(size) + 1e-9).all()
    assert (step >= least - 1e-9).all()
    assert (step <= 1).all()


def test_the_whole_image_as_window_is_the_image():
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 17, 23), dtype=np.uint8)
    assert np.array_equal(cropped(RandomCrop([1.0, 1.0]), images)[0], images)


def test_a_crop_depends_on_nothing_but_seed_epoch_and_position():
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 16, 16), dtype=np.uint8)
    crop, none = RandomCrop(), np.zeros(4, np.int64)
    whole = crop(images, 3, 7, np.arange(4), none)
    alone = crop(images[2:3], 3, 7, np.array([2]), none[:1])
    assert np.array_equal(whole[2:3], alone)
    assert not np.array_equal(whole, crop(images, 3, 8, np.arange(4), none))


@pytest.mark.parametrize("share", [[0.4, 1.0], [0.9, 0.8], [0.5, 1.1], [0.7]])
def test_windows_that_could_lose_the_anatomy_are_refused(share):
    with pytest.raises(ConfigError, match=r"expected \[least, most\] with 0\.5 <= least <= most <= 1"):
        RandomCrop(share)
