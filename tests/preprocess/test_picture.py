"""Pictures: upright, positive, and as bright as what is declared says, whatever one pixel is."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from medvit import preprocess
from medvit.dataset import image_headers
from medvit.dataset.picture_range import picture_bits
from medvit.errors import ConfigError, DicomRefusal
from medvit.preprocess import FilmPreprocess
from medvit.preprocess.picture import read_picture

GREY8 = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)
GREY12 = (np.arange(12 * 20).reshape(12, 20) * 17).astype(np.uint16)  # 0 to 4063


def png(image: np.ndarray, significant: int | None = None) -> bytes:
    data = cv2.imencode(".png", image)[1].tobytes()
    if significant is None:
        return data
    body = b"sBIT" + bytes([significant])
    return data[:33] + struct.pack(">I", 1) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]


def saved(image: np.ndarray, kind: str, **options: Any) -> bytes:
    held = io.BytesIO()
    Image.fromarray(image).save(held, kind, **options)
    return held.getvalue()


def test_one_bright_pixel_does_not_change_the_brightness_of_a_picture() -> None:
    """A pixel of 4096 made a 12-bit film in 16-bit PNG four times darker: mean 0.643 became 0.161."""
    hot = GREY12.copy()
    hot[0, 0] = 4096
    for bits in ("declared", 12, 14):
        one, other = (read_picture(png(each), bits).display() for each in (GREY12, hot))
        assert one.mean() == pytest.approx(other.mean(), abs=0.005)
    assert read_picture(png(GREY12), 12).display().mean() == pytest.approx(GREY12.mean() / 4095)
    assert read_picture(png(GREY12)).display().mean() == pytest.approx(GREY12.mean() / 65535)
    (told,) = read_picture(png(hot), 12).warnings
    assert told == "W-RANGE 0.42 % of the pixels are above 12 bits and become white"
    (told,) = read_picture(png(GREY12)).warnings
    assert "preprocess.picture_bits=12 takes these as the whole range" in told


def test_the_significant_bits_of_a_png_are_its_range_whether_scaled_up_or_not() -> None:
    scaled = (GREY12 << 4) | (GREY12 >> 8)  # as the standard of PNG asks
    for stored in (GREY12, scaled, GREY12 << 4):
        film = read_picture(png(stored, significant=12), bits=16)
        assert film.display() == pytest.approx(GREY12 / 4095, abs=4e-3)
        assert film.warnings == ()
    with pytest.raises(DicomRefusal, match="sBIT says 12 bits, a pixel is 8127"):
        read_picture(png(GREY12 * 2 + 1, significant=12))


def test_the_range_of_a_set_is_decided_once_and_defect_pixels_do_not_decide_it(tmp_path: Path) -> None:
    for number in range(120):
        image = GREY12.copy()
        image[0, 0] = 60000 if number == 7 else number
        (tmp_path / f"{number}.png").write_bytes(png(image))
    (tmp_path / "eight.png").write_bytes(png(GREY8))
    (tmp_path / "said.png").write_bytes(png(GREY12 * 16, significant=16))
    paths = sorted(tmp_path.iterdir())
    assert picture_bits(paths, workers=1) == 12
    assert picture_bits([tmp_path / "eight.png"], workers=1) is None
    assert picture_bits([tmp_path / "7.png"], workers=1) == 16


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_pictures_are_upright_as_a_viewer_shows_them(kind: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = saved(GREY8, kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {}))
    with Image.open(io.BytesIO(data)) as image:
        seen = np.asarray(ImageOps.exif_transpose(image))
    film = read_picture(data)
    assert np.array_equal(film.samples, seen)
    assert [w for w in film.warnings if "W-ORIENT" in w] == [
        f"W-ORIENT orientation {orientation} of the file is applied"
    ] * (orientation > 1)
    (tmp_path / "a").write_bytes(data)
    facts = image_headers.read_facts(tmp_path / "a", data[:4096])
    assert (facts.rows, facts.columns) == seen.shape


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate"])
@pytest.mark.parametrize("white_is_zero", [True, False])
def test_a_tiff_of_white_is_zero_is_a_positive(white_is_zero: bool, compression: str) -> None:
    """16 bits came as a negative."""
    full = (GREY12.astype(np.uint32) * 65535 // 4095).astype(np.uint16)
    data = saved(full, "TIFF", tiffinfo={262: 0 if white_is_zero else 1}, compression=compression)
    expected = 1 - full / 65535 if white_is_zero else full / 65535
    assert read_picture(data).display() == pytest.approx(expected, abs=1e-5)


def test_a_tiff_of_several_pages_is_refused_and_its_thumbnail_is_no_page(tmp_path: Path) -> None:
    pages = saved(GREY8, "TIFF", save_all=True, append_images=[Image.fromarray(GREY8[::-1])])
    with pytest.raises(DicomRefusal, match="E-FRAMES a TIFF of 2 pages"):
        read_picture(pages)
    thumbnail = Image.fromarray(GREY8[::2, ::2])
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}
    assert read_picture(saved(GREY8, "TIFF", save_all=True, append_images=[thumbnail])).samples.shape == GREY8.shape


def test_a_folder_of_tiff_and_bmp_is_indexed_with_the_set_s_range(tmp_path: Path) -> None:
    from medvit.dataset import manifest
    from medvit.index import index

    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.tif").write_bytes(saved(GREY12, "TIFF"))
    (tmp_path / "raw" / "b.bmp").write_bytes(saved(GREY8, "BMP"))
    options = {"accept": {"min_side": 8}, "patient_fallback": "file"}
    made = index(tmp_path / "raw", tmp_path / "set", options=options)
    assert list(made.table["rows"]) == [12, 12]
    assert manifest.task_hint(tmp_path / "set")["picture_bits"] == 12
    assert manifest.read(tmp_path / "set").task_hint["picture_bits"] == 12


def test_training_takes_the_range_that_the_index_found(tmp_path: Path) -> None:
    import pandas as pd

    from medvit.dataset import manifest
    from medvit.engine.build import build_preprocess
    from medvit.model.backbone import vit
    from medvit.model.network import Network
    from medvit.model.pool import MeanPool

    network = Network(vit([12, 20], patch_size=[4, 4], width=8, depth=1, heads=1), MeanPool(), 1)

    def made(bits: int | None) -> Any:
        node = {"_target_": "medvit.preprocess.film.FilmPreprocess", "picture_bits": bits, "mean": 0.5, "std": 0.5}
        settings = {"preprocess": node, "data": {"folder": str(tmp_path)}}
        return build_preprocess(settings, network).picture_bits

    assert made(None) == "declared"
    table = pd.DataFrame([{"uid": "a", "files": ("a.png",)}])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "_check", lambda table: None)
        manifest.write(table, tmp_path, tmp_path, {"picture_bits": 12})
    assert made(None) == 12
    assert made(16) == 16


def test_definitions_of_earlier_versions_keep_their_digest_and_their_range_of_each_image() -> None:
    now = FilmPreprocess(size=(12, 20))
    old = {key: value for key, value in now.to_json().items() if key != "picture_bits"}
    kept = preprocess.from_json(old)
    assert kept.to_json() == old
    assert kept.read(png(GREY12)).display().mean() == pytest.approx(GREY12.mean() / 4095)
    assert preprocess.from_json(now.to_json()).digest == now.digest
    with pytest.raises(ConfigError, match="picture_bits=7: expected declared or 8 to 32"):
        FilmPreprocess(picture_bits=7)
