"""What happens once per step and once per epoch, on the smallest network there is."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch

from medvit.engine import fit
from medvit.engine.callbacks import AverageWeights
from medvit.engine.module import FineTuner, Plan
from medvit.errors import RunError
from medvit.model.network import Network
from medvit.model.pool import MeanPool
from medvit.model.vit import ViT
from medvit.optim.strategy import Full
from medvit.task.binary import Binary
from medvit.task.regression import Regression
from medvit.types import Batch


def module(task) -> FineTuner:
    return FineTuner(Network(ViT((8, 8), (4, 4), 1, 8, 1, 2), MeanPool(), 1), task, Full(), Plan(), 1.0, 0.0, 0)


def loader(batches: int):
    made = [
        Batch(torch.randn(2, 1, 8, 8), torch.ones(2, 1), torch.ones(2, 1), (f"{n}a", f"{n}b"), None)
        for n in range(batches)
    ]
    return torch.utils.data.DataLoader(made, batch_size=None)


def trainer(folder, **settings) -> pl.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(max_epochs=1, accelerator="cpu", default_root_dir=folder, **quiet, **settings)


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 5), (2, 3), (5, 1)])
def test_the_average_moves_once_per_step_of_the_optimiser_however_many_batches_one_takes(tmp_path, accumulate, steps):
    average = AverageWeights(0.99)
    run = trainer(tmp_path, accumulate_grad_batches=accumulate, callbacks=[average])
    run.fit(module(Binary("finding")), loader(5))
    assert run.global_step == average.ema.updates == steps


def test_outputs_that_are_not_finite_stop_the_run_also_where_the_scores_would_only_be_left_out(tmp_path):
    task = Regression("age")
    task.fitted = {"mean": 50.0, "std": 20.0}
    broken = module(task)
    with torch.no_grad():
        broken.network.head.bias.fill_(float("nan"))
    with pytest.raises(RunError, match="not finite in epoch 0"):
        trainer(tmp_path).validate(broken, loader(1), verbose=False)


@pytest.mark.parametrize(
    ("accelerator", "expected"), [("auto", "bf16-mixed"), ("gpu", "bf16-mixed"), ("cpu", "32-true")]
)
def test_the_precision_is_that_of_what_trains_not_of_a_gpu_beside_it(monkeypatch, accelerator, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert fit.best_precision(accelerator) == expected
