"""Peak memory of a bf16 training step, with and without recomputing the blocks in the backward pass.

    python benchmarks/memory.py

Each setting runs in a process of its own: its peak resident memory above what weights, gradients and imports took
before the step, per item (workspace of the products included).
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

# name: width, depth, heads, patch, side, items, images per item (1: a film), of these in a chunk
SETTINGS = {
    "ViT-B/16 at 512, 2 films": (768, 12, 12, 16, 512, 2, 1, 0),
    "ViT-S/16 at 512, 4 films": (384, 12, 6, 16, 512, 4, 1, 0),
    "ViT-S/14, 32 slices at 224, chunk 16": (384, 12, 6, 14, 224, 1, 32, 16),
    "ViT-S/14, 32 slices at 224, chunk 4": (384, 12, 6, 14, 224, 1, 32, 4),
}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def one(name: str, checkpointing: bool) -> dict[str, float]:
    import torch

    from medvit.model.bag import StudyBag
    from medvit.model.network import Network
    from medvit.model.pool import MeanPool
    from medvit.model.vit import TrainingOptions, ViT
    from medvit.types import Bag

    torch.manual_seed(0)
    width, depth, heads, patch, side, items, images, chunk = SETTINGS[name]
    regime = TrainingOptions(checkpointing=checkpointing and images == 1)  # a bag recomputes its images, chunk by chunk
    backbone = ViT((side, side), (patch, patch), 1, width, depth, heads, regime=regime)
    bag = StudyBag(drop_kinds=0.0, chunk=chunk, checkpointing=checkpointing) if images > 1 else None
    network = Network(backbone, MeanPool(), 1, bag).train()
    for weight in network.parameters():
        weight.grad = torch.zeros_like(weight)
    image = torch.randn(items, *([images] if bag else []), 1, side, side)
    mask = torch.ones(items, images, dtype=torch.bool)
    given = Bag(mask, torch.arange(images).float().expand(items, -1), mask.long()) if bag else None
    before, start = peak_mib(), time.process_time()
    with torch.autocast("cpu", torch.bfloat16):
        loss = network(image, given).square().mean()
    loss.backward()
    return {"mib": (peak_mib() - before) / items, "seconds": time.process_time() - start}


def main() -> None:
    for name in SETTINGS:
        found = []
        for way in ("off", "on"):
            done = subprocess.run([sys.executable, __file__, name, way], check=True, capture_output=True, text=True)
            found.append(json.loads(done.stdout))
        off, on = found
        print(
            f"{name:<36} {off['mib']:6.0f} MiB an item, recomputed {on['mib']:6.0f}: {off['mib'] / on['mib']:.1f} times"
            f" less, {on['seconds'] / off['seconds']:.2f} times the time"
        )


if __name__ == "__main__":
    print(json.dumps(one(sys.argv[1], sys.argv[2] == "on"))) if len(sys.argv) > 1 else main()
