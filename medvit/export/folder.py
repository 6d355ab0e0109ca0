"""A folder that is written whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from medvit.errors import MedvitError


@contextlib.contextmanager
def writing(out: Path, error: type[MedvitError]) -> Iterator[Path]:
    """Give an empty folder beside `out` that becomes `out` at the end; on any error nothing is left behind.

    Raises:
        MedvitError: of the class `error`: `out` is there already and not empty, or it cannot be written (a full or
            read-only disk).
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise error("The output folder is there already and not empty. Give another out=DIR, or remove it.")
    part = out.absolute().with_name(f".{out.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        if out.exists():
            out.rmdir()
        part.rename(out)
    except OSError as problem:
        raise error(
            f"The output folder cannot be written ({problem.strerror}). Give out=DIR on a disk with space that you may"
            " write to."
        ) from problem
    finally:
        shutil.rmtree(part, ignore_errors=True)
