"""What every backbone of `conf/model` must do, whatever it is; found by globbing, so a new one is tested at once."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from medvit.config_targets import made
from medvit.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf" / "model"
FILES = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(CONF.glob("*.yaml"))}
FILES["monai_bundle"]["network"] = {"name": "SegResNet", "spatial_dims": 3, "norm": ["group", {"num_groups": 8}]}
HERE = importlib.util.find_spec("transformers") is not None
absent = pytest.mark.skipif(not HERE, reason="transformers is not installed (extra convnext)")
NAMES = [pytest.param(name, marks=[absent] if name.startswith("convnext") else []) for name in FILES]
VITS = [name for name, node in FILES.items() if node["_target_"].endswith(".vit")]


def build(name: str, **changes: Any) -> nn.Module:
    """Build a config as hydra would, at a few patches a side and two blocks so that each test takes a moment."""
    node = {**FILES[name], **changes}
    model: nn.Module = made(node)
    return model


def small(name: str, seed: int = 0, **changes: Any) -> nn.Module:
    torch.manual_seed(seed)
    node = FILES[name]
    if name in VITS:
        sides = [patch * n for patch, n in zip(node["patch_size"], (3, 2, 2), strict=False)]
        shrink: dict[str, Any] = {"width": node["heads"] * 12, "depth": 2, "mlp": 64, "drop_path": 0.0}
        shrink |= {"layer_scale": 0.5} if "layer_scale" in node else {}  # 1e-5 hides what a block does
    elif "convnext" in name:
        sides, shrink = [64, 32], {"depths": [1, 1, 2, 1], "widths": [16, 24, 32, 48], "drop_path": 0.0}
    else:
        sides = (
            [32] * len(node["image_size"])
            if "segresnet" in name or "bundle" in name
            else [64, 32, 32][: len(node["image_size"])]
        )
        shrink = {}
    return build(name, **{"image_size": sides, **shrink, **changes})


def image(model: nn.Module, batch: int = 2) -> torch.Tensor:
    sides = [n * d for n, d in zip(model.grid, model.divisor, strict=True)]
    return torch.randn(batch, model.in_channels, *sides)


@pytest.mark.parametrize("name", NAMES)
def test_it_builds_as_written_and_answers_the_questions_of_a_backbone(name: str) -> None:
    with torch.device("meta"):
        model = build(name)
    assert [n * d for n, d in zip(model.grid, model.divisor, strict=True)] == FILES[name]["image_size"]
    assert len(model.blocks) > 1
    assert len(model.mean) == len(model.std) == model.in_channels


@pytest.mark.parametrize("name", NAMES)
def test_tokens_have_the_width_prefix_and_grid_it_says(name: str) -> None:
    model = small(name, keep=1.0).eval() if name in VITS else small(name).eval()
    tokens = model(image(model))
    cells = torch.tensor(model.grid).prod().item()
    assert tokens.grid == model.grid
    assert tokens.prefix.shape == (2, model.prefix, model.width)
    assert tokens.patches.shape == (2, cells, model.width)
    assert torch.isfinite(tokens.patches).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_pixel_has_a_gradient(name: str) -> None:
    model = small(name).eval()
    pixels = image(model, 1).requires_grad_()
    tokens = model(pixels)
    direction = torch.randn_like(tokens.patches)
    (tokens.patches * direction).sum().backward()
    assert (pixels.grad != 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_images_of_a_batch_do_not_see_each_other(name: str, mode: str) -> None:
    model = small(name, **({"keep": 1.0} if name in VITS else {})).train(mode == "train")
    pixels = image(model, 2)
    both, other = model(pixels).patches[0], model(torch.stack([pixels[0], 9 * pixels[1] + 3])).patches[0]
    torch.testing.assert_close(both, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_trainable_parameter_gets_a_gradient_and_a_frozen_one_none(name: str) -> None:
    model = small(name).train()
    frozen = dict(model.blocks[0].named_parameters())
    for parameter in frozen.values():
        parameter.requires_grad_(False)
    tokens = model(image(model))
    joined = torch.cat([tokens.prefix, tokens.patches], dim=1)
    (joined * torch.randn_like(joined)).sum().backward()
    lacking = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert lacking == []
    assert all(parameter.grad is None for parameter in frozen.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_side_that_is_no_multiple_raises_and_counts_the_lost_pixels(name: str) -> None:
    model = small(name).eval()
    sides = [n * d for n, d in zip(model.grid, model.divisor, strict=True)]
    with pytest.raises(ConfigError, match=r"\b3\b.* pixels would be lost"):
        model(torch.zeros(1, 1, *sides[:-1], sides[-1] + 3))


@pytest.mark.parametrize("name", VITS)
def test_permuting_patches_changes_the_output_with_positions_and_not_without(name: str) -> None:
    for has_positions in (True, False):
        more = {} if has_positions else {"positions": "none", "rope": None}
        model = small(name, **more, **({} if FILES[name].get("stem") != "conv" else {"stem": "patch"})).eval()
        axes, patch = len(model.grid), model.divisor
        pixels = image(model, 1)
        swapped = pixels.roll(patch[-1], dims=-1)  # whole patches move, none is cut
        order = torch.arange(model(pixels).patches.shape[1]).reshape(model.grid).roll(1, dims=axes - 1).flatten()
        moved = model(pixels).patches[:, order]
        difference = (model(swapped).patches - moved).abs().max().item()
        assert (difference > 1e-3) == has_positions


@pytest.mark.parametrize("name", VITS)
def test_an_exported_program_equals_the_eager_one_for_another_batch_size(name: str) -> None:
    model = small(name).eval()
    pixels = image(model, 2)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (pixels,), dynamic_shapes=({0: batch},), strict=False)
    larger = image(model, 3)
    torch.testing.assert_close(program.module()(larger).patches, model(larger).patches, rtol=1e-4, atol=1e-5)


def test_settings_that_name_nothing_or_are_missing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"drop_pth .*did you mean drop_path"):
        build("vit_tiny_16", drop_pth=0.1)
    with pytest.raises(ConfigError, match="needs width, heads"):
        build("vit_tiny_16", width=None, heads=None)
    with pytest.raises(ConfigError, match="none of group, batch"):
        build("densenet121", norm="layer")
