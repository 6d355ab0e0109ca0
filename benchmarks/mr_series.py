"""Times one MR series (176 slices of 256x256, 16 bit), loaded, and through the whole chain to a model's input.

    python benchmarks/mr_series.py [repeats]

The series is made here, with headers as long as a scanner's (about 150 elements and two private blocks). The chain:
load, patient orientation, from 1.2x0.94x0.94 mm to 1 mm, crop or pad to 160x224x224, intensity; MONAI's with
Orientationd, Spacingd, ResizeWithPadOrCropd and ScaleIntensityd, or with percentiles as `VolumePreprocess` has. One
thread, CPU time of the process, files in the page cache; medians of alternating runs. Read the ratios, not the times.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import importlib.util
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "dicom_cases"))
from series_phantom import Plane, dataset_of, save

from medvit.preprocess import VolumePreprocess
from medvit.series.read import read_series

SLICES, SIDE, SIZE = 176, 256, (160, 224, 224)
SYNTAXES = {"uncompressed": None, "RLE lossless": pydicom.uid.RLELossless}


def write_series(folder: Path, syntax: pydicom.uid.UID | None) -> list[Path]:
    """Write the series; texture is a slow wave plus noise of a few grey levels, so that codecs have work to do."""
    rng = np.random.default_rng(0)
    plane = Plane(shape=(SIDE, SIDE), spacing=(0.9375, 0.9375), step=1.2, count=SLICES, origin=(-88.0, -128.0, 128.0))
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


def monai_chain(reader: str, intensity: Any) -> Callable[[list[Path]], Any]:
    """Return MONAI's usual chain of deterministic transforms, (column, row, slice) as MONAI has volumes."""
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, ResizeWithPadOrCropd, Spacingd

    keys = ["image"]
    load = [LoadImaged(keys, reader=reader), EnsureChannelFirstd(keys)]
    shape = [Orientationd(keys, "RAS"), Spacingd(keys, (1.0, 1.0, 1.0)), ResizeWithPadOrCropd(keys, SIZE[::-1])]
    chain = Compose([*load, *shape, intensity])
    return lambda paths: chain({"image": paths[0].parent})


def ways() -> dict[str, dict[str, Callable[[list[Path]], Any]]]:
    """Return what to compare, by name: loading, and the whole chain; medvit's first."""
    from monai.transforms import LoadImage, ScaleIntensityd, ScaleIntensityRangePercentilesd

    from medvit.data.monai_reader import MedvitReader

    monai, ours = LoadImage("PydicomReader"), LoadImage(MedvitReader())
    loading = {
        "medvit read_series": read_series,
        "MONAI LoadImage(PydicomReader)": lambda paths: monai(paths[0].parent),
        "MONAI LoadImage(MedvitReader)": lambda paths: ours(paths[0].parent),
        "pydicom, sort, stack": with_pydicom,
    }
    percentiles = ScaleIntensityRangePercentilesd(["image"], 0.5, 99.5, 0, 1, clip=True)
    whole = {
        "medvit VolumePreprocess": VolumePreprocess(size=SIZE, spacing_mm=(1.0, 1.0, 1.0)),
        "MONAI chain, PydicomReader": monai_chain("PydicomReader", ScaleIntensityd(["image"])),
        "MONAI chain, PydicomReader, percentiles": monai_chain("PydicomReader", percentiles),
    }
    if importlib.util.find_spec("itk"):
        whole["MONAI chain, ITKReader"] = monai_chain("ITKReader", ScaleIntensityd(["image"]))
    return {"loading": loading, "whole chain": whole}


def seconds(paths: list[Path], readers: dict[str, Callable[[list[Path]], Any]], repeats: int) -> dict[str, float]:
    """Return the median time of each way over alternating runs, after one warm-up."""
    taken: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(repeats + 1):
        for name, load in readers.items():
            gc.collect()  # what the one before left behind
            start = time.process_time()
            load(paths)
            if turn:
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    warnings.simplefilter("ignore")
    cv2.setNumThreads(1)
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    print("| | way | ms | times medvit's |\n|---|---|---|---|")
    for syntax, uid in SYNTAXES.items():
        with tempfile.TemporaryDirectory() as folder:
            paths = write_series(Path(folder), uid)
            for task, readers in ways().items():
                taken = seconds(paths, readers, repeats)
                ours = next(iter(taken.values()))
                for name, time_taken in taken.items():
                    shown = f"{1000 * time_taken:.0f} | {time_taken / ours:.2f}"
                    print(f"| {syntax}, {task} | {name} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
