"""The world phantom reads back right from any plane, in any file order, classic and enhanced (RE-03)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from series_phantom import AXIAL, CORONAL, OBLIQUE, SAGITTAL, Plane, enhanced, mosaic, stack, tilted, world

from medvit.series.read import SeriesPolicy, read_series
from medvit.types import Volume

MATRIX = (5, 7)
QUICK = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def planes(draw: st.DrawFn) -> Plane:
    """Any plane: axial, sagittal, coronal or turned about all three axes, any spacings, near or far from the centre."""
    angles = draw(st.one_of(st.just((0.0, 0.0, 0.0)), st.tuples(*[st.floats(-np.pi, np.pi)] * 3)))
    base = draw(st.sampled_from([AXIAL, SAGITTAL, CORONAL]))
    x, y, z = angles
    turn = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    turn = turn @ np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    return Plane(
        along_row=tuple(map(float, turn @ base.along_row)),
        along_column=tuple(map(float, turn @ base.along_column)),
        origin=draw(st.tuples(*[st.floats(-150, 150)] * 3)),
        spacing=draw(st.tuples(st.floats(0.2, 5), st.floats(0.2, 5))),
        step=draw(st.floats(0.3, 9)),
        shape=MATRIX,
        count=draw(st.integers(3, 6)),
    )


def world_at(volume: Volume) -> np.ndarray:
    index = np.moveaxis(np.indices(volume.values.shape), 0, -1)
    return world(index @ volume.affine[:3, :3].T + volume.affine[:3, 3])


@QUICK
@given(plane=planes(), order=st.randoms(use_true_random=False))
def test_a_shuffled_classic_stack_shows_the_world_everywhere(plane: Plane, order) -> None:
    files = stack(plane)
    shuffled = list(range(len(files)))
    order.shuffle(shuffled)
    (volume,) = read_series([files[i] for i in shuffled])
    assert np.abs(volume.values - world_at(volume)).max() < 1
    assert [shuffled[i] for i in volume.files] == list(range(plane.count)), "slices ascend along the normal"


@QUICK
@given(plane=planes(), order=st.randoms(use_true_random=False))
def test_enhanced_frames_in_any_order_show_the_world_everywhere(plane: Plane, order) -> None:
    frames = list(range(plane.count))
    order.shuffle(frames)
    (volume,) = read_series([enhanced(plane, frames, rescale=lambda i: (0.25 * (i % 3 + 1), 8.0 * i))])
    assert np.abs(volume.values - world_at(volume)).max() < 1


@QUICK
@given(plane=planes(), downwards=st.booleans())
def test_mosaic_tiles_show_the_world_everywhere(plane: Plane, downwards: bool) -> None:
    (volume,) = read_series([mosaic(plane, downwards=downwards)])
    assert np.abs(volume.values - world_at(volume)).max() < 1


@QUICK
@given(plane=planes())
def test_the_affine_has_the_spacings_as_lengths_and_ascends(plane: Plane) -> None:
    (volume,) = read_series(stack(plane))
    lengths = np.linalg.norm(volume.affine[:3, :3], axis=0)
    assert lengths == pytest.approx([plane.step, *plane.spacing], rel=1e-5)
    assert volume.affine[:3, 0] @ plane.normal > 0
    assert volume.affine[:3, 3] == pytest.approx(plane.position(0), abs=1e-6)


@pytest.mark.parametrize("plane", [AXIAL, OBLIQUE])
def test_a_resampled_gap_and_a_resampled_tilt_keep_the_world_inside(plane: Plane) -> None:
    policy = SeriesPolicy(gap="resample", tilt="resample")
    (gap,) = read_series(stack(plane, indices=(0, 1, 2, 5, 6, 7)), policy)
    assert len(gap.values) == plane.count
    assert np.abs(gap.values - world_at(gap)).max() < 1
    (tilt,) = read_series(tilted(), policy)
    inside = tilt.values > tilt.values.min()
    assert np.abs(tilt.values - world_at(tilt))[inside].max() < 1
    assert inside.mean() > 0.6
    step, normal = tilt.affine[:3, 0], np.cross(tilt.affine[:3, 2], tilt.affine[:3, 1])
    assert np.linalg.norm(np.cross(step, normal)) < 1e-6, "the tilt is gone from the affine"
    for volume in (gap, tilt):
        assert any(warning.startswith("W-RESAMPLED") for warning in volume.warnings)
