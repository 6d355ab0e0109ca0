"""The walk over a header finds what pydicom finds, and survives what pydicom does not."""

from __future__ import annotations

import contextlib
import io
import os
import time
import warnings
from pathlib import Path

import kit
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medvit.dicom import storage
from medvit.dicom.header import read_dataset, read_header
from medvit.dicom.limits import Deadline, Limits
from medvit.dicom.policy import FilmPolicy
from medvit.dicom.read import read_film
from medvit.errors import DicomRefusal

GOOD = kit.film()
_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)


@st.composite
def data_sets(draw: st.DrawFn, depth: int = 3) -> Dataset:
    """A data set of texts, numbers, private elements and nested sequences of both kinds of length."""
    ds = Dataset()
    if draw(st.booleans()):
        ds.StudyDescription = draw(st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=20))
    if draw(st.booleans()):
        ds.add_new(
            0x00091001,
            draw(st.sampled_from(["OB", "UN"])),
            draw(st.binary(max_size=64).filter(lambda b: len(b) % 2 == 0)),
        )
    if draw(st.booleans()):
        ds.add_new(0x00189005, "FD", draw(st.floats(allow_nan=False, allow_infinity=False)))
    if depth and draw(st.booleans()):
        ds.ReferencedImageSequence = draw(st.lists(data_sets(depth - 1), max_size=3))
        ds["ReferencedImageSequence"].is_undefined_length = draw(st.booleans())
        for item in ds.ReferencedImageSequence:
            item.is_undefined_length_sequence_item = draw(st.booleans())
    return ds


@settings(max_examples=60, deadline=None)
@given(extra=data_sets(), syntax=st.sampled_from(_SYNTAXES), pixels=st.booleans())
def test_every_element_equals_what_pydicom_reads(extra: Dataset, syntax: str, pixels: bool) -> None:
    ds = kit.dataset()
    ds.update(extra)
    ds.PixelData = kit.PHANTOM.tobytes()
    ds["PixelData"].VR = "OW"
    data = kit.write(ds, syntax)
    found, expected = (
        read_dataset(data, pixels=pixels),
        pydicom.dcmread(io.BytesIO(data), stop_before_pixels=not pixels),
    )
    assert list(found.keys()) == list(expected.keys())
    for element in expected:
        if element.tag != 0x7FE00010:
            assert found[element.tag] == element


@pytest.mark.real
def test_every_real_header_equals_what_pydicom_reads(real_data: Path) -> None:
    compared = 0
    for path in sorted((real_data / "zoo").glob("*.dcm")):
        try:
            found = read_header(path)
        except DicomRefusal:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = pydicom.dcmread(path, stop_before_pixels=True)
            same = [element.tag for element in expected.values() if element.tag.group >= 8]
            assert list(found.keys()) == same, path.name
            for tag in same:
                if expected.get_item(tag).is_raw and expected.get_item(tag).VR not in {"SQ", "UN", None}:
                    assert found.get_item(tag).value == expected.get_item(tag).value, (path.name, tag)
        compared += 1
    assert compared >= 90


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_film_is_read_or_refused_and_never_anything_else(data: st.DataObject) -> None:
    damaged = bytearray(
        data.draw(st.sampled_from([GOOD, kit.nested(5), kit.run_length(), kit.film(syntax=ImplicitVRLittleEndian)]))
    )
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, min(len(damaged), 1400) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged) - 1)) :]
    policy = FilmPolicy(force=data.draw(st.booleans()), allow_rgb="luminance")
    with contextlib.suppress(DicomRefusal):
        assert np.isfinite(read_film(bytes(damaged), policy).display()).all()


@settings(max_examples=100, deadline=None)
@given(noise=st.binary(min_size=1, max_size=2000), prefix=st.sampled_from([b"", bytes(128) + b"DICM", GOOD[:400]]))
def test_noise_is_refused(noise: bytes, prefix: bytes) -> None:
    with pytest.raises(DicomRefusal):
        read_film(prefix + noise, FilmPolicy(force=True))


@pytest.mark.parametrize(
    ("magic", "name"), [(b"MZ", "MZ"), (b"\x7fELF", "ELF"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF")]
)
def test_a_preamble_that_is_another_kind_of_file_is_named(magic: bytes, name: str) -> None:
    film = read_film(magic + GOOD[len(magic) :])
    assert [text for text in film.warnings if text.startswith("W-PREAMBLE") and name in text]


def test_a_file_with_an_odd_name_reads_like_any_other(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe " + b"x" * 240))
    path.write_bytes(GOOD)
    np.testing.assert_array_equal(read_film(path).samples, kit.PHANTOM)


def test_a_long_header_is_read_in_pieces_without_its_pixels(tmp_path: Path) -> None:
    ds = kit.dataset()
    ds.add_new(0x00291010, "OB", bytes(300_000))
    ds.PixelData = kit.PHANTOM.tobytes()
    ds["PixelData"].VR = "OW"
    (tmp_path / "long.dcm").write_bytes(kit.write(ds))
    found = read_header(tmp_path / "long.dcm")
    assert len(found[0x00291010].value) == 300_000
    assert "PixelData" not in found


def test_a_stuttering_storage_gets_three_tries_and_then_a_refusal_without_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, calls = tmp_path / "CANARY.dcm", []
    path.write_bytes(GOOD)
    real = storage._read

    def failing(*arguments: object) -> object:
        calls.append(1)
        if len(calls) <= stutters:
            raise PermissionError(13, "Permission denied", str(path))
        return real(*arguments)

    monkeypatch.setattr(storage, "_read", failing)
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
    stutters = 2
    assert read_dataset(path, pixels=True).Rows == kit.ROWS
    calls.clear()
    stutters = 9
    with pytest.raises(DicomRefusal) as caught:
        read_dataset(path, pixels=True)
    assert (caught.value.code, len(calls)) == ("E-IO", 3)
    assert "CANARY" not in str(caught.value)


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "growing.dcm"
    path.write_bytes(GOOD)
    real = storage.check_file_size

    def grow(size: int, limits: Limits) -> None:
        real(size, limits)
        with path.open("ab") as file:
            file.write(b"more")

    monkeypatch.setattr(storage, "check_file_size", grow)
    with pytest.raises(DicomRefusal, match="E-CHANGED"):
        read_dataset(path, pixels=True)


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("nothing.dcm", ".", "pipe"):
        with pytest.raises(DicomRefusal, match="E-IO"):
            read_dataset(tmp_path / name, pixels=True)


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (Limits(file_bytes=100), "E-SIZE"),
        (Limits(max_pixels=100), "E-SIZE"),
        (Limits(max_frames=0), "E-FRAMES"),
        (Limits(header_seconds=-1.0), "E-TIME"),
    ],
)
def test_every_limit_of_the_policy_is_kept(limits: Limits, code: str) -> None:
    with pytest.raises(DicomRefusal) as caught:
        read_film(kit.nested(60), FilmPolicy.of({"accept": {"limits": vars(limits)}}))
    assert caught.value.code == code


def test_a_busy_machine_or_a_slow_disk_refuses_no_header() -> None:
    deadline = Deadline(Limits(header_seconds=0.05))
    time.sleep(0.1)
    deadline.check()
    begun = time.thread_time()
    while time.thread_time() < begun + 0.1:
        pass
    with pytest.raises(DicomRefusal, match="E-TIME"):
        deadline.check()
