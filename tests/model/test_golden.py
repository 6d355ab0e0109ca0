"""Every family, checked against stored outputs of its own library: holds where the libraries are not installed.

`golden/` is written by `make_golden.py`. The wrong-switch tests prove that these comparisons can fail: RoPE, eps,
activation and interpolation mistakes load without a missing key and would otherwise be silent.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from medvit.model.pretrained import canonical, families
from medvit.model.pretrained.load import load

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("golden", HERE / "golden.py")
assert _spec is not None
assert _spec.loader is not None
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

CHECKPOINTS: dict[str, Any] = json.loads((HERE / "golden" / "checkpoints.json").read_text())
VERSIONS = CHECKPOINTS.pop("versions")
OUTPUTS = load_file(HERE / "golden" / "outputs.safetensors")
CASES = [(name, size) for name, row in CHECKPOINTS.items() for size in row["sizes"]]


def write(name: str, folder: Path, **config: Any) -> dict[str, Any]:
    row = CHECKPOINTS[name]
    folder.mkdir(exist_ok=True)
    save_file(golden.fill(row["shapes"], row["names"]), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**row["config"], **config}))
    return row


def error(name: str, size: list[int], folder: Path, **config: Any) -> float:
    """Return the largest absolute difference to the reference's output."""
    row = write(name, folder, **config)
    loaded = load(str(folder), size, row["channels"])
    with torch.no_grad():
        tokens = loaded.backbone.eval()(golden.values("image", (1, row["channels"], *size)))
        found: Tensor
        if row["what"] in {"logits", "pooled"}:
            found = loaded.head(tokens) if row["what"] == "logits" else loaded.head.pooled(tokens)
        else:
            found = tokens.patches if row["what"] == "patches" else torch.cat([tokens.prefix, tokens.patches], dim=1)
    return (found - OUTPUTS[f"{name}|{size}"]).abs().max().item()


@pytest.mark.parametrize(("name", "size"), CASES, ids=str)
def test_the_output_is_that_of_the_reference_library(name: str, size: list[int], tmp_path: Path) -> None:
    assert error(name, size, tmp_path) <= 1e-5


def test_at_least_forty_configurations_in_two_and_three_dimensions_are_covered() -> None:
    assert len(CHECKPOINTS) >= 40
    assert sum(len(size) == 3 for _, size in CASES) >= 4
    assert sum(len(row["sizes"]) > 1 for row in CHECKPOINTS.values()) >= 30


@pytest.mark.parametrize(
    ("name", "size", "switch"),
    [
        ("hf dinov3", [32, 32], {"rope": "index"}),
        ("hf dinov3", [32, 32], {"theta": 10000.0}),
        ("timm eva02 base", [32, 32], {"rope": "centred"}),
        ("timm eva02 base", [32, 32], {"reference": (4, 4)}),
        ("repo dinov2", [32, 32], {"eps": 1e-3}),
        ("timm augreg", [32, 32], {"act": "gelu_tanh"}),
        ("timm siglip tanh", [32, 32], {"act": "gelu"}),
        ("timm clip quick", [32, 32], {"act": "gelu"}),
        ("timm augreg", [48, 40], {"interpolation": "bicubic"}),
        ("hf dinov2", [48, 40], {"interpolation": "bicubic_antialias"}),
        ("hf dinov2", [48, 40], {"offset": 0.1}),
        ("hf dinov2 swiglu", [32, 32], {"gated_act": "gelu"}),
        ("hf siglip map", [32, 32], {"eps": 1e-5}),
    ],
)
def test_a_family_with_one_wrong_switch_is_caught(
    name: str, size: list[int], switch: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = families.detect

    def wrong(*arguments: Any) -> families.Family:
        return replace(right(*arguments), **switch)

    monkeypatch.setattr(canonical.families, "detect", wrong)
    key = {"eps": "layer_norm_eps", "theta": "rope_theta"}.get(next(iter(switch)))
    config = {key: next(iter(switch.values()))} if key else {}
    assert error(name, size, tmp_path, **config) > 1e-5


def test_no_golden_output_is_degenerate() -> None:
    assert all(output.std() > 0.05 and torch.isfinite(output).all() for output in OUTPUTS.values())
