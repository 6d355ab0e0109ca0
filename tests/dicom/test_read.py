"""The steps from stored to display values: each against the standard's formula, together in the one fixed order."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import cv2
import imagecodecs
import kit
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kit import PHANTOM, SHOWN
from numpy.typing import NDArray

from medvit.dicom.codec import decode
from medvit.dicom.policy import Accept, FilmPolicy
from medvit.dicom.read import read_film
from medvit.errors import ConfigError, DicomRefusal

J2K, HTJ2K, HTJ2K_LOSSY = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.203"


def shown(**elements: object) -> NDArray[np.float32]:
    return read_film(kit.film(**elements)).display()


@settings(max_examples=60, deadline=None)
@given(
    center=st.floats(-500, 5000),
    width=st.floats(1.01, 6000),
    slope=st.sampled_from([1.0, 2.0, -1.0, 0.25]),
    intercept=st.sampled_from([0.0, -1024.0, 4095.0]),
    negative=st.booleans(),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
def test_windows_follow_the_formulas_of_the_standard_after_the_rescale_and_before_the_polarity(
    center: float, width: float, slope: float, intercept: float, negative: bool, function: str
) -> None:
    center, width = round(center, 2), round(width, 2)
    y = PHANTOM * slope + intercept
    assume(function == "SIGMOID" or (y.min() < center + width / 2 - 1 and y.max() > center - width / 2))
    data = kit.film(
        WindowCenter=center,
        WindowWidth=width,
        VOILUTFunction=function,
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        PhotometricInterpretation="MONOCHROME1" if negative else "MONOCHROME2",
    )
    truth = {
        "LINEAR": np.clip((y - (center - 0.5)) / (width - 1) + 0.5, 0, 1),
        "LINEAR_EXACT": np.clip((y - center) / width + 0.5, 0, 1),
        "SIGMOID": 1 / (1 + np.exp(np.clip(-4 * (y - center) / width, -700, 700))),
    }[function]
    film = read_film(data, FilmPolicy(blind_window="keep"))
    assert film.samples.dtype == np.uint16
    np.testing.assert_allclose(film.display(), 1 - truth if negative else truth, atol=5e-4)


def test_the_steps_stand_in_their_fixed_order_with_their_numbers() -> None:
    film = read_film(
        kit.film(
            PhotometricInterpretation="MONOCHROME1",
            WindowCenter=2000,
            WindowWidth=1000,
            PixelPaddingValue=9,
            RescaleSlope=2,
            RescaleIntercept=-10,
            PatientOrientation=["R", "F"],
        )
    )
    assert [step.split(" ")[0].split("=")[0] for step in film.steps] == [
        "stored",
        "modality",
        "padding",
        "voi",
        "polarity",
        "orientation",
    ]
    text = "; ".join(film.steps)
    for number in ("bits=12", "decoder=numpy", "slope=2 intercept=-10", "center=2000 width=1000", "inverted", "R\\F"):
        assert number in text


def test_values_are_not_clipped_or_copied_when_the_window_holds_them_all(tmp_path: Path) -> None:
    film = read_film(kit.film(WindowCenter=2048, WindowWidth=4096))
    np.testing.assert_array_equal(film.samples, PHANTOM)
    np.testing.assert_allclose(film.display(), SHOWN, atol=1e-6)


def test_percentiles_are_order_statistics_of_what_is_no_padding() -> None:
    image = PHANTOM.copy()
    image[:, :9] = 3
    film = read_film(kit.film(image, PixelPaddingValue=3), FilmPolicy(voi="percentile", percentiles=(2, 98)))
    low, high = np.percentile(image[image != 3], [2, 98], method="lower")
    truth = np.clip((image.astype(float) - low) / (high - low), 0, 1)
    truth[:, :9] = 0
    np.testing.assert_allclose(film.display(), truth, atol=1e-5)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("voi", ["none", "window", "percentile", "lut"])
def test_padding_is_black_whatever_the_polarity_and_the_voi(photometric: str, voi: str) -> None:
    image = PHANTOM.copy()
    image[:, :9] = 4000
    image[image == 0] = 1
    windows = {"WindowCenter": 2048, "WindowWidth": 900, "VOILUTSequence": kit.lookup(np.arange(4096) * 16)}
    bent = {"PixelPaddingValue": 4000, "PhotometricInterpretation": photometric, "RescaleSlope": 2}
    film = read_film(kit.film(image, **bent, **windows), FilmPolicy(voi=voi))
    assert film.display()[:, :9].max() < 1e-3
    assert film.display()[:, 9:].max() > 0.5
    assert "share=0.1875" in "; ".join(film.steps)


@pytest.mark.parametrize("offset", [0, -2000])
def test_percentiles_of_signed_values_agree_with_numpy(offset: int) -> None:
    image = (PHANTOM.astype(np.int16) + offset).astype(np.int16)
    film = read_film(kit.film(image, bits=16, Modality="MR"), FilmPolicy(voi="percentile", percentiles=(1, 99)))
    low, high = np.percentile(image, [1, 99], method="lower")
    np.testing.assert_allclose(film.display(), np.clip((image - low) / (high - low), 0, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("words", "turned"),
    [
        (["L", "F"], PHANTOM),
        (["R", "F"], PHANTOM[:, ::-1]),
        (["L", "H"], PHANTOM[::-1]),
        (["R", "H"], PHANTOM[::-1, ::-1]),
        (["A", "F"], PHANTOM),
        (["P", "F"], PHANTOM),
    ],
)
def test_frontal_films_come_out_as_if_one_faced_the_patient(words: list[str], turned: NDArray) -> None:
    np.testing.assert_array_equal(read_film(kit.film(PatientOrientation=words)).samples, turned)


def test_a_film_on_its_side_is_refused() -> None:
    with pytest.raises(DicomRefusal, match="E-ORIENT"):
        read_film(kit.film(PatientOrientation=["F", "L"]))


def test_all_reasons_not_to_take_a_film_come_at_once() -> None:
    policy = FilmPolicy(accept=Accept(modalities=("CR",), views=("LATERAL",), body_parts=("HAND",), missing="refuse"))
    with pytest.raises(DicomRefusal) as caught:
        read_film(kit.film(ViewPosition=None), policy)
    assert all(word in str(caught.value) for word in ("Modality DX", "ViewPosition missing", "BodyPartExamined CHEST"))
    side = read_film(kit.film(ViewPosition="LL"), FilmPolicy(accept=Accept(views=("LATERAL",))))
    assert side.facts.view == "LL"


def test_a_missing_decoder_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        available = False

    monkeypatch.setattr(imagecodecs, "JPEGLS", Gone)
    with pytest.raises(DicomRefusal) as caught:
        read_film(kit.compressed([imagecodecs.jpegls_encode(PHANTOM)], "1.2.840.10008.1.2.4.80"))
    assert caught.value.code == "E-CODEC"
    assert "imagecodecs" in caught.value.fix


_LOSSLESS = {
    "1.2.840.10008.1.2.4.70": lambda a: imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=12, predictor=1),
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_encode,
    J2K: kit.jpeg2000,
    HTJ2K: lambda a: imagecodecs.htj2k_encode(a, reversible=True),
    "1.2.840.10008.1.2.4.110": lambda a: imagecodecs.jpegxl_encode(a, lossless=True),
}


@pytest.mark.parametrize("syntax", _LOSSLESS)
def test_every_lossless_syntax_gives_the_same_film(syntax: str) -> None:
    frame = _LOSSLESS[syntax](PHANTOM)
    np.testing.assert_array_equal(read_film(kit.compressed([frame], syntax)).samples, PHANTOM)


def test_the_decoder_is_pinned_per_syntax_and_recorded() -> None:
    assert len(decode.CODECS) == 17
    film = read_film(kit.compressed([kit.jpeg2000(PHANTOM)], J2K))
    assert "decoder=imagecodecs.jpeg2k" in film.steps[0]


def test_lossy_high_throughput_frames_do_not_wrap_from_white_to_black() -> None:
    edges = np.kron(np.indices((16, 16)).sum(0) % 2, np.ones((8, 8))).astype(np.uint8) * 255
    frame = imagecodecs.htj2k_encode(edges, level=0.05, reversible=False)
    film = read_film(kit.compressed([frame], HTJ2K_LOSSY, edges, bits=8))
    assert np.abs(film.display() - edges / 255.0).max() < 0.2


@pytest.mark.parametrize(
    ("syntax", "encode"), [(J2K, kit.jpeg2000), (HTJ2K, lambda a: imagecodecs.htj2k_encode(a, reversible=True))]
)
def test_reduced_decoding_is_a_quarter_image_within_a_measured_bound_and_covers_what_was_asked(
    syntax: str, encode: object
) -> None:
    smooth = cv2.resize(PHANTOM, (640, 768), interpolation=cv2.INTER_CUBIC).clip(0, 4095)
    data = kit.compressed([encode(smooth)], syntax, smooth)
    whole, small = read_film(data), read_film(data, FilmPolicy(reduce_to=(190, 150)))
    assert small.samples.shape == (192, 160)
    assert "reduced by 4" in small.steps[0]
    area = cv2.resize(whole.display(), (160, 192), interpolation=cv2.INTER_AREA)
    assert np.abs(small.display() - area).mean() < 0.01
    assert read_film(data, FilmPolicy(reduce_to=(9000, 9000))).samples.shape == smooth.shape
    assert read_film(kit.film(), FilmPolicy(reduce_to=(4, 4))).samples.shape == PHANTOM.shape


@pytest.mark.parametrize("shape", [(777, 601), (641, 514), (640, 523), (769, 767)])
def test_sides_that_halving_leaves_odd_are_decoded_reduced_in_full(shape: tuple[int, int]) -> None:
    smooth = cv2.resize(PHANTOM, shape[::-1], interpolation=cv2.INTER_AREA)
    data = kit.compressed([kit.jpeg2000(smooth)], J2K, smooth)
    for power in (1, 2, 3):
        sides = tuple(-(-side // 2**power) for side in shape)
        small = read_film(data, FilmPolicy(reduce_to=tuple(side >> power for side in shape)))
        assert small.samples.shape == sides
        area = cv2.resize(read_film(data).display(), sides[::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(small.display() - area).mean() < 0.02


def test_reduced_decoding_does_not_shift_the_film() -> None:
    row, column = np.indices((768, 640))
    ramp = (500 + 3 * row + 2 * column).astype(np.uint16)
    data = kit.compressed([kit.jpeg2000(ramp)], J2K, ramp)
    for side in (2, 4, 8):
        small = read_film(data, FilmPolicy(reduce_to=(768 // side, 640 // side))).samples.astype(float)
        area = cv2.resize(ramp.astype(np.float32), small.shape[::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(small - area).mean() <= 0.7  # unmoved: 2.5, 7.5, 17.5


@pytest.mark.parametrize("syntax", _LOSSLESS)
def test_a_frame_that_was_cut_is_refused_and_not_filled_up(syntax: str) -> None:
    frame = _LOSSLESS[syntax](PHANTOM)
    for kept in (len(frame) - 4, len(frame) // 2):
        with pytest.raises(DicomRefusal, match=r"E-TRUNC|E-CODEC"):
            read_film(kit.compressed([frame[:kept]], syntax))


@pytest.mark.parametrize("syntax", _LOSSLESS)
def test_a_codestream_that_is_larger_than_its_header_says_is_refused(syntax: str) -> None:
    frame = _LOSSLESS[syntax](np.kron(PHANTOM, np.ones((2, 2), np.uint16)))
    with pytest.raises(DicomRefusal, match=r"E-SIZE|E-CODEC"):
        read_film(kit.compressed([frame], syntax))


def test_a_small_frame_that_would_decode_to_too_much_is_refused_before_it_is_decoded() -> None:
    frame = bytearray(kit.jpeg2000(PHANTOM))
    at = frame.index(b"\xff\x51")
    frame[at + 6 : at + 14] = (15000).to_bytes(4, "big") * 2  # the sizes in its header: 225 million pixels
    data = kit.compressed([bytes(frame)], J2K, Rows=15000, Columns=15000)
    with pytest.raises(DicomRefusal, match="bytes to decode"):
        read_film(data)


def test_uncompressed_pixels_in_a_private_syntax_are_refused_since_their_bytes_may_be_swapped() -> None:
    ds = kit.dataset()
    ds.PixelData = PHANTOM.tobytes()
    ds["PixelData"].VR = "OW"
    with pytest.raises(DicomRefusal, match="E-CODEC"):
        read_film(kit.write(ds, declared="1.2.840.113619.5.2"))


def test_a_wrong_number_is_shown_without_letters_that_could_be_a_name() -> None:
    with pytest.raises(DicomRefusal) as caught:
        read_film(kit.film(RescaleSlope=b"CANARY^1.5"))
    assert "CANARY" not in str(caught.value)
    assert "1.5" in str(caught.value)


def test_a_window_beyond_every_pixel_is_refused_where_the_policy_keeps_windows() -> None:
    with pytest.raises(DicomRefusal, match="E-CONST"):
        read_film(kit.film(WindowCenter=-5000, WindowWidth=100), FilmPolicy(blind_window="keep"))


def test_a_policy_is_plain_json_and_names_what_it_does_not_know() -> None:
    policy = FilmPolicy(voi="percentile", accept=Accept(modalities=("DX",)))
    assert FilmPolicy.of(json.loads(json.dumps(asdict(policy)))) == policy
    with pytest.raises(ConfigError, match=r"did you mean .percentile"):
        FilmPolicy(voi="percentil")
    with pytest.raises(ConfigError, match=r"accept\.missing"):
        FilmPolicy.of({"accept": {"missing": "ignore"}})


@pytest.mark.real
def test_wrapped_chest_films_show_their_source_images_exactly(real_data: Path) -> None:
    folder = real_data / "labelled" / "cxr_pneumonia_dicom_wrapped"
    table = pd.read_csv(folder / "labels.csv")
    for row in table.itertuples():
        source = cv2.imread(str(folder / row.source_image), cv2.IMREAD_GRAYSCALE)
        signed = FilmPolicy(bits=8)  # of the eight signed films; what the index finds for the set
        levels = np.floor(read_film(folder / row.path, signed).display().astype(np.float64) * 256 + 1e-4)  # 256 greys
        np.testing.assert_array_equal(np.minimum(levels, 255), source, row.variant)
    assert len(table) == 44
