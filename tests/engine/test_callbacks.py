from types import SimpleNamespace

import pytest

from medvit.engine.callbacks import KeepBest
from medvit.errors import RunError


@pytest.mark.usefixtures("unchecked")
def test_a_validation_side_that_cannot_be_scored_stops_the_first_epoch(tmp_path):
    module = SimpleNamespace(task=SimpleNamespace(monitor="val/auroc", mode="max"))
    trainer = SimpleNamespace(sanity_checking=True, callback_metrics={"val/loss": 0.7}, current_epoch=0)
    KeepBest(tmp_path / "best").on_validation_end(trainer, module)
    trainer.sanity_checking = False
    with pytest.raises(RunError, match=r"no val/auroc: the validation side needs both outcomes"):
        KeepBest(tmp_path / "best").on_validation_end(trainer, module)
