"""Every family gives the tokens of its own library: tiny random models saved in their own format, loaded here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from medvit.model.pretrained.load import load

pytestmark = pytest.mark.reference
_spec = importlib.util.spec_from_file_location("reference_models", Path(__file__).with_name("reference_models.py"))
assert _spec is not None
assert _spec.loader is not None
references = importlib.util.module_from_spec(_spec)
sys.modules["reference_models"] = references
_spec.loader.exec_module(references)


def ours(folder: Path, image: Tensor, what: str) -> Tensor:
    loaded = load(str(folder), tuple(image.shape[2:]), image.shape[1])
    tokens = loaded.backbone.eval()(image)
    if what == "logits":
        return loaded.head(tokens)
    if what == "pooled":
        return loaded.head.pooled(tokens)
    return tokens.patches if what == "patches" else torch.cat([tokens.prefix, tokens.patches], dim=1)


def compare(folder: Path, name: str, size: tuple[int, ...] | None) -> None:
    torch.manual_seed(1)
    reference = references.BUILD[name](folder)
    image = torch.randn(2, reference.channels, *(size or reference.image_size))
    with torch.no_grad():
        expected = reference.run(image)
        found = ours(reference.folder, image, reference.what)
    assert expected.abs().max() > 0.1
    assert (found - expected).abs().max().item() <= 1e-5


@pytest.mark.parametrize("name", [name for name in references.BUILD if references.available(name)])
def test_tokens_equal_the_reference_at_the_size_of_the_file(name: str, tmp_path: Path) -> None:
    compare(tmp_path / "checkpoint", name, None)


@pytest.mark.parametrize("name", [name for name in references.RESIZED if references.available(name)])
def test_tokens_equal_the_reference_at_another_size(name: str, tmp_path: Path) -> None:
    compare(tmp_path / "checkpoint", name, (48, 40))


@pytest.mark.slow
@pytest.mark.skipif(not references.available("hf vit"), reason="transformers is not installed")
def test_seed_check_classification_logits_of_the_google_vit_base_shape_are_equal(tmp_path: Path) -> None:
    import transformers

    model = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000))
    model.save_pretrained(tmp_path)
    model = references._reload(model, tmp_path / "model.safetensors")
    image = references.golden.values("image", (2, 3, 224, 224))
    with torch.no_grad():
        expected = model(image).logits
        loaded = load(str(tmp_path))
        found = loaded.head(loaded.backbone.eval()(image))
    assert (loaded.backbone.width, loaded.backbone.depth, loaded.backbone.grid) == (768, 12, (14, 14))
    assert expected.std() > 0.1
    assert (found - expected).abs().max().item() <= 1e-5
