"""The linear layer by the fastest of two equal paths: torch's own, or oneDNN called by name on a CPU.

Measured by `benchmarks/vit_speed.py`: in bf16, torch writes the bias over the whole output before the product and
oneDNN adds it inside; in fp32 torch sends the product to MKL, which on AMD processors is far behind oneDNN.
"""

from __future__ import annotations

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

    def forward(self, x: Tensor) -> Tensor:
        """Return x W' + b in the dtype autocast asks for."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if x.device.type != "cpu" or torch.compiler.is_compiling() or dtype not in fast_dtypes() or self.bias is None:
            return super().forward(x)
        parts = (x.to(dtype), self.weight.to(dtype), self.bias.to(dtype))
        product: Tensor = _OneDNN.apply(*parts) if torch.is_grad_enabled() else _linear(*parts)  # type: ignore[no-untyped-call]
        return product


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
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
