"""A small ViT written with torch's own layers and attention, as an exporter meets it: nothing of it is medvit's."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """One block with query, key and value apart or in one layer, and with or without a scale."""

    def __init__(self, width: int, heads: int, fused: bool, scaled: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        names = {"qkv": 3 * width} if fused else {"key": width, "query": width, "value": width}
        self.parts = nn.ModuleDict({name: nn.Linear(width, out) for name, out in names.items()})
        self.proj, self.fc1, self.fc2 = (
            nn.Linear(width, width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        )  # fmt: skip
        self.gamma1, self.gamma2 = (nn.Parameter(torch.ones(width)) if scaled else None for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        made = {name: layer(y) for name, layer in self.parts.items()}
        query, key, value = made["qkv"].chunk(3, -1) if "qkv" in made else (made["query"], made["key"], made["value"])
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (query, key, value))
        y = self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + (y if self.gamma1 is None else self.gamma1 * y)
        y = self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))
        return x + (y if self.gamma2 is None else self.gamma2 * y)


class PlainViT(nn.Module):
    """Images of 32 pixels in patches of 8 to tokens; with `head`, to logits behind a decoder of its own."""

    def __init__(self, fused: bool = False, scaled: bool = True, head: bool = False, width: int = 48) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, width, 8, 8)
        self.cls_token, self.position = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 17, width))
        self.layer = nn.ModuleList(Block(width, 3, fused, scaled) for _ in range(2))
        self.layernorm = nn.LayerNorm(width, eps=1e-6)
        self.decoder = nn.Linear(width, 5) if head else None
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)

    def forward(self, image: Tensor) -> Tensor:
        x = self.projection(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.position
        for layer in self.layer:
            x = layer(x)
        x = self.layernorm(x)
        return x if self.decoder is None else self.decoder(x[:, 0])

    def tokens(self, image: Tensor) -> Tensor:
        """Return the tokens, also of a network with a head."""
        decoder, self.decoder = self.decoder, None
        found = self(image)
        self.decoder = decoder
        return found


def export(network: nn.Module, file: Path, exporter: str = "script") -> Path:
    """Write `network` as an ONNX file by torch's old exporter ("script") or its new one ("dynamo")."""
    image = torch.zeros(1, 3, 32, 32)
    torch.onnx.export(network.eval(), (image,), file, dynamo=exporter == "dynamo", verbose=False, external_data=False)
    return file
