"""The cache never returns a wrong pixel: whatever is changed, truncated, killed, raced or full."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvit.data import cache as cache_module
from medvit.data import cache_build, cache_journal, cache_layout
from medvit.data.cache import Cache
from medvit.data.cache_layout import cache_home
from medvit.dicom import storage
from medvit.dicom.storage import ContentDigest, load
from medvit.errors import CacheError
from medvit.preprocess import FilmPreprocess, VolumePreprocess

PRE = FilmPreprocess(size=(24, 16))


def write_films(root, count, seed=0):
    root.mkdir(exist_ok=True)
    generator = np.random.default_rng(seed)
    for number in range(count):
        write_film(root / f"{number}.png", generator)
    return pd.DataFrame(
        {"uid": [f"{n:032x}" for n in range(count)], "files": [[f"{n}.png"] for n in range(count)], "volume_key": ""}
    )


def write_film(path, generator):
    cv2.imwrite(str(path), generator.integers(0, 256, (30, 20), dtype=np.uint8))
    age(path)


def age(path, seconds=60):
    """Pretend the file was written a minute ago; its inode's change time still tells that it is new."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def truth(rows, root, pre=PRE):
    return np.stack([pre.integers(root / files[0]) for files in rows["files"]])


@pytest.fixture
def films(tmp_path):
    return write_films(tmp_path / "films", 12), tmp_path / "films", tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch):
    """Count how many rows are decoded (not only hashed)."""
    seen = []
    real = cache_build.prepare_bytes

    def counting(data, key, pre):
        seen.append(key)
        return real(data, key, pre)

    monkeypatch.setattr(cache_build, "prepare_bytes", counting)
    return seen


def build(films, pre=PRE, **options):
    rows, root, folder = films
    return Cache.build(rows, root, pre, folder, workers=options.pop("workers", 1), **options)


@given(order=st.lists(st.integers(0, 11), max_size=30))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_gather_returns_the_rows_asked_for_in_order(films, order):
    built = build(films)
    expected = truth(*films[:2])
    assert np.array_equal(built.gather(order), expected[order])
    buffer = np.empty((len(order), *PRE.shape), np.uint8)
    assert built.gather(order, out=buffer) is buffer
    assert np.array_equal(buffer, expected[order])


def test_images_that_moved_are_told_once_and_not_row_by_row(films):
    build(films)
    films[1].rename(films[1].with_name("moved"))
    with pytest.raises(CacheError, match="E-IO the folder the images were indexed from is not there"):
        build(films)


def test_a_row_outside_the_cache_or_a_wrong_buffer_is_an_error(films):
    built = build(films)
    for index in (-1, 12):
        with pytest.raises(IndexError):
            built.gather([0, index])
    with pytest.raises(ValueError, match="buffer"):
        built.gather([0], out=np.empty((1, *PRE.shape), np.uint16))


def test_several_processes_build_the_same_pixels(films):
    rows = write_films(films[1], 40)
    assert np.array_equal(build((rows, *films[1:]), workers=2).gather(range(40)), truth(rows, films[1]))


def test_many_small_shards_give_the_same_rows(films, monkeypatch):
    monkeypatch.setattr(cache_layout, "SHARD_BYTES", 5 * 24 * 16)
    built = build(films)
    assert len(cache_module.shard_paths(built.home)) == 3
    order = [11, 0, 4, 5, 5, 9]
    assert np.array_equal(built.gather(order), truth(*films[:2])[order])


def test_nothing_is_decoded_twice(films, decoded):
    build(films)
    assert len(decoded) == 12
    build(films)
    assert len(decoded) == 12


def test_a_touched_file_is_hashed_but_not_decoded(films, decoded):
    build(films)
    (films[1] / "3.png").touch()
    assert np.array_equal(build(films).gather(range(12)), truth(*films[:2]))
    assert len(decoded) == 12


def test_a_replaced_file_is_decoded_again_even_with_the_same_size_and_time(films, decoded):
    path = films[1] / "3.png"
    before = build(films).gather([3])
    stat = path.stat()
    cv2.imwrite(str(path), 255 - cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    os.truncate(path, max(stat.st_size, path.stat().st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = build(films)
    assert np.array_equal(after.gather(range(12)), truth(*films[:2]))
    assert not np.array_equal(after.gather([3]), before)
    assert len(decoded) == 13


def test_another_definition_or_decoder_never_sees_the_old_pixels(films, monkeypatch):
    build(films)
    other = FilmPreprocess(size=(24, 16), fit="stretch")
    assert np.array_equal(build(films, other).gather(range(12)), truth(*films[:2], other))
    home = cache_home(films[2], PRE)
    assert cache_home(films[2], FilmPreprocess(size=(24, 16), voi={"voi": "percentile"})) != home
    assert cache_home(films[2], FilmPreprocess(size=(24, 16), mean=0.1, std=0.9)) == home
    monkeypatch.setattr(cache_layout, "_versions", lambda: {"pydicom": "99"})
    assert cache_home(films[2], PRE) != home


@pytest.mark.parametrize("keep", [0, 24 * 16 * 5, 24 * 16 * 5 + 7])
def test_a_truncated_shard_is_repaired(films, decoded, keep):
    built = build(films)
    os.truncate(cache_module.shard_paths(built.home)[0], keep)
    again = build(films)
    assert np.array_equal(again.gather(range(12)), truth(*films[:2]))
    assert len(decoded) == 12 + 12 - keep // (24 * 16)


def test_a_torn_entry_of_rows_not_asked_for_never_comes_back_as_other_pixels(films):
    """Truncate, refill the shard with other rows, then ask for the rows that were lost."""
    rows, root, folder = films
    home = build(films).home
    os.truncate(cache_module.shard_paths(home)[0], 0)
    build((rows[6:], root, folder))
    assert np.array_equal(build(films).gather(range(12)), truth(rows, root))


def test_a_torn_journal_line_is_ignored(films):
    home = build(films).home
    path = home / "journal"
    content = path.read_bytes()
    for cut in (1, 30, 400):
        path.write_bytes(content[:-cut])
        assert np.array_equal(build(films).gather(range(12)), truth(*films[:2]))


def test_damage_after_an_unfinished_build_is_found_by_checksum(films):
    home = build(films).home
    with cache_module.shard_paths(home)[0].open("r+b") as shard:
        shard.seek(24 * 16 * 4)
        shard.write(b"\0" * 100)
    (home / "dirty").touch()
    assert np.array_equal(build(films).gather(range(12)), truth(*films[:2]))


_CHILD = """
import sys, time
import pandas as pd
from pathlib import Path
from medvit.data import cache_build
from medvit.data.cache import Cache
from medvit.preprocess import FilmPreprocess
real = cache_build.prepare_bytes
def slow(*arguments):
    time.sleep(0.02)
    return real(*arguments)
cache_build.prepare_bytes = slow
rows = pd.read_pickle(sys.argv[1])
print("ready", flush=True)
Cache.build(rows, Path(sys.argv[2]), FilmPreprocess(size=(24, 16)), Path(sys.argv[3]), workers=1)
"""


def start_builder(films, tmp_path):
    films[0].to_pickle(tmp_path / "rows.pickle")
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, tmp_path / "rows.pickle", films[1], films[2]], stdout=subprocess.PIPE
    )
    child.stdout.readline()
    return child


def test_kill_minus_nine_while_building_leaves_no_torn_shard(films, tmp_path, decoded):
    home = cache_home(films[2], PRE)
    child = start_builder(films, tmp_path)
    while not cache_journal.read(home / "journal")[0]:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = len(cache_journal.read(home / "journal")[0])
    assert 0 < kept < 12
    assert (home / "dirty").exists()
    assert np.array_equal(build(films).gather(range(12)), truth(*films[:2]))
    assert len(decoded) == 12 - kept
    assert not (home / "dirty").exists()


def test_two_processes_building_at_once_do_the_work_once(films, tmp_path, decoded):
    child = start_builder(films, tmp_path)
    mine = build(films)
    assert child.wait() == 0
    assert np.array_equal(mine.gather(range(12)), truth(*films[:2]))
    assert cache_module.shard_paths(mine.home)[0].stat().st_size == 12 * 24 * 16
    assert np.array_equal(build(films).gather(range(12)), truth(*films[:2]))


def test_a_disk_that_is_too_small_is_refused_before_anything_is_decoded(films, decoded, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(CacheError, match="E-DISK"):
        build(films)
    assert not decoded


def test_a_disk_that_fills_while_caching_leaves_the_old_cache_as_it_was(films, monkeypatch):
    rows, root, folder = films
    home = build((rows[:5], root, folder)).home
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    real, budget = os.write, [1500]

    def full(descriptor, data):
        budget[0] -= len(data)
        if budget[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(CacheError, match="E-DISK"):
        build(films)
    monkeypatch.undo()
    after = {path.name: path.read_bytes() for path in home.iterdir()}
    after.pop("dirty")
    assert after == before
    assert np.array_equal(build(films).gather(range(12)), truth(rows, root))


def test_refused_files_are_told_together_or_excluded_and_named(films):
    rows, root = films[:2]
    (root / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (root / "7.png").unlink()
    with pytest.raises(CacheError) as caught:
        build(films)
    assert all(word in str(caught.value) for word in ("2 of 12", f"{2:032x}", f"{7:032x}", "E-IMAGE", "E-IO"))
    assert ".png" not in str(caught.value)
    built = build(films, on_bad="exclude")
    assert len(built) == 10
    assert built.excluded["uid"].tolist() == [f"{2:032x}", f"{7:032x}"]
    good = rows.drop([2, 7])
    assert built.rows["uid"].tolist() == good["uid"].tolist()
    assert np.array_equal(built.gather(range(10)), truth(good, root))


def test_a_file_that_comes_back_is_read_again(films):
    path = films[1] / "7.png"
    content = path.read_bytes()
    path.unlink()
    assert len(build(films, on_bad="exclude")) == 11
    path.write_bytes(content)
    assert np.array_equal(build(films).gather(range(12)), truth(*films[:2]))


def test_the_audit_passes_on_truth_and_stops_on_a_wrong_pixel(films):
    built = build(films)
    assert built.audit(epoch=0, share=1.0) == 12
    assert built.audit(epoch=0) == 1
    assert built.audit(epoch=0, share=0.0) == 0
    cv2.imwrite(str(films[1] / "5.png"), np.arange(600, dtype=np.uint8).reshape(30, 20))
    with pytest.raises(CacheError, match=f"E-STALE row {5:032x}"):
        built.audit(epoch=0, share=1.0)
    (films[1] / "5.png").unlink()
    with pytest.raises(CacheError, match="E-CHANGED"):
        built.audit(epoch=0, share=1.0)


def test_equal_content_is_kept_once(films):
    shutil.copy(films[1] / "0.png", films[1] / "1.png")
    built = build(films)
    assert np.array_equal(built.gather([0]), built.gather([1]))
    assert cache_module.shard_paths(built.home)[0].stat().st_size == 11 * 24 * 16


@given(size=st.integers(0, 200_000), at=st.integers(0, 199_999), bit=st.integers(0, 7))
@settings(max_examples=40, deadline=None)
def test_the_content_digest_sees_one_flipped_bit_and_one_byte_more(size, at, bit):
    data = np.random.default_rng(size).bytes(size)
    digest = content_digest(data)
    assert digest == content_digest(bytes(data))
    assert digest != content_digest(data + b"\0")
    if at < size:
        flipped = bytearray(data)
        flipped[at] ^= 1 << bit
        assert digest != content_digest(bytes(flipped))


def content_digest(data):
    state = ContentDigest(len(data))
    state.add(memoryview(data))
    return state.text()


@pytest.mark.parametrize("size", [0, 1, 65_536, 262_143, 262_144, 700_001])
def test_a_file_hashed_while_it_is_read_has_the_digest_of_its_blocks_by_zlib(tmp_path, size):
    data = np.random.default_rng(size).bytes(size)
    (tmp_path / "file").write_bytes(data)
    blocks = [data[at : at + 65_536] for at in range(0, size, 65_536)]
    sums = b"".join(struct.pack("<II", zlib.crc32(block), zlib.adler32(block)) for block in blocks)
    found = load(tmp_path / "file", digest=True)
    assert found.view == data
    assert found.digest == hashlib.sha256(size.to_bytes(8, "little") + sums).hexdigest()


def test_a_file_that_shrinks_while_the_cache_reads_it_is_refused_and_tried_again_next_time(films, monkeypatch):
    path, room, calls = films[1] / "3.png", storage._room, []
    whole = path.read_bytes()

    def cut(size):
        calls.append(size)
        if len(calls) == 4:
            path.write_bytes(whole[:-1])
        return room(size)

    monkeypatch.setattr(storage, "_room", cut)
    with pytest.raises(CacheError, match=f"1 of 12 rows .* {3:032x}: E-CHANGED"):
        build(films)
    monkeypatch.undo()
    path.write_bytes(whole)
    assert np.array_equal(build(films).gather(range(12)), truth(*films[:2]))


def test_the_cache_holds_no_path_and_no_file_name(films):
    home = build(films).home
    assert all(
        b".png" not in path.read_bytes() and str(films[1]).encode() not in path.read_bytes() for path in home.iterdir()
    )


def nifti_rows(root, slices):
    nibabel = pytest.importorskip("nibabel")
    root.mkdir()
    generator = np.random.default_rng(3)
    for number, count in enumerate(slices):
        image = nibabel.Nifti1Image(generator.integers(0, 900, (20, 24, count)).astype(np.int16), np.diag([1, 1, 4, 1]))
        nibabel.save(image, root / f"{number}.nii.gz")
    names = [[f"{n}.nii.gz"] for n in range(len(slices))]
    return pd.DataFrame({"uid": [f"{n:032x}" for n in range(len(slices))], "files": names, "volume_key": ""})


def test_bags_of_slices_of_any_length_are_cached(tmp_path):
    rows = nifti_rows(tmp_path / "mr", [5, 3, 9])
    pre = VolumePreprocess(size=(6, 16, 16), mode="slices")
    built = Cache.build(rows, tmp_path / "mr", pre, tmp_path / "cache", workers=1)
    assert built.counts.tolist() == [5, 3, 6]
    expected = [pre.integers(tmp_path / "mr" / files[0]) for files in rows["files"]]
    assert np.array_equal(built.gather([2, 0]), np.concatenate([expected[2], expected[0]]))
    assert built.position_mm(1).tolist() == [-4.0, 0.0, 4.0]


def test_volumes_are_cached(tmp_path):
    rows = nifti_rows(tmp_path / "mr", [5, 3])
    pre = VolumePreprocess(size=(6, 16, 16))
    built = Cache.build(rows, tmp_path / "mr", pre, tmp_path / "cache", workers=1)
    expected = np.stack([pre.integers(tmp_path / "mr" / files[0]) for files in rows["files"]])
    assert built.gather([1, 0]).shape == (2, 1, 6, 16, 16)
    assert np.array_equal(built.gather([1, 0]), expected[[1, 0]])


def test_warnings_of_the_readers_are_told_by_kind_each_time_the_cache_is_opened(films, caplog):
    rows, root, folder = films
    for number, top in ((0, 4095), (1, 900), (2, 65535)):
        cv2.imwrite(str(root / f"{number}.png"), np.linspace(0, top, 600).reshape(30, 20).astype(np.uint16))
    for _ in range(2):
        caplog.clear()
        Cache.build(rows, root, PRE, folder, workers=1)
        (told,) = [record.message for record in caplog.records if "W-RANGE" in record.message]
        assert told.startswith("2 of 12 rows are read with a warning, such as: W-RANGE of 16 bits 12 are used")


def test_another_opencv_is_another_cache_whatever_its_package_is_called(monkeypatch, tmp_path):
    before = cache_home(tmp_path, PRE)
    monkeypatch.setattr(cv2, "__version__", "0.0.1")
    cache_layout._versions.cache_clear()
    assert cache_home(tmp_path, PRE) != before
    monkeypatch.undo()
    cache_layout._versions.cache_clear()
    assert cache_home(tmp_path, PRE) == before
