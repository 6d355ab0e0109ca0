"""What happens once per step and once per epoch, on the smallest network there is."""

from __future__ import annotations

import copy

import pytest
import pytorch_lightning as pl
import torch

from medvit.engine.callbacks.training import AverageWeights
from medvit.engine.module import FineTuner
from medvit.engine.settings import precision
from medvit.errors import RunError
from medvit.model.network import Network
from medvit.model.pool import MeanPool
from medvit.model.vit import ViT
from medvit.optim.plan import Plan
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


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_last_step_of_an_epoch_moves_by_the_mean_gradient_of_the_batches_it_holds(tmp_path, accumulate):
    """With 5 batches and `trainer.accumulate=4` the last step held one and used a quarter of its gradient."""
    steps, run = [], trainer(tmp_path, accumulate_grad_batches=accumulate)
    tuned, batches = module(Binary("finding")), list(loader(5))

    def looked_at(epoch, index, optimizer, closure):
        before = copy.deepcopy(tuned.network)
        optimizer.step(closure)
        steps.append((before, [p.grad.clone() for p in tuned.network.parameters() if p.requires_grad]))

    tuned.optimizer_step = looked_at
    run.fit(tuned, torch.utils.data.DataLoader(batches, batch_size=None))
    held = [batches[start : start + accumulate] for start in range(0, 5, accumulate)]
    assert len(steps) == len(held)
    for (network, found), some in zip(steps, held, strict=True):
        network.zero_grad()
        for batch in some:
            logits = network(batch.image * tuned.scale + tuned.shift, None, None)
            (tuned.task.loss(logits, batch.target, batch.weight, epoch=0) / len(some)).backward()
        for grad, parameter in zip(found, (p for p in network.parameters() if p.requires_grad), strict=True):
            torch.testing.assert_close(grad, parameter.grad, rtol=1e-5, atol=1e-7)


def test_outputs_that_are_not_finite_stop_the_run_also_where_the_scores_would_only_be_left_out(tmp_path):
    task = Regression("age")
    task.fitted = {"mean": 50.0, "std": 20.0}
    broken = module(task)
    with torch.no_grad():
        broken.network.head.bias.fill_(float("nan"))
    with pytest.raises(RunError, match="not finite in epoch 1"):
        trainer(tmp_path).validate(broken, loader(1), verbose=False)


@pytest.mark.parametrize(
    ("accelerator", "expected"), [("auto", "bf16-mixed"), ("gpu", "bf16-mixed"), ("cpu", "32-true")]
)
def test_the_precision_is_that_of_what_trains_not_of_a_gpu_beside_it(monkeypatch, accelerator, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert precision.best_precision(accelerator) == expected
