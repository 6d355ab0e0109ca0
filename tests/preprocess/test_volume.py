"""The volume's way to the model input: patient axes, spacing, foreground intensity, slices, and the way back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit import preprocess
from medvit.errors import ConfigError, DicomRefusal
from medvit.preprocess import VolumePreprocess
from medvit.types import Facts, Volume

SHAPE = (7, 20, 24)


def patient(affine, shape=SHAPE):
    """A volume whose values tell where a voxel lies: brighter towards head, then back, then left."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    place = index @ affine[:3, :3].T + affine[:3, 3]
    place = (place - place.min(axis=(0, 1, 2))) / np.ptp(place, axis=(0, 1, 2))
    values = 100 + 4 * place[..., 0] + 20 * place[..., 1] + 100 * place[..., 2]
    return Volume(values.astype(np.float32), affine, Facts())


def axes(order, signs, spacing=(4.0, 1.0, 1.0)):
    """An affine whose index axis i runs along patient axis order[i] (0 left, 1 back, 2 head)."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (along, sign) in enumerate(zip(order, signs, strict=True)):
        affine[along, axis] = sign * spacing[axis]
    return affine


ORDERS = [(2, 1, 0), (0, 2, 1), (1, 2, 0), (2, 0, 1)]
SIGNS = st.tuples(*[st.sampled_from([-1, 1])] * 3)


@given(order=st.sampled_from(ORDERS), signs=SIGNS)
@settings(max_examples=40, deadline=None)
def test_axial_orientation_runs_to_head_back_and_left_whatever_the_scanner_did(order, signs):
    pre = VolumePreprocess(size=(16, 16, 16), spacing_mm=(1, 1, 1), intensity="window", limits=(0, 300))
    found = pre.integers(patient(axes(order, signs, (1.0, 1.0, 1.0)), (16, 16, 16)))[0].astype(float)
    assert (np.diff(found.mean(axis=(1, 2))) > 0).all()
    assert (np.diff(found.mean(axis=(0, 2))) > 0).all()
    assert (np.diff(found.mean(axis=(0, 1))) > 0).all()


@pytest.mark.parametrize(
    ("order", "rows_to", "columns_to"),
    [
        ((2, 1, 0), ("back", 1), ("left", 1)),
        ((0, 2, 1), ("head", -1), ("back", 1)),
        ((1, 2, 0), ("head", -1), ("left", 1)),
    ],
)
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, -1), (1, -1, 1)])
def test_acquired_orientation_keeps_the_slices_and_shows_them_as_a_reader_expects(order, rows_to, columns_to, signs):
    """Axial: front at the top, patient's right at the left. Sagittal and coronal: head at the top."""
    pre = VolumePreprocess(size=(0, 16, 16), mode="slices", orientation="acquired", intensity="window", limits=(0, 300))
    found = pre.integers(patient(axes(order, signs, (3.0, 1.0, 1.0)), (5, 16, 16)))[:, 0].astype(float)
    assert found.shape == (5, 16, 16)
    rows, columns = found.mean(axis=(0, 2)), found.mean(axis=(0, 1))
    assert (np.diff(rows) * rows_to[1] > 0).all()
    assert (np.diff(columns) * columns_to[1] > 0).all()
    assert (np.diff(found.mean(axis=(1, 2))) > 0).all()


def test_a_volume_of_which_two_axes_lie_nearest_to_one_axis_of_the_patient_is_not_turned():
    """Libraries disagree on such volumes (findings/closest_orientation_oblique.sh)."""
    affine = np.eye(4)
    affine[:3, :3] = [[0.31, -0.63, 0.72], [-0.73, -0.64, -0.24], [0.61, -0.45, -0.66]]
    with pytest.raises(DicomRefusal, match="E-GEOM"):
        VolumePreprocess().integers(patient(affine))


@given(
    order=st.sampled_from(ORDERS),
    signs=SIGNS,
    spacing=st.tuples(*[st.floats(0.5, 6)] * 3),
    size=st.tuples(*[st.integers(4, 40)] * 3),
    wanted=st.sampled_from([(None, None, None), (1.0, 1.0, 1.0), (None, 2.0, 2.0)]),
    orientation=st.sampled_from(["axial", "acquired"]),
    mode=st.sampled_from(["volume", "slices"]),
)
@settings(max_examples=60, deadline=None)
def test_points_return_to_their_voxel(order, signs, spacing, size, wanted, orientation, mode):
    size = (0, *size[1:]) if mode == "slices" else size
    pre = VolumePreprocess(size=size, spacing_mm=wanted, orientation=orientation, mode=mode)
    placement = pre.prepare(patient(axes(order, signs, spacing))).placement
    points = np.array([[0.0, 0, 0], [6, 19, 23], [2.5, 3, 20]])
    assert np.allclose(placement.to_original(placement.to_model(points)), points, atol=1e-6)


def test_a_bright_voxel_is_found_again_in_the_scanners_index():
    volume = patient(axes((1, 2, 0), (-1, 1, -1), (3.0, 1.0, 1.0)), (12, 30, 40))
    volume.values[8:10, 5:9, 30:34] = 2000
    pre = VolumePreprocess(size=(24, 32, 32), spacing_mm=1.5, intensity="window", limits=(0, 2000))
    prepared = pre.prepare(volume)
    back = prepared.placement.map_to_original(prepared.pixels[0, 0].astype(np.float32))
    assert back.shape == volume.values.shape
    found = np.unravel_index(back.argmax(), back.shape)
    assert all(low - 1 <= at <= high for at, low, high in zip(found, (8, 5, 30), (10, 9, 34), strict=True))


def test_spacing_is_isotropic_and_the_middle_stays_in_the_middle():
    values = np.zeros((10, 40, 40), np.float32)
    values[4:6, 16:24, 16:24] = 500
    values[0, 0, 0] = 1
    volume = Volume(values, axes((2, 1, 0), (1, 1, 1), (4.0, 1.0, 1.0)), Facts())
    pre = VolumePreprocess(size=(32, 32, 32), spacing_mm=1.0, intensity="window", limits=(0, 500))
    mass = pre.integers(volume)[0].astype(float)
    for axis in range(3):
        profile = mass.sum(axis=tuple(other for other in range(3) if other != axis))
        assert profile @ np.arange(32) / profile.sum() == pytest.approx(15.5, abs=0.01)
        assert (profile > profile.max() / 2).sum() == 8


def test_percentile_and_zscore_do_not_depend_on_the_scanners_scale():
    volume = patient(axes((2, 1, 0), (1, 1, 1)))
    for intensity in ("percentile", "zscore"):
        pre = VolumePreprocess(size=(7, 20, 24), intensity=intensity)
        scaled = Volume(volume.values * 7.5, volume.affine, volume.facts)
        difference = pre.integers(volume).astype(int) - pre.integers(scaled).astype(int)
        assert np.abs(difference).max() <= 64


def test_zscore_of_the_foreground_is_what_display_values_say():
    generator = np.random.default_rng(0)
    values = np.zeros((8, 32, 32), np.float32)
    values[:, 8:24, 8:24] = generator.normal(300, 20, (8, 16, 16))
    pre = VolumePreprocess(size=(8, 32, 32), intensity="zscore")
    found = pre.integers(Volume(values, axes((2, 1, 0), (1, 1, 1)), Facts()))[0, :, 8:24, 8:24] / 65535
    z_scores = found * 8 - 3
    assert z_scores.mean() == pytest.approx(0, abs=0.02)
    assert z_scores.std() == pytest.approx(1, abs=0.02)


def test_slices_are_spread_evenly_and_know_where_they_lie():
    volume = patient(axes((2, 1, 0), (1, 1, 1), (5.0, 1.0, 1.0)), (9, 20, 20))
    prepared = VolumePreprocess(size=(3, 16, 16), mode="slices").prepare(volume)
    assert prepared.pixels.shape == (3, 1, 16, 16)
    assert prepared.position_mm.tolist() == [-15.0, 0.0, 15.0]
    everything = VolumePreprocess(size=(0, 16, 16), mode="slices").prepare(volume)
    assert np.array_equal(everything.pixels[[1, 4, 7]], prepared.pixels)
    assert prepared.placement.to_original(np.array([[2.0, 0, 0]]))[0, 0] == pytest.approx(7)


def test_json_round_trip_keeps_the_digest_and_the_tensor():
    pre = VolumePreprocess(
        size=[5, 12, 14], spacing_mm=[None, 2, 2], intensity="zscore", orientation="acquired", dtype="uint8"
    )
    again = preprocess.from_json(json.loads(json.dumps(pre.to_json())))
    volume = patient(axes((2, 1, 0), (1, 1, 1)))
    assert again == pre
    assert again.digest == pre.digest != VolumePreprocess().digest
    assert np.array_equal(again(volume), pre(volume))


def test_a_flat_volume_is_refused():
    flat = Volume(np.full(SHAPE, 5, np.float32), np.eye(4), Facts())
    with pytest.raises(DicomRefusal, match="E-CONST"):
        VolumePreprocess().integers(flat)


def test_all_wrong_settings_are_told_in_one_message():
    with pytest.raises(ConfigError) as caught:
        VolumePreprocess(
            size=(0, 4, 4),
            mode="cube",
            orientation="up",
            intensity="max",
            limits=(9, 1),
            spacing_mm=(0, 1, 1),
            series={"gaps": 1},
        )
    words = ("size", "mode", "orientation", "intensity", "limits", "spacing_mm", "series")
    assert all(word in str(caught.value) for word in words)


def test_a_nifti_without_a_place_in_the_patient_is_refused():
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(np.random.default_rng(0).random(SHAPE).astype(np.float32), None)
    image.header.set_sform(None, code=0)
    image.header.set_qform(None, code=0)
    with pytest.raises(DicomRefusal, match="E-GEOM"):
        VolumePreprocess().integers(image.to_bytes())


def test_one_time_point_of_a_four_dimensional_nifti_is_named(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    values = np.random.default_rng(0).random((10, 12, 6, 3)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 3, 1])), tmp_path / "t.nii.gz")
    volume = VolumePreprocess().read(tmp_path / "t.nii.gz", "t=2")
    assert np.array_equal(volume.values, values[..., 2].T)
    with pytest.raises(DicomRefusal, match=r"E-KEY .*t=0, t=1, t=2"):
        VolumePreprocess().read(tmp_path / "t.nii.gz", "t=9")


@pytest.mark.parametrize("harm", [lambda raw: raw[: len(raw) // 2], lambda raw: raw[:600] + b"\xff" * 99 + raw[699:]])
def test_a_damaged_compressed_nifti_is_refused_by_its_code(tmp_path, harm):
    """It ended the whole build of a cache with an EOFError."""
    nibabel = pytest.importorskip("nibabel")
    values = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "whole.nii.gz")
    raw = harm((tmp_path / "whole.nii.gz").read_bytes())
    with pytest.raises(DicomRefusal, match="E-IMAGE a NIfTI that does not read"):
        VolumePreprocess(size=(8, 8, 8)).prepare(raw)


def test_what_a_spacing_crops_away_is_told_where_it_is_more_than_air():
    """A brain of 150 mm in 32 slices of 1 mm lost four fifths without a word."""
    values = np.zeros((150, 40, 40), np.float32)
    values[10:140, 12:28, 12:28] = np.random.default_rng(0).uniform(80, 120, (130, 16, 16))
    volume = Volume(values, axes((2, 1, 0), (1, 1, 1), (1.0, 1.0, 1.0)), Facts())
    (told,) = VolumePreprocess(size=(32, 40, 40), spacing_mm=(1, 1, 1)).prepare(volume).warnings
    assert told.startswith("W-CROP 75%")
    for quiet in (
        VolumePreprocess(size=(150, 20, 20), spacing_mm=(1, 1, 1)),  # air alone is cut
        VolumePreprocess(size=(32, 20, 20)),
        VolumePreprocess(size=(32, 40, 40), spacing_mm=(1, 1, 1), mode="slices"),
    ):
        assert quiet.prepare(volume).warnings == ()


def test_percentiles_beyond_0_to_100_are_refused_when_they_are_given():
    """Limits meant for a window ended the build of the cache with an IndexError."""
    with pytest.raises(ConfigError, match=r"limits=\(0\.0, 300\.0\): expected low < high, percentiles"):
        VolumePreprocess(limits=(0, 300))
    VolumePreprocess(limits=(0, 300), intensity="window")
