"""Time the ViT against the libraries people would use instead: one command, ratios in one run, no network, no data.

    python benchmarks/vit_speed.py [--model small|base] [--batch 8] [--repeats 5] [--threads 1] [--device cpu|cuda]

Every candidate is importable or left out (transformers, timm, monai are optional). Candidates take turns, the best of
`repeats` counts, CPU time (process time) on a CPU so that a busy machine disturbs the ratios little, and wall time on
a GPU. `limit` is the time of the matrix products alone, in the same precision.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from medvit.model.linear import frozen_weights

SHAPES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}
Step = Callable[[Tensor], Tensor]


class Encoder(nn.Module):
    """torch's own nn.TransformerEncoder as a ViT body."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.patch = nn.Conv2d(3, width, 16, 16)
        self.body = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, image: Tensor) -> Tensor:
        return self.body(self.patch(image).flatten(2).transpose(1, 2))


def mend_torchvision() -> torch.library.Library:
    """Let transformers be imported where a CPU torch stands beside a CUDA torchvision, while the result is kept."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def candidates(width: int, depth: int, heads: int, side: int) -> dict[str, nn.Module]:
    from medvit.model.vit import ViT

    found: dict[str, nn.Module] = {"medvit": ViT((side, side), (16, 16), 3, width, depth, heads)}
    found["nn.TransformerEncoder"] = Encoder(width, depth, heads)
    if importlib.util.find_spec("transformers"):
        library = mend_torchvision()
        import transformers

        config = transformers.ViTConfig(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            image_size=side,
        )
        found["transformers"] = transformers.ViTModel(config, add_pooling_layer=False)
        del library
    if importlib.util.find_spec("timm"):
        import timm

        found["timm"] = timm.create_model(
            "vit_base_patch16_224", img_size=side, embed_dim=width, depth=depth, num_heads=heads, num_classes=0
        )
    if importlib.util.find_spec("monai"):
        from monai.networks.nets.vit import ViT as Monai

        sizes = {"hidden_size": width, "mlp_dim": 4 * width, "num_layers": depth, "num_heads": heads}
        found["monai"] = Monai(3, (side, side), (16, 16), **sizes, spatial_dims=2)
    return found


def tokens(output: object) -> Tensor:
    if isinstance(output, Tensor):
        return output
    return output.patches if hasattr(output, "patches") else output[0]


def step(model: nn.Module, image: Tensor, *, train: bool, bf16: bool) -> Callable[[], None]:
    model.train(train)

    def run() -> None:
        with torch.set_grad_enabled(train), torch.autocast(image.device.type, torch.bfloat16, enabled=bf16):
            out = tokens(model(image))
        if train:
            out.float().square().mean().backward()
            model.zero_grad(set_to_none=True)

    return run


def limit(
    width: int, depth: int, count: int, batch: int, device: str, *, train: bool, bf16: bool
) -> Callable[[], None]:
    dtype = torch.bfloat16 if bf16 else torch.float32
    rows = torch.randn(batch * count, width, device=device, dtype=dtype)
    long = torch.randn(batch * count, 4 * width, device=device, dtype=dtype)
    qkv, proj = (torch.randn(n, width, device=device, dtype=dtype) for n in (3 * width, width))
    up, down = (
        torch.randn(4 * width, width, device=device, dtype=dtype),
        torch.randn(width, 4 * width, device=device, dtype=dtype),
    )

    def run() -> None:
        for _ in range(depth * (3 if train else 1)):
            for x, w in ((rows, qkv), (rows, proj), (rows, up), (long, down)):
                nn.functional.linear(x, w)

    return run


def measure(runs: dict[str, Callable[[], None]], repeats: int, device: str) -> dict[str, float]:
    clock = time.perf_counter if device == "cuda" else time.process_time
    best = dict.fromkeys(runs, float("inf"))
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            if device == "cuda":
                torch.cuda.synchronize()
            start = clock()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            best[name] = min(best[name], clock() - start) if repeat else best[name]
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=SHAPES, default="small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="modes, e.g. train-bf16,infer-bf16")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    width, depth, heads = SHAPES[asked.model]
    image = torch.randn(asked.batch, 3, asked.side, asked.side, device=asked.device)
    models = {name: model.to(asked.device) for name, model in candidates(width, depth, heads, asked.side).items()}
    count = (asked.side // 16) ** 2 + 1
    for train in (True, False):
        for precision in ("fp32", "bf16", "bf16-weights"):
            mode = f"{'train' if train else 'infer'}-{precision}"
            bf16 = precision != "fp32"
            if precision == "bf16-weights":  # the whole model cast instead of autocast: last, as it stays cast
                if train:
                    continue
                models = {name: model.to(torch.bfloat16) for name, model in models.items()}
                image = image.to(torch.bfloat16)
            if asked.only and mode not in asked.only.split(","):
                continue
            runs = {name: step(model, image, train=train, bf16=bf16) for name, model in models.items()}
            runs["limit"] = limit(width, depth, count, asked.batch, asked.device, train=train, bf16=bf16)
            with nullcontext() if train else frozen_weights(models["medvit"]):  # as validation does
                seconds = measure(runs, asked.repeats, asked.device)
            ratios = {name: round(value / seconds["medvit"], 3) for name, value in seconds.items()}
            report = {"model": asked.model, "batch": asked.batch, "mode": mode, "medvit_s": round(seconds["medvit"], 4)}
            print(json.dumps({**report, "times of medvit": ratios}))


if __name__ == "__main__":
    main()
