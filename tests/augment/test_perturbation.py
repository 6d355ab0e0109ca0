from __future__ import annotations

import numpy as np
import pytest

from medvit.augment.perturbation import SEVERITIES, UNITS, Perturbation, every
from medvit.errors import ConfigError
from medvit.phantom.foreign import SETS, foreign

WHERE = np.arange(3), np.zeros(3, np.int64)


def films(dtype=np.uint8, shape=(3, 1, 40, 48)):
    steep = np.linspace(0.1, 0.9, shape[-1]) * np.linspace(0.5, 1, shape[-2])[:, None]
    steep[10:14, 20:30] = 1
    return np.broadcast_to((steep * np.iinfo(dtype).max).astype(dtype), shape).copy()


def apart(one, other):
    return np.abs(one.astype(float) - other).mean() / np.iinfo(one.dtype).max


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("way", every(), ids=str)
def test_a_disturbance_is_the_same_every_time_and_keeps_shape_and_type(way, dtype):
    image = films(dtype)
    before = image.copy()
    once, twice = way(image, 1, 0, *WHERE), way(image, 1, 0, *WHERE)
    np.testing.assert_array_equal(once, twice)
    np.testing.assert_array_equal(image, before)
    assert once.shape == image.shape
    assert once.dtype == dtype
    assert apart(once, image) > 0.001
    alone = way(image[1:2], 1, 0, WHERE[0][1:2], WHERE[1][1:2])
    np.testing.assert_array_equal(alone[0], once[1])


@pytest.mark.parametrize(
    "kind", [kind for kind, levels in SEVERITIES.items() if len(levels) > 1 and kind != "contrast"]
)
def test_the_second_severity_disturbs_more_than_the_first(kind):
    image = films()
    mild, strong = (apart(Perturbation(kind, level)(image, 0, 0, *WHERE), image) for level in SEVERITIES[kind])
    assert strong > mild


def test_polarity_twice_is_the_film_and_depth_does_not_change_what_happens():
    image = films()
    flip = Perturbation("polarity", 1)
    np.testing.assert_array_equal(flip(flip(image, 0, 0, *WHERE), 0, 0, *WHERE), image)
    deep = films(np.uint16)
    for way in every():
        shallow, found = way(image, 0, 0, *WHERE), way(deep, 0, 0, *WHERE)
        assert np.abs(shallow / 255 - found / 65535).mean() < 0.02, way


def test_volumes_are_disturbed_slice_by_slice():
    volume = films(shape=(3, 2, 4, 40, 48))
    turned = Perturbation("rotation", 5)(volume, 0, 0, *WHERE)
    np.testing.assert_array_equal(turned[0, 0, 0], Perturbation("rotation", 5)(films(), 0, 0, *WHERE)[0, 0])


def test_rotation_is_anticlockwise():
    image = np.zeros((1, 1, 41, 41), np.uint8)
    image[0, 0, 20, 30:40] = 255  # a hand to the right rises
    turned = Perturbation("rotation", 15)(image, 0, 0, WHERE[0][:1], WHERE[1][:1])[0, 0]
    rows, columns = np.nonzero(turned > 60)
    assert rows[columns > 30].mean() < 18


def test_a_misspelt_disturbance_names_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean rotation\?"):
        Perturbation("rotatoin", 5)
    assert set(UNITS) == set(SEVERITIES)


@pytest.mark.parametrize("name", SETS)
def test_foreign_images_are_the_same_every_time_and_fill_the_range(name):
    once, twice = foreign(name, 3, (64, 56), 4), foreign(name, 3, (64, 56), 4)
    np.testing.assert_array_equal(once, twice)
    assert once.shape == (3, 64, 56)
    assert once.dtype == np.uint8
    assert once.max() > 150
    assert once.min() < 60
    assert not np.array_equal(once[0], once[1])


def test_an_unknown_foreign_set_is_refused():
    with pytest.raises(ConfigError, match="expected one of hand, lateral"):
        foreign("foot", 1, (8, 8))
