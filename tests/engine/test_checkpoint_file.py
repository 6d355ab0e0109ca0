"""The checkpoints of a run on the disk: whole or not there, two of them, and a full disk that ends nothing."""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medvit.engine import checkpoint_file
from medvit.engine.checkpoint_file import WholeCheckpoints, damage, newest, remove_drafts
from medvit.errors import Stopped

CONTENT = {"weights": torch.arange(3000.0), "loops": {"batch": [1, 2]}, "n": None}


def saved(run: Path, *epochs: int) -> Path:
    """Save a checkpoint of each of these epochs, and return the place of the last."""
    place = run / "checkpoints" / "last.ckpt"
    for epoch in epochs:
        WholeCheckpoints().save_checkpoint({**CONTENT, "epoch": epoch}, place)
    return place


def epoch(file: Path | None) -> int:
    assert file is not None
    return int(WholeCheckpoints().load_checkpoint(file)["epoch"])


def test_a_checkpoint_is_written_beside_its_place_whatever_tmpdir_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning writes into TMPDIR and copies: of 35 kills with TMPDIR on another file system 8 tore the checkpoint."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "not there"))
    place = saved(tmp_path, 1)

    def torn(_: Any, draft: Any) -> None:
        draft.write(b"half")
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(Stopped):
        saved(tmp_path, 2)
    monkeypatch.undo()
    assert epoch(place) == 1
    assert [file.name for file in place.parent.iterdir()] == ["last.ckpt"]


def test_the_checkpoint_before_the_last_is_kept_and_taken_where_the_last_is_torn_or_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = saved(tmp_path, 1, 2, 3)
    assert (epoch(place), epoch(place.with_name("previous.ckpt"))) == (3, 2)
    assert newest(tmp_path) == place
    whole = place.read_bytes()
    draw = random.Random(0)  # noqa: S311
    cut = [whole[: draw.randrange(len(whole) - 100)] for _ in range(10)]
    flipped = [_flipped(whole, draw.randrange(len(whole) - 66)) for _ in range(40)]
    for wrong in (*cut, *flipped, b""):
        place.write_bytes(wrong)
        assert damage(place)
    with caplog.at_level(logging.WARNING):
        assert epoch(newest(tmp_path)) == 2
    assert "last.ckpt is damaged" in caplog.text
    saved(tmp_path, 4)
    assert epoch(place.with_name("previous.ckpt")) == 2, "a damaged one took the place of the whole one"
    for file in place.parent.iterdir():
        file.write_bytes(b"PK")
    assert newest(tmp_path) is None


def _flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


def test_a_checkpoint_that_another_version_wrote_is_judged_by_the_checksums_of_its_parts(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    torch.save(CONTENT, file)
    assert damage(file) == ""
    file.write_bytes(_flipped(file.read_bytes(), 4000))
    assert damage(file)


@pytest.mark.parametrize("point", ["link", "replace", "fsync"])
def test_a_process_that_dies_between_any_two_steps_of_the_writing_leaves_a_whole_checkpoint(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call to the system that changes a name or flushes is made the last one."""
    for number in range(6):
        run = tmp_path / f"{point}{number}"
        saved(run, 1, 2)
        count = [0]
        real = getattr(os, point)

        def dies(*given: Any, real: Any = real, count: list[int] = count, number: int = number) -> Any:
            count[0] += 1
            if count[0] == number:
                os._exit(9)  # as kill -9: nothing is cleaned up
            return real(*given)

        child = os.fork()
        if not child:
            setattr(os, point, dies)
            saved(run, 3)
            os._exit(0)
        os.waitpid(child, 0)
        assert epoch(newest(run)) in (2, 3)
        remove_drafts(run)
        assert {file.name for file in (run / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}
        saved(run, 4)
        assert epoch(newest(run)) == 4


def test_a_full_disk_ends_nothing_and_destroys_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = saved(tmp_path, 1, 2)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with caplog.at_level(logging.WARNING):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", full)
            saved(tmp_path, 3)
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
            saved(tmp_path, 4)
    assert "cannot be written (No space left on device): the one before stays, and training goes on" in caplog.text
    assert "the disk has 0.0 MB free" in caplog.text
    assert (epoch(place), epoch(place.with_name("previous.ckpt"))) == (2, 1)
    assert not list(place.parent.glob(".*"))
    with pytest.raises(OSError, match="No space left"):
        checkpoint_file.write({"weights": torch.zeros(100_000)}, Path("/dev/full"))


def test_a_checkpoint_that_holds_a_pickle_is_not_run(tmp_path: Path) -> None:
    """Lightning's default reads a checkpoint with weights_only=False."""
    file = tmp_path / "last.ckpt"
    torch.save({"callbacks": Harm()}, file)
    with pytest.raises(Exception, match="Weights only load failed"):
        WholeCheckpoints().load_checkpoint(file)
    assert not (tmp_path / "harm").exists()


class Harm:
    """What would make a file where it is unpickled."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("harm",))
