"""`python -m medvit.unpack source=FILE.npz out=DIR`: arrays (MedMNIST, MRNet) as images that `medvit.index` reads."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from medvit.config import entry

log = logging.getLogger("medvit.unpack")  # also when it runs as __main__


def _check(settings: dict[str, Any]) -> list[str]:
    source, spacing = Path(str(settings["source"])), settings["spacing_mm"]
    right = source.is_dir() or (source.is_file() and source.suffix == ".npz")
    problems = [] if right else ["source is neither an .npz file nor a folder of .npy files"]
    if spacing is not None and not (isinstance(spacing, list) and len(spacing) == 3 and all(s > 0 for s in spacing)):
        problems.append("spacing_mm: expected [slice, row, column], mm above 0")
    return problems


@entry("unpack", _check)
def run(settings: dict[str, Any]) -> None:
    """Run the command of conf/unpack.yaml."""
    from medvit.dataset.arrays import unpack
    from medvit.dataset.indexing import progress

    spacing = settings["spacing_mm"]
    with progress("unpacking") as step:
        count = unpack(Path(settings["source"]), Path(settings["out"]), tuple(spacing) if spacing else None, step)
    log.info("%d images written; index that folder", count)


if __name__ == "__main__":
    run()
