"""A loss or gradient that is not finite: left out as often as asked, else the training ends; its images are named."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from medvit.engine.checkpoint_file import newest
from medvit.engine.guards import finite
from medvit.engine.guards.finite import FiniteGuard
from medvit.engine.module import FineTuner
from medvit.errors import RunError

WORDS = ("trainer.batch_size=4", "trainer.epochs=1", "optim.plan.ema=0")


@pytest.fixture
def broken_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, ...]]]:
    """Let the outputs of some batches overflow, and return their images."""

    def at(*numbers: int) -> list[tuple[str, ...]]:
        seen: list[tuple[str, ...]] = []
        outputs = FineTuner.outputs

        def broken(self: Any, batch: Any) -> torch.Tensor:
            found = outputs(self, batch)
            if self.training and self.trainer.fit_loop.batch_idx in numbers:
                seen.append(batch.uid)
                return found * torch.inf
            return found

        monkeypatch.setattr(FineTuner, "outputs", broken)
        return seen

    return at


def test_a_step_that_is_not_finite_ends_the_training_at_once_and_names_its_images(fitted: Any, broken_at: Any) -> None:
    """It was noticed up to 20 batches later, with the images of that batch."""
    seen = broken_at(3)
    with pytest.raises(
        RunError, match=r"not finite in epoch 1, batch 4, with the images .*the best checkpoint is kept"
    ) as told:
        fitted(*WORDS, "trainer.checkpoint_minutes=0", name="ended")
    assert all(uid[:8] in str(told.value) for uid in seen[0])


def test_as_many_steps_as_asked_are_left_out_and_no_weight_is_harmed(
    fitted: Any, broken_at: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broken_at(3, 5)
    with caplog.at_level(logging.WARNING):
        _, numbers, folder = fitted(*WORDS, "trainer.skip_non_finite=2", name="skipped")
    assert "a step is left out (2 of 2)" in caplog.text
    assert numbers[0]["train/loss"] < 2
    last = torch.load(newest(folder), weights_only=True)
    assert all(torch.isfinite(tensor).all() for tensor in last["state_dict"].values())
    assert last["skipped"] == 2
    steps = {int(moments["step"]) for moments in last["optimizer_states"][0]["state"].values()}
    assert steps == {last["global_step"] - 2}
    with pytest.raises(RunError, match="1 such steps were left out already"):
        fitted(*WORDS, "trainer.skip_non_finite=1", name="too many")


def test_on_a_gpu_steps_are_looked_at_together_and_always_before_they_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite, "_LOOK_EVERY", 3)
    guard, weight = FiniteGuard(), torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight])
    late = [torch.tensor(value, device="meta") for value in (1.0, torch.nan)]  # as a GPU's: not read at each step
    for number, loss in enumerate(late):
        guard.batch(number, ("a" * 9, "b" * 9), loss)
        guard.step(torch.tensor(1.0, device="meta"), optimizer, 4)
    assert len(guard._steps) == 2
    guard._steps = [(torch.isfinite(torch.tensor(value)), where)
                    for value, (_, where) in zip((1.0, torch.nan), guard._steps, strict=True)]  # fmt: skip
    with pytest.raises(RunError, match="epoch 5, batch 2, with the images aaaaaaaa, bbbbbbbb"):
        guard.look()
    with pytest.raises(RunError, match="weights are not finite"):
        guard.look([torch.full((2,), torch.inf)])


def test_patience_ends_the_training_and_a_resumed_one_too(fitted: Any) -> None:
    words = ("trainer.batch_size=8", "trainer.epochs=9", "optim.plan.lr=1e-12", "optim.plan.final_lr=0")
    found, numbers, folder = fitted(*words, "trainer.patience=2", name="patient")
    assert len(numbers) == found.best_epoch + 2 < 9
    again, more, _ = fitted(*words, "trainer.patience=2", name="patient", resume=newest(folder))
    assert more == []
    assert again.best == found.best
