"""Callbacks, loggers, metrics and limits of Lightning in real fits on generated films."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from medvit.config_targets import trust_only
from medvit.engine.extensions import callbacks_of, loggers_of
from medvit.engine.trainer import strategy_of
from medvit.errors import ConfigError, RunError

HERE = __name__


@pytest.fixture(autouse=True)
def nothing_is_trusted() -> Any:
    trust_only([])
    yield
    trust_only([])


class Nudge(pl.Callback):
    """Moves a weight where it is told to, openly or behind torch's back."""

    def __init__(self, hook: str = "on_train_batch_end", quietly: bool = False, freeze: bool = False) -> None:
        def nudge(trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
            weight = next(p for p in module.parameters() if p.requires_grad)
            if freeze:
                weight.requires_grad_(False)
            else:
                with torch.no_grad():
                    (weight.data if quietly else weight).add_(0.1)

        setattr(type(self), hook, lambda self, *args: nudge(*args))
        self.hook = hook


def added(node: dict[str, Any], group: str = "callbacks") -> dict[str, Any]:
    trust_only([f"trust=[{node['_target_']}]"])
    return {group: {"mine": node}}


@pytest.mark.parametrize(
    ("hook", "how"),
    [
        ("on_train_batch_end", {}),
        ("on_train_start", {"freeze": True}),
        ("on_train_epoch_end", {"quietly": True}),
        ("on_validation_end", {}),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_callback_that_edits_weights_behind_the_average_is_stopped_by_name(
    hook: str, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(f"{HERE}.Nudge", type("Nudge", (Nudge,), {}))
    settings = added({"_target_": f"{HERE}.Nudge", "hook": hook, **how})
    (callback,) = callbacks_of(settings, tmp_path)
    module = pl.LightningModule()
    module.head = torch.nn.Linear(2, 1)
    with pytest.raises(RunError, match=f"callbacks.mine changes weights, or what is frozen, in {hook}"):
        getattr(callback, hook)(None, module)


def test_early_stopping_ends_the_training_and_everything_is_told_to_mlflow_and_the_csv(fitted: Any) -> None:
    found, numbers, folder = fitted(
        "callbacks=[early_stopping,lr_monitor,model_checkpoint]", "callbacks.early_stopping.patience=1", "logger=csv",
        "+callbacks.early_stopping.stopping_threshold=100.0", "trainer.epochs=5", "metrics=[auroc,f1]", "optim=llrd",
    )  # fmt: skip
    assert len(numbers) == 1  # the threshold is met by the first epoch
    (epoch,) = numbers
    assert epoch["val/metrics/auroc"] == pytest.approx(epoch["val/auroc"], abs=1e-6)
    assert "val/metrics/f1" in found.scores
    rates = {name: value for name, value in epoch.items() if name.startswith("train/lr-AdamW/")}
    assert len(rates) >= 4  # stem, blocks, last norm, head; with and without weight decay
    assert max(rates.values()) == pytest.approx(10 * sorted(rates.values())[-3], rel=0.2)
    (file,) = folder.rglob("metrics.csv")
    with file.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert any(row["train/loss"] for row in rows)
    assert any(row["val/auroc"] for row in rows)
    assert list((folder / "checkpoints" / "lightning").glob("*.ckpt"))


@pytest.mark.parametrize("steps", [1, 8])
def test_max_steps_ends_the_training_with_a_validation_also_in_the_middle_of_an_epoch(fitted: Any, steps: int) -> None:
    found, numbers, folder = fitted(f"trainer.max_steps={steps}", "optim.plan.ema=0", "trainer.epochs=9")
    per_epoch = len(found.data.train_dataloader())
    assert steps % per_epoch
    assert len(numbers) == -(-steps // per_epoch)
    assert "val/auroc" in numbers[-1]
    stored = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["global_step"] == steps


def test_max_time_ends_the_training_with_a_validation_and_what_it_needs_later(fitted: Any) -> None:
    found, numbers, folder = fitted("trainer.max_time={seconds:1}", "trainer.epochs=4000", "trainer.batch_size=3")
    assert 1 <= len(numbers) < 4000
    assert "val/auroc" in numbers[-1]
    assert found.best == max(each["val/auroc"] for each in numbers)
    assert (folder / "checkpoints" / "last.ckpt").is_file()


def test_one_short_pass_runs_through_everything_also_where_its_batches_have_one_outcome(fitted: Any) -> None:
    found, numbers, _ = fitted("trainer.fast_dev_run=1", "trainer.batch_size=1", "logger=csv", "callbacks=lr_monitor")
    assert len(numbers) == 1
    assert "val/auroc" not in numbers[0]
    assert found.best == pytest.approx(numbers[0]["val/loss"])
    assert len(found.validation) > 1


def test_overfitting_sees_the_same_batches_in_every_epoch(fitted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning turns the shuffling of its own loaders off, and leaves others as they are."""
    from medvit.engine.module import FineTuner

    seen: list[tuple[tuple[str, ...], float]] = []
    step = FineTuner.training_step

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        seen.append((batch.uid, float(batch.image.float().sum())))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(FineTuner, "training_step", training_step)
    fitted("trainer.overfit_batches=1", "augment=xray", "trainer.epochs=3")
    assert len(seen) == 3
    assert len(set(seen)) == 1


def test_the_profile_lies_in_the_runs_folder(fitted: Any) -> None:
    _, _, folder = fitted("trainer.profiler=simple", "trainer.epochs=1", "trainer.limit_train_batches=1",
                          "trainer.log_every_n_steps=1", "trainer.detect_anomaly=true")  # fmt: skip
    (file,) = folder.glob("*profile*")
    assert "run_training_batch" in file.read_text(encoding="utf-8")


def test_epochs_without_a_validation_report_no_scores_of_an_earlier_one(fitted: Any) -> None:
    _, numbers, _ = fitted(
        "+trainer.extra.check_val_every_n_epoch=2", "trainer.epochs=4", "trainer.limit_train_batches=1"
    )
    assert [("val/loss" in each) for each in numbers] == [False, True, False, True]


def test_what_is_no_callback_logger_or_strategy_is_refused(tmp_path: Path) -> None:
    wrong = {"_target_": "medvit.model.pool.MeanPool"}
    with pytest.raises(ConfigError, match=r"callbacks\.mine: .*MeanPool is no callback"):
        callbacks_of({"callbacks": {"mine": wrong}}, tmp_path)
    with pytest.raises(ConfigError, match=r"logger\.mine: .* is no logger"):
        loggers_of({"logger": {"mine": wrong}}, tmp_path)
    with pytest.raises(ConfigError, match="is no strategy"):
        strategy_of({"strategy": wrong})
    trust_only(["trust=[pytorch_lightning.strategies.FSDPStrategy,pytorch_lightning.strategies.DDPStrategy]"])
    with pytest.raises(ConfigError, match="FSDPStrategy shards the weights"):
        strategy_of({"strategy": {"_target_": "pytorch_lightning.strategies.FSDPStrategy"}})
    assert strategy_of({"strategy": {"_target_": "pytorch_lightning.strategies.DDPStrategy"}}) is not None
    stop = {"_target_": "pytorch_lightning.callbacks.EarlyStopping", "monitor": "val/loss"}
    with pytest.raises(ConfigError, match="could not be told apart by a resumed run"):
        callbacks_of({"callbacks": {"one": stop, "two": stop}}, tmp_path)
    with pytest.raises(ConfigError, match="EarlyStopping cannot be built"):
        callbacks_of({"callbacks": {"one": {**stop, "patients": 3}}}, tmp_path)
