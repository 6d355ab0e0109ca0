"""`python -m medvit.search`: search ranges of settings with Optuna, trial by trial, on the validation side alone."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit import generated, run_lifecycle
from medvit.command_line import anywhere, command_line
from medvit.config import entry, settings_by
from medvit.config_words import overrides_of
from medvit.errors import ConfigError, DataError, Diverged, OutOfMemory, RunError, WeightsError
from medvit.file_lock import locked
from medvit.mlflow_server import server_of
from medvit.search_check import check, space_of
from medvit.search_result import BEST, publish, words_of
from medvit.train import check as check_training
from medvit.train import train

if TYPE_CHECKING:
    from optuna.trial import Trial

    from medvit.tracking.run import Run
    from medvit.tuning.study import SearchStudy

log = logging.getLogger("medvit.search")  # also when it runs as __main__
_LOCK = ".search.lock"  # in the runs folder: held while a study is opened and while a trial is drawn
_WAIT_S = 0.5  # between two looks at the trials of other workers
_SHARED = ("train", "space", "sampler", "pruning")  # what makes a search the same


def search(settings: dict[str, Any], given: Sequence[str] = ()) -> Run:
    """Train trials until there are `trials` of the study in all, and return the run they stand below.

    `settings` are those of conf/search.yaml; `given` are the words of the command line, for what is said when it is
    stopped. Several processes may do this at once with the same settings: they share the trials.

    Raises:
        MedvitError: settings, data or a storage that cannot be used, or no trial came to its end.
        Stopped: the process was asked to end; the same command goes on.
    """
    run_lifecycle.helped(Path(settings["tracking"]["folder"]))
    settings = {**settings, "space": space_of(settings)}
    base = settings_by("train", overrides_of(settings["train"]), check_training)
    if generated.wanted(base["data"]):
        generated.make(base["data"], base["labels"])
    while True:
        with _worker(settings, base, given) as (study, parent, leads):
            _work(study, parent, settings, wait=leads)
            if leads:
                publish(study, parent, settings)
        if leads or _led(parent):
            return parent  # else whoever led was killed, and this process closes the run


@contextmanager
def _worker(
    settings: dict[str, Any], base: dict[str, Any], given: Sequence[str]
) -> Iterator[tuple[SearchStudy, Run, bool]]:
    """Open the study and its run, which the first process that comes holds; say whether this is that one."""
    from contextlib import ExitStack

    from medvit.tracking import run as runs

    place, tracking = Path(settings["tracking"]["folder"]), settings["tracking"]
    with ExitStack() as held:
        with locked(place / _LOCK):
            study, name = _study(settings, base)
            if study.run is None:
                title = tracking["name"] or f"search {name}"
                study.begin(runs.start(place, tracking["experiment"], title, tracking["parent"]).id)
            parent = runs.get(str(study.run), place)
            study.folder = parent.folder
            if leads := not _led(parent):
                told = {key: value for key, value in settings.items() if key in (*_SHARED, "tracking")}
                held.enter_context(run_lifecycle.tracked(parent, told, "", "search", lambda *_: _goes_on(given)))
            else:
                log.info("another process works on search %s: its trials are shared", name)
                held.enter_context(run_lifecycle.joined(lambda: _goes_on(given)))
        yield study, parent, leads


def _led(parent: Run) -> bool:
    from medvit.tracking import run_lock

    return run_lock.is_held(parent.folder)


def _goes_on(given: Sequence[str]) -> str:
    import shlex

    line = anywhere(shlex.join(["python", "-m", "medvit.search", *given]))
    return "the search is stopped; the same command goes on" + (
        "" if any("storage=" in word for word in given) else f":\n{line}"  # an address may hold a password
    )


def _study(settings: dict[str, Any], base: dict[str, Any]) -> tuple[SearchStudy, str]:
    """Return the study of the settings, and its name."""
    from medvit.config import build
    from medvit.dataset import manifest, splits
    from medvit.tuning import study as studies
    from medvit.tuning.space import parsed

    task, data = build(base["task"]), Path(base["data"]["folder"])
    table = manifest.read(data)
    shared = {**{key: settings[key] for key in _SHARED}, "train": sorted(overrides_of(settings["train"]))}
    facts = {key: json.loads(json.dumps(value)) for key, value in shared.items()}
    facts |= {"manifest": table.digest, "split": splits.read(data, table).digest, "score": task.monitor}
    shape = hashlib.sha256(json.dumps(facts["train"] + [facts[key] for key in _SHARED[1:]]).encode()).hexdigest()
    name = settings["study"] or f"{base['data']['name']} {shape[:8]}"
    how = studies.Sampling(settings["sampler"]["seed"], settings["sampler"]["startup"], settings["pruning"])
    address = studies.address_of(settings["storage"], Path(settings["tracking"]["folder"]))
    direction = "maximize" if task.mode == "max" else "minimize"
    return studies.SearchStudy(
        studies.opened(address, name, direction, facts, how), parsed(settings["space"])[0], base, how
    ), name


def _work(study: SearchStudy, parent: Run, settings: dict[str, Any], *, wait: bool) -> None:
    """Train trial after trial, until all are ended or begun; with `wait`, until those of other processes are, too."""
    lock = parent.folder.parent / _LOCK
    while True:
        with study.next_trial(lock, settings["trials"]) as trial:
            if trial is not None:
                _try(study, trial, parent, settings)
                logging.getLogger("medvit").setLevel(logging.WARNING)  # data and network were told by the first trial
                log.setLevel(logging.INFO)
                continue
        here, elsewhere = study.others()
        if not (wait and here):
            break
        time.sleep(_WAIT_S)
    if elsewhere:
        log.warning("%d trials are held by other machines; if their process is gone, give the same command there",
                    elsewhere)  # fmt: skip


def _try(study: SearchStudy, trial: Trial, parent: Run, settings: dict[str, Any]) -> None:
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
    except Exception as error:
        study.broke(trial, _first_line(error) if isinstance(error, RunError) else type(error).__name__)
        raise
    if (run := trial.user_attrs.get(RUN)) is not None:
        _close(parent, run, outcome, settings["tracking"])


def _ended(study: SearchStudy, trial: Trial, outcome: str, reason: str) -> str:
    told = " ".join(reason.split())
    reason = (told.partition(" in the settings - ")[2] or told)[:500]
    study.end(trial, outcome, reason)
    (log.info if outcome == "pruned" else log.warning)("trial %d is %s: %s", trial.number, outcome, reason)
    return outcome


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:500]


def _close(parent: Run, run: str, outcome: str, tracking: Mapping[str, Any]) -> None:
    """Say in the trial's run how it ended; what it would have gone on with is not kept, its best weights are."""
    from medvit.tracking import run as runs
    from medvit.tracking import uploader

    child = runs.get(run, parent.folder.parent)
    child.tags({"medvit.trial_outcome": outcome})
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


@entry("search", check)
def run(settings: dict[str, Any]) -> None:
    """Run the command of conf/search.yaml."""
    from hydra.core.hydra_config import HydraConfig

    done = search(settings, HydraConfig.get().overrides.task)
    place, labels = Path(settings["tracking"]["folder"]), done.labels
    sys.stdout.write(f"\n{(done.folder / 'search.md').read_text(encoding='utf-8').partition('The best again:')[0]}")
    sys.stdout.write(
        f"the figure:     {done.folder}/search.svg\n"
        f"the best again: {(done.folder / BEST).read_text(encoding='utf-8')}"
        f"test the best:  {anywhere(command_line('evaluate', {'run': labels['medvit.best_run']}, place))}\n"
    )


if __name__ == "__main__":
    run()
