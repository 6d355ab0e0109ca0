"""How long a training step waits for its data: ViT-S/16 at 224, default X-ray augmentation, 1,000 cached films.

OMP_WAIT_POLICY=PASSIVE python benchmarks/data_wait.py [--films 1000] [--steps 8] [--batch 16]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from medvit.augment.fused import Fused
from medvit.data.cache import Cache
from medvit.data.loader import BatchLoader, Plan
from medvit.data.sampler import Sampler
from medvit.data.units import Units
from medvit.model.backbone import vit
from medvit.preprocess import FilmPreprocess


class Alternating:
    """A task whose label is the row number's parity."""

    def encode(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return labels that need no file."""
        return (np.arange(len(frame)) % 2).astype(np.float32)[:, None], np.ones((len(frame), 1), np.float32)


def cached(folder: Path, films: int) -> Units:
    generator = np.random.default_rng(0)
    for n in range(films):
        cv2.imwrite(
            str(folder / f"{n}.png"), cv2.GaussianBlur(generator.integers(0, 256, (224, 224), np.uint8), (0, 0), 4)
        )
    uid = [f"{n:032x}" for n in range(films)]
    rows = pd.DataFrame({"uid": uid, "patient": uid, "files": [[f"{n}.png"] for n in range(films)], "volume_key": ""})
    return Units(
        Cache.build(rows, folder, FilmPreprocess(), folder / "cache", workers=1), np.arange(films), Alternating()
    )


def data_alone(units: Units, batch: int) -> None:
    """Samples per second by number of threads, and what it means for a GPU."""
    cores = len(os.sched_getaffinity(0))
    print(f"{'threads':>8}{'samples per second':>22}")
    for workers in sorted({0, 1, 2, cores}):
        loader = BatchLoader(units, Plan(batch, sampler=Sampler(), augment=Fused()), workers)
        for _ in loader:
            pass
        start = time.perf_counter()
        for _ in loader:
            pass
        print(f"{workers:8}{len(units) / (time.perf_counter() - start):22.0f}")


def steps(units: Units, batch: int, count: int) -> None:
    network = vit(image_size=[224, 224], in_channels=1, patch_size=[16, 16], width=384, depth=12, heads=6)
    head = torch.nn.Linear(384, 1)
    optimiser = torch.optim.AdamW([*network.parameters(), *head.parameters()], 1e-4)
    pre = units.cache.preprocess
    loader = iter(BatchLoader(units, Plan(batch, sampler=Sampler(), augment=Fused()), workers=1))
    waited = worked = 0.0
    for step in range(count + 1):
        start = time.perf_counter()
        given = next(loader)
        arrived = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            tokens = network(given.image.float() * pre.scale + pre.shift)
            logits = head(tokens.patches.mean(dim=1))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), given.target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step:  # the first step warms up
            waited, worked = waited + arrived - start, worked + time.perf_counter() - arrived
    print(f"\nstep of {batch} in bf16: {worked / count:.3f} s; waiting for data {waited / count * 1e3:.2f} ms")
    print(f"waiting is {100 * waited / (waited + worked):.2f} % of the step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        units = cached(Path(folder), given.films)
        data_alone(units, given.batch)
        steps(units, given.batch, given.steps)


if __name__ == "__main__":
    main()
