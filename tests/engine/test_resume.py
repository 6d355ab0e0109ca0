"""A training that is stopped at any step and resumed ends with the bits of an unbroken one."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from medvit.dataset import manifest, splits
from medvit.engine.checkpoint_file import newest
from medvit.engine.guards import stop
from medvit.engine.module import FineTuner
from medvit.errors import RunError

STEPS = "trainer.batch_size=4"
CASES = {
    "augmented, dropping paths": ("augment=xray", "model.drop_path=0.3"),
    "accumulated, two threads": ("trainer.accumulate=2", "trainer.workers=2", "augment=xray"),
    "a schedule that looks at a score": ("scheduler=plateau", "optimizer=sgd", "trainer.workers=0"),
    "phases": ("optim=lp_ft", "optim.strategy.probe_epochs=1", "model.weights=random", "optim.plan.ema=0"),
    "drawn with replacement": ("data.sampler=weighted", "callbacks=[early_stopping,lr_monitor]"),
}


@pytest.fixture
def asked_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let SIGTERM arrive in the middle of the training step of this number."""
    count = [0]
    step = FineTuner.training_step

    def at(number: int) -> None:
        count[0] = 0

        def counted(self: Any, batch: Any, batch_idx: int) -> Any:
            count[0] += 1
            if count[0] == number:
                signal.raise_signal(signal.SIGTERM)
            return step(self, batch, batch_idx)

        monkeypatch.setattr(FineTuner, "training_step", counted)

    return at


@pytest.fixture(scope="session")
def batches(films: Path) -> int:
    """Return how many batches of 4 an epoch has."""
    table = manifest.read(films)
    return -(-len(splits.read(films, table).rows(table, "train")) // 4)


def kept(folder: Path) -> dict[str, Any]:
    """All that a run has at its end: best weights, and the whole last checkpoint."""
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return {"best": load_file(folder / "checkpoints" / "best.safetensors"), **last}


def equal(first: Any, second: Any, at: str = "") -> list[str]:
    """Return the places where two values differ."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [at]
    if isinstance(first, dict):
        keys = first.keys() | second.keys()
        return [each for key in keys for each in equal(first.get(key), second.get(key), f"{at}/{key}")]
    if isinstance(first, list | tuple):
        pairs = zip(first, second, strict=True)
        return [each for n, (one, other) in enumerate(pairs) for each in equal(one, other, f"{at}/{n}")]
    return [] if first == second else [at]


def different(whole: dict[str, Any], broken: dict[str, Any]) -> list[str]:
    """Return what differs in the end, but for Lightning's counts of how often it was restarted."""
    return [each for each in equal(whole, broken) if not each.startswith("/loops")]


@pytest.mark.parametrize("case", CASES)
def test_a_training_stopped_at_any_step_ends_with_the_bits_of_an_unbroken_one(
    case: str, fitted: Any, asked_at: Any, batches: int
) -> None:
    words = (STEPS, *CASES[case])
    _, told, whole = fitted(*words, name="whole")
    number = random.Random(case).randrange(1, 3 * batches)  # noqa: S311
    asked_at(number)
    with stop.stopped_by_signals(), pytest.raises(stop.Stopped):
        fitted(*words, name="broken")
    folder = whole.parent / "broken"
    stored = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    accumulate = 2 if "trainer.accumulate=2" in words else 1
    assert stored["global_step"] == _steps_after(number, batches, accumulate)
    asked_at(10**9)
    _, rest, _ = fitted(*words, name="broken", resume=newest(folder))
    assert different(kept(whole), kept(folder)) == []
    for one, other in zip(rest, told[-len(rest) :], strict=True):
        assert one == pytest.approx(other, rel=1e-6)  # what callbacks log is in float32 until it is stored


def _steps_after(number: int, batches: int, accumulate: int) -> int:
    """Return the optimiser's steps when the checkpoint is written that batch `number` of the training asked for."""
    epochs, rest = divmod(number - 1, batches)
    in_epoch = -(-(rest + 1) // accumulate)
    return epochs * -(-batches // accumulate) + in_epoch


def test_a_training_that_is_killed_has_lost_what_came_after_the_last_checkpoint_within_the_epoch(
    fitted: Any, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`trainer.checkpoint_minutes`: 10 of them by default, 0 for every step."""
    words = (STEPS, "trainer.epochs=2", "augment=xray", "optim.plan.ema=0")
    whole = fitted(*words, name="whole")[2]
    step = FineTuner.training_step
    for minutes, lost_from in ((1000, batches), (0, batches + 6)):

        def killed(self: Any, batch: Any, batch_idx: int) -> Any:
            if self.current_epoch == 1 and batch_idx == 6:
                raise SystemExit("kill -9")
            return step(self, batch, batch_idx)

        name, more = f"every {minutes}", f"trainer.checkpoint_minutes={minutes}"
        with monkeypatch.context() as patch:
            patch.setattr(FineTuner, "training_step", killed)
            with pytest.raises(SystemExit, match="kill -9"):
                fitted(*words, more, name=name)
        last = newest(whole.parent / name)
        assert last is not None
        assert torch.load(last, weights_only=True)["global_step"] == lost_from
        fitted(*words, more, name=name, resume=last)
        found = [each for each in different(kept(whole), kept(whole.parent / name)) if "made_of" not in each]
        assert found == []


def test_a_run_whose_settings_were_edited_is_not_resumed(fitted: Any) -> None:
    words = (STEPS, "trainer.epochs=1", "trainer.limit_train_batches=1")
    last = newest(fitted(*words, name="run")[2])
    with pytest.raises(RunError, match=r"config\.json of this run was changed"):
        fitted(*words, "optim.plan.lr=0.1", name="run", resume=last)


def test_checkpoints_are_written_without_a_line_for_each(fitted: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Lightning told at every checkpoint of an argument it was not given: forty lines in a first run."""
    caplog.set_level("INFO", "pytorch_lightning")
    fitted(STEPS, "trainer.epochs=1")
    assert not [line for line in caplog.messages if "weights_only" in line]
