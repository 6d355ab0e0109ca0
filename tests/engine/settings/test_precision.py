"""A network trains in bf16 only where its gradients are right in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medvit.config import settings_of
from medvit.engine.build import build_network
from medvit.engine.settings import precision
from medvit.errors import ConfigError


def network_of(model: str, **size: Any) -> nn.Module:
    volume = {"data": "folder", "data.folder": "x", "labels.target": ["a"], "preprocess": "volume"}
    settings = settings_of("train", {"model": model, **volume, "pool": "mean", **size})
    return build_network(settings, 1, settings["model"])


@pytest.fixture
def on_a_processor_with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)


@pytest.mark.parametrize(
    ("model", "expected"), [("segresnet_3d", "32-true"), ("densenet121_3d", "32-true"), ("vit_pico_3d", "bf16-mixed")]
)
@pytest.mark.usefixtures("on_a_processor_with_bf16")
def test_padded_convolutions_of_volumes_train_in_float32_on_a_processor(model: str, expected: str) -> None:
    """In bf16 two of conf/'s networks ended with outputs that are not finite, or trained on gradients of any size."""
    network = network_of(model, **{"model.image_size": [32, 32, 32], "preprocess.size": [32, 32, 32]})
    assert precision.precision_of({"accelerator": "auto", "precision": "auto"}, network) == expected
    assert precision.precision_of({"accelerator": "cpu", "precision": "32-true"}, network) == "32-true"
    if expected == "32-true":
        with pytest.raises(ConfigError, match="give 32-true or auto"):
            precision.precision_of({"accelerator": "cpu", "precision": "bf16-mixed"}, network)


@pytest.mark.usefixtures("on_a_processor_with_bf16")
def test_convolutions_of_films_keep_bf16() -> None:
    network = nn.Conv2d(1, 1, 3, padding=1)
    assert precision.precision_of({"accelerator": "auto", "precision": "auto"}, network) == "bf16-mixed"


def test_a_gpu_keeps_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    network = nn.Conv3d(1, 1, 3, padding=1)
    assert precision.precision_of({"accelerator": "auto", "precision": "auto"}, network) == "bf16-mixed"
