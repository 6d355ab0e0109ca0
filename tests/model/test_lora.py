"""Adapters: nothing changes at first, merging changes nothing, a file brings them back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.errors import ConfigError
from medvit.model import lora
from medvit.model.design import Architecture
from medvit.model.vit import ViT

EVERY = ("qkv", "proj", "fc1", "fc2", "patch_embed")
TARGETS = [("qkv", "proj"), ("q", "v"), ("k",), EVERY, ("attn.proj",), ("q", "qkv")]


def vit(axes: int = 2, **design) -> ViT:
    torch.manual_seed(0)
    return ViT([16] * axes, [8] * axes, 1, 24, 2, 2, Architecture(**design)).eval()


def stirred(model):
    """Give the adapters values, as training would."""
    for name, p in model.named_parameters():
        if ".up." in name:
            torch.nn.init.normal_(p, std=0.2)
    return model


@pytest.mark.parametrize("targets", TARGETS, ids="+".join)
@pytest.mark.parametrize("axes", [2, 3])
def test_merged_weights_give_the_same_tokens_and_the_same_module_names(targets, axes):
    image, model = torch.randn(2, 1, *[16] * axes), vit(axes)
    names, plain = list(model.state_dict()), model(image).patches
    lora.inject(model, 3, 6.0, targets)
    assert torch.equal(model(image).patches, plain)  # up starts at 0
    adapted = stirred(model)(image).patches
    assert (adapted - plain).abs().max() > 5e-4  # keys of an untrained model hardly matter
    merged = lora.merge(model)
    assert list(merged.state_dict()) == names
    assert (merged(image).patches - adapted).abs().max() <= 1e-5


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.floats(0.5, 64), st.integers(1, 4), st.integers(1, 9), st.integers(1, 3))
def test_an_adapted_linear_layer_is_its_own_weight_property(rank, alpha, inputs, rows, batch):
    torch.manual_seed(rank)
    layer = lora.Lora(torch.nn.Linear(inputs, rows + 2), rank, alpha, [(1, rows + 1)])
    torch.nn.init.normal_(layer.up[0].weight)
    x = torch.randn(batch, inputs)
    expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)
    untouched = [0, rows + 1]
    assert torch.equal(layer.weight[untouched], layer.base.weight[untouched])


def test_an_adapter_of_full_rank_can_be_any_weight():
    """alpha / rank * up @ down is the textbook product, with known numbers."""
    layer = lora.Lora(torch.nn.Linear(2, 2, bias=False), 2, 4.0, [(0, 2)])
    layer.base.weight.data.zero_()
    layer.down.weight.data = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    layer.up[0].weight.data = torch.tensor([[1.0, 1.0], [0.0, 3.0]])
    assert layer.weight.tolist() == [[2.0, 4.0], [0.0, 12.0]]  # 4 / 2 times [[1, 2], [0, 6]]


def test_only_the_asked_slices_of_a_fused_layer_move():
    model = vit()
    before = model.blocks[0].attn.qkv.weight.clone()
    lora.inject(model, 2, 4.0, ["v"])
    stirred(model)
    after = lora.merge(model).blocks[0].attn.qkv.weight
    moved = (after != before).any(dim=1)
    assert moved.tolist() == [False] * 48 + [True] * 24


def test_q_k_and_v_of_a_fused_layer_have_adapters_of_their_own():
    model = vit()
    lora.inject(model, 2, 4.0, ["qkv"])
    change = lora.merge(stirred(model)).blocks[0].attn.qkv.weight - vit().blocks[0].attn.qkv.weight
    assert torch.linalg.matrix_rank(change, atol=1e-4).item() == 6
    assert [torch.linalg.matrix_rank(part, atol=1e-4).item() for part in change.chunk(3)] == [2, 2, 2]


def test_the_base_gets_no_gradient_and_every_adapter_does():
    model = vit()
    lora.inject(model, 2, 4.0, ["qkv", "patch_embed"])
    stirred(model)(torch.randn(2, 1, 16, 16)).patches.square().sum().backward()
    for name, p in model.named_parameters():
        if ".base." in name:
            assert p.grad is None, name
        if ".up." in name or ".down." in name:
            assert p.grad.abs().sum() > 0, name


def test_unknown_targets_list_what_the_model_has():
    with pytest.raises(ConfigError, match=r"\['query', 'attention'\] name no .*fc1.*patch_embed.*proj.*qkv.*q, k, v"):
        lora.inject(vit(), 2, 4.0, ["query", "attention", "proj"])
    with pytest.raises(ConfigError, match="rank=0"):
        lora.inject(vit(), 0, 4.0)


def test_nothing_is_injected_when_one_target_is_wrong():
    model = vit()
    names = list(model.state_dict())
    with pytest.raises(ConfigError):
        lora.inject(model, 2, 4.0, ["proj", "nothing"])
    assert list(model.state_dict()) == names
