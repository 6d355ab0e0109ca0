"""A network made elsewhere becomes a backbone without a guess: its features, its blocks, its weights, its bad ones."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from medvit.errors import ConfigError, WeightsError
from medvit.model.custom.backbone import CustomBackbone, custom_backbone
from medvit.model.custom.trial import refuse_untrainable
from medvit.model.network import Network
from medvit.model.pool import ClsPool, MeanPool
from medvit.optim.parameter_groups import layers
from medvit.optim.strategy import Full, LayerDecay, Lora


class Small(nn.Module):
    """Stem, two stages, a pooled classifier, and a branch that never runs."""

    def __init__(self, channels: int = 1, norm: type[nn.Module] = nn.Identity) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 4, stride=4)
        self.stages = nn.Sequential(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), norm(8)), nn.Conv2d(8, 12, 2, stride=2)
        )
        self.auxiliary = nn.Linear(12, 3)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stages(self.stem(x).relu()).mean(dim=(2, 3)))

    def encode(self, x: Tensor) -> dict[str, Tensor]:
        return {"low": self.stem(x), "high": self.stages(self.stem(x).relu())}


class TokenNet(nn.Module):
    """A class token before the patches, as a ViT gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 6, 8, stride=8)
        self.cls = nn.Parameter(torch.ones(1, 1, 6))
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), self.embed(x).flatten(2).transpose(1, 2)], dim=1)
        for block in self.blocks:
            tokens = tokens + block(tokens)
        return tokens


def network(backbone: CustomBackbone, pool: nn.Module | None = None) -> Network:
    return Network(backbone, pool or MeanPool(), 2)  # type: ignore[arg-type]


def test_the_features_are_what_the_network_gives_at_the_named_layer() -> None:
    """Checked against a plain call of the same modules."""
    torch.manual_seed(0)
    made, image = Small(), torch.randn(2, 1, 32, 48)
    plain = made.stages(made.stem(image).relu()).detach()
    for features in ({"layer": "stages"}, {"layer": "encode", "output": "high"}):
        model = custom_backbone(made, [32, 48], features=features)
        tokens = model(image)
        assert (model.width, model.prefix, model.grid, model.divisor) == (12, 0, (4, 6), (8, 8))
        torch.testing.assert_close(tokens.patches, plain.flatten(2).transpose(1, 2), rtol=0, atol=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3))
def test_every_cell_of_a_map_stands_at_its_place_in_the_grid(rows: int, columns: int, batch: int) -> None:
    model = custom_backbone(nn.Sequential(nn.Conv2d(1, 3, 4, stride=4)), [rows * 4, columns * 4])
    image = torch.randn(batch, 1, rows * 4, columns * 4)
    tokens = model(image).patches.reshape(batch, rows, columns, 3)
    for row in range(rows):
        cell = model.network(image[:, :, 4 * row : 4 * row + 4, -4:])[:, :, 0, 0]
        torch.testing.assert_close(tokens[:, row, columns - 1], cell, rtol=1e-4, atol=1e-5)


def test_what_the_features_do_not_need_is_taken_off_and_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        model = custom_backbone(Small(), [32, 32], features={"layer": "stages"})
    assert model.removed == ("auxiliary", "fc")
    assert "auxiliary, fc" in caplog.text
    assert {name.split(".")[1] for name in model.state_dict()} == {"stem", "stages"}
    trained = sum(p.numel() for layer in layers(network(model)) for _, p in layer.parameters)
    assert trained == sum(p.numel() for p in network(model).parameters())


def test_tokens_have_their_prefix_in_front_and_need_the_stride_to_be_said() -> None:
    with pytest.raises(ConfigError, match=r"tokens do not tell their grid.*model.features.stride"):
        custom_backbone(TokenNet(), [32, 32])
    model = custom_backbone(TokenNet(), [32, 32], features={"stride": [8, 8]}, blocks="blocks")
    image = torch.randn(2, 1, 32, 32)
    tokens, plain = model(image), model.network(image)
    assert (model.prefix, model.grid, len(model.blocks)) == (1, (4, 4), 3)
    torch.testing.assert_close(tokens.prefix, plain[:, :1], rtol=0, atol=0)
    assert network(model, ClsPool())(image).shape == (2, 2)


def test_a_grey_image_is_shown_to_three_channels_as_each_was_normalised() -> None:
    """The network's own normalisation of one grey value in red, green and blue is the reference."""
    torch.manual_seed(1)
    mean, std, made = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], Small(3)
    model = custom_backbone(made, [32, 32], features={"layer": "stages"}, mean=mean, std=std)
    value = torch.rand(2, 1, 32, 32)
    grey = (value - model.mean[0]) / model.std[0]
    colour = (value.expand(-1, 3, -1, -1) - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    plain = made.stages(made.stem(colour).relu()).flatten(2).transpose(1, 2)
    torch.testing.assert_close(model(grey).patches, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("made", "given_", "said"),
    [
        (Small(), {}, r"may be the scores of the network's own classifier.*model.features.layer"),
        (Small(), {"features": {"layer": "stagse"}}, r"no such part or method; did you mean 'stages'\?.*stem, stages"),
        (Small(), {"features": {"layer": "auxiliary"}}, "does not run when an image goes through"),
        (Small(), {"features": {"layer": "encode"}}, r"gives a dict \(low: .*high: .*say which, model.features.output"),
        (Small(), {"features": {"layer": "encode", "output": "mid"}}, "has no such output"),
        (Small(), {"features": {"lyer": "stages"}}, r"has no lyer; did you mean 'layer'"),
        (Small(), {"features": {"layer": "stages", "layout": "maps"}}, r"did you mean 'map'"),
        (Small(), {"features": {"layer": "stages", "layout": "tokens"}}, "is no tokens"),
        (Small(), {"features": {"layer": "stages", "width": 768}}, r"12 wide; model.features.width=768 was asked for"),
        (Small(), {"features": {"layer": "stages", "stride": [16, 16]}}, r"stride=\[16, 16\] was asked for"),
        (Small(), {"features": {"layer": "stages"}, "blocks": ["stages.0", "stags.1"]}, r"no stags.1; did you mean"),
        (Small(), {"features": {"layer": "stages"}, "blocks": "stem"}, "give a list of parts"),
        (Small(3), {"features": {"layer": "stages"}}, "does not take an image of .1, 1, 32, 32."),
        (Small(), {"features": {"layer": "stages"}, "mean": [0.5]}, "give both"),
        (nn.Conv2d(1, 4, 3, padding=1), {}, "of the image's own size: such an output is a segmentation"),
        (nn.Sequential(nn.Conv2d(1, 4, 4, stride=4), nn.AdaptiveAvgPool2d(3)), {}, "10.6667, 10.6667 pixels"),
        (nn.ReLU(), {}, "has no parameters"),
        ("densenet", {}, "model.network is a str: expected _target_ of a torch.nn.Module"),
    ],
)  # fmt: skip
def test_a_network_that_could_be_read_in_two_ways_or_in_none_is_refused(made: Any, given_: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        custom_backbone(made, [32, 32], **given_)


def test_channels_last_is_not_taken_for_a_map() -> None:
    class Last(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).movedim(1, -1)

    with pytest.raises(ConfigError, match="channels_last"):
        custom_backbone(Last(1, 16, 4, stride=4), [32, 32])
    model = custom_backbone(Last(1, 16, 4, stride=4), [32, 32], features={"layout": "channels_last"})
    assert (model.width, model.grid) == (16, (8, 8))


class Noisy(Small):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.stages(self.stem(x)), 0.5, training=True)


class Mixing(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.stages(self.stem(x - x.mean(dim=0, keepdim=True)))


class Infinite(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.stages(self.stem(x)) / 0


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (Noisy(), "another output at every call"),
        (Mixing(), "one image of a batch changes the output of another"),
        (Infinite(), "not finite"),
    ],
)
def test_a_network_that_mixes_images_or_never_rests_is_refused_before_training(made: nn.Module, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        refuse_untrainable(network(custom_backbone(made, [32, 32])), (1, 32, 32))


def test_the_trial_leaves_weights_statistics_and_the_random_state_as_they_were() -> None:
    made = network(custom_backbone(Small(norm=nn.BatchNorm2d), [32, 32], features={"layer": "stages"}))
    before, state = {k: v.clone() for k, v in made.state_dict().items()}, torch.get_rng_state()
    (told,) = refuse_untrainable(made, (1, 32, 32))
    assert "W-BATCHNORM 1 batch norms" in told
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in made.state_dict().items())
    assert all(p.grad is None for p in made.parameters())


def test_what_the_networks_own_code_froze_is_not_set_free_by_a_strategy() -> None:
    made = Small()
    made.stem.requires_grad_(False)
    model = network(custom_backbone(made, [32, 32], features={"layer": "stages"}))
    Full().prepare(model)
    assert "backbone.network.stem.weight" in model.state_dict()
    assert not any(".stem." in name for name, _ in model.named_parameters())


def test_layer_decay_goes_by_the_named_blocks_and_is_refused_without_any() -> None:
    with pytest.raises(ConfigError, match=r"model.blocks=\[...\] of its parts stem, stages"):
        LayerDecay().prepare(network(custom_backbone(Small(), [32, 32], features={"layer": "stages"})))
    model = network(custom_backbone(Small(), [32, 32], features={"layer": "stages"}, blocks="stages"))
    LayerDecay().prepare(model)
    rates = {group["name"]: group["lr"] for group in LayerDecay(decay=0.5).groups(model, 1.0, 0.0)}
    assert rates == {"stem": 0.125, "block 0": 0.25, "block 1": 0.5, "head": 1.0}


def test_adapters_take_the_place_of_layers_and_the_blocks_are_found_again() -> None:
    model = network(custom_backbone(TokenNet(), [32, 32], features={"stride": [8, 8]}, blocks="blocks"))
    Lora(targets=("blocks",), rank=2).prepare(model)
    assert all(type(block).__name__ == "Lora" for block in model.backbone.blocks)
    model(torch.randn(1, 1, 32, 32)).sum().backward()


def test_weights_are_matched_by_name_and_what_is_left_is_named(tmp_path: Path) -> None:
    torch.manual_seed(2)
    source = Small()
    save_file({**source.state_dict(), "projection.weight": torch.ones(2)}, tmp_path / "small.safetensors")
    model = custom_backbone(
        Small(), [32, 32], features={"layer": "stages"}, weights=str(tmp_path / "small.safetensors")
    )
    assert torch.equal(model.network.stem.weight, source.stem.weight)
    assert "6 of 11 tensors matched, left behind: auxiliary, fc, projection" in model.provenance["report"]
    assert len(model.provenance["sha256"]) == 64
    assert model.scratch == {"weights": None}


def test_weights_that_the_features_need_and_do_not_get_are_refused_by_name(tmp_path: Path) -> None:
    state = Small().state_dict()
    state["stages.2.weight"] = torch.ones(1)  # a stage more than the network has
    state["stages.1.bias"] = torch.ones(7)
    del state["stem.bias"], state["fc.weight"]
    save_file(state, tmp_path / "small.safetensors")
    with pytest.raises(WeightsError) as refused:
        custom_backbone(Small(), [32, 32], features={"layer": "stages"}, weights=str(tmp_path / "small.safetensors"))
    said = str(refused.value)
    assert "missing stem.bias" in said
    assert "unexpected stages.2.weight" in said
    assert "stages.1.bias is (7,), expected (12,)" in said
    assert "fc" not in said
