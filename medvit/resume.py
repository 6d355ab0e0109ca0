"""Which earlier part of a run a training goes on with, for `resume=` and `extend=` of train and pretrain."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.config_known import flat
from medvit.errors import ConfigError, RunError
from medvit.renamed import with_present_targets

if TYPE_CHECKING:
    from medvit.tracking.run import Run

AUTO = "auto"
EXTENDED = "extended.json"  # the numbers of epochs a run was trained for, one after another
_OF_A_PART = ("resume", "extend", "tracking", "trust", "optim.strategy")  # the last may have been chosen by the run
_LENGTHS = ("T_max", "total_iters", "total_steps")  # of a schedule of torch
_log = logging.getLogger(__name__)


def problems(settings: dict[str, Any]) -> list[str]:
    """Return what is wrong with `extend`."""
    extend = settings["extend"]
    if extend is None:
        return []
    if isinstance(extend, bool) or not isinstance(extend, int) or extend < 1:
        return [f"extend={extend}: expected the number of epochs that the run shall have in all"]
    if not settings["resume"]:
        return [f"extend={extend} is for a run that is resumed: give resume=RUN too, or trainer.epochs for a new one"]
    return []


def earlier_part(
    settings: dict[str, Any], given: Sequence[str], place: Path
) -> tuple[Run | None, dict[str, Any], Path | None]:
    """Return the run that `resume` asks for, its own settings, and its newest checkpoint that is whole.

    Where nothing is asked for, and where `auto` finds no run, there is none: (None, settings, None).

    Raises:
        RunError: no such run, none of its checkpoints is whole, or other settings are given than it was started with.
    """
    from medvit.engine.checkpoint_file import newest
    from medvit.tracking import run as runs

    asked = settings["resume"]
    if asked == AUTO and (asked := unfinished(settings, place)) is None:
        _log.info("resume=auto: no stopped run with these settings in the runs folder; a new one starts")
    if not asked:
        return None, settings, None
    run = runs.get(asked, place)
    found = as_it_was(run, settings, given)
    if (last := newest(run.folder)) is None:
        raise RunError(f"no checkpoint of run {run.id} is whole: start a new run")
    return run, found, last


def unfinished(settings: dict[str, Any], place: Path) -> str | None:
    """Return the id of the newest run with these settings if it has a checkpoint and is not finished."""
    from medvit.tracking import run as runs

    if not (place / "mlflow.db").is_file():
        return None
    configs = [file for file in place.glob("*/config.json") if has_checkpoint(file.parent)]
    for file in sorted(configs, key=lambda file: -file.stat().st_mtime_ns):
        if not _changed(_begun(file.parent), settings, both=True):
            run = runs.get(file.parent.name, place)
            return None if run.status == "FINISHED" else str(run.id)
    return None


def as_it_was(run: Run, asked: dict[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """Return the settings a stopped run was started with; refuse others that are given beside `resume`."""
    if not (run.folder / "config.json").is_file() or not has_checkpoint(run.folder):
        raise RunError(f"run {run.id} has no checkpoint to go on from; start a new run")
    found = _begun(run.folder)
    if ("objective" in found) != ("objective" in asked):
        command = "pretrain" if "objective" in found else "train"
        raise RunError(f"run {run.id} was started by medvit.{command}: resume it there")
    if any(not word.startswith(("resume=", "extend=", "tracking", "trust=")) for word in given):
        changed = _changed(found, asked)
        if changed:
            raise RunError(
                f"a resumed run keeps its settings, and {len(changed)} of those given here differ, the first "
                f"{', '.join(changed[:3])}: give resume={run.id} alone (with extend=EPOCHS for more "
                "epochs), or start a new run"
            )
    if uri := (asked.get("tracking") or {}).get("uri"):
        found["tracking"]["uri"] = uri
    if asked.get("extend") is not None:
        _refuse_extension(run, found, asked["extend"])
        found["trainer"]["epochs"] = asked["extend"]
    return found


def children_as_they_were(
    asked: dict[str, Any], given: Sequence[str], place: Path, kept: str
) -> tuple[Run, dict[str, Any]]:
    """Return a stopped run of several trainings, and the settings it was started with, in the runs folder as it is now.

    kept: the file of the run that holds its settings, named after the command.

    Raises:
        RunError: it is a run of another command, or settings are given beside `resume`.
    """
    from medvit.tracking import run as runs

    run, command = runs.get(asked["resume"], place), Path(kept).stem
    if not (run.folder / kept).is_file():
        raise RunError(f"run {run.id} is no {command}; resume it by the command it was started with")
    if more := [word for word in given if not word.lstrip("+").startswith(("resume=", "tracking", "trust="))]:
        raise RunError(f"a resumed {command} keeps its settings: give resume={run.id} without {', '.join(more[:3])}")
    found: dict[str, Any] = json.loads((run.folder / kept).read_text(encoding="utf-8"))
    now = {key: value for key, value in asked["tracking"].items() if key in ("folder", "uri") and value}
    return run, {**found, "tracking": {**found["tracking"], **now}}


def record_extension(run: Run, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings as MLflow has them, which takes no second value; tell it of more epochs by a tag."""
    from medvit.atomic_file import replace_file

    if "trainer" not in settings:  # of a curve, whose trainings have their own
        return settings
    begun = _epochs(run.folder)
    now = settings["trainer"]["epochs"]
    if not begun or begun == [now]:
        return settings
    if begun[-1] != now:
        begun.append(now)
        replace_file(run.folder / EXTENDED, lambda draft: draft.write_text(json.dumps(begun), encoding="utf-8"))
    run.tags({"medvit.extended": f"{' to '.join(map(str, begun))} epochs"})
    return {**settings, "trainer": {**settings["trainer"], "epochs": begun[0]}}


def _epochs(folder: Path) -> list[int]:
    """Return the numbers of epochs that a run was trained for so far."""
    if (folder / EXTENDED).is_file():
        return [int(each) for each in json.loads((folder / EXTENDED).read_text(encoding="utf-8"))]
    return [int(_begun(folder)["trainer"]["epochs"])] if (folder / "config.json").is_file() else []


def _refuse_extension(run: Run, found: dict[str, Any], epochs: int) -> None:
    had = found["trainer"]["epochs"]
    if epochs < had:
        raise ConfigError(f"extend={epochs}: run {run.id} has {had} epochs already; give a larger number")
    scheduler = json.dumps(found.get("scheduler") or {})
    if epochs > had and any(f'"{key}"' in scheduler for key in _LENGTHS):
        raise ConfigError(
            f"extend={epochs}: the schedule of run {run.id} is as long as its training; start a new run with "
            f"trainer.epochs={epochs}"
        )
    if epochs > had and any(name.startswith("evaluation/") for name in run.artifacts()):
        raise RunError(
            f"extend={epochs}: run {run.id} was evaluated already, and what is trained after the test side was looked "
            f"at is another run: start one with trainer.epochs={epochs}"
        )


def _begun(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = with_present_targets(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    return found


def has_checkpoint(folder: Path) -> bool:
    """Return whether a run was stopped after its first checkpoint."""
    return any((folder / "checkpoints" / name).is_file() for name in ("last.ckpt", "previous.ckpt"))


def _changed(begun: dict[str, Any], asked: dict[str, Any], both: bool = False) -> list[str]:
    """Return the settings that differ; with `both` also those that only the run has."""
    if asked.get("model", {}).get("weights") == "random":
        asked = {**asked, "model": {**asked["model"], "weights": None}}  # as a run keeps it
    plain = json.loads(json.dumps(asked))
    own = [{k: v for k, v in flat(each) if not k.startswith(_OF_A_PART)} for each in (begun, plain)]
    then, now = ({k: v for k, v in each.items() if not isinstance(v, dict)} for each in own)
    return [key for key in (now | then if both else now) if then.get(key) != now.get(key)]
