"""Hashes of what was evaluated, so that nothing else is registered or exported under its name."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from medvit.command_line import command_line
from medvit.errors import RunError
from medvit.tracking.journal import file_sha256
from medvit.tracking.run import Run

_HASHES, WEIGHTS = "hashes.json", "checkpoints/best.safetensors"  # as medvit.engine.checkpoint leaves them


def state(run: Run) -> dict[str, str]:
    """Return the hashes of what the run stands on now: manifest, split, preprocessing, weights.

    Raises:
        RunError: the run's folder lacks its weights or hashes.
    """
    missing = [name for name in (_HASHES, WEIGHTS) if not (run.folder / name).is_file()]
    if missing:
        raise RunError(f"The folder of run {run.id} lacks {', '.join(missing)}: it did not finish, or was cleaned up.")
    hashes = json.loads((run.folder / _HASHES).read_text(encoding="utf-8"))
    return {**{str(key): str(value) for key, value in hashes.items()}, "weights": file_sha256(run.folder / WEIGHTS)}


def record(run: Run, split: str, folder: Path) -> None:
    """Attach an evaluation's folder as `report/<split>/` and seal it as `evaluation/<split>.json`.

    Args:
        run: the run that was evaluated.
        split: "test", or the name of another set.
        folder: holds report.json, thresholds.json (frozen on validation), report.html, tables, figures, predictions.

    Raises:
        RunError: report.json or thresholds.json is not there.
    """
    missing = [name for name in ("report.json", "thresholds.json") if not (folder / name).is_file()]
    if missing:
        raise RunError(f"The evaluation folder lacks {', '.join(missing)}. Evaluate the run again.")
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        run.artifact(file, f"report/{split}/{file.relative_to(folder).as_posix()}")
    thresholds = json.loads((folder / "thresholds.json").read_text(encoding="utf-8"))
    report = file_sha256(folder / "report.json")
    seal = {"split": split, "hashes": state(run), "report": report, "thresholds": thresholds}
    run.json(seal, f"evaluation/{split}.json")
    run.note(f"Evaluated on {split}: read `report/{split}/report.html` under Artifacts.")


def check(run: Run, split: str = "test") -> dict[str, Any]:
    """Return the thresholds (thresholds.json) of the run's evaluation after checking that it is of this very model.

    Raises:
        RunError: the run was not evaluated on `split`, or its weights, data hashes or report changed since.
    """
    names = run.artifacts()
    wanted = (f"evaluation/{split}.json", f"report/{split}/report.json")
    missing = [name for name in wanted if name not in names]
    if missing:
        raise RunError(
            f"Run {run.id} has no evaluation on {split!r} ({', '.join(missing)} is missing). "
            f"Evaluate it first: {command_line('evaluate', {'run': run.id, 'split': split}, run.folder.parent)}"
        )
    with tempfile.TemporaryDirectory() as folder:
        seal, report = (run.fetch(name, Path(folder) / str(place)) for place, name in enumerate(wanted))
        content: dict[str, Any] = json.loads(seal.read_text(encoding="utf-8"))
        found = {**state(run), "report": file_sha256(report)}
    expected = {**content["hashes"], "report": content["report"]}
    changed = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    if changed:
        raise RunError(
            f"Run {run.id} is not what was evaluated: {', '.join(changed)} changed since. Evaluate it again."
        )
    thresholds: dict[str, Any] = content["thresholds"]
    return thresholds


def report(run: Run, split: str = "test") -> dict[str, Any]:
    """Return the report.json of the run's evaluation, which `check` compared with its seal."""
    with tempfile.TemporaryDirectory() as folder:
        file = run.fetch(f"report/{split}/report.json", Path(folder))
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content
