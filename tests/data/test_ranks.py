"""Two real processes under gloo see together, bit for bit, what one process sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

RANK = """
import hashlib, sys
import numpy as np, pandas as pd, torch.distributed as dist
from pathlib import Path
from medvit.augment.fused import Fused
from medvit.data.cache import Cache
from medvit.data.loader import BatchLoader, Plan
from medvit.data.sampler import Sampler
from medvit.data.units import Units
from medvit.preprocess import FilmPreprocess

class Labels:
    def encode(self, frame):
        return frame[["label.x"]].to_numpy(np.float32), np.ones((len(frame), 1), np.float32)

if __name__ == "__main__":
    root, rank, ranks, workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    dist.init_process_group("gloo", f"file://{root}/meet{ranks}{workers}", rank=rank, world_size=ranks)
    rows = pd.read_parquet(root / "rows.parquet")
    cache = Cache.build(rows, root, FilmPreprocess(size=(32, 32)), root / f"cache{ranks}{workers}", workers=1)
    units = Units(cache, np.arange(len(rows)), Labels())
    plan = Plan(8 // ranks, 3, Sampler("weighted"), Fused(), rank, ranks)
    loader = BatchLoader(units, plan, workers)
    loader.set_epoch(2)
    seen = [(batch.uid, [hashlib.sha256(i.numpy().tobytes()).hexdigest() for i in batch.image]) for batch in loader]
    everything = [None] * ranks
    dist.all_gather_object(everything, seen)
    if rank == 0:
        for step in zip(*everything):
            print(sum((list(uid) for uid, _ in step), []), sum((pixels for _, pixels in step), []))
    dist.destroy_process_group()
"""


def together(root: Path, ranks: int, workers: int) -> str:
    """Return what all ranks saw, step by step; both start at once and build the same cache."""
    command = [sys.executable, str(root / "rank.py"), str(root)]
    started = [
        subprocess.Popen([*command, str(rank), str(ranks), str(workers)], stdout=subprocess.PIPE, text=True)
        for rank in range(ranks)
    ]
    told = [process.communicate(timeout=240)[0] for process in started]
    assert all(process.returncode == 0 for process in started)
    return told[0]


@pytest.mark.slow
def test_two_processes_see_together_what_one_sees_bit_for_bit(tmp_path):
    generator = np.random.default_rng(0)
    for n in range(32):
        cv2.imwrite(str(tmp_path / f"{n}.png"), generator.integers(0, 255, (40, 40), dtype=np.uint8))
    uid = [f"{n:032x}" for n in range(32)]
    rows = pd.DataFrame({"uid": uid, "patient": uid, "files": [[f"{n}.png"] for n in range(32)], "volume_key": ""})
    rows.assign(**{"label.x": (np.arange(32) % 3 == 0).astype(float)}).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "rank.py").write_text(RANK)
    alone = together(tmp_path, 1, 0)
    assert len(alone.splitlines()) == 4
    assert together(tmp_path, 2, 4) == alone
