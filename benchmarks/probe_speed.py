"""How much faster is a probe on cached features than an epoch through the frozen backbone?

    python benchmarks/probe_speed.py [images]

ViT-S/16 at 224 in bf16 (fp32 where the processor has no bf16), random weights and pixels. Compared, per epoch of
training an attention-pooling head: every image through the frozen backbone, against its cached tokens; and a whole
logistic regression path on cached vectors. The ratio is what counts. Goal: at least 50.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from medvit.model.design import Design
from medvit.model.feature_cache import FeatureCache
from medvit.model.network import Network
from medvit.model.pool import AttentionPool
from medvit.model.vit import ViT
from medvit.optim.probe import HeadPlan, fit_head, fit_path
from medvit.optim.strategy import Probe
from medvit.task.binary import Binary


def through_backbone(network: Network, images: torch.Tensor, target: torch.Tensor, task: Binary, dtype) -> float:
    """Return seconds of one probe epoch that runs the frozen backbone."""
    strategy = Probe()
    strategy.prepare(network)
    network.train()
    strategy.on_epoch(network, 0)
    optimizer = torch.optim.AdamW(strategy.groups(network, 1e-4, 0.01))
    start = time.perf_counter()
    for rows in torch.arange(len(images)).split(32):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = network(images[rows])
        task.loss(logits, target[rows], torch.ones_like(target[rows])).backward()
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - start


def main(count: int) -> None:
    torch.manual_seed(0)
    dtype = torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    task, target = Binary("x"), (torch.arange(count) % 2).float()[:, None]
    network = Network(ViT([224, 224], [16, 16], 1, 384, 12, 6, Design()), AttentionPool(8), 1)
    images = torch.randn(count, 1, 224, 224) + target[:, :, None, None]
    uids = [f"{k:032x}" for k in range(count)]
    slow = min(through_backbone(network, images, target, task, dtype) for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            batches = ((tuple(uids[i : i + 32]), images[i : i + 32]) for i in range(0, count, 32))
            features = FeatureCache(Path(folder)).get(network.backbone, "benchmark", uids, batches)
        fill, epochs = time.perf_counter() - start, 50
        start = time.perf_counter()
        fit_head(network, features, target, torch.ones_like(target), task.loss, HeadPlan(epochs=epochs))
        fast = (time.perf_counter() - start) / epochs
        vectors = features.vectors()
    start = time.perf_counter()
    fit_path(vectors, target.double().numpy(), np.arange(count))
    path = time.perf_counter() - start
    print(f"{count} images, ViT-S/16 at 224, {str(dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads")
    print(f"epoch through the frozen backbone  {slow:8.2f} s")
    print(f"filling the cache, once            {fill:8.2f} s")
    print(f"epoch on cached tokens             {fast:8.3f} s   {slow / fast:6.0f} times faster (goal 50)")
    print(f"L2 path, 15 strengths, 5 folds     {path:8.2f} s   in all")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 256)
