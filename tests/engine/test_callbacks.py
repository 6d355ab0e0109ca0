from types import SimpleNamespace

import pytest

from medvit.engine.callbacks import EpochsFromOne, KeepBest
from medvit.errors import RunError


@pytest.mark.usefixtures("unchecked")
def test_the_scores_told_are_those_of_the_best_epoch_not_of_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr("medvit.engine.callbacks.save_weights", lambda *_: None)
    module = SimpleNamespace(task=SimpleNamespace(monitor="val/auroc", mode="max"), network=None)
    keep = KeepBest(tmp_path / "best")
    for epoch, (auroc, loss) in enumerate([(0.7, 0.6), (0.9, 0.5), (0.8, 0.4)]):
        found = {"val/auroc": auroc, "val/loss": loss, "train/lr": 1.0}
        keep.on_validation_end(
            SimpleNamespace(
                sanity_checking=False, callback_metrics=found, current_epoch=epoch, is_global_zero=True
            ), module,
        )  # fmt: skip
    assert (keep.epoch, keep.scores) == (1, {"val/auroc": 0.9, "val/loss": 0.5})
    resumed = KeepBest(tmp_path / "best")
    resumed.load_state_dict(keep.state_dict())
    assert resumed.scores == keep.scores


@pytest.mark.usefixtures("unchecked")
def test_a_validation_side_that_cannot_be_scored_stops_the_first_epoch(tmp_path):
    module = SimpleNamespace(task=SimpleNamespace(monitor="val/auroc", mode="max"))
    trainer = SimpleNamespace(sanity_checking=True, callback_metrics={"val/loss": 0.7}, current_epoch=0)
    KeepBest(tmp_path / "best").on_validation_end(trainer, module)
    trainer.sanity_checking = False
    with pytest.raises(RunError, match=r"no val/auroc: the validation side needs both outcomes"):
        KeepBest(tmp_path / "best").on_validation_end(trainer, module)


def test_the_progress_bar_counts_epochs_as_people_do():
    bar = EpochsFromOne()
    bar._trainer = SimpleNamespace(max_epochs=5)
    assert [bar._get_train_description(epoch).strip() for epoch in (0, 4)] == ["Epoch 1/5", "Epoch 5/5"]
