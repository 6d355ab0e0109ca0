"""The fused augmentation equals the MONAI transforms it stands for; draws follow from seed, epoch and position."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.augment import fused as augment
from medvit.augment.chain import compose as plain
from medvit.augment.fused import Fused, move_boxes, warp
from medvit.augment.monai_random import Monai
from medvit.augment.random_streams import stream_keys, uniform
from medvit.errors import ConfigError

ALWAYS = dict.fromkeys(("geometry", "blur", "bias", "gamma", "contrast", "brightness", "noise"), 1.0)
NEVER = dict.fromkeys(ALWAYS, 0.0)


def body(size=96, dtype=np.uint8):
    """A smooth bright shape on a dark ground, like a chest."""
    row, column = np.mgrid[:size, :size] / size - 0.5
    value = 0.75 * np.exp(-((row**2 / 0.05 + column**2 / 0.03) ** 2)) + 0.15 * (np.sin(row * 25) > 0) * (
        abs(column) < 0.3
    )
    return (value * np.iinfo(dtype).max).astype(dtype)


def apply(fused, image, seed=0, epoch=0, position=0):
    found = fused(image[None, None], seed, epoch, np.array([position]), np.array([0]))
    return found[0, 0]


def monai_result(fused, draw, image):
    """Apply the drawn numbers by MONAI's own deterministic transforms."""
    import torch
    from monai.transforms import AdjustContrast, Affine, GaussianSmooth, RandBiasField, ScaleIntensity, ShiftIntensity

    value = torch.from_numpy(image.astype(np.float32) / np.iinfo(image.dtype).max)[None]
    if draw.matrix is not None:
        size = np.array(image.shape)
        centre = (size - 1) / 2
        whole = np.eye(3)
        whole[:2, :2] = draw.matrix[:, :2]
        whole[:2, 2] = draw.matrix[:, 2] + draw.matrix[:, :2] @ centre - centre
        value = Affine(affine=whole, padding_mode="zeros", image_only=True)(value)
    if draw.blur is not None:
        value = GaussianSmooth(sigma=draw.blur)(value)
    if draw.bias is not None:
        field = RandBiasField()._generate_random_field(image.shape, 3, draw.bias)
        value = value * torch.from_numpy(np.exp(field))
    if draw.gamma is not None:
        value = AdjustContrast(draw.gamma)(value)
    value = ScaleIntensity(minv=None, maxv=None, factor=draw.contrast)(value)
    value = ShiftIntensity(draw.brightness)(value)
    return np.clip(np.asarray(value)[0], 0, 1) * np.iinfo(image.dtype).max


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("step", ["geometry", "blur", "bias", "gamma", "contrast", "brightness", "all"])
def test_each_step_gives_what_the_monai_transform_gives(step, dtype):
    chance = {**(ALWAYS if step == "all" else NEVER), "noise": 0.0}
    fused = Fused(chance=chance if step == "all" else {**chance, step: 1.0}, blur=(0.5, 2.0))
    image, changes = body(dtype=dtype), []
    for position in range(4):
        draw = fused.draws(3, 1, np.array([position]), image.shape)[0]
        found = apply(fused, image, 3, 1, position).astype(float)
        error = np.abs(found - monai_result(fused, draw, image)) / np.iinfo(dtype).max
        assert error.mean() < 0.004
        assert np.quantile(error, 0.99) < 0.02
        changes.append(np.abs(found - image).mean() / np.iinfo(dtype).max)
    assert max(changes) > 0.003


def statistics(images):
    """Brightness, contrast, centre of mass, width and fine texture of each image."""
    values = images.reshape(len(images), *images.shape[-2:]).astype(float) / 255
    row, column = np.mgrid[: values.shape[1], : values.shape[2]]
    mass = values.sum(axis=(1, 2)) + 1e-9
    centre = [(values * axis).sum(axis=(1, 2)) / mass for axis in (row, column)]
    spread = [
        np.sqrt((values * (axis - mid[:, None, None]) ** 2).sum(axis=(1, 2)) / mass)
        for axis, mid in zip((row, column), centre, strict=True)
    ]
    texture = np.abs(np.diff(values, axis=2)).mean(axis=(1, 2))
    return {
        "mean": values.mean(axis=(1, 2)),
        "deviation": values.std(axis=(1, 2)),
        "texture": texture,
        **dict(zip(("row", "column", "height", "width"), centre + spread, strict=True)),
    }


def test_the_fused_preset_has_the_distribution_of_the_monai_composition():
    """Kolmogorov-Smirnov on seven statistics of 300 images each; a tenth more rotation and shift is told apart."""
    from scipy.stats import ks_2samp

    fused, image, count = Fused(chance={"bias": 0.3}), body(48), 300
    stack = np.repeat(image[None, None], count, axis=0)
    position, member = np.arange(count), np.zeros(count, int)
    ours = statistics(fused(stack, 1, 0, position, member))
    theirs = statistics(plain(fused)(stack, 2, 0, position, member))
    chances = {name: ks_2samp(ours[name], theirs[name]).pvalue for name in ours}
    assert min(chances.values()) > 0.001, chances
    wider = statistics(Fused(geometry={"shift": 0.16}, chance={"bias": 0.3})(stack, 1, 0, position, member))
    assert min(ks_2samp(wider[name], theirs[name]).pvalue for name in ("row", "column")) < 0.001


def test_noise_has_the_deviation_drawn_and_no_pattern():
    fused = Fused(chance={**NEVER, "noise": 1.0}, noise=0.1)
    image = np.full((200, 200), 128, np.uint8)
    draw = fused.draws(0, 0, np.array([5]), image.shape)[0]
    noise = apply(fused, image, position=5).astype(float) - 128
    assert noise.std() == pytest.approx(draw.noise * 255, rel=0.05)
    assert abs(noise.mean()) < 0.5
    assert abs((noise[1:] * noise[:-1]).mean()) < 0.02 * noise.var()


@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 1000), position=st.integers(0, 10**7))
@settings(max_examples=25, deadline=None)
def test_a_sample_is_the_same_alone_and_in_any_batch(seed, epoch, position):
    fused, image = Fused(), body(32)
    others = np.array([position + 3, position, position + 1])
    batch = fused(np.repeat(image[None, None], 3, axis=0), seed, epoch, others, np.zeros(3, int))
    assert np.array_equal(batch[1, 0], apply(fused, image, seed, epoch, position))


def test_seed_epoch_and_position_each_change_the_draw():
    fused, image = Fused(), body(32)
    found = [apply(fused, image, *draw) for draw in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert all(not np.array_equal(found[0], other) for other in found[1:])


def test_the_random_numbers_are_uniform_and_unrelated():
    values = uniform(stream_keys(7, 3, np.arange(20_000)), 8)
    assert 0 <= values.min() < values.max() < 1
    assert np.allclose(np.quantile(values, [0.1, 0.5, 0.9], axis=0), [[0.1], [0.5], [0.9]], atol=0.015)
    related = np.corrcoef(values.T) - np.eye(8)
    assert np.abs(related).max() < 0.03
    assert abs(np.corrcoef(values[:-1, 0], values[1:, 0])[0, 1]) < 0.03


def test_slices_of_a_bag_move_together_but_have_their_own_noise():
    image = np.repeat(body(64)[None, None], 2, axis=0)
    same, member = np.array([4, 4]), np.array([0, 1])
    quiet = Fused(chance={"noise": 0.0})(image, 0, 0, same, member)
    assert np.array_equal(quiet[0], quiet[1])
    noisy = Fused(chance={"noise": 1.0})(image, 0, 0, same, member)
    assert not np.array_equal(noisy[0], noisy[1])


def test_volumes_are_changed_slice_by_slice_alike():
    volume = np.repeat(body(32)[None, None, None], 5, axis=2)
    found = Fused(chance={"noise": 0.0})(volume, 0, 0, np.array([2]), np.array([0]))
    assert found.shape == volume.shape
    assert all(np.array_equal(found[0, 0, 0], plane) for plane in found[0, 0])


def test_boxes_and_masks_move_with_the_image():
    fused = Fused(chance={**NEVER, "geometry": 1.0}, geometry={"rotate_deg": 15})
    image = np.zeros((120, 100), np.uint8)
    image[50:60, 40:65] = 255
    for position in range(6):
        matrix = fused.draws(0, 0, np.array([position]), image.shape)[0].matrix
        moved = apply(fused, image, position=position)
        mask = warp(image, matrix, exact=True)
        assert set(np.unique(mask)) <= {0, 255}
        assert np.abs((moved > 127).astype(int) - (mask > 0)).mean() < 0.01
        (top, left, bottom, right) = move_boxes(np.array([[50, 40, 59, 64]]), matrix, image.shape)[0]
        rows, columns = np.nonzero(mask)
        assert np.allclose([top, left, bottom, right], [rows.min(), columns.min(), rows.max(), columns.max()], atol=1.6)


def test_the_defaults_never_mirror():
    image = body(64)
    image[10:20, 5:15] = 255
    matrices = [draw.matrix for draw in Fused().draws(0, 0, np.arange(500), image.shape)]
    assert min(np.linalg.det(matrix[:, :2]) for matrix in matrices) > 0
    assert min(matrix[1, 1] for matrix in matrices) > 0.8


def test_any_monai_transform_can_be_named_and_is_drawn_from_the_seed():
    from monai.transforms import RandCoarseDropout, RandGaussianNoised

    named = Monai([RandCoarseDropout(holes=2, spatial_size=8, prob=1.0), RandGaussianNoised(keys="image", prob=1.0)])
    images = np.repeat(body(32)[None, None], 3, axis=0)
    member = np.zeros(3, int)
    first = named(images, 0, 0, np.arange(3), member)
    assert np.array_equal(first, named(images, 0, 0, np.arange(3), member))
    assert np.array_equal(first[[2, 0]], named(images[:2], 0, 0, np.array([2, 0]), member[:2]))
    assert not np.array_equal(first[0], first[1])


def test_a_flip_is_warned_of_and_a_harmless_transform_is_not(caplog):
    from monai.transforms import Compose, OneOf, RandFlip, RandFlipd, RandGaussianNoise

    with caplog.at_level(logging.WARNING):
        Monai([RandGaussianNoise()])
        assert not caplog.records
        assert Monai([RandFlip(prob=0.5), RandFlipd(keys="image")]).mirrors == ["RandFlip", "RandFlipd"]
        assert Monai([Compose([OneOf([RandGaussianNoise(), RandFlip()])])]).mirrors == ["RandFlip"]
    assert "W-LATERALITY" in caplog.text


def test_wrong_settings_are_config_errors():
    with pytest.raises(ConfigError) as caught:
        Fused(chance={"flip": 0.5, "blur": 2.0}, geometry={"shear": 1.0}, gamma=(0.0, 1.0))
    assert all(word in str(caught.value) for word in ("flip", "blur is 2.0", "shear", "gamma"))
    with pytest.raises(ConfigError, match="empty"):
        Monai([])
    from monai.transforms import RandSpatialCrop

    with pytest.raises(ConfigError, match="shape"):
        Monai([RandSpatialCrop(8, random_size=False)])(
            np.zeros((1, 1, 16, 16), np.uint8), 0, 0, np.zeros(1, int), np.zeros(1, int)
        )


def test_nothing_is_nothing():
    assert augment.no_augmentation() is None
    assert np.array_equal(apply(Fused(chance=NEVER), body()), body())
