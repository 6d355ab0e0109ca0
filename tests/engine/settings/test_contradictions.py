"""Settings that contradict each other or the machine: told with the word that helps, before torch and before a run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from medvit.config import conf_dir
from medvit.config_check import preflight
from medvit.config_targets import trust_only
from medvit.config_words import readable
from medvit.errors import MedvitError
from medvit.train import check, train, trial


def settings(*words: str) -> Any:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("train", list(words)), resolve=True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("trainer.precision=fp16", "did you mean '16-mixed'?"),
        ("trainer.determinism=bitwize", "expected bitwise, seeded, fast; did you mean 'bitwise'?"),
        ("trainer.precision=32", "did you mean '32-true'?"),
        ("trainer.accelerator=tpu", "expected auto, cpu, gpu, cuda, mps"),
        ("trainer.devices=0", "expected auto, a number from 1, or a list of GPUs"),
        ("trainer.devices=[]", "expected auto, a number from 1, or a list of GPUs"),
        ("trainer.accelerator=cpu trainer.precision=16-mixed", "give bf16-mixed, 32-true or auto"),
        ("labels.target=[a,b]", "give labels.target=[a], or task=multilabel"),
        ("model.image_size=[100,96]", "100 is no multiple of the patch, 16; the nearest are 96 and 112"),
        ("model.image_size=[96,96,96]", "has 3 sides and model.patch_size=[16, 16] 2"),
        ("preprocess.size=[512,512]", "model.image_size=[96, 96] and preprocess.size=[512, 512] contradict"),
        ("optim=lora", "give model.weights=CHECKPOINT, or optim=scratch; model.weights=random says"),
        ("optim=probe", "Probe adapts a pretrained encoder"),
        ("optim=llrd", "LayerDecay adapts a pretrained encoder"),
        ("optim=auto", "Auto adapts a pretrained encoder"),
        ("optim=lp_ft model=densenet121", "give a model that has weights, or optim=scratch"),
        ("optim=logistic model.weights=random task=regression task.unit=mm", "this task is regression: give optim=pro"),
        (
            "optim=logistic model.weights=random task=ordinal task.levels=[0,1,2]",
            "this task is ordinal: give optim=pro",
        ),
        ("data.sampler=weighted task=regression task.unit=mm", "this task is regression: give plain or patient"),
        ("data.unit=study", "bag=none takes one; give bag=study, or data.unit=null"),
        ("preprocess=slices", "a series is several images, and bag=none takes one; give bag=study"),
    ],
)
def test_a_contradiction_is_told_with_the_word_that_helps(given: str, said: str) -> None:
    (found,) = preflight(conf_dir(), "train", given.split(), check)
    assert said in found


@pytest.mark.parametrize(
    "given",
    [
        "optim=lora model.weights=random",
        "optim=full",
        "task=multilabel labels.target=[a,b]",
        "task.label=b labels.target=[a,b]",
        "trainer.devices=[0]",
        "experiment=mri_slice_bag_demo",
        "experiment=mri_3d_demo",
    ],
)
def test_what_agrees_passes(given: str) -> None:
    assert preflight(conf_dir(), "train", given.split(), check) == []


def test_mps_is_refused_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    (found,) = preflight(conf_dir(), "train", ["trainer.accelerator=mps"], check)
    assert "only Apple's processors" in found


def test_what_a_glance_can_tell_is_told_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['medvit.train', *sys.argv[1:]]\n"
        "import medvit.train\n"
        "try: medvit.train.run()\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    words = ["model.image_size=[33,33]", "trainer.precision=fp16", "trainer.devices=0", "trainer.accelerator=tpu"]
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.split() == ["2", "False"]
    assert done.stderr.startswith("ConfigError: 4 problems in the settings\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("trainer.accelerator=gpu", "no GPU is found"),
        ("data.fold=3", "this split has no folds; asked for fold 3"),
        ("model.weights=/nowhere/vit", "no file, directory or hub id 'vit' here"),
        ("task.loss=bcee", "did you mean 'bce'?"),
        ("labels.values=null", "E-LABEL label finding"),
        ("pool.queries=5 pool=attention", "queries"),
        ("pool=cls model=densenet121", "pool=cls needs a class token"),
        (
            "optim=lora model.weights=random optim.strategy.targets=[qvk]",
            r"lora targets \['qvk'\] name no linear layer",
        ),
        ("optim=logistic model.weights=random pool=attention", "optim=logistic needs a pool without weights"),
        ("optim=probe model.weights=random augment=xray", "computed once, without augmentation: set augment=none"),
        ("optim=lp_ft model.weights=random trainer.epochs=5", "the backbone would stay frozen"),
        ("preprocess.after_reading=[{_target_:monai.transforms.Rotate90d}]", "Rotate90d changes the shape"),
    ],
)
def test_what_cannot_be_built_opens_no_run(
    given: str, said: str, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these left a FAILED run, which `run=latest` then took."""
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(MedvitError, match=said):
        train(settings(f"data.folder={films}", f"tracking.folder={tmp_path}/runs", *given.split()))
    assert not (tmp_path / "runs").exists()


def test_all_that_cannot_be_built_is_told_at_once(films: Path, tmp_path: Path) -> None:
    wrong = ["data.fold=3", "model.weights=/nowhere/vit", "task.loss=bcee"]
    with pytest.raises(MedvitError) as told:
        train(settings(f"data.folder={films}", f"tracking.folder={tmp_path}/runs", *wrong))
    assert len(str(told.value).splitlines()) == 3


SWA = "pytorch_lightning.callbacks.StochasticWeightAveraging"
WRONG = {
    "trainer.precision=fp16": "did you mean '16-mixed'?",
    f"+callbacks.swa={{_target_: {SWA}, swa_lrs: 0.1}}": "callbacks.swa: StochasticWeightAveraging is not taken",
    "preprocess.after_reading=[{_target_: monai.transforms.Rotate90d}, {_target_: monai.transforms.GridSplitd}]": (
        "after_reading, step 1: Rotate90d changes the shape.*; after_reading, step 2: GridSplitd makes"
    ),
    "preprocess.before_normalisation=[{_target_: my_parts.Needy}]": "needs a package .*'package_that_nobody_has'",
    "augment.more=[{_target_: monai.transforms.MixUpd, batch_size: 2}]": "MixUpd mixes the images of a batch",
    "metrics=[mae]": "MeanAbsoluteError measures a regression task, and this task is binary",
    "optimizer._target_=torch.optim.LBFGS": "torch.optim.LBFGS cannot be built",
    "model.network={_target_: monai.networks.nets.DenseNet121, spatial_dims: 2, in_channels: 1, out_channels: 7}": (
        r"the output \[1, 7\] of one image of \[64, 64\] is no map"
    ),
}
BESIDE = ["model=custom", "model.image_size=[64,64]", "model.features.layout=map", "augment=xray",
          f"trust=[{SWA},my_parts.Needy,torch.optim.LBFGS]"]  # fmt: skip


def test_every_part_that_cannot_be_used_is_told_in_one_message_with_what_a_glance_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps, metrics and networks were told of one goal later than the words beside them."""
    (tmp_path / "my_parts.py").write_text(
        "from monai.transforms import MapTransform\n"
        "class Needy(MapTransform):\n"
        "    def __init__(self, keys):\n"
        "        import package_that_nobody_has\n"
        "    def __call__(self, data):\n        return data\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = preflight(conf_dir(), "train", readable([*BESIDE, *WRONG]), check, trial)
    trust_only([])
    missed = {word: said for word, said in WRONG.items() if not any(re.search(said, one) for one in found)}
    assert missed == {}, found
    assert len(found) == len(WRONG) - 1, found  # the two lists of steps are one problem of preprocess


def test_parts_are_not_tried_twice_where_nothing_else_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medvit.engine.build.problems_of_added", lambda _: pytest.fail("tried"))
    assert preflight(conf_dir(), "train", ["metrics=[mae]"], check, trial) == []


def test_inside_a_schedulers_job_medvit_starts_its_own_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With SLURM_NTASKS=4 training ended as an internal error: Lightning expects srun to have started four."""
    from medvit.engine.trainer import make_trainer

    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_JOB_NAME", "films")
    asked = settings("trainer.accelerator=cpu", "trainer.devices=1", "trainer.progress_bar=false")
    trainer = make_trainer(asked, "32-true", tmp_path, [], lambda *_: None)
    assert trainer.world_size == 1
