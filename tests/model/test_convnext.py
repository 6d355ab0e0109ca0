"""ConvNeXt from transformers: its own outputs, published layouts loaded exactly, a clear word where it is absent."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from medvit.engine.build import describe
from medvit.errors import ConfigError, WeightsError
from medvit.model.convnext import convnext
from medvit.model.network import Network
from medvit.model.pool import MeanPool

SMALL = {"depths": [1, 1, 2, 1], "widths": [16, 24, 32, 48]}
needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed (extra convnext)"
)


@pytest.fixture(params=[1, 2])
def saved(request, tmp_path):
    """A checkpoint with random numbers in every tensor, as transformers saves it, and its own encoder."""
    import transformers

    torch.manual_seed(request.param)
    name = {1: "ConvNext", 2: "ConvNextV2"}[request.param]
    sizes = {"depths": SMALL["depths"], "hidden_sizes": SMALL["widths"], "num_labels": 2}
    model = getattr(transformers, f"{name}ForImageClassification")(getattr(transformers, f"{name}Config")(**sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    model.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint", model.base_model.eval(), request.param


def reference(encoder, image):
    return encoder(image).last_hidden_state.flatten(2).transpose(1, 2)


@needs_transformers
def test_a_checkpoint_gives_the_tokens_transformers_gives(saved):
    folder, encoder, version = saved
    loaded = convnext([64, 96], str(folder), in_channels=3).eval()
    image = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(loaded(image).patches, reference(encoder, image), atol=1e-5, rtol=1e-5)
    assert loaded.provenance["family"] == {1: "convnext", 2: "convnextv2"}[version]


@needs_transformers
def test_grey_films_give_what_the_same_grey_in_three_channels_gives(saved):
    folder, encoder, _ = saved
    loaded = convnext([64, 64], str(folder)).eval()
    grey = torch.rand(2, 1, 64, 64)
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    ours = loaded((grey - loaded.mean[0]) / loaded.std[0]).patches
    torch.testing.assert_close(ours, reference(encoder, (grey - mean) / std), atol=1e-4, rtol=1e-4)


@needs_transformers
def test_what_a_run_keeps_rebuilds_the_network_without_the_checkpoint(saved):
    folder, _, version = saved
    settings = {"model": {"image_size": [64, 64], "weights": str(folder), "drop_path": 0.1}}
    node = describe(settings, Network(convnext(**settings["model"]), MeanPool(), 1))
    assert node["weights"] is None
    assert node["version"] == version
    again = convnext(**node).state_dict()
    assert {k: v.shape for k, v in again.items()} == {
        k: v.shape for k, v in convnext([64, 64], str(folder)).state_dict().items()
    }


@needs_transformers
def test_a_checkpoint_that_does_not_fit_is_refused_with_the_tensor(saved):
    folder, _, version = saved
    with pytest.raises(WeightsError, match=r"depths: \[3, 3, 9, 3\] asked, the checkpoint has \[1, 1, 2, 1\]"):
        convnext([64, 64], str(folder), depths=[3, 3, 9, 3])
    file = folder / "model.safetensors"
    prefix = {1: "convnext", 2: "convnextv2"}[version]
    tensors = load_file(file)
    tensors["odd.weight"] = tensors.pop(f"{prefix}.encoder.stages.3.layers.0.pwconv1.bias")
    save_file(tensors, file)
    with pytest.raises(WeightsError, match=r"missing encoder\.stages\.3\.layers\.0\.pwconv1\.bias; unexpected odd"):
        convnext([64, 64], str(folder))


def test_a_checkpoint_of_another_kind_is_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    for said in ({"model_type": "vit"}, {"model_type": "convnext", "patch_size": 16}):
        (tmp_path / "config.json").write_text(json.dumps(said))
        with pytest.raises(WeightsError, match=r"vit|patch_size=16"):
            convnext([64, 64], str(tmp_path))


def test_without_transformers_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install medvit\[convnext\]"):
        convnext([64, 64], version=2, **SMALL)


def test_settings_that_make_no_convnext_are_refused():
    with pytest.raises(ConfigError, match="needs depths, version, widths"):
        convnext([64, 64])
    with pytest.raises(ConfigError, match="for volumes use densenet121_3d"):
        convnext([64, 64, 64], version=2, **SMALL)
