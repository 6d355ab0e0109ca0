"""The resize is the mean over the area, checked against sums over a grid fine enough to hold both pixel grids."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.preprocess.resize import _narrowed, resize, resize_exact, resize_volume


def area_mean(image, size):
    """Repeat every pixel size[axis] times, so that each output pixel covers whole ones, and take the mean."""
    fine = image.astype(np.float64).repeat(size[0], axis=0).repeat(size[1], axis=1)
    return fine.reshape(size[0], image.shape[0], size[1], image.shape[1]).mean(axis=(1, 3))


@given(
    rows=st.integers(1, 90),
    columns=st.integers(1, 90),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    dtype=st.sampled_from(["uint8", "uint16", "int16", "int32", "float32"]),
)
@settings(max_examples=150, deadline=None)
def test_shrinking_takes_the_mean_over_the_area(rows, columns, height, width, dtype):
    height, width = min(height, rows), min(width, columns)
    generator = np.random.default_rng(rows * 100 + columns)
    image = generator.integers(
        -3000 if "u" not in dtype and "f" not in dtype else 0, 250 if dtype == "uint8" else 30000, (rows, columns)
    ).astype(dtype)
    expected = area_mean(image, (height, width))
    assert np.allclose(resize_exact(image, (height, width)), expected, rtol=1e-5, atol=1e-2)
    if dtype in {"uint8", "uint16", "int16"}:
        assert np.abs(resize(image, (height, width)) - expected).max() <= 0.51


@given(rows=st.integers(130, 200), height=st.integers(33, 65))
@settings(max_examples=20, deadline=None)
def test_many_bands_are_summed_as_few_are(rows, height):
    image = np.random.default_rng(rows).integers(0, 65536, (rows, 12)).astype(np.uint16)
    assert np.allclose(resize_exact(image, (height, 5)), area_mean(image, (height, 5)), rtol=1e-5)


def test_growing_is_linear_between_pixel_centres():
    ramp = np.tile(np.arange(8, dtype=np.float32), (4, 1))
    grown = resize(ramp, (4, 16))
    assert np.allclose(grown[0, 1:-1], np.arange(1, 15) / 2 - 0.25)


def test_one_axis_may_shrink_while_the_other_grows():
    image = np.random.default_rng(0).random((40, 6)).astype(np.float32)
    assert np.allclose(resize(image, (8, 12)), resize(area_mean(image, (8, 6)).astype(np.float32), (8, 12)), atol=1e-5)


@pytest.mark.parametrize(
    ("count", "size"), [(17, (23, 40, 40)), (40, (11, 31, 70)), (9, (9, 20, 61)), (5, (50, 90, 33))]
)
def test_a_part_of_a_resized_volume_equals_the_part_of_the_whole_bit_for_bit(count, size):
    values = np.random.default_rng(count).normal(0, 1000, (count, 50, 47)).astype(np.float32)
    whole = resize_volume(values, size)
    for part in (np.s_[3:7, 2:19, 5:30], np.s_[0:1, :, 4:5], np.s_[size[0] - 2 : size[0], 1:, :], np.s_[:, :, :]):
        np.testing.assert_array_equal(resize_volume(values, size, part), whole[part])


@given(rows=st.integers(1, 40), columns=st.integers(1, 60), factor=st.floats(2, 9), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_rows_narrowed_four_at_a_time_are_bit_for_bit_those_narrowed_one_by_one(rows, columns, factor, seed):
    image = np.random.default_rng(seed).random((rows, int(columns * factor) + 1), np.float32) * 65535
    one_by_one = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
    assert np.array_equal(_narrowed(image, columns), one_by_one)
