"""The two newest checkpoints of a run on the disk: written as a whole or not at all, read only where they are whole."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from medvit.atomic_file import replace_file

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
_END_OF_ZIP, _HEX, _BLOCK = b"PK\5\6", 64, 1 << 20
_log = logging.getLogger(__name__)


def newest(run: Path) -> Path | None:
    """Return the newest checkpoint of the run's folder that is whole; None where there is none.

    A damaged one is told, and set aside as `last.ckpt.damaged`, so that the next one does not take the place of the
    whole one.
    """
    folder = run / "checkpoints"
    for name in (LAST, PREVIOUS):
        file = folder / name
        if not file.is_file():
            continue
        if not (wrong := damage(file)):
            return file
        file.replace(file.with_name(f"{name}.damaged"))
        _log.warning("checkpoint %s is damaged (%s), and is set aside; the one before it is taken", name, wrong)
    return None


def damage(file: Path) -> str:
    """Return what is wrong with a checkpoint file, or "": its last bytes are the SHA-256 of the others.

    They are the comment of torch's zip archive. A checkpoint of 0.1 has none: its parts' checksums (CRC-32) count.
    """
    try:
        if (told := _digest_of(file)) is not None:
            return "" if told else "its SHA-256 is another one"
        with zipfile.ZipFile(file) as parts:
            part = parts.testzip()
        return f"{part.rpartition('/')[2]} is not what was written" if part else ""
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        return " ".join(str(error).split())[:100] or type(error).__name__


def _digest_of(file: Path) -> bool | None:
    """Return whether a file is what its digest says; None where it holds none."""
    size, end = file.stat().st_size, len(_END_OF_ZIP) + 18
    if size < end + _HEX:
        return None
    with file.open("rb") as stream:
        stream.seek(size - end - _HEX)
        tail = stream.read()
        if not tail.startswith(_END_OF_ZIP) or tail[end - 2 : end] != struct.pack("<H", _HEX):
            return None
        stream.seek(0)
        found, left = hashlib.sha256(), size - _HEX - 2
        while left:
            block = stream.read(min(left, _BLOCK))
            found.update(block)
            left -= len(block)
    found.update(b"\0\0")  # as torch wrote it, without a comment
    return found.hexdigest().encode() == tail[end:]


def remove_drafts(run: Path) -> None:
    """Delete what a process that was killed while it wrote a checkpoint left behind."""
    for draft in (run / "checkpoints").glob(".*"):
        draft.unlink(missing_ok=True)


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, written beside their place: its own go through TMPDIR, and tear on another disk.

    Of the run's own the one before is kept. Where it cannot be written, the disk being full, that is told and training
    goes on: what was there stays.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002
        """Write the checkpoint as a whole or not at all."""
        file = Path(path)
        if file.name != LAST:
            replace_file(file, lambda draft: write(checkpoint, draft))
            return
        needed = sum(tensor.nbytes for tensor in _tensors(checkpoint))
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if (free := shutil.disk_usage(file.parent).free) < needed:
                raise OSError(f"the disk has {free / 1e6:.1f} MB free")
            replace_file(file, lambda draft: write(checkpoint, draft), file.with_name(PREVIOUS))
        except OSError as error:
            kept = "the one before stays" if file.is_file() else "there is none yet"
            _log.warning(
                "the checkpoint of %.1f MB cannot be written (%s): %s, and training goes on; free some space",
                needed / 1e6, error.strerror or error, kept,
            )  # fmt: skip

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:  # noqa: ARG002
        """Read tensors and plain values, never a pickle of anything else, which is Lightning's default."""
        found: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return found


class _Hashed:
    """A file that is written once from its start, and hashed on the way."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.digest = stream, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self.stream.write(data)

    def flush(self) -> None:
        self.stream.flush()


def write(checkpoint: Mapping[str, Any], file: Path) -> None:
    """Write a checkpoint and, as the archive's comment, its SHA-256; raises OSError where the disk is full."""
    try:
        with file.open("wb") as stream:
            hashed: Any = _Hashed(stream)
            torch.save(checkpoint, hashed)
            stream.seek(-2, os.SEEK_END)
            stream.write(struct.pack("<H", _HEX) + hashed.digest.hexdigest().encode())
    except RuntimeError as error:
        if "inline_container" not in str(error):
            raise
        raise OSError("the disk is full, or the file grew too large") from error


def _tensors(value: Any) -> Iterator[Tensor]:
    """Return all tensors in a checkpoint."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
