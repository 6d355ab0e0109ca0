"""How much faster is an epoch of a probe on cached features than one through the frozen backbone, as `train` runs it?

    python benchmarks/probe_speed.py [patients]

Generated chest films at 224, a ViT-S/16 with random weights, `optim=probe pool=attention`, the precision of a default
run. The seconds are those between two epochs of `medvit.engine.fit.fit`: loader, steps, validation, checkpoints and
all. Goal: at least 50.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from medvit.config import conf_dir
from medvit.engine.fit import fit
from medvit.index import index
from medvit.phantom.films import write_films
from medvit.split import split

SETTINGS = [
    *("model=vit_small_16", "model.weights=random", "pool=attention", "optim=probe", "preprocess.size=[224,224]"),
    *("trainer.progress_bar=false", "trainer.overlay_every=0"),
]


def epoch_seconds(data: Path, run: Path, *settings: str) -> tuple[float, float, float]:
    """Return the median seconds of an epoch after the first, those until the first ended, and the best score."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = OmegaConf.to_container(compose("train", [*SETTINGS, f"data.folder={data}", *settings]), resolve=True)
    ends, start = [], time.perf_counter()
    found = fit(config, run, lambda *_: ends.append(time.perf_counter()))
    gaps = [later - earlier for earlier, later in itertools.pairwise(ends)]
    return statistics.median(gaps), ends[0] - start, found.best


def main(patients: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_films(place / "raw", patients=patients, seed=0)
        table = {"csv": str(place / "raw" / "labels.csv"), "on": "AccessionNumber", "target": ["finding"], "keep": []}
        index(place / "raw" / "dicom", place / "data", table, workers=0)
        split(place / "data")
        rows = [
            ("through the frozen backbone", ["optim.strategy.cache_gib=0", "trainer.epochs=2"]),
            ("on cached features, filled", ["trainer.epochs=12"]),
            ("on cached features, refit", ["trainer.epochs=12"]),
        ]
        seconds = {}
        for number, (name, settings) in enumerate(rows):
            seconds[name], first, best = epoch_seconds(place / "data", place / f"run{number}", *settings)
            print(f"{name:<30}{seconds[name]:8.3f} s per epoch, {first:7.2f} s until the first ends, AUROC {best:.3f}")
        slow, _, fast = seconds.values()
        print(f"an epoch on cached features is {slow / fast:.0f} times faster (goal 50)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
