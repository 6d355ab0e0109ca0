"""A folder that is written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from medvit.errors import MedvitError


@contextlib.contextmanager
def atomic_folder(out: Path, error: type[MedvitError]) -> Iterator[Path]:
    """Give an empty folder beside `out` that becomes `out` at the end; on any error nothing is left behind.

    Raises:
        MedvitError: of the class `error`: `out` is there already and not empty, or it cannot be written (a full or
            read-only disk).
    """
    taken = "The output folder is there already and not empty. Give another out=DIR, or remove it."
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise error(taken)
    place = out.absolute()
    part = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part")  # of this call: two may write at once
    try:
        part.mkdir(parents=True)
        yield part
        part.rename(place)  # takes the place of an empty folder, never of one with files
    except OSError as problem:
        if problem.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            raise error(taken) from problem
        raise error(
            f"The output folder cannot be written ({problem.strerror}). Give out=DIR on a disk with space that you may"
            " write to."
        ) from problem
    finally:
        shutil.rmtree(part, ignore_errors=True)
