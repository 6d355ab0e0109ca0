"""`python -m medvit.search`: search ranges of settings with Optuna, trial by trial, on the validation side alone."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit import generated, run_lifecycle
from medvit.command_line import anywhere, command_line
from medvit.config import entry, settings_by
from medvit.config_words import overrides_of
from medvit.errors import RunError
from medvit.file_lock import locked
from medvit.search_check import check, space_of
from medvit.search_result import BEST, publish
from medvit.search_trial import try_values
from medvit.train import check as check_training

if TYPE_CHECKING:
    from medvit.tracking.run import Run
    from medvit.tuning.study import SearchStudy

log = logging.getLogger("medvit.search")  # also when it runs as __main__
_LOCK = ".search.lock"  # in the runs folder: held while a study is opened and while a trial is drawn
_WAIT_S = 0.5  # between two looks at the trials of other workers
_SHARED = ("train", "space", "sampler", "pruning")  # what makes a search the same
_PLACES = ("data.folder=", "data.root=", "labels.csv=")  # may differ: the data are told apart by what they hold


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
    from medvit.tracking import run as runs

    place, tracking = Path(settings["tracking"]["folder"]), settings["tracking"]
    with ExitStack() as held:
        with locked(place / _LOCK):
            study, name = _study(settings, base)
            if study.run is None:
                title = tracking["name"] or f"search {name}"
                study.begin(runs.start(place, tracking["experiment"], title, tracking["parent"]).id)
            parent = _parent(str(study.run), place)
            study.folder = parent.folder
            if leads := not _led(parent):
                told = {key: value for key, value in settings.items() if key in (*_SHARED, "tracking")}
                held.enter_context(run_lifecycle.tracked(parent, told, "", "search", lambda *_: _goes_on(given)))
            else:
                log.info("another process works on search %s: its trials are shared", name)
                held.enter_context(run_lifecycle.joined(lambda: _goes_on(given)))
        yield study, parent, leads


def _parent(run: str, place: Path) -> Run:
    from medvit.tracking import run as runs

    try:
        return runs.get(run, place)
    except RunError as error:
        raise RunError(
            f"the run of this search is not in tracking.folder: give its folder, or study=NAME. {error}"
        ) from None


def _led(parent: Run) -> bool:
    from medvit.tracking import run_lock

    return run_lock.is_held(parent.folder)


def _goes_on(given: Sequence[str]) -> str:
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
    shared = sorted(word for word in overrides_of(settings["train"]) if not word.startswith(_PLACES))
    facts = {"train": _digest(shared), **{key: json.loads(json.dumps(settings[key])) for key in _SHARED[1:]}}
    shape = _digest(list(facts.values()))
    facts |= {"manifest": table.digest, "split": splits.read(data, table).digest, "score": task.monitor}
    name = settings["study"] or f"{base['data']['name']} {shape[:8]}"
    how = studies.Sampling(settings["sampler"]["seed"], settings["sampler"]["startup"], settings["pruning"])
    address = studies.address_of(settings["storage"], Path(settings["tracking"]["folder"]))
    direction = "maximize" if task.mode == "max" else "minimize"
    return studies.SearchStudy(
        studies.opened(address, name, direction, facts, how), parsed(settings["space"])[0], base, how
    ), name


def _digest(value: list[Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _work(study: SearchStudy, parent: Run, settings: dict[str, Any], *, wait: bool) -> None:
    """Train trial after trial, until all are ended or begun; with `wait`, until those of other processes are, too."""
    lock = parent.folder.parent / _LOCK
    while True:
        with study.next_trial(lock, settings["trials"]) as trial:
            if trial is not None:
                try_values(study, trial, parent, settings)
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


@entry("search", check)
def run(settings: dict[str, Any]) -> None:
    """Run the command of conf/search.yaml."""
    from hydra.core.hydra_config import HydraConfig

    from medvit.tracking import saved_view

    done = search(settings, HydraConfig.get().overrides.task)
    if _led(done):
        sys.stdout.write(
            f"\nno trial is left to begin: the process that opened run {done.id} waits for the last ones\n"
        )
        return
    place, labels = Path(settings["tracking"]["folder"]), done.labels
    sys.stdout.write(f"\n{(done.folder / 'search.md').read_text(encoding='utf-8')}\n")
    sys.stdout.write(
        f"the figure:     {done.folder}/search.svg\n"
        f"the best again: {(done.folder / BEST).read_text(encoding='utf-8')}"
        f"test the best:  {anywhere(command_line('evaluate', {'run': labels['medvit.best_run']}, place))}\n"
        f"look at all:    {saved_view.command(str(place.resolve()))}\n"
        f"then open:      {saved_view.link(done.experiment_id)}\n"
    )


if __name__ == "__main__":
    run()
