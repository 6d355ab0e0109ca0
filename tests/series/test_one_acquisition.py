"""One acquisition stays one volume: values that jitter, parts of a concatenation, one object per time point."""

from __future__ import annotations

import io

import numpy as np
import pydicom
import pytest
from series_phantom import AXIAL, COUNT, ROOT, doubled, enhanced, save, stack, uih_mosaic, world

from medvit.errors import DicomRefusal
from medvit.series.policy import SeriesPolicy
from medvit.series.read import read_series

NORM, PLAIN = ["ORIGINAL", "PRIMARY", "M", "NORM"], ["ORIGINAL", "PRIMARY", "M", "ND"]
ODD = lambda first, second: lambda index: second if index % 2 else first  # noqa: E731


def is_world(volume) -> bool:
    grid = np.moveaxis(np.indices(volume.values.shape), 0, -1).astype(float)
    points = grid @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return bool(np.abs(volume.values - world(points)).max() < 0.51)


def parts(*changes: dict, orders: list[list[int]]) -> list[bytes]:
    files = []
    for number, (change, order) in enumerate(zip(changes, orders, strict=True), 1):
        dataset = pydicom.dcmread(io.BytesIO(enhanced(AXIAL, order)))
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.6.{number}"
        for keyword, value in change.items():
            setattr(dataset, keyword, value)
        files.append(save(dataset))
    return files


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"EchoTime": "30"}, {"EchoTime": "30.1"}),
        ({"EchoTime": "2.46"}, {"EchoTime": "2.462"}),
        ({"DiffusionBValue": 1000.0}, {"DiffusionBValue": 1004.0}),
        ({"ImageType": NORM}, {"ImageType": PLAIN}),
        ({"EchoTime": "30", "ImageType": NORM}, {"EchoTime": "30.05", "ImageType": PLAIN}),
    ],
)
def test_values_that_jitter_within_an_acquisition_do_not_split_it(one: dict, other: dict) -> None:
    (volume,) = read_series(stack(change=ODD(one, other)))  # two halves with twice the spacing before
    assert volume.values.shape[0] == COUNT
    assert volume.key == ""
    assert is_world(volume)
    assert "W-JITTER 2 image types, echo times or b-values within one volume" in volume.warnings


def test_a_half_with_another_echo_time_is_no_half_volume_of_its_own() -> None:
    (volume,) = read_series(stack(change=lambda index: {"EchoTime": "30" if index < COUNT // 2 else "30.2"}))
    assert volume.values.shape[0] == COUNT


@pytest.mark.parametrize(
    ("one", "other", "keys"),
    [
        ({"EchoTime": "30"}, {"EchoTime": "60"}, ["echo=1", "echo=2"]),
        ({"EchoTime": "30"}, {"EchoTime": "30.1"}, ["echo=1", "echo=2"]),  # each covers every position
        ({"DiffusionBValue": 0.0}, {"DiffusionBValue": 5.0}, ["b=0", "b=5"]),
        ({"ImageType": NORM}, {"ImageType": ["ORIGINAL", "PRIMARY", "P", "NORM"]}, ["magnitude", "phase"]),
        ({"ImageType": NORM}, {"ImageType": PLAIN}, ["norm", "nd"]),
    ],
)
def test_volumes_that_each_cover_every_position_stay_apart(one: dict, other: dict, keys: list[str]) -> None:
    volumes = read_series(doubled(one, other))
    assert {volume.key for volume in volumes} == set(keys)
    assert all(volume.values.shape[0] == COUNT for volume in volumes)


def test_slices_of_magnitude_and_phase_never_make_one_volume() -> None:
    phase = {"ImageType": ["ORIGINAL", "PRIMARY", "P", "NORM"]}
    volumes = read_series(stack(change=ODD({"ImageType": NORM}, phase)))
    assert [volume.values.shape[0] for volume in volumes] == [COUNT // 2, COUNT // 2]


def test_a_concatenation_is_one_volume_and_one_with_a_missing_part_is_refused() -> None:
    part = {"ConcatenationUID": f"{ROOT}.5", "InConcatenationTotalNumber": 2}
    first, last = [0, 1, 2, 3], [4, 5, 6, 7]
    both = parts({**part, "InConcatenationNumber": 1}, {**part, "InConcatenationNumber": 2}, orders=[first, last])
    (volume,) = read_series(both)
    assert volume.values.shape[0] == COUNT
    assert is_world(volume)
    for kept, missing in ((both[:1], 2), (both[1:], 1)):
        with pytest.raises(DicomRefusal, match=f"E-PARTS part {missing} of 2 of a concatenation is missing"):
            read_series(kept)  # half a volume, without a word, before


@pytest.mark.parametrize(
    "times",
    [
        [{"InstanceNumber": "2"}, {"InstanceNumber": "1"}],
        [{"AcquisitionDateTime": "20200101120500"}, {"AcquisitionDateTime": "20200101120000"}],
        [{"AcquisitionTime": "120500"}, {"AcquisitionTime": "120000"}],
    ],
)
def test_one_multi_frame_object_for_each_time_point_is_one_volume_each_in_order(times: list[dict]) -> None:
    whole = list(range(COUNT))
    volumes = read_series(parts(*times, orders=[whole, whole]))  # E-DUPPOS before
    assert [(volume.key, volume.files[0]) for volume in volumes] == [("t=1", 1), ("t=2", 0)]
    assert all(map(is_world, volumes))


def test_a_mosaic_of_another_maker_is_refused_as_a_mosaic_also_without_a_position() -> None:
    dataset = pydicom.dcmread(io.BytesIO(uih_mosaic()))
    del dataset.ImagePositionPatient
    with pytest.raises(DicomRefusal, match=r"E-MOSAIC .*a mosaic without the Siemens header"):
        read_series([save(dataset)])


def test_a_few_pixels_above_their_bits_are_clipped_and_told_and_the_policy_may_refuse_them() -> None:
    pixels = np.minimum(AXIAL.pixels(3), 4095)
    pixels[5, 7] = 65535
    bits = {"BitsStored": 12, "HighBit": 11}
    files = stack(change=lambda index: {**bits, **({"pixels": pixels} if index == 3 else {})})
    (volume,) = read_series(files, SeriesPolicy(beyond_bits=0.01))
    assert volume.values[3, 5, 7] == 4095
    assert "W-BITS 1 of 480 pixels above BitsStored 12 are clipped to it" in volume.warnings
    with pytest.raises(DicomRefusal, match="E-BITS"):
        read_series(files, SeriesPolicy(beyond_bits=0.001))
