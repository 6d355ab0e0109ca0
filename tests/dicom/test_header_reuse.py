"""What is taken over from an earlier header of a series is what reading it again would give, whatever the bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import kit
import pytest
import series_phantom
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.dicom.elements import Encoding, Walker
from medvit.dicom.header import read_dataset
from medvit.dicom.header_reuse import HeaderReuse
from medvit.errors import DicomRefusal


def rich(index: int = 0) -> bytes:
    """A slice with sequences of known and undefined length before its pixels, and a private block."""
    dataset = series_phantom.dataset_of(series_phantom.AXIAL, index)
    dataset.ReferencedImageSequence = kit.lookup(kit.PHANTOM[0], count=4)
    dataset.AnatomicRegionSequence = kit.lookup(kit.PHANTOM[1], count=4)
    dataset["AnatomicRegionSequence"].is_undefined_length = True
    dataset.add_new(0x00190010, "LO", "MEDVIT")
    dataset.add_new(0x00191010, "UN", bytes(64))
    return series_phantom.save(dataset)


def twice(data: bytes) -> bytes:
    """The object with one element written twice, as no writer should: the later one counts."""
    at, once = data.index(b"\x18\0\x81\0DS"), b"\x18\0\x81\0DS\x02\x0099"
    return data[:at] + once + data[at:]


EXPLICIT = Encoding(implicit=False, little=True)
SEEDS = [rich(), kit.film(), kit.compressed([kit.jpeg2000(kit.PHANTOM)], kit.J2K), kit.nested(3, known_length=True)]
LENGTHS = st.sampled_from([0, 1, 2, 8, 0x7F, 0xFF, 0xFFFE, 0xFFFFFFFE, 0xFFFFFFFF])
CHANGE = st.tuples(
    st.floats(0, 1), st.one_of(st.binary(min_size=1, max_size=4), LENGTHS.map(lambda n: struct.pack("<I", n)))
)


def changed(data: bytes, changes: list[tuple[float, bytes]], kept: float) -> bytes:
    """Overwrite places up to just behind the head of the pixels; cut the file or leave it whole."""
    out, end = bytearray(data), data.rfind(b"\xe0\x7f\x10\x00") + 24
    for where, new in changes:
        at = 132 + int(where * (end - 133))
        out[at : at + len(new)] = new
    return bytes(out[: max(140, int(kept * len(out)))])


def outcome(data: bytes, alike: HeaderReuse | None, *, pixels: bool = True) -> object:
    """What a reader can see of an object: every raw element, how it is encoded, notes; or the refusal."""
    try:
        dataset = read_dataset(data, pixels=pixels, alike=alike)
    except DicomRefusal as refusal:
        return str(refusal)
    raw = [dataset.get_item(tag) for tag in list(dataset.keys())]
    return [one._replace(value=bytes(one.value)) for one in raw], dataset.original_encoding, dataset.notes


@given(
    st.sampled_from(SEEDS),
    st.lists(CHANGE, max_size=2),
    st.lists(CHANGE, max_size=2),
    st.sampled_from([1, 1, 1, 0.9, 0.5]),
)
@settings(max_examples=200, deadline=None)
def test_a_header_read_after_another_gives_what_it_gives_alone(seed, first, second, kept):
    alike = HeaderReuse()
    outcome(changed(seed, first, 1), alike)
    data = changed(seed, first + second, kept)
    assert outcome(data, alike) == outcome(data, None)


@pytest.mark.parametrize(
    ("data", "flip"), [(rich(), 0xFF), (rich(), 0x01), (twice(rich()), 0xFF)], ids=["all", "low", "twice"]
)
def test_any_byte_of_a_header_may_be_another(data, flip):
    alike, end = HeaderReuse(), data.rfind(b"\xe0\x7f\x10\x00") + 12
    outcome(data, alike)
    for at in range(132, end):
        other = bytearray(data)
        other[at] ^= flip
        assert outcome(bytes(other), alike) == outcome(bytes(other), None), at


def walked(read: Callable[..., object], *where: object) -> object:
    try:
        return read(*where, pixels=True)
    except DicomRefusal as refusal:
        return str(refusal)


def test_the_same_bytes_from_another_place_or_in_another_encoding_are_walked_anew():
    data, alike = memoryview(kit.film()), HeaderReuse()
    start = kit.film().index(b"\x08\0\x16\0UI")
    second = kit.film().index(b"\x08\0\x18\0UI")
    for encoding, place in ((EXPLICIT, start), (EXPLICIT, second), (Encoding(implicit=False, little=False), start)):
        found = [walked(read, Walker(data, encoding), place) for read in (alike.read, Walker.read)]
        assert found[0] == found[1]


def test_what_slices_share_is_held_once_and_what_differs_is_read():
    alike = HeaderReuse()
    files = series_phantom.stack(change=lambda index: {"ImagePositionPatient": ["0", "0", f"{10 + index}.5"]})
    slices = [read_dataset(data, pixels=True, alike=alike) for data in files[1:4]]
    raw = [[one.get_item(keyword) for one in slices] for keyword in ("StudyInstanceUID", "ImagePositionPatient")]
    assert raw[0][0] is raw[0][1] is raw[0][2]
    assert len({one.value for one in raw[1]}) == 3


def test_values_converted_in_one_slice_stay_raw_in_the_next():
    alike = HeaderReuse()
    first = read_dataset(rich(1), pixels=True, alike=alike)
    first.StudyInstanceUID, first.Modality = "1.2.3", "XX"
    del first.SeriesInstanceUID
    assert outcome(rich(2), alike) == outcome(rich(2), None)


def test_a_sequence_that_points_beyond_the_header_is_walked_in_every_slice():
    """Its walk depends on what follows: within a longer file it ends, within a shorter one the file is cut."""
    value = struct.pack("<HHI", 0xFFFE, 0xE000, 12) + struct.pack("<HH2sHI", 8, 1, b"OB", 0, 9000)
    value = value * 70  # more items than may be nested, so that the walk goes in
    broken = struct.pack("<HH2sHI", 0x0040, 0x0275, b"SQ", 0, len(value)) + value
    data = kit.film()
    at = data.index(b"\xe0\x7f\x10\x00")
    fragment = struct.pack("<HHI", 0xFFFE, 0xE000, 0) + struct.pack("<HHI", 0xFFFE, 0xE000, 8) + bytes(8)
    short = data[:at] + broken + b"\xe0\x7f\x10\x00OB\0\0" + b"\xff" * 4 + fragment + b"\xfe\xff\xdd\xe0\0\0\0\0"
    long = short[:-24] + struct.pack("<HHI", 0xFFFE, 0xE000, 20000) + bytes(20000) + short[-8:]
    for first, second in ((long, short), (short, long)):
        alike = HeaderReuse()
        outcome(first, alike)
        assert outcome(second, alike) == outcome(second, None)
    assert isinstance(outcome(long, None), tuple)
    assert "E-TRUNC" in str(outcome(short, None))


@pytest.mark.real
def test_headers_of_real_series_are_the_same_read_together_or_alone(real_data: Path):
    """Scanner headers, in file order and backwards, with and without pixels."""
    for folder in sorted(path for path in (real_data / "mri_series").iterdir() if path.is_dir()):
        files = sorted(path for path in folder.rglob("*") if path.suffix in {".dcm", ".IMA", ""} and path.is_file())
        for order, pixels in ((files, True), (files[::-1], False)):
            alike = HeaderReuse()
            for path in order:
                data = path.read_bytes()
                assert outcome(data, alike, pixels=pixels) == outcome(data, None, pixels=pixels), path
