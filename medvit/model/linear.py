"""Linear layer by the faster of two equal paths: torch's own, or oneDNN on a CPU.

Measured by `benchmarks/vit_speed.py`: in bf16, torch writes the bias over the whole output before the product and
oneDNN adds it inside; in fp32 torch sends the product to MKL, which on AMD processors is far behind oneDNN. Without
gradients oneDNN also applies the activation inside, and `at_rest` lays the weights out once instead of per product.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@cache
def fast_dtypes() -> frozenset[torch.dtype]:
    """Return the dtypes for which oneDNN is the faster path on this processor (none where the operator is missing)."""
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if operator is None or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return frozenset()
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""
    found = {torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else set()
    return frozenset(found | ({torch.float32} if "AuthenticAMD" in text else set()))


class Linear(nn.Linear):
    """`nn.Linear` in parameters, values and gradients; only the path of the product differs."""

    resting = False
    _packed: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, act: str = "none") -> Tensor:
        """Return act(x W' + b) in the dtype autocast asks for; `act` as in `activate`."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if x.device.type != "cpu" or torch.compiler.is_compiling() or dtype not in fast_dtypes() or self.bias is None:
            return activate(super().forward(x), act)
        if torch.is_grad_enabled():
            parts = (x.to(dtype), self.weight.to(dtype), self.bias.to(dtype))
            return activate(_OneDNN.apply(*parts), act)  # type: ignore[no-untyped-call]
        fused = act in _FUSED
        product = _linear(x.to(dtype), *self._weights(dtype, x.shape[:-1].numel()), act if fused else "none")
        return product if fused else activate(product, act)

    def _weights(self, dtype: torch.dtype, rows: int) -> tuple[Tensor, Tensor]:
        """Return weight and bias in `dtype`; at rest in bf16 they are cast, and laid out for the processor, once."""
        if not self.resting or dtype != torch.bfloat16:
            return self.weight.to(dtype), self.bias.to(dtype)
        if self._packed is None:
            weight = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach().to(dtype), rows)
            self._packed = weight, self.bias.detach().to(dtype)
        return self._packed


@contextmanager
def frozen_weights(network: nn.Module) -> Iterator[None]:
    """Say that the weights stay as they are: bf16 inference on a CPU inside is faster, and gives the same numbers."""
    layers = [module for module in network.modules() if isinstance(module, Linear)]
    try:
        for layer in layers:
            layer.resting = True
        yield
    finally:
        for layer in layers:
            layer.resting, layer._packed = False, None


def embed_patches(layer: nn.Module, image: Tensor) -> Tensor:
    """Return the tokens [B N W] a patch embedding makes of [B C *S].

    In bf16 on a CPU, a convolution that steps from patch to patch is four times faster as one product.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else image.dtype
    slow = image.device.type != "cpu" or dtype != torch.bfloat16 or torch.compiler.is_compiling()
    if slow or not isinstance(layer, (nn.Conv2d, nn.Conv3d)) or any(layer.padding):
        return layer(image).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]
    axes, cut = len(layer.kernel_size), image.to(dtype)
    for axis, side in enumerate(layer.kernel_size):
        cut = cut.unflatten(2 + 2 * axis, (-1, side))  # type: ignore[no-untyped-call]
    order = (0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2))  # batch, grid, channel, patch
    return nn.functional.linear(
        cut.permute(order).flatten(1 + axes).flatten(1, axes), layer.weight.flatten(1), layer.bias
    )


def activate(x: Tensor, name: str) -> Tensor:
    """Return the named activation, "none" for x itself; `quick_gelu` is OpenAI CLIP's x * sigmoid(1.702 x)."""
    if name == "none":
        return x
    if name == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    if name.startswith("gelu"):
        return nn.functional.gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")
    return nn.functional.silu(x) if name == "silu" else nn.functional.relu(x)


_FUSED = {"none": ("none", ""), "gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "relu": ("relu", "")}


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, act: str = "none") -> Tensor:
    name, algorithm = _FUSED[act]
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)
    return out


class _OneDNN(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        rows = gradient.flatten(0, -2)
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()) if to_x else None,
            _product(rows.t(), x.flatten(0, -2).t()) if to_weight else None,
            rows.sum(0) if to_bias else None,
        )


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x W' by the same path."""
    if x.dtype == torch.bfloat16:
        return nn.functional.linear(x, weight)
    return _linear(x.contiguous(), weight.contiguous(), None)
