"""The fast path of the linear layer computes what torch's own does, values and gradients, wherever it is taken."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medvit.model import linear
from medvit.model.linear import Linear, activate, embed_patches, frozen_weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_equal_torchs_own_layer(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no oneDNN linear")
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN has no bf16 product on this processor, so the path is not taken here")
    monkeypatch.setattr(linear, "fast_dtypes", lambda: frozenset({torch.float32, torch.bfloat16}))
    torch.manual_seed(0)
    fast, plain = Linear(24, 40), nn.Linear(24, 40)
    plain.load_state_dict(fast.state_dict())
    fast.to(dtype)
    plain.to(dtype)
    images = [torch.randn(2, 5, 24, dtype=dtype).requires_grad_() for _ in range(2)]
    with torch.no_grad():
        images[1].copy_(images[0])
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    outputs = [layer(image) for layer, image in zip((fast, plain), images, strict=True)]
    torch.testing.assert_close(*outputs, **tolerance)
    for output in outputs:
        (output * torch.arange(40)).sum().backward()
    torch.testing.assert_close(
        images[0].grad, images[1].grad, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2
    )
    for name, parameter in fast.named_parameters():
        torch.testing.assert_close(parameter.grad, plain.get_parameter(name).grad, **{**tolerance, "atol": 1e-1})


def test_frozen_weights_and_images_without_gradient_stay_so() -> None:
    layer = Linear(8, 8)
    layer.weight.requires_grad_(False)
    image = torch.randn(3, 8).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        layer(image).float().sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    assert image.grad is not None


def test_autocast_gives_bf16_with_and_without_gradients() -> None:
    layer, image = Linear(8, 8), torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        trained = layer(image)
        with torch.no_grad():
            inferred = layer(image)
    assert trained.dtype == inferred.dtype == torch.bfloat16
    torch.testing.assert_close(trained, inferred)


@pytest.mark.parametrize("act", ["none", "gelu", "gelu_tanh", "relu", "silu", "quick_gelu"])
def test_an_activation_inside_the_product_is_the_one_behind_it(act: str) -> None:
    layer, image = Linear(24, 40), torch.randn(3, 5, 24)
    expected = activate(nn.functional.linear(image, layer.weight, layer.bias), act)
    with torch.no_grad():
        torch.testing.assert_close(layer(image, act), expected, rtol=1e-5, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(layer(image, act).float(), expected, rtol=2e-2, atol=2e-2)


def test_weights_at_rest_give_the_same_numbers_and_are_forgotten_afterwards() -> None:
    layer, image = Linear(24, 40), torch.randn(3, 24)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = layer(image)
        with frozen_weights(nn.Sequential(layer)):
            assert torch.equal(layer(image), plain)
            assert torch.equal(layer(image.repeat(9, 1)), plain.repeat(9, 1))
    with torch.no_grad():
        layer.weight.mul_(2)  # outside: autocast itself keeps the casts of one block
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), frozen_weights(layer):
        moved = layer(image)
    torch.testing.assert_close(moved - layer.bias.bfloat16(), 2 * (plain - layer.bias.bfloat16()), rtol=5e-2, atol=5e-2)
    assert set(layer.state_dict()) == {"weight", "bias"}


def test_weights_at_rest_still_train_in_full() -> None:
    layer = Linear(8, 8)
    with frozen_weights(layer), torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(3, 8)).float().sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("conv", [nn.Conv2d(3, 8, (4, 2), (4, 2)), nn.Conv3d(1, 8, (2, 4, 2), (2, 4, 2), bias=False)])
def test_patches_as_one_product_are_those_of_the_convolution(conv: nn.Module) -> None:
    image = torch.randn(2, conv.in_channels, *(3 * side for side in conv.kernel_size))
    expected = conv(image).flatten(2).transpose(1, 2)
    assert torch.equal(embed_patches(conv, image), expected)
    with torch.autocast("cpu", torch.bfloat16):
        found = embed_patches(conv, image)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)
    found.float().square().sum().backward()
    assert conv.weight.grad is not None
