"""Which patients a run's weights have learnt from, as pseudonyms, and who of them is on another side now."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from medvit.atomic_file import replace_file
from medvit.dataset import manifest, splits
from medvit.dataset.leakage.audit import ALLOWED
from medvit.errors import SplitError

FILE = "seen_patients.json"  # in a run's folder
_log = logging.getLogger(__name__)


def write(folder: Path, patients: Iterable[str], earlier: Iterable[str] = ()) -> None:
    """Write down whom the weights of the run in `folder` have seen: its own, and those of what it started from."""
    seen = sorted({*map(str, patients), *earlier})
    replace_file(folder / FILE, lambda draft: draft.write_text(json.dumps(seen) + "\n", encoding="utf-8"))


def read(folder: Path) -> frozenset[str]:
    """Return the pseudonyms a run wrote; none for what is no run, or one of before this was written down."""
    file = folder / FILE
    return frozenset(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else frozenset()


def audit(folder: Path, fold: int | None, seen: frozenset[str], allow: bool) -> str:
    """Return in words which patients of val and test of a data set's split are among `seen`; "" for none.

    Pseudonyms of one key are compared; who was indexed under another key cannot be known again.

    Raises:
        SplitError: `E-LEAK` patients of the test side were seen, unless `allow`.
    """
    if not seen:
        return ""
    sides = splits.read(folder, manifest.read(folder)).sides(fold)
    known = sides[sides.index.isin(seen)]
    counts = {side: int((known == side).sum()) for side in ("val", "test")}
    told = [f"{count} patients of the {side} side" for side, count in counts.items() if count]
    if not told:
        return ""
    said = f"the weights it starts from have learnt from {' and '.join(told)}"
    if counts["test"] and not allow:
        raise SplitError(
            f"E-LEAK {said}. Take weights that have not: pretrain on the training side of this very split and fold; "
            "data.allow_leaks=true trains all the same and is written into the run and its report"
        )
    _log.warning("leakage audit: %s", said)
    return f"{ALLOWED}: {said}" if counts["test"] else said


def joined(told: str, before: str) -> str:
    """Return what the audit of the split told and what that of the first weights did, allowed leaks first."""
    parts = [part for part in (told, before) if part]
    return "; ".join(sorted(parts, key=lambda part: not part.startswith(ALLOWED)))
