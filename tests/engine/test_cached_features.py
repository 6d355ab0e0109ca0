"""A probe on cached features is the probe through the frozen backbone, only faster."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medvit.engine.checkpoint import load_run
from medvit.engine.predict import predict
from medvit.errors import CacheError, ConfigError
from medvit.model.vit import ViT

PROBE = ("optim=probe", "pool=attention", "pool.queries=2", "optim.plan.lr=1.0e-3")


@pytest.fixture
def calls(monkeypatch):
    """Count the images that go through the backbone."""
    seen = []
    forward = ViT.forward
    monkeypatch.setattr(
        ViT, "forward", lambda self, image, **more: (seen.append(len(image)), forward(self, image, **more))[1]
    )
    return seen


@pytest.mark.parametrize("pool", ["attention", "mean"])
def test_scores_and_weights_are_those_of_the_frozen_path(fitted, pool):
    settings = (
        (*PROBE, "pool.queries=2") if pool == "attention" else ("optim=probe", "pool=mean", "optim.plan.lr=1.0e-3")
    )
    fast, fast_epochs, fast_folder = fitted(*settings, name="fast")
    slow, slow_epochs, slow_folder = fitted(*settings, "optim.strategy.cache_gib=0", name="slow")
    assert len(fast_epochs) == len(slow_epochs) + 1 == 4  # the last tells of the regression beside the probe
    for one, other in zip(fast_epochs[:3], slow_epochs, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert one[key] == pytest.approx(other[key], abs=2e-3), key
    np.testing.assert_allclose(fast.validation["logit.finding"], slow.validation["logit.finding"], atol=5e-3)
    weights = [load_file(folder / "checkpoints" / "best.safetensors") for folder in (fast_folder, slow_folder)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=2e-3, rtol=0, msg=name)


@pytest.mark.parametrize("pool", ["attention", "mean"])
def test_every_image_goes_through_the_backbone_once_and_not_again_in_the_next_run(fitted, calls, caplog, pool):
    """Except those of the validation side where tokens were rounded to fp16: calibration is fitted on exact logits."""
    caplog.set_level(logging.INFO)
    settings = PROBE if pool == "attention" else ("optim=probe", "pool=mean")
    found, _, _ = fitted(*settings)
    val = len(found.data.units("val"))
    once, again_val = len(found.data.units("train")) + val, val * (pool == "attention")
    assert sum(calls) == once + again_val
    assert "cached, without augmentation" in caplog.text
    again, _, _ = fitted(*settings, "optim.plan.lr=2.0e-3", name="again")
    assert sum(calls) == once + 2 * again_val
    assert not again.validation["logit.finding"].equals(found.validation["logit.finding"])


@pytest.mark.parametrize("pool", ["attention", "mean", "cls_mean"])
def test_the_run_folder_predicts_what_the_fit_said(fitted, pool):
    found, _, folder = fitted(*(PROBE if pool == "attention" else ("optim=probe", f"pool={pool}")))
    trained = load_run(folder)
    fresh = predict(trained.network, found.data.val_dataloader(), trained.preprocess.scale, trained.preprocess.shift)
    said = found.validation.set_index("uid").loc[list(fresh.uid), "logit.finding"]
    np.testing.assert_allclose(fresh.logits[:, 0], said, atol=1e-6)


def test_a_resumed_probe_ends_as_an_unbroken_one(fitted):
    whole, _, _ = fitted(*PROBE, "trainer.epochs=4", name="whole")
    _, _, folder = fitted(*PROBE, "trainer.epochs=2", name="part")
    last = folder / "checkpoints" / "last.ckpt"
    assert not any("backbone" in name for name in torch.load(last, weights_only=False)["state_dict"])  # our own file
    # the schedule depends on the epochs, so only the part before the break can be compared exactly
    again, numbers, _ = fitted(*PROBE, "trainer.epochs=4", name="part", resume=last)
    assert len(numbers) == 3
    assert again.network.state_dict().keys() == whole.network.state_dict().keys()


def test_augmentation_is_refused_unless_the_backbone_runs_in_every_epoch(fitted):
    with pytest.raises(ConfigError, match=r"augment=none, or optim=probe optim\.strategy\.cache_gib=0"):
        fitted(*PROBE, "augment=xray")
    fitted(*PROBE, "augment=xray", "optim.strategy.cache_gib=0", "trainer.epochs=1")


def test_auto_with_few_studies_probes_and_caches_only_without_augmentation(fitted, calls):
    import json

    for augment, gib in (("none", 16.0), ("xray", 0.0)):
        _, _, folder = fitted("optim=auto", f"augment={augment}", "trainer.epochs=1", name=augment)
        strategy = json.loads((folder / "config.json").read_text())["optim"]["strategy"]
        assert strategy["_target_"].endswith(".Probe")
        assert strategy["cache_gib"] == gib


def test_a_cache_that_would_be_too_large_says_what_to_do(fitted):
    with pytest.raises(CacheError, match="set it to 0"):
        fitted(*PROBE, "optim.strategy.cache_gib=1.0e-9")


def test_logistic_regression_is_a_run_like_any_other(fitted):
    found, numbers, folder = fitted("optim=logistic", "pool=mean")
    assert len(numbers) == 1
    assert numbers[0]["val/auroc"] == pytest.approx(found.best)
    trained = load_run(folder)
    fresh = predict(trained.network, found.data.val_dataloader(), trained.preprocess.scale, trained.preprocess.shift)
    said = found.validation.set_index("uid").loc[list(fresh.uid), "logit.finding"]
    np.testing.assert_allclose(fresh.logits[:, 0], said, atol=1e-4)


def test_beside_a_probe_stands_a_logistic_regression_of_the_same_features(fitted, caplog):
    caplog.set_level(logging.INFO)
    beside = fitted(*PROBE)[1][-1]
    assert set(beside) == {"train/logistic_auroc", "val/logistic_auroc"}
    assert all(0.0 <= value <= 1.0 for value in beside.values())
    assert "logistic regression beside the probe: train/logistic_auroc" in caplog.text


def test_a_file_that_changes_in_place_is_looked_at_again(fitted, calls):
    """The pseudonym and the place in the data set stay; only the pixels are others."""
    import pydicom

    found, _, _ = fitted(*PROBE)
    looked = sum(calls)
    file = found.data.cache.root / found.data.units("train").frame["files"][0][0]
    before = file.read_bytes()
    dataset = pydicom.dcmread(file)
    pixels = dataset.pixel_array.copy()
    dataset.PixelData = pixels[::-1].copy().tobytes()
    dataset.save_as(file)
    try:
        fitted(*PROBE, name="again")
        assert sum(calls) == 2 * looked
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("pool=attention", "pool.queries=2"), "needs a pool without weights"),
        (("pool=mean", "optim.strategy.cache_gib=0"), "must be above 0"),
    ],
)
def test_logistic_regression_refuses_what_it_cannot_solve(fitted, settings, message):
    with pytest.raises(ConfigError, match=message):
        fitted("optim=logistic", *settings)
