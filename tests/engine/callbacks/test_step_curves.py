"""Curves by step: what each point is the mean of, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from medvit.engine.callbacks.step_curves import StepCurves
from medvit.engine.fit import by_step
from medvit.engine.module import FineTuner
from medvit.model.network import Network
from medvit.model.pool import MeanPool
from medvit.model.vit import ViT
from medvit.optim.plan import Plan
from medvit.optim.strategy import Full
from medvit.task.binary import Binary
from medvit.types import Batch


class Batches(torch.utils.data.IterableDataset[Batch]):
    """Batches of two or three that take a while."""

    def __init__(self, count: int, wait: float = 0.0) -> None:
        self.count, self.wait = count, wait

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self.count):
            time.sleep(self.wait)
            size = 2 + number % 2
            image = torch.randn(size, 1, 8, 8, generator=torch.Generator().manual_seed(number))
            yield Batch(image, torch.ones(size, 1), torch.ones(size, 1), tuple("abc"[:size]), None)


class Watched(FineTuner):
    """Keeps the loss of every batch, and the gradient of every step as it is before clipping."""

    def __init__(self) -> None:
        network = Network(ViT((8, 8), (4, 4), 1, 8, 1, 2), MeanPool(), 1)
        super().__init__(network, Binary("finding"), Full(), Plan(), 1.0, 0.0, 0)
        self.seen: list[float] = []
        self.norms: list[float] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.seen.append(float(self._losses[-1]))
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        held = [p.grad.flatten() for p in self.network.parameters() if p.grad is not None]
        self.norms.append(float(torch.cat(held).norm()))


def trained(
    folder: Path, every: int, batches: Batches, **more: Any
) -> tuple[Watched, list[tuple[int, dict[str, float]]]]:
    points: list[tuple[int, dict[str, float]]] = []
    module = Watched()
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        callbacks=[StepCurves(lambda numbers, step: points.append((step, numbers)), every)],
        default_root_dir=folder, enable_model_summary=False, **more,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
    return module, points


def test_a_point_is_the_mean_loss_since_the_last_one_and_the_norm_of_its_own_step(tmp_path: Path) -> None:
    module, points = trained(tmp_path, 2, Batches(6), max_epochs=2, accumulate_grad_batches=2, gradient_clip_val=1e-3)
    assert [step for step, _ in points] == [2, 4, 6]
    for number, (step, point) in enumerate(points):
        held = module.seen[4 * number : 4 * number + 4]
        assert point["train/step/loss"] == pytest.approx(sum(held) / 4, rel=1e-5)
        assert point["train/step/gradient_norm"] > 1e-3
        assert point["train/step/gradient_norm"] == pytest.approx(module.norms[step - 1], rel=1e-4)
        assert 0 < point["train/step/lr"] <= 1
        assert 0 <= point["time/step/data_wait"] < 1


def test_the_wait_for_data_is_seen_as_such(tmp_path: Path) -> None:
    begun = time.monotonic()
    _, points = trained(tmp_path, 5, Batches(10, wait=0.1), max_epochs=1)
    took = time.monotonic() - begun
    assert [step for step, _ in points] == [5, 10]
    assert all(point["time/step/data_wait"] > 0.3 for _, point in points)
    assert all(25 / took / 2 < point["time/step/units_per_s"] <= 12.6 / 0.5 for _, point in points)


def test_no_points_are_made_where_none_are_asked_for() -> None:
    assert by_step({"trainer": {"log_every_n_steps": 0}}, lambda *_: None) == []
    assert by_step({"trainer": {"log_every_n_steps": 10}}, None) == []
    (made,) = by_step({"trainer": {}}, lambda *_: None)  # of a run begun before it was a setting
    assert made.every == 10
