"""An encoder out of an ONNX graph: the same tokens whatever the exporter called the tensors, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from plain_vit import PlainViT, export

from medvit.errors import WeightsError
from medvit.model.pretrained import from_onnx, onnx_graph, onnx_steps
from medvit.model.pretrained.load import load

KINDS = {"apart, scaled": {}, "fused, with a head": {"fused": True, "scaled": False, "head": True}}


def renamed(file: Path) -> Path:
    """Rename every tensor and node of a graph, as exporters that fold constants do."""
    model = onnx.load(file)
    names = {tensor.name: f"onnx::T_{n}" for n, tensor in enumerate(model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for n, node in enumerate(model.graph.node):
        node.name = f"n{n}"
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)
    onnx.save(model, file)
    return file


def same_tokens(network: PlainViT, folder: Path) -> bool:
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = load(str(folder)).backbone.eval()(image)
    with torch.inference_mode():
        torch.testing.assert_close(
            torch.cat([found.prefix, found.patches], dim=1), network.tokens(image), rtol=0, atol=1e-4
        )
    return True


@pytest.mark.parametrize("exporter", ["script", pytest.param("dynamo", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_of_a_graph_gives_the_tokens_of_the_network_that_was_exported(
    kind: str, exporter: str, tmp_path: Path
) -> None:
    network = PlainViT(**KINDS[kind])
    said = from_onnx.convert(export(network, tmp_path / "a.onnx", exporter), tmp_path / "out", {})
    assert same_tokens(network, tmp_path / "out")
    assert ("left behind, of no encoder: decoder" in said) == ("head" in KINDS[kind])


def test_a_graph_whose_tensors_lost_their_names_is_read_by_shape_and_place(tmp_path: Path) -> None:
    network = PlainViT()
    file = renamed(export(network, tmp_path / "a.onnx"))
    assert not onnx_graph.read(onnx_steps.load(file)).kept
    from_onnx.convert(file, tmp_path / "out", {})
    assert same_tokens(network, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_attention_heads"], config["layer_norm_eps"], config["hidden_act"]) == (3, 1e-6, "gelu")


def test_a_graph_that_changes_the_pixels_itself_gives_other_tokens_and_is_refused(tmp_path: Path) -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = PlainViT()

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.vit((image - 0.4) / 0.2)

    file = export(Normalised(), tmp_path / "a.onnx")
    with pytest.raises(WeightsError, match=r"other tokens than onnxruntime.*changes the pixels itself"):
        from_onnx.convert(file, tmp_path / "out", {})
    assert not (tmp_path / "out").exists()


def test_a_quantised_graph_is_refused(tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(export(PlainViT(), tmp_path / "a.onnx"), tmp_path / "small.onnx")
    with pytest.raises(WeightsError, match=r"small\.onnx has quantised weights.*float export"):
        from_onnx.convert(tmp_path / "small.onnx", tmp_path / "out", {})


def test_a_graph_without_initialisers_is_refused(tmp_path: Path) -> None:
    file = export(PlainViT(), tmp_path / "a.onnx")
    model = onnx.load(file)
    del model.graph.initializer[:]
    onnx.save(model, file)
    with pytest.raises(WeightsError, match=r"a\.onnx has no initialisers, so no weights"):
        from_onnx.convert(file, tmp_path / "out", {})


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(7200, 2)),
            "should be a norm.*there is linear",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 8)), "no patch convolution"),
    ],
)
def test_a_graph_of_another_architecture_is_refused_with_where_it_differs(
    network: nn.Module, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=f"of another architecture than a plain ViT.*{reason}"):
        from_onnx.convert(export(network, tmp_path / "a.onnx"), tmp_path / "out", {})


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\xff")
    with pytest.raises(WeightsError, match=r"a\.onnx is truncated or no ONNX file"):
        from_onnx.convert(tmp_path / "a.onnx", tmp_path / "out", {})
