"""The film's way to the model input: exact area mean, aspect, borders, digest, and the way back to original pixels."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit import preprocess
from medvit.dicom import storage
from medvit.errors import ConfigError, DicomRefusal
from medvit.preprocess import FilmPreprocess
from medvit.types import Facts, Film


def film(samples, scale=None, offset=0.0, spacing=None) -> Film:
    step = 1.0 / np.iinfo(samples.dtype).max if scale is None else scale
    facts = Facts(rows=samples.shape[0], columns=samples.shape[1], spacing_mm=spacing)
    return Film(samples, step, offset, facts)


def random_samples(shape, top=4096, dtype=np.uint16, seed=0):
    return np.random.default_rng(seed).integers(0, top, shape).astype(dtype)


@pytest.mark.parametrize(("dtype", "levels"), [("uint8", 255), ("uint16", 65535)])
@pytest.mark.parametrize(
    ("top", "scale", "offset"), [(4096, 1 / 4095, 0.0), (4096, -1 / 4095, 1.0), (300, 1 / 200, -0.2)]
)
def test_integers_are_the_rounded_mean_of_the_display_values(dtype, levels, top, scale, offset):
    """The expected mean is computed here in float64 by blocks; clipping is left out by keeping values inside [0, 1]."""
    samples = random_samples((64, 48), top)
    values = np.clip(samples * scale + offset, 0, 1)
    samples = np.rint((values - offset) / scale).astype(np.uint16)
    mean = (samples * scale + offset).reshape(16, 4, 12, 4).mean(axis=(1, 3))
    found = FilmPreprocess(size=(16, 12), dtype=dtype).integers(film(samples, scale, offset))[0]
    error = np.abs(found.astype(float) - mean * levels)
    assert error.max() <= 0.5 + 0.5 * 0.125 + 1e-2


def test_an_eight_bit_film_at_its_own_size_is_untouched():
    samples = random_samples((32, 32), 256, np.uint8)
    assert np.array_equal(FilmPreprocess(size=(32, 32)).integers(film(samples))[0], samples)


def test_display_values_outside_the_window_are_clipped():
    samples = np.array([[0, 100], [200, 255]], np.uint8)
    found = FilmPreprocess(size=(2, 2)).integers(film(samples, 1 / 100, -0.5))[0]
    assert found.tolist() == [[0, 128], [255, 255]]


def test_padding_keeps_the_aspect_and_is_black():
    found = FilmPreprocess(size=(40, 40)).integers(film(np.full((50, 100), 255, np.uint8)))[0]
    assert found[10:30].min() == 255
    assert found[:10].max() == 0
    assert found[30:].max() == 0


def test_anisotropic_pixel_spacing_becomes_square():
    """Rows 0.28 mm apart and columns 0.14 mm: 50 x 100 pixels are a 14 x 14 mm square."""
    tall = film(np.full((50, 100), 255, np.uint8), spacing=(0.28, 0.14))
    assert FilmPreprocess(size=(40, 40)).integers(tall).min() == 255


def test_a_black_border_is_cut_away_and_the_placement_knows():
    samples = np.zeros((200, 300), np.uint8)
    samples[50:150, 60:260] = random_samples((100, 200), 256, np.uint8) | 64
    pre = FilmPreprocess(size=(50, 50), border="black")
    placement = pre.place(film(samples))
    assert placement.start == (50, 60)
    assert placement.extent == (100, 200)
    mostly_black = np.zeros((200, 300), np.uint8)
    mostly_black[:20, :20] = 255
    assert pre.place(film(mostly_black)).extent == (200, 300)


@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 300),
    height=st.integers(1, 64),
    width=st.integers(1, 64),
    ratio=st.floats(0.3, 3.0),
    fit=st.sampled_from(["pad", "stretch"]),
)
@settings(max_examples=60, deadline=None)
def test_points_return_to_where_they_came_from(rows, columns, height, width, ratio, fit):
    picture = film(np.zeros((rows, columns), np.uint8), spacing=(ratio, 1.0))
    placement = FilmPreprocess(size=(height, width), fit=fit).place(picture)
    points = np.array([[0.0, 0.0], [rows - 1.0, columns - 1.0], [rows / 3, columns / 5]])
    assert np.allclose(placement.to_original(placement.to_model(points)), points, atol=1e-6)
    edges = placement.to_model(np.array([[-0.5, -0.5], [rows - 0.5, columns - 0.5]]))
    assert np.allclose(edges[0], np.array(placement.offset) - 0.5)
    assert np.allclose(edges[1] + 0.5, np.array(placement.offset) + np.array(placement.inner))


def test_a_bright_spot_is_found_again_on_the_original():
    samples = np.zeros((300, 200), np.uint8)
    samples[100:110, 150:160] = 255
    pre = FilmPreprocess(size=(60, 60))
    placement = pre.place(film(samples))
    back = placement.map_to_original(pre.integers(film(samples))[0].astype(np.float32))
    assert back.shape == (300, 200)
    row, column = np.unravel_index(back.argmax(), back.shape)
    assert 98 <= row <= 112
    assert 148 <= column <= 162
    with pytest.raises(ValueError, match="does not lie"):
        placement.map_to_original(np.zeros((3, 3)))


def test_json_round_trip_keeps_the_digest_and_the_tensor():
    pre = FilmPreprocess(size=[48, 32], border="black", dtype="uint16", mean=0.4, std=0.2)
    again = preprocess.from_json(json.loads(json.dumps(pre.to_json())))
    picture = film(random_samples((70, 90)), 1 / 4095)
    assert again == pre
    assert again.digest == pre.digest
    assert np.array_equal(again(picture), pre(picture))


def test_every_setting_changes_the_digest():
    changes = {
        "size": (32, 32),
        "voi": {"voi": "percentile"},
        "border": "black",
        "fit": "stretch",
        "dtype": "uint16",
        "mean": 0.1,
        "std": 0.1,
    }
    digests = {FilmPreprocess(**{name: value}).digest for name, value in changes.items()}
    assert len(digests | {FilmPreprocess().digest}) == len(changes) + 1


def test_normalise_is_the_affine_map_a_device_would_do():
    torch = pytest.importorskip("torch")
    pre = FilmPreprocess(size=(8, 8), dtype="uint16", mean=0.485, std=0.229)
    integers = random_samples((4, 1, 8, 8), 65536)
    on_device = torch.from_numpy(integers).float() * pre.scale + pre.shift
    assert np.array_equal(on_device.numpy(), pre.normalise(integers))
    assert np.allclose(pre.normalise(integers), (integers / 65535 - 0.485) / 0.229, atol=1e-5)


def test_all_wrong_settings_are_told_in_one_message():
    with pytest.raises(ConfigError) as caught:
        FilmPreprocess(size=(0, 4), border="auto", fit="crop", dtype="float32", std=0.0)
    assert all(word in str(caught.value) for word in ("size", "border", "fit", "dtype", "std"))


def test_pictures_enter_as_films(tmp_path):
    samples = random_samples((20, 30), 65536)
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), samples)
    pre = FilmPreprocess(size=(20, 30), dtype="uint16")
    assert np.array_equal(pre.integers(path)[0], samples)
    assert np.array_equal(pre.integers(path.read_bytes())[0], samples)
    colour = np.dstack([samples // 256] * 3).astype(np.uint8)
    assert np.array_equal(pre.read(cv2.imencode(".png", colour)[1].tobytes()).samples, colour[..., 0])


def test_broken_constant_and_missing_pictures_are_refused_without_their_path(tmp_path):
    pre = FilmPreprocess()
    cases = {
        "E-IMAGE": b"\x89PNG\r\n\x1a\n broken",
        "E-CONST": cv2.imencode(".png", np.full((9, 9), 7, np.uint8))[1].tobytes(),
        "E-IO": tmp_path / "CANARY.png",
    }
    for code, source in cases.items():
        with pytest.raises(DicomRefusal) as caught:
            pre.integers(source)
        assert caught.value.code == code
        assert "CANARY" not in str(caught.value)


def test_a_read_that_fails_for_a_moment_is_tried_again(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), random_samples((20, 30), 256, np.uint8))
    failures, original = [OSError(5, "EIO"), OSError(116, "ESTALE")], open

    def flaky(*names, **how):
        if failures:
            raise failures.pop()
        return original(*names, **how)

    monkeypatch.setattr(storage, "open", flaky, raising=False)
    assert FilmPreprocess(size=(8, 8)).integers(path).shape == (1, 8, 8)
    assert not failures


def test_an_unknown_kind_or_field_is_a_config_error():
    with pytest.raises(ConfigError, match="film or volume"):
        preprocess.from_json({"kind": "movie"})
    with pytest.raises(ConfigError, match="colour"):
        preprocess.from_json({"kind": "film", "colour": 3})


@pytest.mark.parametrize(("word", "asked"), [("size", (40, 30)), ("double", (80, 60))])
def test_reduced_decoding_can_be_asked_for_by_a_word(word, asked):
    pre = preprocess.from_json(FilmPreprocess(size=(40, 30), voi={"reduce_to": word}).to_json())
    assert pre.policy.reduce_to == asked
    assert pre.digest != FilmPreprocess(size=(40, 30)).digest
    with pytest.raises(ConfigError, match="expected size, double"):
        FilmPreprocess(voi={"reduce_to": "half"})


@pytest.mark.parametrize(("bits", "told"), [(12, True), (16, False)])
def test_a_picture_of_twelve_bits_in_sixteen_keeps_its_grey_levels(tmp_path, bits, told):
    """Divided by 65535 it came out nearly black, with 16 grey levels and without a word."""
    samples = (np.arange(64 * 64).reshape(64, 64) * (2**bits - 1) / (64 * 64 - 1)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "film.png"), samples)
    found = FilmPreprocess(size=(64, 64)).prepare(tmp_path / "film.png")
    assert len(np.unique(FilmPreprocess(size=(64, 64), picture_bits=bits).prepare(tmp_path / "film.png").pixels)) == 256
    assert any("W-RANGE of 16 bits 12 are used" in warning for warning in found.warnings) == told
