"""A run's own encoder as a checkpoint: the same tokens, other sizes, and what cannot be taken on."""

from __future__ import annotations

import json

import pytest
import torch

from medvit.engine.build import ARCHITECTURE, build_network, describe
from medvit.engine.checkpoint import BEST, PREPROCESS, SETTINGS, save_weights, write_json
from medvit.errors import WeightsError
from medvit.model import lora
from medvit.model.backbone import vit
from medvit.model.pretrained.load import load

MODEL = {
    "_target_": "medvit.model.backbone.vit",
    "weights": None,
    "image_size": [32, 32],
    "in_channels": 1,
    "patch_size": [8, 8],
    "width": 48,
    "depth": 2,
    "heads": 4,
    "positions": "sincos",
    "prefix": 2,
    "layer_scale": 0.1,
}
POOL = {"_target_": "medvit.model.pool.AttentionPool", "queries": 4}


def run_of(folder, adapters=False, **switches):
    """Write the folder that a finished run leaves behind; return its network."""
    torch.manual_seed(0)
    settings = {"model": {**MODEL, **switches}, "pool": POOL}
    network = build_network(settings, 3).eval()
    write_json(folder / ARCHITECTURE, describe(settings, network))
    if adapters:
        lora.inject(network.backbone, 2, 4.0)
    save_weights(network, folder / BEST)
    write_json(folder / PREPROCESS, {"mean": 0.4, "std": 0.2})
    write_json(folder / SETTINGS, settings)
    return network


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_the_encoder_of_a_run_gives_the_tokens_it_gave_there(tmp_path, stem):
    network, image = run_of(tmp_path, stem=stem), torch.randn(2, 1, 32, 32)
    loaded = load(str(tmp_path))
    ours, theirs = loaded.backbone.eval()(image), network.backbone(image)
    torch.testing.assert_close(ours.patches, theirs.patches, atol=0, rtol=0)
    torch.testing.assert_close(ours.prefix, theirs.prefix, atol=0, rtol=0)
    assert (loaded.backbone.mean, loaded.backbone.std) == ((0.4,), (0.2,))
    assert "family medvit-run" in loaded.report
    assert "dropped head, norm, pool" in loaded.report
    assert str(tmp_path) not in json.dumps(loaded.backbone.provenance)


def test_a_run_is_named_in_the_model_config_and_fits_another_size(tmp_path):
    run_of(tmp_path, stem="conv")
    backbone = vit(image_size=[48, 64], weights=str(tmp_path))
    assert (backbone.grid, backbone.width, backbone.design.stem) == ((6, 8), 48, "conv")
    assert torch.isfinite(backbone(torch.randn(1, 1, 48, 64)).patches).all()


def test_a_film_encoder_of_a_run_becomes_one_for_volumes_and_colours(tmp_path):
    run_of(tmp_path)
    backbone = vit(image_size=[16, 32, 32], in_channels=2, weights=str(tmp_path))
    assert (backbone.grid, backbone.in_channels) == ((2, 4, 4), 2)


@pytest.mark.parametrize(
    "asked",
    [
        {"image_size": [32, 32], "in_channels": 3},
        {"image_size": [16, 32, 32]},
        {"image_size": [32, 32], "patch_size": [16, 16]},
    ],
)
def test_a_convolutional_stem_is_not_bent_to_other_inputs(tmp_path, asked):
    run_of(tmp_path, stem="conv")
    with pytest.raises(WeightsError, match="convolutional stem stays as it was trained"):
        vit(weights=str(tmp_path), **asked)


@pytest.mark.parametrize(("key", "value"), [("heads", 8), ("width", 96), ("depth", 3), ("stem", "conv")])
def test_settings_that_contradict_the_run_are_refused(tmp_path, key, value):
    run_of(tmp_path)
    with pytest.raises(WeightsError, match=f"{key}: {value} asked"):
        vit(image_size=[32, 32], weights=str(tmp_path), **{key: value})


def test_a_run_with_adapters_or_without_weights_is_refused(tmp_path):
    run_of(tmp_path, adapters=True)
    with pytest.raises(WeightsError, match="LoRA adapters beside its weights"):
        load(str(tmp_path))
    (tmp_path / BEST).unlink()
    with pytest.raises(WeightsError, match=r"lacks checkpoints/best\.safetensors"):
        load(str(tmp_path))
