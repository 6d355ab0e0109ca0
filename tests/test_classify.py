"""The seed check: a directory of ViTForImageClassification's shape classifies an image with one command."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medvit.classify import classify, main
from medvit.errors import WeightsError
from medvit.model.pretrained.load import load


def write(folder: Path, classifier: bool = True) -> Path:
    """Write google/vit-base-patch16-224's layout, 16 times narrower."""
    torch.manual_seed(0)
    width = 48
    tensors = {
        "vit.embeddings.cls_token": torch.randn(1, 1, width),
        "vit.embeddings.position_embeddings": torch.randn(1, 197, width),
        "vit.embeddings.patch_embeddings.projection.weight": torch.randn(width, 3, 16, 16) / 16,
        "vit.embeddings.patch_embeddings.projection.bias": torch.randn(width),
        "vit.layernorm.weight": torch.rand(width) + 0.5,
        "vit.layernorm.bias": torch.randn(width),
    }
    linear = {"attention.attention.query": (width, width), "attention.attention.key": (width, width)}
    linear |= {"attention.attention.value": (width, width), "attention.output.dense": (width, width)}
    linear |= {"intermediate.dense": (96, width), "output.dense": (width, 96)}
    for block in range(2):
        stem = f"vit.encoder.layer.{block}."
        for name, shape in linear.items():
            tensors |= {f"{stem}{name}.weight": torch.randn(shape) / 7, f"{stem}{name}.bias": torch.randn(shape[0]) / 7}
        for name in ("layernorm_before", "layernorm_after"):
            tensors |= {f"{stem}{name}.weight": torch.rand(width) + 0.5, f"{stem}{name}.bias": torch.randn(width) / 7}
    if classifier:
        tensors |= {"classifier.weight": torch.randn(3, width) / 4, "classifier.bias": torch.randn(3)}
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    config = {"model_type": "vit", "num_attention_heads": 3, "image_size": 224, "patch_size": 16, "hidden_act": "gelu"}
    labels = {"0": "normal", "1": "pneumonia", "2": "other"}
    (folder / "config.json").write_text(json.dumps({**config, "id2label": labels}))
    return folder


def test_one_command_classifies_a_png_as_the_three_channel_model_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "vit")
    grey = np.random.default_rng(0).integers(0, 256, (224, 224), np.uint8)
    cv2.imwrite(str(tmp_path / "film.png"), grey)
    loaded = load(str(folder))
    rgb = torch.from_numpy(grey / np.float32(255)).expand(1, 3, 224, 224) * 2 - 1
    with torch.no_grad():
        expected = torch.softmax(loaded.head(loaded.backbone.eval()(rgb)), dim=-1)[0]
    found = classify(str(folder), [tmp_path / "film.png"])[0]
    assert list(found) == ["normal", "pneumonia", "other"]
    assert np.allclose(list(found.values()), expected.numpy(), atol=2e-5)
    assert main([str(folder), str(tmp_path / "film.png"), "--top", "1"]) == 0
    assert max(found, key=lambda name: found[name]) in capsys.readouterr().out


def test_a_checkpoint_without_a_classifier_says_what_to_do(tmp_path: Path) -> None:
    folder = write(tmp_path / "vit", classifier=False)
    cv2.imwrite(str(tmp_path / "film.png"), np.eye(224, dtype=np.uint8) * 255)
    with pytest.raises(WeightsError, match="no classifier: fine-tune"):
        classify(str(folder), [tmp_path / "film.png"])
    assert main([str(folder), str(tmp_path / "film.png")]) == WeightsError.exit_code
