"""The pooling and classifier that a checkpoint came with."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medvit.errors import WeightsError
from medvit.model.attention import Attention, attend
from medvit.model.design import Architecture
from medvit.model.pretrained.canonical import Checkpoint, State
from medvit.model.vit import Mlp
from medvit.types import Tokens


class MapPool(nn.Module):
    """SigLIP's pooling: one learned query attends to the patches, then an MLP (Zhai et al. 2022, arXiv 2106.04560)."""

    def __init__(self, width: int, heads: int, design: Architecture) -> None:
        super().__init__()
        self.heads = heads
        self.probe = nn.Parameter(torch.zeros(width))
        self.attn = Attention(width, heads, qkv_bias=True, qk_norm=False, out_norm=False, eps=design.eps)
        self.norm = nn.LayerNorm(width, eps=design.eps)
        self.mlp = Mlp(width, design)

    def forward(self, patches: Float[Tensor, "B N W"]) -> Float[Tensor, "B W"]:
        """Return what the probe takes from the patches."""
        weight, bias = self.attn.qkv.weight.chunk(3), self.attn.qkv.bias.chunk(3)
        sources = (self.probe.expand(len(patches), 1, -1), patches, patches)
        projected = [nn.functional.linear(x, w, b) for x, w, b in zip(sources, weight, bias, strict=True)]
        q, k, v = (x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in projected)
        x = self.attn.proj(attend(q, k, v).transpose(1, 2).flatten(2))
        pooled: Tensor = (x + self.mlp(self.norm(x)))[:, 0]
        return pooled


class PretrainedHead(nn.Module):
    """Pool the tokens as the checkpoint's own code does and, where it has a classifier, return its raw logits.

    `pool`: cls, mean, cls_mean (both, joined), first (class token or else the first patch), map. A distilled DeiT's two
    classifiers are averaged. `labels` are the class names of config.json.
    Raises WeightsError where the head's tensors are not those its pool needs.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        state, width = checkpoint.head, checkpoint.width
        self.pool, self.labels, self.multilabel = checkpoint.pool, checkpoint.labels, checkpoint.multilabel
        self.norm: nn.Module = (
            nn.LayerNorm(width, eps=checkpoint.design.eps) if "norm.weight" in state else nn.Identity()
        )
        self.map: MapPool | None = None
        if "map.probe" in state:
            design = replace(checkpoint.design, mlp=len(state["map.mlp.fc1.weight"]), gated=False, mlp_norm=False)
            self.map = MapPool(width, checkpoint.heads, design)
        self.fc, self.fc_dist = _classifier(state, "fc"), _classifier(state, "fc_dist")
        given = {**state, "map.probe": state["map.probe"].flatten()} if self.map else state
        missing, unexpected = self.load_state_dict(given, strict=False)
        if missing or unexpected:
            raise WeightsError(f"head of family {checkpoint.family.name}: missing {missing}, unexpected {unexpected}")

    def pooled(self, tokens: Tokens) -> Float[Tensor, "B W"]:
        """Return the pooled tokens (twice the width for cls_mean)."""
        if self.map is not None:
            mapped: Tensor = self.map(tokens.patches)
            return mapped
        mean = tokens.patches.mean(1)
        if self.pool == "mean":
            normed: Tensor = self.norm(mean)
            return normed
        if self.pool == "first" and not tokens.prefix.shape[1]:
            return tokens.patches[:, 0]
        return torch.cat([tokens.prefix[:, 0], mean], dim=1) if self.pool == "cls_mean" else tokens.prefix[:, 0]

    def forward(self, tokens: Tokens) -> Float[Tensor, "B K"]:
        """Return the raw logits; WeightsError where the checkpoint has no classifier."""
        if self.fc is None:
            raise WeightsError("the checkpoint has no classifier: fine-tune it with medvit.train, or give one that has")
        logits: Tensor = self.fc(self.pooled(tokens))
        if self.fc_dist is not None:
            logits = (logits + self.fc_dist(tokens.prefix[:, 1])) / 2
        return logits

    def probabilities(self, tokens: Tokens) -> Float[Tensor, "B K"]:
        """Return probabilities in [0, 1]: per label where config.json says multi-label, else over the classes."""
        logits = self(tokens)
        return torch.sigmoid(logits) if self.multilabel else torch.softmax(logits, dim=-1)


def _classifier(state: State, name: str) -> nn.Linear | None:
    weight = state.get(f"{name}.weight")
    return None if weight is None else nn.Linear(weight.shape[1], weight.shape[0], bias=f"{name}.bias" in state)
