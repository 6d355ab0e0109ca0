"""Kill a training with SIGKILL at random moments, resume it, and compare its end with that of an unbroken one.

python -m benchmarks.kill_points --kills 100                              one process, 0 and 2 loader threads
python -m benchmarks.kill_points --kills 20 --processes 2                 two processes on one machine (gloo)

A checkpoint is written after every step (trainer.checkpoint_minutes=0), so that many kills fall into the writing.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from medvit.config import conf_dir
from medvit.engine.checkpoint_file import damage, newest

SMALL = [
    *("model.image_size=[32,32]", "model.patch_size=[8,8]", "model.depth=2", "model.drop_path=0.2", "augment=xray"),
    *("trainer.epochs=4", "trainer.batch_size=4", "trainer.progress_bar=false", "trainer.precision=32-true"),
    *("trainer.accelerator=cpu", "trainer.overlay_every=0", "trainer.checkpoint_minutes=0", "trainer.accumulate=2"),
]


def main() -> None:
    """Kill, resume and compare, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of each number of threads")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)  # a process that is to be killed
    asked = parser.parse_args()
    if asked.train:
        train(asked.train, asked.workers[0], asked.processes)
        return
    import medvit.engine.fit  # noqa: F401 (once, not in every fork)

    with tempfile.TemporaryDirectory() as place:
        make_films(Path(place))
        for workers in asked.workers:
            compare(Path(place), asked.kills, workers, asked.processes, random.Random(asked.seed))


def make_films(place: Path) -> None:
    """Write, index and split 30 patients' generated films."""
    from medvit.index import index
    from medvit.phantom.films import write_films
    from medvit.split import split

    os.environ.setdefault("MEDVIT_PSEUDO_KEY_FILE", str(place / "pseudonym.key"))
    write_films(place / "raw", patients=30, seed=3)
    labels = {"csv": str(place / "raw" / "labels.csv"), "on": "AccessionNumber", "target": ["finding"], "keep": []}
    index(place / "raw" / "dicom", place / "data", labels, workers=1)
    split(place / "data")


def train(folder: Path, workers: int, processes: int) -> None:
    """Train in `folder`, from its newest checkpoint on."""
    from medvit.engine.fit import fit

    torch.set_num_threads(1)
    more = [f"data.folder={folder.parent}/data", f"trainer.workers={workers}", f"trainer.devices={processes}"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        settings: Any = OmegaConf.to_container(compose("train", [*SMALL, *more]), resolve=True)
    fit(settings, folder, lambda *_: None, newest(folder) if (folder / "config.json").is_file() else None)


def begin(folder: Path, workers: int, processes: int) -> int:
    """Start a process that trains in `folder`, in a group of its own; a fork where it needs no others."""
    if processes == 1:
        if child := os.fork():
            return child
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            train(folder, workers, 1)
        except Exception as error:  # noqa: BLE001 (told, and seen at the comparison)
            os.write(1, f"the training failed: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    words = ["--train", str(folder), "--workers", str(workers), "--processes", str(processes)]
    command = [sys.executable, "-m", "benchmarks.kill_points", *words]
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL).pid


def compare(place: Path, kills: int, workers: int, processes: int, draw: random.Random) -> None:
    """Train once unbroken; then kill and resume, anew from the start whenever an end is reached, and tell."""
    whole = place / f"whole{workers}"
    _ended(begin(whole, workers, processes))
    inside = torn = equal = ends = done = 0
    while done < kills:
        folder = place / f"broken{workers}_{ends}"
        while True:
            child = begin(folder, workers, processes)
            if _ended(child, folder, draw.randrange(9) if done < kills else None, draw.uniform(0, 0.2)):
                break
            done += 1
            files = list((folder / "checkpoints").glob("*last.ckpt*")) if folder.is_dir() else []
            inside += any(file.name.startswith(".") for file in files)
            torn += any(damage(file) != "" for file in files if not file.name.startswith("."))
        ends += 1
        equal += _state(whole) == _state(folder)
    sys.stdout.write(
        f"{processes} process(es), {workers} threads: {done} kills, {inside} of them while a checkpoint was written, "
        f"{torn} torn checkpoints, {equal} of {ends} trainings that came to their end equal to the unbroken one\n"
    )
    sys.stdout.flush()


def _ended(child: int, folder: Path | None = None, checkpoints: int | None = None, more_s: float = 0.0) -> bool:
    """Wait for a process; kill its group `more_s` after it wrote so many checkpoints, and return False."""
    seen, until = {_written(folder)}, float("inf")
    while time.monotonic() < until:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        seen.add(_written(folder))
        if checkpoints is not None and len(seen) > checkpoints and until == float("inf"):
            until = time.monotonic() + more_s
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _written(folder: Path | None) -> int:
    """Return when the last checkpoint was written."""
    try:
        return ((folder or Path()) / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    except OSError:
        return 0


def _state(folder: Path) -> dict[str, bytes]:
    """Return the bits of the best weights, and of weights, optimiser and schedule at the end."""
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    found = {"best": (folder / "checkpoints" / "best.safetensors").read_bytes()}
    found |= {name: tensor.numpy().tobytes() for name, tensor in last["state_dict"].items()}
    for number, moments in last["optimizer_states"][0]["state"].items():
        found |= {f"{number}.{key}": tensor.numpy().tobytes() for key, tensor in moments.items()}
    return {**found, "schedule": repr(last["lr_schedulers"]).encode()}


if __name__ == "__main__":
    main()
