"""Maps go back to where they came from: cropped, padded, stretched, turned or flipped, on films, volumes and slices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.explain.overlay import nifti, on_original, overlay
from medvit.preprocess import FilmPreprocess, VolumePreprocess
from medvit.preprocess.nifti import read_nifti
from medvit.preprocess.placement import Placement
from medvit.types import Facts, Film, Volume

PATCH = 4


def cells(image, patch):
    """The mean of every patch: a map that is bright where the image is."""
    pool = torch.nn.functional.avg_pool2d if image.ndim == 2 else torch.nn.functional.avg_pool3d
    return pool(torch.from_numpy(image.astype(np.float32))[None, None], patch)[0, 0]


def peak(values):
    return np.array(np.unravel_index(values.argmax(), values.shape))


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("border", ["none", "black"])
@pytest.mark.parametrize("spot", [(40, 60), (95, 130), (30, 150)])
def test_the_peak_of_a_film_is_found_again_behind_crop_pad_and_stretch(fit, border, spot):
    samples = np.zeros((120, 200), np.uint16)
    samples[20:110, 30:180] = 500  # the collimated border around it is black
    samples[spot[0] - 4 : spot[0] + 5, spot[1] - 4 : spot[1] + 5] = 4000
    step = FilmPreprocess((64, 64), fit=fit, border=border, voi={"voi": "none"})
    made = step.prepare(Film(samples, 1 / 4095, 0.0, Facts()))
    back = on_original(cells(made.pixels[0, 0], PATCH), made.placement)
    assert back.shape == samples.shape
    reach = PATCH * np.divide(made.placement.extent, made.placement.inner)
    assert (np.abs(peak(back) - spot) <= reach).all()
    if border == "black":
        assert back[:10].max() == back[:, :15].max() == 0  # never seen by the model


@given(
    order=st.sampled_from([(2, 1, 0), (0, 2, 1), (1, 2, 0), (2, 0, 1)]),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    orientation=st.sampled_from(["axial", "acquired"]),
    spot=st.tuples(*[st.integers(3, 12)] * 3),
)
@settings(max_examples=40, deadline=None)
def test_the_peak_of_a_volume_is_found_again_whatever_the_scanner_did(order, signs, orientation, spot):
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (along, sign) in enumerate(zip(order, signs, strict=True)):
        affine[along, axis] = sign
    values = np.full((16, 16, 16), 10, np.float32)
    values[tuple(slice(n - 1, n + 2) for n in spot)] = 100
    step = VolumePreprocess(size=(16, 16, 16), orientation=orientation, intensity="window", limits=(0, 100))
    made = step.prepare(Volume(values, affine, Facts()))
    back = on_original(cells(made.pixels[0, 0], 2), made.placement)
    assert back.shape == values.shape
    assert (np.abs(peak(back) - spot) <= 2).all()


def test_the_maps_of_a_bag_of_slices_lie_on_their_slices():
    values = np.full((12, 32, 32), 10, np.float32)
    values[8, 20:24, 5:9] = 100
    affine = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [-3.0, 0, 0, 0], [0, 0, 0, 1]])  # slices run from head to foot
    step = VolumePreprocess(size=(0, 32, 32), mode="slices", intensity="window", limits=(0, 100))
    made = step.prepare(Volume(values, affine, Facts()))
    maps = torch.stack([cells(image[0], PATCH) for image in made.pixels])
    back = on_original(maps, made.placement)
    assert peak(back)[0] == 8
    assert (np.abs(peak(back)[1:] - (21, 6)) <= PATCH).all()


def test_a_placement_that_crops_turns_and_flips_is_undone():
    placement = Placement((40, 60), (5, 10), (40, 24), (20, 12), (-2, 4), (16, 20), axes=(1, 0), flip=(True, False))
    model = np.zeros((16, 20), np.float32)
    model[9, 11] = 1
    expected = placement.to_original(np.array([9, 11]))
    back = placement.map_to_original(model)
    assert (np.abs(peak(back) - expected) <= 1).all()


def test_a_map_written_as_nifti_lies_on_its_volume():
    import nibabel

    affine = np.array([[0, 0.2, 2.0, -70], [0, 2.0, -0.2, 30], [5.0, 0, 0, -40], [0, 0, 0, 1]])
    values = np.zeros((4, 5, 6), np.float32)
    values[3, 1, 2] = 7
    data = nifti(values, affine)
    volume = read_nifti(data)[0]
    np.testing.assert_array_equal(volume.values, values)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    image = nibabel.Nifti1Image.from_bytes(data)
    place = image.affine @ [*np.argwhere(image.get_fdata() == 7)[0], 1]
    left, back, head, _ = affine @ [3, 1, 2, 1]
    np.testing.assert_allclose(place[:3], [-left, -back, head], atol=1e-4)


def test_only_what_speaks_for_the_output_is_painted():
    grey = np.full((8, 8), 100, np.uint8)
    saliency = torch.tensor([[-5.0, 0.0], [0.0, 1.0]])
    shown = overlay(grey, saliency)
    np.testing.assert_array_equal(shown[:, :8], 100)
    assert (shown[:3, 8:11] == 100).all()
    assert (shown[5:, 13:, 0] > 100).all()
