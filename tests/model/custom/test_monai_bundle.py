"""A bundle of the MONAI Model Zoo's layout starts a training, and nothing of it is run.

Zoo bundles cannot be had without a network: these are made by MONAI itself, of seeded networks, in the zoo's layout.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medvit.config import build
from medvit.errors import ConfigError, WeightsError
from medvit.model.custom.monai_bundle import monai_bundle

EINOPS = pytest.mark.skipif(
    importlib.util.find_spec("einops") is None, reason="einops is not installed (MONAI needs it)"
)
DENSENET = {"_target_": "DenseNet121", "spatial_dims": 2, "in_channels": 1, "out_channels": 4}
SEGRESNET = {
    "_target_": "SegResNet",
    "spatial_dims": 3,
    "init_filters": 8,
    "in_channels": "@channels",
    "out_channels": 2,
}
SWIN = {"_target_": "SwinUNETR", "spatial_dims": 2, "in_channels": 1, "out_channels": 3, "feature_size": 12,
        "depths": [1, 1, 1, 1], "img_size": [64, 64]}  # fmt: skip
VIT = {"_target_": "ViT", "spatial_dims": 2, "in_channels": 1, "img_size": [32, 32], "patch_size": [16, 16],
       "hidden_size": 48, "mlp_dim": 64, "num_layers": 2, "num_heads": 4, "classification": True}  # fmt: skip


def written(folder: Path, node: dict[str, Any], more: dict[str, Any] | None = None) -> nn.Module:
    """Write a bundle with the weights of a seeded network, as MONAI's own tools would; return the network."""
    from monai.networks import nets

    torch.manual_seed(0)
    own = {
        key: value for key, value in node.items() if key not in ("_target_", "img_size") or node["_target_"] == "ViT"
    }
    own = {key: 1 if value == "@channels" else value for key, value in own.items() if key != "_target_"}
    network = getattr(nets, node["_target_"])(**own)
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True)
    config = {"channels": "@channels_of::image", "channels_of": {"image": 1}, "network_def": node,
              "network": "$@network_def.to(@device)", **(more or {})}  # fmt: skip
    (folder / "configs" / "inference.json").write_text(json.dumps(config), encoding="utf-8")
    about = {"name": "A bundle of one's own", "version": "0.1.0"}
    (folder / "configs" / "metadata.json").write_text(json.dumps(about), encoding="utf-8")
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return network.eval()


def plain(network: Any, name: str, image: Tensor) -> Tensor:
    """Return the encoder's features by the network's own modules."""
    if name == "DenseNet121":
        return network.features(image)
    if name == "SegResNet":
        return network.encode(image)[0]
    if name == "SwinUNETR":
        return network.swinViT(image)[-1]
    tokens = torch.cat([network.cls_token.expand(len(image), -1, -1), network.patch_embedding(image)], dim=1)
    for block in network.blocks:
        tokens = block(tokens)
    return network.norm(tokens)


@pytest.mark.parametrize(
    ("node", "size", "blocks", "left"),
    [
        (DENSENET, [64, 32], 4, "class_layers"),
        (SEGRESNET, [16, 16, 8], 4, "up_layers"),
        pytest.param(SWIN, [64, 64], 4, "decoder1", marks=EINOPS),
        pytest.param(VIT, [32, 32], 2, "classification_head", marks=EINOPS),
    ],
    ids=lambda value: value["_target_"] if isinstance(value, dict) else None,
)
def test_the_encoder_is_the_bundles_and_what_is_left_behind_is_named(
    node: dict[str, Any], size: list[int], blocks: int, left: str, tmp_path: Path
) -> None:
    network, name = written(tmp_path / "zoo", node), node["_target_"]
    model = monai_bundle(size, str(tmp_path / "zoo"))
    image = torch.randn(2, 1, *size)
    expected, tokens = plain(network, name, image), model.eval()(image)
    expected = expected if name == "ViT" else expected.flatten(2).transpose(1, 2)
    torch.testing.assert_close(torch.cat([tokens.prefix, tokens.patches], dim=1), expected, rtol=1e-5, atol=1e-6)
    assert len(model.blocks) == blocks
    assert any(part.startswith(left) for part in model.removed)
    assert "tensors matched, left behind: " in model.provenance["report"]
    assert model.provenance["family"] == "MONAI bundle A bundle of one's own"
    again = build({"_target_": "medvit.model.custom.monai_bundle.monai_bundle", "image_size": size, **model.scratch})
    again.load_state_dict(model.state_dict())  # a finished run is opened without the bundle, and without trust
    torch.testing.assert_close(again.eval()(image).patches, tokens.patches, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({**DENSENET, "out_channels": "$len(@labels)"}, r"out_channels=\$len\(@labels\) would have to be run.*nothing"),
        ({**DENSENET, "out_channels": "@nowhere"}, r"out_channels=@nowhere would have to be run"),
        ({**DENSENET, "_target_": "DenseNet12"}, "did you mean 'DenseNet121'"),
        ({**DENSENET, "_target_": "scripts.nets.Mine"}, "code of its own, which is never run; use model=custom"),
        ({**DENSENET, "_target_": "os.system"}, "code of its own"),
        ({**DENSENET, "_target_": "monai.networks.nets.UNet"}, "the network is UNet; medvit takes DenseNet121"),
        ({**DENSENET, "growth": 3}, "DenseNet121 cannot be built of"),
    ],
)
def test_what_would_have_to_be_run_or_is_another_network_is_refused(node: Any, said: str, tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inference.json").write_text(json.dumps({"network_def": node}), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        monai_bundle([64, 64], str(tmp_path))


def test_an_expression_is_replaced_by_what_the_user_gives(tmp_path: Path) -> None:
    written(tmp_path / "zoo", DENSENET, {"network_def": {**DENSENET, "out_channels": "$2 + 2"}})
    assert monai_bundle([32, 32], str(tmp_path / "zoo"), {"out_channels": 4}).width == 1024


class Planted:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_a_pickle_that_would_run_code_a_folder_without_weights_and_no_bundle_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "zoo", DENSENET)
    torch.save({"state_dict": Planted()}, tmp_path / "zoo" / "models" / "model.pt")
    with pytest.raises(WeightsError, match="could run code"):
        monai_bundle([32, 32], str(tmp_path / "zoo"))
    (tmp_path / "zoo" / "models" / "model.pt").unlink()
    with pytest.raises(WeightsError, match="models/ holds none of"):
        monai_bundle([32, 32], str(tmp_path / "zoo"))
    with pytest.raises(ConfigError, match="no bundle of MONAI"):
        monai_bundle([32, 32], str(tmp_path))
    with pytest.raises(ConfigError, match="needs model"):
        monai_bundle([32, 32])


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    network = written(tmp_path / "zoo", SEGRESNET)
    state = network.state_dict()
    state["down_layers.9.weight"] = state.pop("convInit.conv.weight")
    torch.save({"state_dict": state}, tmp_path / "zoo" / "models" / "model.pt")
    with pytest.raises(WeightsError, match=r"missing convInit.conv.weight.*unexpected down_layers.9.weight"):
        monai_bundle([16, 16, 8], str(tmp_path / "zoo"))
