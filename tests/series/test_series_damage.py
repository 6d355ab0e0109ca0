"""Damaged bytes are read or refused by name; nothing else ever comes out (found by fuzzing, and more of the same)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from series_phantom import AXIAL, Plane, dataset_of, doubled, enhanced, mosaic, philips, save, stack

from medvit.errors import DicomRefusal
from medvit.series.read import SeriesPolicy, read_series

SMALL = Plane(shape=(5, 7), count=4)
SEEDS = {
    "classic": stack(SMALL),
    "enhanced": [enhanced(SMALL, rescale=lambda _: (0.5, 1.0))],
    "mosaic": [mosaic(SMALL)],
    "philips": philips(),
    "diffusion": doubled({"DiffusionBValue": 0.0}, {"DiffusionBValue": 9.0}),
}
LENIENT = SeriesPolicy(gap="resample", tilt="resample", min_slices=2, colour="luminance", philips="floating_point")
PATCHES = st.one_of(
    st.binary(min_size=1, max_size=4), st.sampled_from([b"\xff\xff\xff\xff", b"NaN ", b"1e99", b"\\\\", b"SQ", b"UN"])
)


@pytest.mark.parametrize("seed", SEEDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_read_or_refused_and_what_is_read_is_finite(seed: str, data: st.DataObject) -> None:
    files = [bytearray(file) for file in SEEDS[seed]]
    for _ in range(data.draw(st.integers(1, 3))):
        file = files[data.draw(st.integers(0, len(files) - 1))]
        patch = data.draw(PATCHES)
        at = data.draw(st.integers(132, len(file) - len(patch)))
        file[at : at + len(patch)] = patch
    try:
        volumes = read_series([bytes(file) for file in files], data.draw(st.sampled_from([SeriesPolicy(), LENIENT])))
    except DicomRefusal as refused:
        assert refused.code[:2] in ("E-", "Q-")  # noqa: PT017 - both outcomes are right
        return
    for volume in volumes:
        assert np.isfinite(volume.affine).all()
        assert np.isfinite(volume.values).all()
        assert abs(np.linalg.det(volume.affine)) > 0


def test_a_number_in_another_script_is_no_instance_number() -> None:
    """Superscript two is a digit for str.isdigit() and none for int()."""
    files = stack(SMALL, lambda _: {"InstanceNumber": "\u00b2", "ImagesInAcquisition": "\u00b2"})
    assert len(read_series(files)) == 1


@pytest.mark.parametrize("name", [b"\x20\x00\x13\x91SQ", b"\x28\x00\x10\x91SQ"])
def test_a_functional_group_that_is_no_sequence_is_refused(name: bytes) -> None:
    (file,) = SEEDS["enhanced"]
    assert name in file
    with pytest.raises(DicomRefusal, match=r"E-PARSE|E-TRUNC|E-TAG"):
        read_series([file.replace(name, name[:4] + b"OB")])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_b_value_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(DicomRefusal, match=r"E-TAG .*\(0018,9087\)"):
        read_series(stack(SMALL, lambda _: {"DiffusionBValue": bad}))


def test_a_philips_scale_that_is_not_finite_is_not_used() -> None:
    files = []
    for index in range(4):
        dataset = dataset_of(AXIAL, index)
        dataset.add_new(0x20050010, "LO", "Philips MR Imaging DD 001")
        dataset.add_new(0x2005100E, "FL", float("nan"))
        files.append(save(dataset))
    (volume,) = read_series(files, LENIENT)
    assert np.array_equal(volume.values[0], AXIAL.pixels(0))


def test_a_slice_far_away_is_a_gap_even_where_gaps_are_resampled() -> None:
    with pytest.raises(DicomRefusal, match="E-GAP"):
        read_series(stack(indices=(0, 1, 2, 3, 100_000)), LENIENT)


@pytest.mark.parametrize("name", ["RescaleSlope", "RescaleIntercept"])
def test_a_rescale_beyond_float32_is_refused(name: str) -> None:
    files = stack(SMALL, lambda _: {"RescaleSlope": "1", "RescaleIntercept": "0"} | {name: "1e40"})
    with pytest.raises(DicomRefusal, match="E-TAG RescaleSlope and intercept are"):
        read_series(files)
