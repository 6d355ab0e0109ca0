"""One trial of a search: trained below its run, its epochs told to the study, and ended for what it is."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from medvit.config import settings_by
from medvit.config_words import overrides_of
from medvit.errors import ConfigError, DataError, Diverged, OutOfMemory, RunError, WeightsError
from medvit.mlflow_server import server_of
from medvit.search_result import SCORE, words_of
from medvit.train import check as check_training
from medvit.train import train

if TYPE_CHECKING:
    from optuna.trial import Trial

    from medvit.tracking.run import Run
    from medvit.tuning.study import SearchStudy

log = logging.getLogger("medvit.search")


def try_values(study: SearchStudy, trial: Trial, parent: Run, settings: dict[str, Any]) -> None:
    """Train one trial and tell the study how it ended."""
    import torch

    from medvit.tuning.study import RUN, Pruned

    values = study.values(trial)
    shown = ", ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                      for name, value in values.items())  # fmt: skip
    log.info("trial %d: %s", trial.number, shown)
    try:
        _trained(study, trial, parent, settings, values)
        if (score := study.score(trial)) is None:
            raise Diverged("no epoch gave a score that is a number")
        study.complete(trial, score)
        best = study.best()
        log.info("trial %d: %.4f (best: %.4f, trial %d)", trial.number, score, best.value, best.number)  # type: ignore[union-attr, arg-type]
        outcome = "complete"
    except Pruned:
        outcome = _ended(study, trial, "pruned", "its curve is below the median of the others")
    except (OutOfMemory, torch.OutOfMemoryError):
        outcome = _ended(study, trial, "out of memory", "the accelerator has too little memory for these values")
        torch.cuda.empty_cache()
    except Diverged as error:
        outcome = _ended(study, trial, "diverged", str(error))
    except (ConfigError, WeightsError) as error:
        outcome = _ended(study, trial, "refused", str(error))
    except DataError as error:
        if study.best() is None:  # the data are the same for all: they are what is wrong
            study.broke(trial, _first_line(error))
            raise
        outcome = _ended(study, trial, "refused", str(error))
    except (RunError, OSError) as error:  # of the disk or the runs folder, not of these values
        study.broke(trial, _first_line(error) if isinstance(error, RunError) else type(error).__name__)
        raise
    except Exception as error:  # raised again: the trial only says why it is left as it is
        study.broke(trial, type(error).__name__, once=True)
        raise
    if (run := trial.user_attrs.get(RUN)) is not None:
        _close(parent, run, outcome, settings["tracking"], study.score(trial) if outcome == "complete" else None)


def _ended(study: SearchStudy, trial: Trial, outcome: str, reason: str) -> str:
    told = " ".join(reason.split())
    reason = (told.partition(" in the settings - ")[2] or told)[:500]
    study.end(trial, outcome, reason)
    (log.info if outcome == "pruned" else log.warning)("trial %d is %s: %s", trial.number, outcome, reason)
    return outcome


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:500]


def _close(parent: Run, run: str, outcome: str, tracking: Mapping[str, Any], score: float | None) -> None:
    """Say in the trial's run how it ended; what it would have gone on with is not kept, its best weights are."""
    from medvit.tracking import run as runs
    from medvit.tracking import uploader

    child = runs.get(run, parent.folder.parent)
    child.tags({"medvit.trial_outcome": outcome})
    if score is not None:
        child.metrics({SCORE: score})
    if outcome == "pruned":
        child.finish("KILLED")  # nothing went wrong in it
    uploader.follow(child.folder, server_of(tracking))
    for file in (child.folder / "checkpoints").glob("*.ckpt"):
        file.unlink()


def _trained(
    study: SearchStudy, trial: Trial, parent: Run, settings: dict[str, Any], values: Mapping[str, Any]
) -> None:
    """Train the run of a trial, or go on with that of the stopped trial whose values it has, and report each epoch."""
    from medvit.engine.checkpoint_file import newest
    from medvit.tracking import run as runs
    from medvit.tuning.study import RUN

    words = _words(settings, values, trial.number, parent)
    asked = settings_by("train", words, check_training)
    epochs, resumed = asked["trainer"]["epochs"], None
    if (before := study.earlier(trial)) is not None and before.user_attrs.get(RUN):
        child = runs.get(before.user_attrs[RUN], parent.folder.parent)
        if child.status == "FINISHED" or newest(child.folder):
            resumed = child
            for epoch, value in before.intermediate_values.items():
                study.report(trial, value, epoch)
    if resumed is not None and resumed.status == "FINISHED":  # it was stopped between its end and its score
        trial.set_user_attr(RUN, resumed.id)
        return
    watch = _reporting(study, trial, epochs)
    train({**asked, "resume": resumed.id} if resumed else asked, () if resumed else words, watch)


def _words(settings: dict[str, Any], values: Mapping[str, Any], number: int, parent: Run) -> list[str]:
    """Return the words of a trial's training."""
    shared = {key: settings["tracking"][key] for key in ("folder", "uri", "experiment")}
    tracking = {**shared, "name": f"trial {number}", "parent": parent.id, "log_model": False}
    return [*words_of(settings, values), *overrides_of({"tracking": tracking})]


def _reporting(
    study: SearchStudy, trial: Trial, epochs: int
) -> Callable[[Run], Callable[[dict[str, float], int], None]]:
    """Return what watches a trial's run: its epochs are told to run and study, and one that is hopeless is its last."""
    from medvit.tuning.study import RUN, Pruned

    monitor = study.study.user_attrs["facts"]["score"]

    def watch(run: Run) -> Callable[[dict[str, float], int], None]:
        trial.set_user_attr(RUN, run.id)
        run.tags({"medvit.trial": str(trial.number)})

        def report(metrics: dict[str, float], epoch: int) -> None:
            run.metrics(metrics, epoch)
            value = metrics.get(monitor)
            if value is None or not math.isfinite(value):
                return
            study.report(trial, value, epoch + 1)
            if epoch + 1 < epochs and trial.should_prune():
                raise Pruned

        return report

    return watch
