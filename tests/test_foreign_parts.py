"""Twelve trainings of parts that are not medvit's own: stopped, resumed to equal weights, evaluated and exported."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from whole_path import QUICK, TASKS, UNCHECKED, furthest, generated, smaller

import medvit
from medvit.engine.callbacks.training import ReportEpoch
from medvit.errors import Stopped

KILL = "killed"  # by SIGKILL, in a process of its own
SEGRESNET = {"_target_": "monai.networks.nets.SegResNet", "spatial_dims": 2, "in_channels": 1}
VIT = {"_target_": "monai.networks.nets.ViT", "spatial_dims": 2, "in_channels": 1, "img_size": [64, 64],
       "patch_size": [16, 16], "hidden_size": 32, "mlp_dim": 48, "num_layers": 2, "num_heads": 2}  # fmt: skip
GAUSS = {"_target_": "monai.transforms.GaussianSmoothd"}
STRUCK = """
import json, os, signal, sys
import medvit
from medvit.engine.callbacks.training import ReportEpoch
told = ReportEpoch.on_train_epoch_end
def killed(self, trainer, module):
    if trainer.current_epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    told(self, trainer, module)
ReportEpoch.on_train_epoch_end = killed
medvit.train(**json.loads(sys.argv[1]))
"""
CASES: dict[str, dict[str, Any]] = {
    "sgd-one_cycle-monai": {"optimizer": "sgd", "scheduler": "one_cycle", "callbacks": "lr_monitor", "logger": "csv",
                            "model": "custom", "model.network": {**SEGRESNET, "init_filters": 8},
                            "task.loss": {"_target_": "monai.losses.FocalLoss", "gamma": 2.0}, KILL: True},
    "lion-step": {"optimizer": "lion", "scheduler": "step", "scheduler.step_size": 1, "metrics": ["auroc", "f1"]},
    "adafactor-plateau": {"optimizer": "adafactor", "scheduler": "plateau", "scheduler.patience": 0,
                          "callbacks": "early_stopping"},
    "nadam-restarts-focal": {"optimizer": "nadam", "scheduler": "warm_restarts", "scheduler.T_0": 1,
                             "task.loss": "focal", "metrics": "average_precision"},
    "rmsprop-polynomial-monai": {"optimizer": "rmsprop", "scheduler": "polynomial", "model": "custom",
                                 "model.network": VIT, "task": "multilabel",
                                 "task.loss": {"_target_": "monai.losses.DiceCELoss", "sigmoid": True},
                                 "trust": ["monai.losses.DiceCELoss"]},
    "adam-cosine-multilabel": {"optimizer": "adam", "scheduler": "cosine", "task": "multilabel", "task.loss": "asl",
                               "metrics": ["auroc", "recall"], "logger": "csv"},
    "radam-warmup_step-multiclass": {"optimizer": "radam", "scheduler": "warmup_step", "scheduler.milestones": [1],
                                     "task": "multiclass", "metrics": ["accuracy", "matthews"],
                                     "callbacks": "accumulation", "callbacks.accumulation.scheduling": {0: 2, 1: 1}},
    "asgd-linear-ordinal": {"optimizer": "asgd", "scheduler": "linear", "task": "ordinal", "metrics": "cohen_kappa"},
    "adamax-exponential-regression": {"optimizer": "adamax", "scheduler": "exponential", "task": "regression",
                                      "metrics": ["mae", "pearson"], "callbacks": "model_checkpoint"},
    "adagrad-constant-augmented": {"optimizer": "adagrad", "scheduler": "constant", "augment": "xray",
                                   "trainer.profiler": "simple", "trainer.limit_train_batches": 1,
                                   "preprocess.after_resampling": [{**GAUSS, "sigma": 1.0}],
                                   "callbacks": ["batch_size_finder", "lr_finder"],
                                   "callbacks.batch_size_finder.max_val": 4,
                                   "callbacks.lr_finder.num_training_steps": 20},
    "adadelta-multi_step-raw": {"optimizer": "adadelta", "scheduler": "multi_step", "optim.plan.ema": 0,
                                "callbacks": "model_summary", "trainer.accumulate": 2},
    "trusted": {"optimizer": "adamw", "+metrics": {"own": {"_target_": "torchmetrics.classification.BinaryF1Score"}},
                "+callbacks": {"timer": {"_target_": "pytorch_lightning.callbacks.Timer"}},
                "trust": ["torchmetrics.classification.BinaryF1Score", "pytorch_lightning.callbacks.Timer"]},
}  # fmt: skip


def kept(run: medvit.Run) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "checkpoints" / "best.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_foreign_parts_resume_to_equal_weights_and_go_the_whole_path(
    name: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path_factory.getbasetemp()
    case = {key: value for key, value in CASES[name].items() if key != KILL}
    if "model.network" in case:
        pytest.importorskip("einops")
    asked = {**QUICK, **generated(place, "films"), **smaller(case.get("model", "vit_pico")), **case}
    asked |= {**TASKS[case.get("task", "binary")], "tracking.folder": str(place / "runs"), "trainer.epochs": 3}
    asked |= {"trainer.accumulate": case.get("trainer.accumulate", 1), "seed": 1}
    whole = medvit.train(**asked)

    runs, trusted = str(place / "runs"), {"trust": case["trust"]} if "trust" in case else {}
    if KILL in CASES[name]:
        runs = str(place / "killed")
        resumed = struck(asked | {"tracking.folder": runs})
    else:
        resumed = interrupted(asked, monkeypatch)
    again = medvit.train(resume=resumed, **{"tracking.folder": runs}, **trusted)
    assert again.id == resumed
    found = json.loads((again.folder / "config.json").read_text(encoding="utf-8"))
    if "batch_size_finder" in case.get("callbacks", ()):
        params = again.client.get_run(again.id).data.params
        assert (found["trainer"]["batch_size"], params["trainer.batch_size"]) == (4, "4")
        assert params["optim.plan.lr"] == str(found["optim"]["plan"]["lr"])
    for key, tensor in kept(whole).items():
        assert torch.equal(tensor, kept(again)[key]), key
    quick = {f"sections.{section}": False for section in ("robustness", "ood", "explain")}
    medvit.evaluate(again, **quick, **{"detail.figures": False, "bootstrap.draws": 100})
    medvit.export(again, place / again.id / "bundle", **UNCHECKED)
    images = place / "films" / "raw" / "dicom"
    said = medvit.predict(place / again.id / "bundle", images, place / again.id / "said", isolate=False)
    tested = again.folder / "evaluation_test" / "predictions.parquet"
    import pandas as pd

    assert furthest(pd.read_parquet(tested), said) < 3e-5


def struck(asked: dict[str, Any]) -> str:
    """Train in a process that is killed by SIGKILL at the end of its second epoch, and return the run's id."""
    done = subprocess.run(
        [sys.executable, "-c", STRUCK, json.dumps(asked)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    (config,) = Path(asked["tracking.folder"]).glob("*/config.json")
    return config.parent.name


def interrupted(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """Train up to the end of the second epoch, where it is stopped, and return the run's id."""
    told = ReportEpoch.on_train_epoch_end

    def killed(self: Any, trainer: Any, module: Any) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt
        told(self, trainer, module)

    with monkeypatch.context() as patch:
        patch.setattr(ReportEpoch, "on_train_epoch_end", killed)
        with pytest.raises(Stopped, match="resume=") as stop:
            medvit.train(**asked)
    return str(stop.value).split("resume=")[1].split()[0]


def test_twelve_trainings_hold_every_optimiser_and_schedule_but_the_default_one() -> None:
    from whole_path import words

    assert len(CASES) == 12
    assert {case["optimizer"] for case in CASES.values()} == set(words("optimizer"))
    held = {case.get("scheduler", "warmup_cosine") for case in CASES.values()}
    assert held == set(words("scheduler"))
