"""A run from its opening to its end, for commands that train: one process at a time, stopped and resumed."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit import resume
from medvit.command_line import anywhere, command_line
from medvit.errors import ConfigError, Stopped
from medvit.mlflow_server import server_of

if TYPE_CHECKING:
    from medvit.tracking.run import Run

READS_OF_PLAN = {
    "optimizer": ("betas",),
    "scheduler": ("warmup_epochs", "final_lr"),
}  # of optim.plan, where they take them
_HELPED = "MEDVIT_RUN"  # in the environment of the processes that Lightning starts for further devices: the run


@contextmanager
def tracked(
    run: Run | None,
    settings: dict[str, Any],
    title: str,
    command: str,
    told: Callable[[Run, str], str] | None = None,
    *,
    facts: Mapping[str, Any] | None = None,
) -> Iterator[Run]:
    """Open a run called `title`, or go on with `run`, and close it as it ends: finished, failed or stopped.

    `told` says how it goes on where that is another way than `stopped` says. `facts` are parameters beside the settings
    (`provenance.facts`); a run that goes on keeps those it began with.

    Raises:
        Stopped: the process was asked to end; the message says how the run goes on.
    """
    from medvit.engine.guards.stop import signals_wait, stop_if_asked, stopped_by_signals
    from medvit.tracking import run as runs
    from medvit.tracking import run_lock, uploader

    tracking = settings["tracking"]
    more = {} if run else dict(facts or {})
    with stopped_by_signals(), ExitStack() as held:
        with signals_wait():
            named = (tracking["experiment"], tracking["name"] or title, tracking.get("parent"))
            run = run or runs.start(Path(tracking["folder"]), *named)
            held.enter_context(run_lock.held(run.folder))
            held.enter_context(uploader.mirrored(run.folder, server_of(tracking)))
            held.enter_context(run)
        try:
            run.params(resume.record_extension(run, settings) | more)
            os.environ[_HELPED] = run.id
            yield run
            stop_if_asked()
        except KeyboardInterrupt as stop:
            raise Stopped(getattr(stop, "number", signal.SIGINT), (told or stopped)(run, command)) from None


@contextmanager
def joined(told: Callable[[], str]) -> Iterator[None]:
    """Work below a run that another process opened and closes; asked to end, say how it goes on."""
    from medvit.engine.guards.stop import stop_if_asked, stopped_by_signals

    with stopped_by_signals():
        try:
            yield
            stop_if_asked()
        except KeyboardInterrupt as stop:
            raise Stopped(getattr(stop, "number", signal.SIGINT), told()) from None


def helped(folder: Path) -> Run | None:
    """Return the run whose share of a further device this process trains; None in the process that was started first.

    Lightning starts the others, by the same command.

    Raises:
        ConfigError: another launcher started them.
    """
    from medvit.tracking import run as runs

    if (rank := os.environ.get("LOCAL_RANK", "0")) == "0":
        return None
    if _HELPED not in os.environ:
        raise ConfigError(
            f"LOCAL_RANK={rank}: torchrun or another launcher started several copies, and each would be a run of "
            "its own: start the command once, without it, and give trainer.devices=N"
        )
    logging.getLogger("medvit").setLevel(logging.WARNING)
    return runs.get(os.environ[_HELPED], folder)


@contextmanager
def helping() -> Iterator[None]:
    """Train a further device's share; asked to end, leave without an error, at which Lightning kills the others."""
    from medvit.engine.guards.stop import stopped_by_signals

    with stopped_by_signals(), suppress(KeyboardInterrupt):
        yield


def without_idle(settings: dict[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """Return the settings without the numbers of the plan that neither the optimiser nor its schedule takes.

    Raises:
        ConfigError: one of them is given.
    """
    words, optim = [word.lstrip("+") for word in given], settings["optim"]
    readers = {key: part for part, keys in READS_OF_PLAN.items() for key in keys if key in optim["plan"]}
    idle = {key: part for key, part in readers.items() if settings[part].get(key) != optim["plan"][key]}
    if unused := [word for word in words if word.startswith(tuple(f"optim.plan.{key}" for key in idle))]:
        told = {settings[part]["_target_"].rpartition(".")[2] for part in idle.values()}
        raise ConfigError(f"{', '.join(unused)} is not used by {' and '.join(sorted(told))}: leave it out")
    plan = {key: value for key, value in optim["plan"].items() if key not in idle}
    return {**settings, "optim": {**optim, "plan": plan}}


def stopped(run: Run, command: str) -> str:
    """Return what to say of a run of `command` that was asked to end, and the line by which it goes on."""
    if not resume.has_checkpoint(run.folder):
        return f"run {run.id} is stopped before its first checkpoint was written; start a new one"
    line = anywhere(command_line(command, {"resume": run.id}, run.folder.parent))
    return f"run {run.id} is stopped; this goes on at its last checkpoint:\n{line}"


def children_stopped(run: Run, command: str) -> str:
    """Return the same of a run of several trainings."""
    line = anywhere(command_line(command, {"resume": run.id}, run.folder.parent))
    return f"{command} {run.id} is stopped; this goes on with what is not finished:\n{line}"
