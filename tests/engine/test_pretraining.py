"""A pretraining from settings to a checkpoint: exact when resumed or shared out, on films, volumes and slices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.numpy import load_file

from medvit.config import conf_dir
from medvit.dataset import splits
from medvit.dataset.leakage import seen_patients
from medvit.engine.checkpoint import BEST, load_run
from medvit.engine.pretraining import VALIDATION, Pretrainer, masks, prepare, pretrain
from medvit.errors import ConfigError, RunError, SplitError
from medvit.model.pretrained.load import load
from medvit.optim.plan import Plan
from medvit.types import Bag, Batch

QUICK = [
    *("model.image_size=[32,32]", "model.patch_size=[8,8]", "model.depth=2", "trainer.epochs=3"),
    *("trainer.batch_size=8", "trainer.progress_bar=false", "trainer.precision=32-true", "trainer.accelerator=cpu"),
    *("trainer.workers=0", "trainer.overlay_every=0", "objective.decoder={width: 16, depth: 1, heads: 2}"),
]


def composed(*settings: str) -> Any:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("pretrain", [*QUICK, *settings]), resolve=True)


@pytest.fixture
def pretrained(films: Path, tmp_path: Path) -> Callable[..., Any]:
    """Pretrain with some settings and return the numbers of every epoch and the run's folder."""

    def run(*settings: str, name: str = "run", resume: Path | None = None, stop: int | None = None) -> Any:
        numbers: list[dict[str, float]] = []

        def report(found: dict[str, float], epoch: int) -> None:
            if epoch == stop:
                raise RunError("killed")
            numbers.append(found)

        pretrain(composed(f"data.folder={films}", *settings), tmp_path / name, report, resume)
        return numbers, tmp_path / name

    return run


def test_a_pretraining_learns_and_its_encoder_is_a_checkpoint_like_any_other(pretrained: Any, films: Path) -> None:
    numbers, folder = pretrained("trainer.epochs=6", "optim.plan.lr=3e-3", "optim.plan.warmup_epochs=1")
    assert numbers[-1]["train/loss"] < 0.9 * numbers[0]["train/loss"]
    assert numbers[-1]["val/loss"] < 0.9 * numbers[0]["val/loss"]
    loaded = load(str(folder))
    kept = load_file(folder / BEST)
    assert all(np.array_equal(kept[f"backbone.{key}"], value) for key, value in loaded.backbone.state_dict().items())
    assert "dropped decoder" in loaded.report
    assert set(json.loads((folder / seen_patients.FILE).read_text())) == sides(films)["train"]


def sides(folder: Path) -> dict[str, set[str]]:
    table = pd.read_parquet(folder / "splits.parquet")
    return {side: set(table.loc[table["split"] == side, "patient"]) for side in splits.SIDES}


def test_no_image_of_validation_or_test_is_learnt_from_unless_it_is_asked_for(
    pretrained: Any, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt: set[str] = set()
    step = Pretrainer.training_step

    def watched(self: Pretrainer, batch: Batch, batch_idx: int) -> torch.Tensor:
        learnt.update(batch.uid)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Pretrainer, "training_step", watched)
    manifest = pd.read_parquet(films / "manifest.parquet").set_index("uid")["patient"]
    for include in (["train"], ["train", "val"]):
        learnt.clear()
        numbers, folder = pretrained(f"include={include}", "trainer.epochs=1", name="_".join(include))
        wanted = set().union(*(sides(films)[side] for side in include))
        assert set(manifest[list(learnt)]) == wanted == seen_patients.read(folder)
        assert ("val/loss" in numbers[0]) == ("val" not in include)


def test_a_pretraining_that_was_killed_and_resumed_ends_with_the_same_weights(pretrained: Any) -> None:
    more = ("optim.plan.ema=0.9",)
    _, whole = pretrained(*more, name="whole")
    with pytest.raises(RunError, match="killed"):
        pretrained(*more, name="broken", stop=2)
    _, broken = pretrained(*more, name="broken", resume=whole.parent / "broken" / "checkpoints" / "last.ckpt")
    one, two = load_file(whole / BEST), load_file(broken / BEST)
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(films: Path, tmp_path: Path) -> None:
    kept = []
    for devices, batch in ((1, 8), (2, 4)):
        folder = tmp_path / str(devices)
        folder.mkdir()
        words = [*QUICK, f"data.folder={films}", "trainer.drop_last=true", f"trainer.devices={devices}"]
        words.append(f"trainer.batch_size={batch}")
        call = [sys.executable, "-m", "medvit.pretrain", *words]
        done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ})
        assert done.returncode == 0, done.stderr[-3000:]
        kept.append(load_file(next(folder.glob(f"runs/*/{BEST}"))))
    one, two = map(without_keys_bias, kept)
    assert all(np.allclose(one[name], two[name], atol=1e-5) for name in one)


def without_keys_bias(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return weights without the bias of the attention's keys.

    Softmax takes it out again: its gradient is 0 but for rounding, which AdamW makes as large as a step.
    """
    bias = {name: np.delete(value, 1, 0) for name, value in weights.items() if name.endswith("qkv.bias")
            for value in [value.reshape(3, -1)]}  # fmt: skip
    return {**weights, **bias}


def module(films: Path, *settings: str) -> Pretrainer:
    parts = prepare(composed(f"data.folder={films}", *settings))
    return Pretrainer(parts.objective, Plan(), parts.preprocess.scale, parts.preprocess.shift, 0).eval()


def test_the_mask_of_an_image_depends_neither_on_its_batch_nor_on_its_place_in_it(films: Path) -> None:
    one = module(films)
    image, uids = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8), ("a", "b", "c", "d")
    nothing = torch.zeros(4, 0)
    whole = one.outputs(Batch(image, nothing, nothing, uids))
    alone = one.outputs(Batch(image[2:3], nothing[:1], nothing[:1], uids[2:3]))
    torch.testing.assert_close(whole[2:3], alone)
    assert torch.equal(masks(0, VALIDATION, uids, 16), masks(0, VALIDATION, uids, 16))
    assert not torch.equal(masks(0, 1, uids, 16), masks(0, 2, uids, 16))
    assert len({tuple(row) for row in masks(0, 1, uids, 16).argsort(dim=1)[:, :4].tolist()}) == 4


def test_slices_of_a_series_are_images_of_their_own_and_padding_is_none(films: Path) -> None:
    one = module(films)
    image, nothing = torch.randint(0, 256, (2, 3, 1, 32, 32), dtype=torch.uint8), torch.zeros(2, 0)
    here = torch.tensor([[True, True, True], [True, False, False]])
    found = one.outputs(
        Batch(image, nothing, nothing, ("a", "b"), Bag(here, torch.zeros(2, 3), torch.zeros(2, 3).long()))
    )
    names = ("a/0", "a/1", "a/2", "b/0")
    each = one.outputs(Batch(image[here], torch.zeros(4, 0), torch.zeros(4, 0), names)).squeeze(1)
    torch.testing.assert_close(found.squeeze(1), torch.stack([each[:3].mean(), each[3]]))


def test_reconstructions_of_the_same_validation_films_are_drawn(films: Path, tmp_path: Path) -> None:
    given: list[str] = []
    settings = composed(f"data.folder={films}", "trainer.overlay_every=2")
    pretrain(settings, tmp_path, lambda *_: None, attach=lambda file, name: given.append(name))
    names = sorted(file.name for file in (tmp_path / "reconstructions").iterdir())
    assert given
    assert sorted(name.removeprefix("reconstructions/") for name in given) == names
    assert {name[:9] for name in names} == {"epoch_002", "epoch_003"}
    picture = cv2.imread(str(tmp_path / "reconstructions" / names[0]), cv2.IMREAD_GRAYSCALE)
    image, visible, filled = np.split(picture, 3, axis=1)
    same = (visible == image).reshape(4, 8, 4, 8).all(axis=(1, 3))
    assert same.sum() >= 4  # of 16 patches
    assert np.array_equal(filled.reshape(4, 8, 4, 8)[same.nonzero()[0], :, same.nonzero()[1]],
                          image.reshape(4, 8, 4, 8)[same.nonzero()[0], :, same.nonzero()[1]])  # fmt: skip


def test_what_cannot_be_pretrained_is_refused_by_name(films: Path) -> None:
    settings = composed(f"data.folder={films}")
    settings["model"] = composed_model("densenet121")
    with pytest.raises(ConfigError, match=r"has no patches to mask; choose a ViT"):
        prepare(settings)


def composed_model(name: str) -> Any:
    return {"image_size": [32, 32], **OmegaConf.to_container(OmegaConf.load(conf_dir() / "model" / f"{name}.yaml"))}


def test_a_training_goes_on_from_a_pretraining_and_is_refused_where_that_saw_its_test_patients(
    pretrained: Any, fitted: Any, films: Path
) -> None:
    _, folder = pretrained(name="first")
    start = [f"model.weights={folder}", "trainer.epochs=1"]
    found, _, run = fitted(*start, name="tuned")
    assert found.data.hashes["leakage"] == "no exact leak"
    assert found.weights["family"] == "medvit-run"
    assert seen_patients.read(run) == sides(films)["train"]
    with pytest.raises(RunError, match="the run is a pretraining, which predicts nothing: fine-tune it first"):
        load_run(folder)
    seen_patients.write(folder, sides(films)["test"])
    with pytest.raises(SplitError, match=r"E-LEAK the weights it starts from have learnt from .* of the test side"):
        fitted(*start, name="leaking")
