from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from medvit.engine.callbacks.training import EpochsFromOne, KeepBest
from medvit.errors import RunError


@pytest.mark.usefixtures("unchecked")
def test_the_scores_told_are_those_of_the_best_epoch_not_of_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr("medvit.engine.callbacks.training.weights_of", lambda *_: {})
    module = SimpleNamespace(task=SimpleNamespace(monitor="val/auroc", mode="max"), network=None)
    keep = KeepBest(tmp_path / "best")
    for epoch, (auroc, loss) in enumerate([(0.7, 0.6), (0.9, 0.5), (0.8, 0.4)]):
        found = {"val/auroc": auroc, "val/loss": loss, "train/lr": 1.0}
        keep.on_validation_end(
            SimpleNamespace(
                sanity_checking=False, callback_metrics=found, current_epoch=epoch, is_global_zero=True,
                state=SimpleNamespace(fn="fit"),
            ), module,
        )  # fmt: skip
    assert (keep.epoch, keep.scores) == (1, {"val/auroc": 0.9, "val/loss": 0.5})
    resumed = KeepBest(tmp_path / "best")
    resumed.load_state_dict(keep.state_dict())
    assert resumed.scores == keep.scores


@pytest.mark.usefixtures("unchecked")
def test_the_best_weights_wait_for_room_on_a_full_disk_and_a_killed_run_forgets_what_was_not_written(
    tmp_path, monkeypatch, caplog
):
    def after(keep, epoch, auroc, fn="fit"):
        module.network.weight.data.fill_(auroc)
        keep.on_validation_end(
            SimpleNamespace(sanity_checking=False, callback_metrics={"val/auroc": auroc}, current_epoch=epoch,
                            is_global_zero=True, state=SimpleNamespace(fn=fn)), module)  # fmt: skip

    def full(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    task = SimpleNamespace(monitor="val/auroc", mode="max")
    module = SimpleNamespace(task=task, network=torch.nn.Linear(1, 1, bias=False))
    keep = KeepBest(tmp_path / "best.safetensors")
    after(keep, 0, 0.7)
    with monkeypatch.context() as patch:
        patch.setattr("medvit.engine.checkpoint.save_file", full)
        after(keep, 1, 0.9)
        assert "the weights of epoch 2, the best so far, cannot be written" in caplog.text
        assert float(load_file(keep.path)["weight"]) == pytest.approx(0.7)
        assert keep.state_dict()["best"] == 0.7
        with pytest.raises(RunError, match="make room on the disk, and resume"):
            keep.on_train_end(None, module)
    after(keep, 2, 0.8)
    assert float(load_file(keep.path)["weight"]) == pytest.approx(0.9)
    assert keep.state_dict()["best"] == keep.best == 0.9
    assert [file.name for file in tmp_path.iterdir()] == ["best.safetensors"]


@pytest.mark.usefixtures("unchecked")
def test_a_validation_side_that_cannot_be_scored_stops_the_first_epoch(tmp_path):
    module = SimpleNamespace(task=SimpleNamespace(monitor="val/auroc", mode="max"))
    trainer = SimpleNamespace(
        sanity_checking=True, callback_metrics={"val/loss": 0.7}, current_epoch=0, limit_val_batches=1.0
    )
    KeepBest(tmp_path / "best").on_validation_end(trainer, module)
    trainer.sanity_checking = False
    with pytest.raises(RunError, match=r"no val/auroc: the validation side needs both outcomes"):
        KeepBest(tmp_path / "best").on_validation_end(trainer, module)


def test_the_progress_bar_counts_epochs_as_people_do():
    bar = EpochsFromOne()
    bar._trainer = SimpleNamespace(max_epochs=5)
    assert [bar._get_train_description(epoch).strip() for epoch in (0, 4)] == ["Epoch 1/5", "Epoch 5/5"]
