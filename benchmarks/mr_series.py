"""Times loading one MR series (176 slices of 256x256, 16 bit): medvit, MONAI's LoadImage, and pydicom with a sort.

    python benchmarks/mr_series.py [repeats]

The series is made here, with headers as long as a scanner's (about 150 elements and two private blocks). One thread,
CPU time of the process, files in the page cache; medians of alternating runs. Read the ratios, not the times.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "dicom"))
from series_phantom import Plane, dataset_of, save

from medvit.dicom.series import read_series

SLICES, SIDE = 176, 256
SYNTAXES = {"uncompressed": None, "RLE lossless": pydicom.uid.RLELossless}


def write_series(folder: Path, syntax: pydicom.uid.UID | None) -> list[Path]:
    """Write the series; texture is a slow wave plus noise of a few grey levels, so that codecs have work to do."""
    rng = np.random.default_rng(0)
    plane = Plane(shape=(SIDE, SIDE), spacing=(1.0, 1.0), step=1.0, count=SLICES, origin=(-88.0, -128.0, 128.0))
    rows, columns = np.indices((SIDE, SIDE))
    paths = []
    for index in range(SLICES):
        wave = 400 + 300 * np.sin(rows / 40 + index / 30) * np.cos(columns / 50)
        dataset = dataset_of(plane, index, pixels=(wave + rng.integers(0, 24, (SIDE, SIDE))).astype(np.uint16))
        for element in range(120):  # what a scanner writes besides: numbers, names, dates
            dataset.add_new(0x00190000 | 0x1000 + element, "LO", f"value {element} of the acquisition")
        dataset.add_new(0x00190010, "LO", "MEDVIT BENCHMARK")
        dataset.add_new(0x00290010, "LO", "MEDVIT BLOCKS")
        dataset.add_new(0x00291010, "OB", bytes(11_548))
        dataset.add_new(0x00291020, "OB", bytes(60_000))
        if syntax:
            dataset.compress(syntax, generate_instance_uid=False)
        paths.append(folder / f"{(index * 37) % SLICES:04d}.dcm")
        paths[-1].write_bytes(save(dataset))
    return sorted(paths)


def with_pydicom(paths: list[Path]) -> np.ndarray:
    """Load as most scripts do: dcmread, sort by position, stack. Handles none of the cases of the table."""
    slices = sorted((pydicom.dcmread(path) for path in paths), key=lambda one: float(one.ImagePositionPatient[2]))
    return np.stack([one.pixel_array for one in slices]).astype(np.float32)


def ways() -> dict[str, Callable[[list[Path]], Any]]:
    """Return the readers to compare, by name."""
    from monai.transforms import LoadImage

    from medvit.data.reader import MedvitReader

    monai, ours = LoadImage("PydicomReader"), LoadImage(MedvitReader())
    return {
        "medvit read_series": read_series,
        "MONAI LoadImage(PydicomReader)": lambda paths: monai(paths[0].parent),
        "MONAI LoadImage(MedvitReader)": lambda paths: ours(paths[0].parent),
        "pydicom, sort, stack": with_pydicom,
    }


def seconds(paths: list[Path], repeats: int) -> dict[str, float]:
    """Return the median time of each way over alternating runs, after one warm-up."""
    readers = ways()
    taken: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(repeats + 1):
        for name, load in readers.items():
            start = time.process_time()
            load(paths)
            if turn:
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    warnings.simplefilter("ignore")
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    table = Table("", *SYNTAXES, title=f"MR series, {SLICES} slices of {SIDE}x{SIDE}: ms, and times medvit's")
    columns = {}
    for name, syntax in SYNTAXES.items():
        with tempfile.TemporaryDirectory() as folder:
            columns[name] = seconds(write_series(Path(folder), syntax), repeats)
    for way in columns["uncompressed"]:
        pairs = [(times[way], times["medvit read_series"]) for times in columns.values()]
        table.add_row(way, *(f"{taken * 1000:.0f}  {taken / ours:.2f}x" for taken, ours in pairs))
    Console().print(table)


if __name__ == "__main__":
    main()
