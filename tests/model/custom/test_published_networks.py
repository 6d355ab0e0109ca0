"""Networks of timm and transformers as backbones give what their own libraries give; skipped where these are absent."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medvit.errors import ConfigError
from medvit.model.custom.backbone import custom_backbone

pytestmark = pytest.mark.reference


def timm_network(name: str) -> Any:
    """Return a small network of timm, which imports torchvision's operators beside a CPU build of torch."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    timm = pytest.importorskip("timm", reason="timm is not installed (extra reference)")
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, in_chans=1).eval()


@pytest.mark.parametrize(
    ("name", "given", "blocks"),
    [
        ("resnet18", {}, ["layer1", "layer2", "layer3", "layer4"]),
        ("convnext_atto", {}, "stages"),
        ("vit_tiny_patch16_224", {"layer": "forward_features", "stride": [16, 16]}, "blocks"),
        ("swin_tiny_patch4_window7_224", {"layer": "forward_features", "layout": "channels_last"}, "layers"),
    ],
)
def test_the_tokens_are_timms_own_features(name: str, given: dict[str, Any], blocks: Any) -> None:
    network, image = timm_network(name), torch.randn(1, 1, 224, 224)
    with torch.no_grad():
        plain = network.forward_features(image)
        model = custom_backbone(network, [224, 224], features=given, blocks=blocks).eval()
        tokens = model(image)
    flat = plain.flatten(2).transpose(1, 2) if not given else plain.flatten(1, -2)
    torch.testing.assert_close(torch.cat([tokens.prefix, tokens.patches], dim=1), flat, rtol=0, atol=0)
    assert len(model.blocks) >= 4
    assert model.removed[-1] in {"fc", "head"}


def test_a_map_of_timm_with_the_channels_last_is_not_read_in_silence() -> None:
    with pytest.raises(ConfigError, match="layout"):
        custom_backbone(timm_network("swin_tiny_patch4_window7_224"), [224, 224])


def test_the_tokens_are_the_last_hidden_state_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra convnext)")
    config = transformers.ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
                                    image_size=64, num_channels=1)  # fmt: skip
    network, image = transformers.ViTModel(config).eval(), torch.randn(2, 1, 64, 64)
    model = custom_backbone(network, [64, 64], features={"stride": [16, 16]}).eval()
    with torch.no_grad():
        tokens, plain = model(image), network(image).last_hidden_state
    assert (model.prefix, model.grid) == (1, (4, 4))
    torch.testing.assert_close(torch.cat([tokens.prefix, tokens.patches], dim=1), plain, rtol=0, atol=0)
