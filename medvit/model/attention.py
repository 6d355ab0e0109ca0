"""Multi-head self-attention: one product of queries, keys and values, by the path that is fastest where it runs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medvit.model.linear import Linear
from medvit.model.positions import rotate

EAGER_TOKENS = (
    1100  # above this the full map costs more memory traffic than SDPA's backward costs time (benchmarks/vit_speed.py)
)


class Rotary(NamedTuple):
    """Angles of the patch tokens: `cos` and `sin` are [N D], or [B 1 N D] when patches were dropped per image."""

    cos: Tensor
    sin: Tensor
    kind: str


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Float[Tensor, "B H Q D"]:
    """Return softmax(q k' / sqrt(D) + bias) v for q, k, v of [B H N D].

    SDPA everywhere but in bf16 training on a CPU, where its backward is slower than two plain products.
    """
    slow = q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad and k.shape[-2] <= EAGER_TOKENS
    if slow:
        return (attention_map(q, k, bias) @ v).to(v.dtype)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))


def attention_map(q: Tensor, k: Tensor, bias: Tensor | None = None) -> Float[Tensor, "B H Q N"]:
    """Return the attention weights themselves, each row summing to 1."""
    flat_q, flat_k = q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)
    scale = q.shape[-1] ** -0.5  # inside the product: one pass over the scores less than before or after it
    scores = torch.baddbmm(q.new_empty(1, 1, 1), flat_q, flat_k, beta=0, alpha=scale).reshape(*q.shape[:3], -1)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    return torch.softmax(scores, dim=-1)


class Attention(nn.Module):
    """Self-attention with fused q, k, v; optionally rotary positions, q/k normalisation and a norm before `proj`."""

    def __init__(self, width: int, heads: int, *, qkv_bias: bool, qk_norm: bool, out_norm: bool, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=qkv_bias)
        self.q_norm: nn.Module = nn.LayerNorm(width // heads, eps=eps) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(width // heads, eps=eps) if qk_norm else nn.Identity()
        self.norm: nn.Module = nn.LayerNorm(width, eps=eps) if out_norm else nn.Identity()
        self.proj = Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "B T W"],
        rotary: Rotary | None = None,
        bias: Tensor | None = None,
        rows: int | None = None,
    ) -> tuple[Float[Tensor, "B T W"], Tensor | None]:
        """Return the mixed tokens and, when `rows` are asked for, the attention [B H rows T] of the first tokens.

        The returned weights are those the output was computed from, so gradients flow through them.
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            first = x.shape[1] - rotary.cos.shape[-2]  # prefix tokens have no place, so they are not turned
            q, k = (torch.cat([t[:, :, :first], rotate(t[:, :, first:], *rotary)], dim=2) for t in (q, k))
        weights = None
        if rows is None:
            mixed = attend(q, k, v, bias)
        else:
            weights = attention_map(q[:, :, :rows], k, None if bias is None else bias[:, :, :rows])
            mixed = weights @ v
            if rows < q.shape[2]:
                rest = attend(q[:, :, rows:], k, v, None if bias is None else bias[:, :, rows:])
                mixed = torch.cat([mixed, rest], dim=2)
        return self.proj(self.norm(mixed.transpose(1, 2).flatten(2))), weights
