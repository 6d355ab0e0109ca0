"""`python -m medvit.train`: fine-tune a Vision Transformer; with nothing given, on generated chest films."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit import generated
from medvit.command_line import anywhere, command_line
from medvit.config import entry
from medvit.config_check import out_of_range
from medvit.config_known import flat
from medvit.engine.contradictions import contradictions
from medvit.errors import ConfigError, Stopped
from medvit.file_lock import locked
from medvit.renamed import with_present_targets

if TYPE_CHECKING:
    from medvit.engine.fit import Fitted
    from medvit.tracking.run import Run

_ANY = float("inf")
_TRAINER: dict[str, tuple[float, float]] = {
    "epochs": (1, _ANY),
    "batch_size": (1, _ANY),
    "accumulate": (1, _ANY),
    "overlay_every": (0, _ANY),
}
_PLAN: dict[str, tuple[float, float]] = dict.fromkeys(
    ("weight_decay", "warmup_epochs", "final_lr", "clip"), (0.0, _ANY)
)
_PLAN |= {"lr": (1e-12, _ANY), "ema": (0, 1)}
_HELPED = "MEDVIT_RUN"  # in the environment of the processes that Lightning starts for further devices: the run


def check(settings: dict[str, Any]) -> list[str]:
    """Return numbers that make no sense and what is missing on the disk, before anything heavy is imported."""
    wrong = out_of_range("", settings, {"seed": (0, _ANY)})
    wrong += out_of_range("trainer.", settings["trainer"], _TRAINER)
    plan = settings["optim"]["plan"]
    wrong += out_of_range("optim.plan.", plan, _PLAN)
    if not wrong and {"lr", "final_lr"} <= set(plan) and plan["final_lr"] > plan["lr"]:
        wrong.append(f"optim.plan.final_lr={plan['final_lr']:g}: expected at most optim.plan.lr={plan['lr']:g}")
    return [*wrong, *contradictions(settings), *_absent(settings["data"])]


def _absent(data: dict[str, Any]) -> list[str]:
    folder = data["folder"]
    if generated.wanted(data):
        return []
    for file, command, asked in (("manifest.parquet", "index", {"data.root": "DIR"}), ("splits.parquet", "split", {})):
        if not (Path(folder) / file).is_file():
            line = command_line(command, {**asked, "data.folder": folder})
            return [f"data.folder={folder} has no {file}; run `{line}`"]
    return []


def train(settings: dict[str, Any], given: Sequence[str] = ()) -> str:
    """Fit, track and keep the best network of one run, and return the run's id. Never reads the test side.

    `settings` are those of conf/train.yaml; `given` are the words of the command line, which a resumed run checks.

    Raises:
        MedvitError: settings, data or weights that cannot be used; the run is then marked FAILED.
    """
    from medvit import release
    from medvit.engine.build import prepare
    from medvit.engine.stop import signals_wait, stopped_by_signals
    from medvit.tracking import run as runs

    tracking, place = settings["tracking"], Path(settings["tracking"]["folder"])
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return _help(runs.get(os.environ.get(_HELPED, "(none)"), place), resumed=bool(settings["resume"]))
    settings, last = _used(settings, given), None
    if settings["resume"]:
        run = runs.get(settings["resume"], place)
        settings, last = _as_it_was(run, settings, given), run.folder / "checkpoints" / "last.ckpt"
    if generated.wanted(settings["data"]):
        generated.make(settings["data"], settings["labels"])
    parts = prepare(settings)  # before a run is opened: what cannot be built leaves none
    from medvit.engine.fit import fit

    with stopped_by_signals(), ExitStack() as held:
        with signals_wait():
            if last is None:
                run = runs.start(place, tracking["experiment"], tracking["name"] or _title(settings))
            held.enter_context(_alone(run))
            held.enter_context(run)
        try:
            run.params(settings)
            os.environ[_HELPED] = run.id
            fitted = fit(settings, run.folder, run.metrics, last, run.artifact, parts)
            release.publish_training(run, fitted, settings)
        except KeyboardInterrupt as stop:
            raise Stopped(getattr(stop, "number", signal.SIGINT), _stopped(run)) from None
    _tell(run, fitted, tracking["folder"])
    return str(run.id)


@contextmanager
def _alone(run: Run) -> Iterator[None]:
    """Hold the run's folder while it is trained, for this process alone; being killed frees it."""
    from medvit.errors import RunError

    with ExitStack() as held:
        try:
            held.enter_context(locked(run.folder / ".training.lock", wait=False))
        except BlockingIOError:
            raise RunError(f"run {run.id} is still training: wait for its end, or stop it before resume=") from None
        yield


def _title(settings: dict[str, Any]) -> str:
    """Return data, model and strategy, such as "phantom_cxr vit Full"."""
    parts = (settings["model"]["_target_"], settings["optim"]["strategy"]["_target_"])
    return " ".join([settings["data"]["name"], *(part.rpartition(".")[2] for part in parts)])


def _help(run: Run, resumed: bool) -> str:
    """Fit the share of a further device, of a run that another process of the same command tracks and keeps."""
    import json
    import logging

    from medvit.engine.fit import fit

    logging.getLogger("medvit").setLevel(logging.WARNING)
    settings = json.loads((run.folder / "config.json").read_text(encoding="utf-8"))
    fit(settings, run.folder, lambda *_: None, run.folder / "checkpoints" / "last.ckpt" if resumed else None)
    return str(run.id)


def _used(settings: dict[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """Return the settings without what a recipe says of a training where the head is solved for; refuse it if given."""
    if not settings["optim"]["strategy"]["_target_"].endswith(".LogisticProbe"):
        return settings
    unused = [word for word in given if word.lstrip("+").startswith(("optim.plan", "trainer.epochs"))]
    if unused:
        raise ConfigError(f"{', '.join(unused)} is not used by optim=logistic, which solves for the head: leave it out")
    return {**settings, "optim": {**settings["optim"], "plan": {}}, "trainer": {**settings["trainer"], "epochs": 1}}


def _as_it_was(run: Run, asked: dict[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """Return the settings a stopped run was started with; refuse others that are given beside `resume`."""
    import json

    from medvit.errors import RunError

    if not all((run.folder / name).is_file() for name in ("config.json", "checkpoints/last.ckpt")):
        raise RunError(f"run {run.id} has no finished epoch to go on from; start a new run")
    found: dict[str, Any] = with_present_targets(json.loads((run.folder / "config.json").read_text(encoding="utf-8")))
    own = ("resume", "tracking", "trust", "optim.strategy")  # the last may have been chosen by the run itself
    if any(not word.startswith(("resume=", "tracking", "trust=")) for word in given):
        then, now = ({k: v for k, v in flat(each) if not k.startswith(own)} for each in (found, asked))
        changed = [k for k, v in now.items() if not isinstance(v, dict) and then.get(k) != v]
        if changed:
            raise RunError(
                f"a resumed run keeps its settings, and {len(changed)} of those given here differ, the first "
                f"{', '.join(changed[:3])}: give resume={run.id} alone, or start a new run"
            )
    return found


def _stopped(run: Run) -> str:
    if not (run.folder / "checkpoints" / "last.ckpt").is_file():
        return f"run {run.id} is stopped before its first epoch was done; start a new one"
    line = anywhere(command_line("train", {"resume": run.id}, run.folder.parent))
    return f"run {run.id} is stopped; this goes on at its last finished epoch:\n{line}"


def _tell(run: Run, fitted: Fitted, folder: str) -> None:
    from medvit.tracking import saved_view

    test = anywhere(command_line("evaluate", {"run": run.id}, Path(folder)))
    scores = "".join(f"  {key:<22}{value:.4f}\n" for key, value in sorted(fitted.scores.items()) if key.count("/") == 1)
    sys.stdout.write(
        f"\nrun {run.id}, best epoch {fitted.best_epoch} by {fitted.task.monitor}\n{scores}"
        f"\n  the run:        {folder}/{run.id}\n  test it:        {test}\n"
        f"  look at it:     {saved_view.command(str(Path(folder).resolve()))}\n"
        f"  then open:      {saved_view.link(run.experiment_id)}\n"
    )


@entry("train", check)
def run(settings: dict[str, Any]) -> None:
    """Run the command of conf/train.yaml."""
    from hydra.core.hydra_config import HydraConfig

    train(settings, HydraConfig.get().overrides.task)


if __name__ == "__main__":
    run()
