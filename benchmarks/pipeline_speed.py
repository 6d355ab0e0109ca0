"""First and later epochs against an earlier commit, and what one transform of MONAI between the fused steps costs.

    git worktree add --detach /tmp/before e085db8       (the last commit before the lists of conf/preprocess)
    OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 python -m benchmarks.pipeline_speed --before /tmp/before

Processor time of one thread, the two commits in turn, medians and the quickest rounds; the ratio is what counts.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILMS, HEADS, EPOCHS = 128, 24, 6
CASES = {"film, xray": ("film", "xray", "vit_base_16"), "slices, mri": ("slices", "mri", "vit_base_16"),
         "volume, mri": ("volume", "mri", "vit_base_16_3d")}  # fmt: skip
STEP = {"_target_": "monai.transforms.MedianSmoothd", "radius": 1}


def made(preset: str, augment: str, model: str) -> tuple:
    """Return preprocessing and augmentation of a preset, by whichever commit is imported."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from medvit.config import build, conf_dir

    words = [f"preprocess={preset}", f"augment={augment}", f"model={model}"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        settings = OmegaConf.to_container(compose("train", words), resolve=True)
    return build({**settings["preprocess"], "mean": 0.5, "std": 0.25}), build(settings["augment"])


def rows_of(images: Path, preset: str):
    import pandas as pd

    films = preset == "film"
    found = sorted(images.glob("films/dicom/**/IM*")) if films else sorted(images.glob("heads/dicom/*/*"))
    files = [[str(one)] if films else [str(file) for file in sorted(one.iterdir())] for one in found]
    names = [f"{n:032x}" for n in range(len(files))]
    return pd.DataFrame({"uid": names, "files": files, "volume_key": "", "patient": names, "study": names})


def child(images: Path) -> None:
    """Print the seconds of the first epoch (decode, prepare, write the cache) and of a later one, for every case."""
    import cv2
    import numpy as np

    from medvit.data.cache import Cache
    from medvit.data.loader import BatchLoader, Plan
    from medvit.data.sampler import Sampler
    from medvit.data.units import Units

    class NoLabels:
        def encode(self, frame):
            return np.zeros((len(frame), 1), np.float32), np.ones((len(frame), 1), np.float32)

    cv2.setNumThreads(1)
    gc.disable()  # one collection takes a third of such an epoch, and falls into whichever comes
    found = {}
    for name, case in CASES.items():
        pre, augment = made(*case)
        with tempfile.TemporaryDirectory() as folder:  # imports and first calls
            Cache.build(rows_of(images, case[0])[:2], images, pre, Path(folder), workers=1)
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            cache = Cache.build(rows_of(images, case[0]), images, pre, Path(folder), workers=1)
            first = time.process_time() - start
            units = Units(cache, np.arange(len(cache)), NoLabels())
            loader = BatchLoader(units, Plan(16, sampler=Sampler(), augment=augment))
            list(loader)
            start = time.process_time()
            for _ in range(EPOCHS):
                list(loader)
            found[name] = [first, (time.process_time() - start) / EPOCHS]
    print(json.dumps(found))


def run(root: Path, images: Path) -> dict[str, list[float]]:
    command = [sys.executable, str(Path(__file__).resolve()), "--images", str(images), "--child"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=root)
    return json.loads(done.stdout.splitlines()[-1])


def cost_of_a_step(images: Path) -> None:
    """Compare preparing films with and without one MONAI step, and with what that step takes by itself."""
    import numpy as np

    from medvit.preprocess import steps

    bare, _ = made(*CASES["film, xray"])
    from dataclasses import replace

    with_step = replace(bare, transforms=(), steps={"after_resampling": [STEP]})
    files = [Path(row[0]) for row in rows_of(images, "film")["files"]][:32]
    image = np.random.default_rng(0).random(bare.size).astype(np.float32)
    calls = {
        "fused": bare.prepare,
        "with one step": with_step.prepare,
        "the step by itself": lambda _: steps.run(with_step.steps["after_resampling"], image, np.eye(4)),
    }
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call(files[0])
    for file in files * 3:
        for name, call in calls.items():
            start = time.process_time()
            call(file)
            spent[name].append((time.process_time() - start) * 1000)
    print(f"\nfilm to 224 px, {STEP['_target_']} after_resampling, ms per film (median of {len(files) * 3})")
    for name, times in spent.items():
        print(f"{name:24}{statistics.median(times):8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--child", action="store_true")
    asked = parser.parse_args()
    if asked.child:
        child(asked.images)
        return
    from medvit.phantom.films import write_films
    from medvit.phantom.mr_series import write_volumes

    now = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder)
        write_films(images / "films", patients=FILMS)
        write_volumes(images / "heads", patients=HEADS, contrasts=["FLAIR"])
        if asked.before:
            spent: dict[str, list[dict[str, list[float]]]] = {"before": [], "now": []}
            for number in range(asked.rounds):
                turn = [("before", asked.before), ("now", now)]
                for name, root in turn if number % 2 else turn[::-1]:
                    spent[name].append(run(root, images))
            print(f"{'preset':16}{'epoch':8}{'before, s':>11}{'now, s':>11}{'ratio':>8}{'quickest':>10}   each round")
            for case in CASES:
                for at, epoch in enumerate(("first", "later")):
                    before, after = ([one[case][at] for one in spent[name]] for name in ("before", "now"))
                    each = " ".join(f"{b / a:.3f}" for a, b in zip(before, after, strict=True))
                    middle = statistics.median(before), statistics.median(after)
                    ratios = f"{middle[1] / middle[0]:8.3f}{min(after) / min(before):10.3f}"
                    print(f"{case:16}{epoch:8}{middle[0]:11.3f}{middle[1]:11.3f}{ratios}   {each}")
        cost_of_a_step(images)


if __name__ == "__main__":
    main()
