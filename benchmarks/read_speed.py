"""Times file to model input for a 2500x2048 radiograph: medvit's `FilmPreprocess` against MONAI's usual chain.

    python -m benchmarks.read_speed [--repeats 3] [--films FOLDER]

MONAI: LoadImaged(PydicomReader), EnsureChannelFirstd, Resized, ScaleIntensityd. Both stretch to size x size. One
thread, CPU time of the process, files in the page cache, medians of alternating blocks of runs: read the ratios.
pydicom decodes with the fastest of its plugins that is installed (python-gdcm, pylibjpeg-openjpeg, pylibjpeg-rle,
pyjpegls); nan where it has none.
"reduced": wavelet films decoded at half, quarter, ... resolution, still at least as large as the target, or twice so.
With `--films` (DICOM, any syntax) it prints how far reduced decoding is from a whole decode with an area resize.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "dicom"))
import kit

from medvit.dicom.policy import FilmPolicy
from medvit.dicom.read import read_film
from medvit.errors import DicomRefusal
from medvit.preprocess.film import FilmPreprocess

SIZES, BLOCKS = (224, 512), 3
_PREFIX = "1.2.840.10008.1.2.4."


def radiograph(rows: int = 2500, columns: int = 2048) -> NDArray[np.uint16]:
    """Return a 12-bit film: a smooth body with ribs and an edge to air, and noise as a detector's."""
    row, column = np.mgrid[0:rows, 0:columns]
    body = 2200 * np.exp(-(((column - columns / 2) / (columns / 2.4)) ** 4) - ((row - rows / 2) / (rows / 1.9)) ** 4)
    lungs = sum(np.exp(-(((column - at * columns) / 260) ** 2) - ((row - 0.45 * rows) / 600) ** 2) for at in (0.3, 0.7))
    ribs = 120 * np.sin(row / 32 + (column / columns - 0.5) ** 2 * 9)
    image = 300 + body - 900 * lungs + ribs * (body > 600)
    noise = np.random.default_rng(0).normal(0, 1, image.shape) * np.sqrt(np.clip(image, 1, None)) * 0.35
    return np.clip(image + noise, 0, 4095).astype(np.uint16)


def films(folder: Path) -> dict[str, Path]:
    """Write the radiograph once in each syntax."""
    a = radiograph()
    jpeg = imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=12, predictor=1)
    objects = {
        "uncompressed": kit.film(a),
        "RLE": kit.run_length(a),
        "JPEG lossless": kit.compressed([jpeg], _PREFIX + "70", a),
        "JPEG-LS": kit.compressed([imagecodecs.jpegls_encode(a)], _PREFIX + "80", a),
        "JPEG 2000": kit.compressed([kit.jpeg2000(a)], kit.J2K, a),
        "HTJ2K": kit.compressed([imagecodecs.htj2k_encode(a, reversible=True)], _PREFIX + "201", a, bits=16),
    }
    for name, data in objects.items():
        (folder / f"{name}.dcm").write_bytes(data)
    return {name: folder / f"{name}.dcm" for name in objects}


def ways(size: int, wavelet: bool) -> dict[str, Callable[[Path], Any]]:
    """Return the chains to compare, by name."""
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Resized, ScaleIntensityd

    keys = ["image"]
    steps = [LoadImaged(keys, reader="PydicomReader"), EnsureChannelFirstd(keys), Resized(keys, (size, size))]
    monai = Compose([*steps, ScaleIntensityd(keys)])
    chains: dict[str, Callable[[Path], Any]] = {
        "MONAI": lambda path: monai({"image": path}),
        "medvit": FilmPreprocess(size=(size, size), fit="stretch"),
    }
    for factor in (2, 1) if wavelet else ():
        policy = {"reduce_to": (factor * size,) * 2}
        chains[f"reduced >= {factor}x"] = FilmPreprocess(size=(size, size), voi=policy, fit="stretch")
    return chains


def seconds(path: Path, chains: dict[str, Callable[[Path], Any]], repeats: int) -> dict[str, float]:
    """Return the median CPU time of each chain over alternating blocks, each after a warm-up; nan if it cannot read."""
    taken: dict[str, list[float]] = {name: [] for name in chains}
    for name, chain in [*chains.items()] * BLOCKS:
        for turn in range(repeats + 1):
            start = time.process_time()
            try:
                chain(path)
            except (RuntimeError, NotImplementedError):  # pydicom and MONAI without a plugin for the syntax
                taken[name] = [float("nan")]
                break
            if turn:
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def wavelet_films(folder: Path, most: int) -> Iterator[Path]:
    """Yield films of the folder that are stored as JPEG 2000 or HTJ2K."""
    found = 0
    for path in sorted(folder.rglob("*.dcm")):
        try:
            film = read_film(path, FilmPolicy(reduce_to=(224, 224)))
        except DicomRefusal:
            continue
        if found < most and "reduced" in film.steps[0]:
            found += 1
            yield path


def deviations(paths: list[Path], size: int, factor: int) -> NDArray[np.int64]:
    """Return |reduced - whole| in grey levels of 255 for all pixels of all films."""
    whole = FilmPreprocess(size=(size, size))
    reduced = FilmPreprocess(size=(size, size), voi={"reduce_to": (factor * size,) * 2})
    return np.concatenate([np.abs(whole.integers(p).astype(int) - reduced.integers(p)).ravel() for p in paths])


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.read_speed", description=__doc__)
    options.add_argument("--repeats", type=int, default=3, help="in each of 3 blocks")
    options.add_argument("--only", default="", help="part of a film's name")
    options.add_argument("--films", type=Path, help="real films to measure reduced decoding on")
    asked = options.parse_args()
    warnings.simplefilter("ignore")
    from pydicom.pixels.decoders import JPEGLSLosslessDecoder

    if "pyjpegls" in JPEGLSLosslessDecoder.available_plugins:
        JPEGLSLosslessDecoder.remove_plugin("gdcm")  # it would come first and is 1.7 times slower
    print("| film | size | MONAI, ms | medvit, ms | times faster | reduced >= 2x size | reduced >= 1x size |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, path in films(Path(folder)).items():
            for size in SIZES if asked.only in name else ():
                took = seconds(path, ways(size, "2" in name), asked.repeats)
                monai = took.pop("MONAI")
                cells = [f"{1000 * t:.1f}, {monai / t:.1f}x" for t in list(took.values())[1:]] or ["", ""]
                print(f"| {name} | {size} | {1000 * monai:.0f} | {1000 * took['medvit']:.1f} "
                      f"| {monai / took['medvit']:.1f}x | {' | '.join(cells)} |", flush=True)  # fmt: skip
    if asked.films:
        paths = list(wavelet_films(asked.films, 40))
        print(f"\nReduced against whole decoding, {len(paths)} real films, grey levels of 255:")
        for size in SIZES:
            for factor in (2, 1):
                apart = deviations(paths, size, factor)
                print(f"size {size}, decoded >= {factor}x: mean {apart.mean():.2f}, 99 % within "
                      f"{np.percentile(apart, 99):.0f}, largest {apart.max()}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
