"""Choices and corners of read_series that are no row of the table."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from series_cases import CASES
from series_phantom import AXIAL, COUNT, ROOT, Plane, base, csa_header, dataset_of, doubled, philips, save, stack, world

from medvit.errors import ConfigError, DicomRefusal
from medvit.series.csa import read_csa
from medvit.series.geometry import Tolerance
from medvit.series.geometry import stack as lie
from medvit.series.read import SeriesPolicy, plan_series, read_series, read_volume


def refusal(files: list[bytes], **policy: object) -> DicomRefusal:
    with pytest.raises(DicomRefusal) as caught:
        read_series(files, SeriesPolicy(**policy))
    return caught.value


def test_decimal_strings_longer_than_16_characters_lose_nothing() -> None:
    """21 characters are no valid DS, but scanners write them; the digits that a cut at 16 would lose move the slice."""
    plane = Plane(origin=(-123456.78901234567, 0.0, 0.0))

    def long(index: int) -> dict[str, list[str]]:
        x, y, z = plane.position(index)
        return {"ImagePositionPatient": [f"{x:.14f}", f"{y:.18f}", f"{z:.18f}"]}

    files = stack(AXIAL, long)
    (volume,) = read_series(files)
    assert len(f"{plane.origin[0]:.14f}") == 22
    assert volume.affine[0, 3] == plane.origin[0]


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("B076", ["echo=1", "echo=2"]),
        ("B077", ["b=0", "b=1000"]),
        ("B078", ["magnitude", "phase"]),
        ("B079", ["t=1", "t=2"]),
    ],
)
def test_volumes_of_one_series_are_told_apart_by_name_or_refused_by_name(name: str, keys: list[str]) -> None:
    files = CASES[name].build()
    assert [volume.key for volume in read_series(files)] == keys
    assert refusal(files, several="refuse").code == "E-4D"


def test_nested_time_points_of_two_echoes_give_four_volumes_in_order() -> None:
    files = []
    for time in (1, 2):
        for echo in (1, 2):
            scale = (1.0, 0.5, 0.25, 0.125)[2 * (time - 1) + echo - 1]
            for index in range(COUNT):
                changes = {"EchoTime": str(30 * echo), "TemporalPositionIdentifier": str(time)}
                changes |= {
                    "SOPInstanceUID": f"{ROOT}.{time}.{echo}.{index}",
                    "pixels": (AXIAL.pixels(index) * scale).astype(np.uint16),
                }
                files.append(save(dataset_of(AXIAL, index, **changes)))
    volumes = read_series(files[::-1])
    assert [volume.key for volume in volumes] == ["echo=1,t=1", "echo=1,t=2", "echo=2,t=1", "echo=2,t=2"]
    first = [float(volume.values[0, 0, 0]) for volume in volumes]
    assert first == [float(int(AXIAL.pixels(0)[0, 0] * scale)) for scale in (1.0, 0.25, 0.5, 0.125)]


@pytest.mark.parametrize("by_position", [False, True])
def test_time_points_known_by_instance_number_alone_are_split_with_a_warning(by_position: bool) -> None:
    def number(index: int, time: int) -> str:
        return str(2 * index + time + 1 if by_position else time * COUNT + index + 1)

    files = []
    for index in range(COUNT):
        dim = (AXIAL.pixels(index) * 0.5).astype(np.uint16)
        files.append(save(dataset_of(AXIAL, index, InstanceNumber=number(index, 0))))
        files.append(
            save(
                dataset_of(
                    AXIAL, index, InstanceNumber=number(index, 1), SOPInstanceUID=f"{ROOT}.8.{index}", pixels=dim
                )
            )
        )
    first, second = read_series(files)
    assert (first.key, second.key) == ("t=1", "t=2")
    assert first.values.mean() == pytest.approx(2 * second.values.mean(), rel=1e-3)
    assert first.warnings[0].startswith("W-ORDER")


def test_repeated_positions_that_nothing_tells_apart_are_refused() -> None:
    same = doubled({"InstanceNumber": "1"}, {})
    scrambled = [
        save(dataset_of(AXIAL, index, InstanceNumber=str(number), SOPInstanceUID=f"{ROOT}.8.{number}"))
        for index, number in [(0, 1), (1, 2), (0, 3), (2, 4), (2, 5), (1, 6)]
    ]
    assert refusal(scrambled).code == "E-DUPPOS"
    assert [volume.key for volume in read_series(same)] == ["t=1", "t=2"]
    equal = doubled({"InstanceNumber": "1"}, {})[:2] * 1 + stack(indices=(1, 2))
    assert refusal(equal).code == "E-DUPPOS"


def test_a_time_point_that_lacks_a_slice_is_refused_and_never_filled_from_another() -> None:
    files = doubled({"TemporalPositionIdentifier": "1"}, {"TemporalPositionIdentifier": "2"})
    assert refusal(files[:-1]).code == "E-DUPPOS"


def test_a_slice_with_a_slightly_turned_orientation_is_no_localizer() -> None:
    turned = ["0.9962", "0.0872", "0", "-0.0872", "0.9962", "0"]
    files = stack(change=lambda i: {"ImageOrientationPatient": turned} if i == 7 else {})
    assert refusal(files).code == "E-ORIENT"


def test_philips_values_are_as_displayed_or_floating_point_as_asked() -> None:
    (shown,), (floating,) = read_series(philips()), read_series(philips(), SeriesPolicy(philips="floating_point"))
    assert np.allclose(floating.values, shown.values / (0.5 * 0.004), rtol=1e-6)
    assert any("DV" in warning for warning in shown.warnings)
    assert any("FP" in warning for warning in floating.warnings)


def test_colour_is_refused_or_becomes_luminance() -> None:
    def red(index: int) -> dict[str, object]:
        return {"ImagePositionPatient": ["0", "0", str(3 * index)]}

    files = []
    for index in range(4):
        dataset = dataset_of(AXIAL, index, **red(index))
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.PixelData = bytes((200, 100, 50)) * (dataset.Rows * dataset.Columns)
        files.append(save(dataset))
    assert refusal(files).code == "E-COLOUR"
    (volume,) = read_series(files, SeriesPolicy(colour="luminance"))
    assert np.allclose(volume.values, 0.299 * 200 + 0.587 * 100 + 0.114 * 50, rtol=1e-6)


def test_two_slices_may_be_a_volume_where_the_policy_says_so_but_never_one() -> None:
    (volume,) = read_series(stack(indices=(0, 1)), SeriesPolicy(min_slices=2))
    assert volume.values.shape == (2, *AXIAL.shape)
    assert refusal(stack(indices=(0,)), min_slices=1).code == "E-SHAPE"


def test_a_mosaic_is_refused_where_the_policy_says_so() -> None:
    assert refusal(CASES["B080-csa"].build(), mosaic="refuse").code == "E-MOSAIC"


def test_too_many_voxels_are_refused_before_they_are_allocated() -> None:
    assert refusal(stack(), max_voxels=1000).code == "E-SIZE"


def test_a_multi_frame_object_without_places_for_its_frames_is_refused() -> None:
    dataset = base("1.2.840.10008.5.1.4.1.1.7.3", f"{ROOT}.77")
    source = dataset_of(AXIAL, 0)
    for element in source:
        if element.tag.group in (0x0028, 0x7FE0):
            dataset[element.tag] = element
    dataset.NumberOfFrames = "2"
    assert refusal([save(dataset)]).code == "E-FRAMES"


def test_nothing_in_a_volume_or_its_log_is_an_identifier(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="medvit"):
        (volume,) = read_series(CASES["B074"].build())
    told = repr((volume.facts, volume.key, volume.steps, volume.warnings)) + caplog.text
    assert "CANARY" not in told
    assert ROOT not in told


def test_a_policy_survives_json_and_names_every_wrong_setting_at_once() -> None:
    policy = SeriesPolicy(gap="resample", min_slices=8)
    assert SeriesPolicy(**json.loads(json.dumps(policy.to_json()))) == policy
    with pytest.raises(ConfigError, match=r"gap='resampel'.*colour='red'.*min_slices"):
        SeriesPolicy(gap="resampel", colour="red", min_slices=0)


def test_a_csa_header_cut_anywhere_is_refused_or_gives_what_it_still_holds() -> None:
    blob = csa_header({"Other": ["1"], "SliceNormalVector": ["0.0", "0.0", "1.0"]})
    wanted = frozenset({"SliceNormalVector"})
    assert read_csa(blob, wanted) == {"SliceNormalVector": ["0.0", "0.0", "1.0"]}
    for length in range(0, len(blob), 7):
        with pytest.raises(DicomRefusal, match="E-MOSAIC"):
            read_csa(blob[:length], wanted)


@given(blob=st.binary(max_size=400))
def test_any_bytes_behind_the_csa_mark_are_refused_or_read_but_never_crash(blob: bytes) -> None:
    try:
        assert isinstance(read_csa(b"SV10\x04\x03\x02\x01" + blob, frozenset({"A"})), dict)
    except DicomRefusal as refused:
        assert refused.code == "E-MOSAIC"  # noqa: PT017 - both outcomes are right


@given(
    gaps=st.lists(st.floats(0.5, 10), min_size=2, max_size=30),
    start=st.floats(-500, 500),
)
def test_slices_are_even_exactly_if_every_gap_and_place_is_within_tolerance(gaps: list[float], start: float) -> None:
    places = start + np.concatenate([[0.0], np.cumsum(gaps)])
    found = lie([(0.0, 0.0, z) for z in places[::-1]], (1, 0, 0, 0, 1, 0), Tolerance())
    grid = np.linspace(places[0], places[-1], len(places))
    limit = 0.05 * float(np.median(gaps))
    worst = max(np.abs(np.array(gaps) - np.median(gaps)).max(), np.abs(places - grid).max())
    if abs(worst - limit) > 1e-6:
        assert found.even == (worst < limit)
    assert found.order.tolist() == list(range(len(places)))[::-1]
    assert found.straight


def test_the_world_phantom_itself_is_linear_in_millimetres() -> None:
    assert world(np.array([1.0, 1.0, 1.0])) - world(np.zeros(3)) == 10.0


def test_padding_never_outshines_the_image() -> None:
    """PixelPaddingValue 65535 around a slice becomes the darkest value of the volume (B012)."""

    def bordered(index: int) -> dict[str, object]:
        pixels = AXIAL.pixels(index)
        pixels[:2] = 65535
        return {"pixels": pixels, "PixelPaddingValue": 65535}

    (volume,) = read_series(stack(change=bordered))
    assert volume.values.max() < 3000
    assert (volume.values[:, :2] == volume.values[:, 2:].min()).all()
    assert any(step.startswith("padding filled") for step in volume.steps)


def test_a_segmentation_beside_a_series_is_skipped() -> None:
    segmentation = save(
        dataset_of(AXIAL, 3, Modality="SEG", SOPInstanceUID=f"{ROOT}.55", SeriesInstanceUID=f"{ROOT}.56")
    )
    (volume,) = read_series([*stack(), segmentation])
    assert volume.steps[0] == "skip 1 not an image"


def test_an_image_count_that_is_no_number_stops_nothing() -> None:
    (volume,) = read_series(stack(change=lambda _: {"ImagesInAcquisition": "1A"}))
    assert not volume.warnings


PRIVATE = {
    "b of Siemens": ((0x0019, 0x0C), "SIEMENS MR HEADER", "IS", ("0", "800"), ["b=0", "b=800"]),
    "b of Philips": ((0x2001, 0x03), "Philips Imaging DD 001", "FL", (0.0, 800.0), ["b=0", "b=800"]),
    "b of GE": ((0x0043, 0x39), "GEMS_PARM_01", "IS", (["0", "8"], ["1000000800", "8"]), ["b=0", "b=800"]),
    "b of United Imaging": ((0x0065, 0x09), "Image Private Header", "FD", (0.0, 800.0), ["b=0", "b=800"]),
    "component of GE": ((0x0043, 0x2F), "GEMS_PARM_01", "SS", (0, 1), ["magnitude", "phase"]),
}


@pytest.mark.parametrize("name", PRIVATE)
@pytest.mark.parametrize("block", [0x10, 0x23])
def test_volumes_are_told_apart_by_private_elements_in_any_block(name: str, block: int) -> None:
    (group, element), creator, vr, values, keys = PRIVATE[name]
    files = []
    for volume, value in enumerate(values):
        for index in range(4):
            dataset = dataset_of(AXIAL, index, SOPInstanceUID=f"{ROOT}.{volume + 60}.{index}", InstanceNumber=None)
            dataset.add_new(group << 16 | block, "LO", creator)
            dataset.add_new(group << 16 | block << 8 | element, vr, value)
            files.append(save(dataset))
    assert [volume.key for volume in read_series(files)] == keys
    other = [file.replace(creator.encode(), b"X" * len(creator)) for file in files]
    assert refusal(other).code == "E-DUPPOS", "the block of another creator means something else"


def test_the_files_a_plan_lists_for_a_volume_give_that_volume_by_its_key() -> None:
    files = CASES["B076"].build()
    for plan, volume in zip(plan_series(files), read_series(files), strict=True):
        again = read_volume([files[index] for index in plan.files], plan.key)
        assert np.array_equal(again.values, volume.values)
        assert np.array_equal(read_volume(files, plan.key).values, volume.values)
    with pytest.raises(DicomRefusal, match=r"E-KEY no volume 'echo=3'.*did you mean"):
        read_volume(files, "echo=3")
    for several in (files, CASES["B075"].build()):
        with pytest.raises(DicomRefusal, match="E-4D"):
            read_volume(several)
