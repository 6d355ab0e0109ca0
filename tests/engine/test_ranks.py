"""Two processes on one batch each see what one process sees on both, whatever phase the strategy is in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WHOLE = "trainer.drop_last=true"  # of an odd number of films two ranks leave one out
KEYS = ("train/loss", "val/loss", "val/auroc")


def trained(films: Path, folder: Path, devices: int, batch: int, *settings: str) -> dict[str, list[float]]:
    """Run the command itself and return its metrics by epoch."""
    from medvit.tracking import run as runs

    command = [
        *(sys.executable, "-m", "medvit.train", f"data.folder={films}", "model.image_size=[32,32]"),
        *("model.patch_size=[8,8]", "model.depth=2"),
        *("trainer.accelerator=cpu", f"trainer.devices={devices}", f"trainer.batch_size={batch}", "trainer.epochs=3"),
        *("trainer.precision=32-true", "trainer.progress_bar=false", "trainer.overlay_every=0"),
        *(WHOLE, *settings),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode == 0, done.stderr[-3000:]
    assert len([path for path in (folder / "runs").iterdir() if (path / "config.json").is_file()]) == 1
    run = runs.get("latest", folder / "runs", finished=True)
    return {key: [point.value for point in run.client.get_metric_history(run.id, key)] for key in KEYS}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["lp_ft", "probe", "scratch"])
def test_two_processes_score_as_one(films, tmp_path, strategy):
    settings = {
        "lp_ft": ("optim=lp_ft", "optim.strategy.probe_epochs=1", "model.weights=random"),
        "probe": ("optim=probe", "model.weights=random"),
        "scratch": ("optim=scratch", "trainer.strategy=ddp"),
    }[strategy]
    found = []
    for devices, batch in ((1, 8), (2, 4)):
        folder = tmp_path / str(devices)
        folder.mkdir()
        found.append(trained(films, folder, devices, batch, *settings))
    assert [len(found[0][key]) for key in KEYS] == [3, 3, 3]
    for key in KEYS:
        assert found[1][key] == pytest.approx(found[0][key], abs=1e-4), key
