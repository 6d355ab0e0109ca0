"""Times file to model input for a 2500x2048 radiograph: medvit's `FilmPreprocess` against MONAI's usual chain.

    python -m benchmarks.read_speed [--repeats 3] [--films FOLDER]

MONAI: LoadImaged(PydicomReader), EnsureChannelFirstd, Resized, ScaleIntensityd. Both stretch to size x size. One
thread, CPU time of the process, files in the page cache, medians of alternating blocks of runs: read the ratios.
pydicom decodes with the fastest of its plugins that is installed (python-gdcm, pylibjpeg-openjpeg, pylibjpeg-rle,
pyjpegls); nan where it has none.
"reduced": wavelet films decoded at half, quarter, ... resolution, still at least as large as the target, or twice so
(`reduce_to: size` and `double`). With `--films` (DICOM, any syntax) it prints how far reduced decoding is from a whole
decode with an area resize, on the large films of the folder: those not in JPEG 2000 are encoded so, without loss.
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

import cv2
import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import encapsulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "dicom_cases"))
import kit

from medvit.dicom.codec.decode import stored_frames
from medvit.dicom.header import read_dataset
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
    for policy in ("double", "size") if wavelet else ():
        chains[policy] = FilmPreprocess(size=(size, size), voi={"reduce_to": policy}, fit="stretch")
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


def wavelet_films(folder: Path, least: int = 1000) -> Iterator[bytes]:
    """Yield the folder's grey radiographs of at least `least` pixels a side, as JPEG 2000 or HTJ2K."""
    for path in sorted(folder.rglob("*.dcm")):
        try:
            read_film(path)
            stored = stored_frames(read_dataset(path, pixels=True)).values[0]
        except DicomRefusal:
            continue
        dataset = pydicom.dcmread(path)
        if min(stored.shape[:2]) < least or stored.ndim > 2 or dataset.Modality not in ("CR", "DX", "MG"):
            continue
        if dataset.file_meta.TransferSyntaxUID in (kit.J2K, _PREFIX + "91"):
            yield path.read_bytes()
            continue
        bits = int(dataset.BitsStored)
        encoded = imagecodecs.jpeg2k_encode(stored, level=0, codecformat="j2k", reversible=True, bitspersample=bits)
        dataset.PixelData = encapsulate([encoded])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        yield kit.write(dataset, kit.J2K)


def deviations(films: list[bytes], size: int, policy: str) -> list[NDArray[np.int64]]:
    """Return |reduced - whole| in grey levels of 255 for all pixels of each film that `policy` reduces."""
    whole, reduced = (FilmPreprocess(size=(size, size), voi=voi) for voi in ({}, {"reduce_to": policy}))
    apart = []
    for data in films:
        film = reduced.read(data)
        if "reduced" in film.steps[0]:
            apart.append(np.abs(whole.integers(data).astype(int) - reduced.integers(film)).ravel())
    return apart


def print_deviations(folder: Path) -> None:
    """Print the bound of reduced decoding: mean over all films, the worst film's mean, and percentiles of pixels."""
    films = list(wavelet_films(folder))
    for size in SIZES:
        for policy in ("double", "size"):
            apart = deviations(films, size, policy)
            every = np.concatenate(apart)
            print(f"size {size}, reduce_to: {policy}, {len(apart)} films: mean {every.mean():.2f} grey levels of 255, "
                  f"mean of the worst film {max(map(np.mean, apart)):.2f}, 99.9 % of pixels within "
                  f"{np.percentile(every, 99.9):.0f}, largest {every.max()}", flush=True)  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.read_speed", description=__doc__)
    options.add_argument("--repeats", type=int, default=3, help="in each of 3 blocks")
    options.add_argument("--only", default="", help="part of a film's name")
    options.add_argument("--films", type=Path, help="real films to measure reduced decoding on")
    asked = options.parse_args()
    warnings.simplefilter("ignore")
    cv2.setNumThreads(1)
    from pydicom.pixels.decoders import JPEGLSLosslessDecoder

    if "pyjpegls" in JPEGLSLosslessDecoder.available_plugins:
        JPEGLSLosslessDecoder.remove_plugin("gdcm")  # it would come first and is 1.7 times slower
    print("| film | size | MONAI, ms | medvit, ms | times faster | reduce_to: double | reduce_to: size |")
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
        print_deviations(asked.films)


if __name__ == "__main__":
    main()
