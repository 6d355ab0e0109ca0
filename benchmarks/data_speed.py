"""How fast films reach the model, against MONAI's caches and a PNG folder: ratios measured in one run.

    OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 python benchmarks/data_speed.py [--films 256] [--files 40]

Epoch >= 2: samples per second of one process that makes shuffled batches of 32 (processor time, medians of alternating
rounds); resident memory is anonymous pages only (a memory map's pages belong to the system's file cache). First epoch:
files per second of one core, 2500x2048 12-bit films, a new cache each time; then the same files with 1 and 2 worker
processes by the clock. Rows that need the package lmdb (LMDBDataset) or python-gdcm (MONAI's JPEG lossless) are left
out without it, and said so.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import shutil
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from medvit.data.cache import Cache
from medvit.data.loader import BatchLoader, Plan
from medvit.data.sampler import Sampler
from medvit.data.units import Units
from medvit.preprocess import FilmPreprocess

BATCH = 32


class NoLabels:
    """A task without labels."""

    def encode(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return zeros."""
        return np.zeros((len(frame), 1), np.float32), np.ones((len(frame), 1), np.float32)


def film(size: tuple[int, int], seed: int, bits: int = 12) -> np.ndarray:
    """A smooth body with detector noise: compresses about as a radiograph does."""
    generator = np.random.default_rng(seed)
    coarse = cv2.resize(generator.random((12, 10)).astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(generator.random((size[0] // 6, size[1] // 6)).astype(np.float32), size[::-1])
    value = 0.15 + 0.6 * coarse + 0.08 * fine + generator.standard_normal(size, np.float32) * 0.006
    return (np.clip(value, 0, 1) * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)


def table(names: list[str]) -> pd.DataFrame:
    uid = [f"{n:032x}" for n in range(len(names))]
    return pd.DataFrame({"uid": uid, "patient": uid, "files": [[name] for name in names], "volume_key": ""})


def anonymous_mb() -> float:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous")) / 1024


def later_epochs(work: Path, size: int, films: int, rounds: int) -> None:
    from monai.data import CacheDataset, DataLoader, LMDBDataset, PersistentDataset
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Resize, ScaleIntensityRange

    root = work / f"png{size}"
    root.mkdir()
    names = [f"{n}.png" for n in range(films)]
    for n, name in enumerate(names):
        cv2.imwrite(str(root / name), film((size * 2, size * 2), n, 8))
    pre = FilmPreprocess(size=(size, size))
    units = Units(Cache.build(table(names), root, pre, work / "cache", workers=1), np.arange(films), NoLabels())
    loader = BatchLoader(units, Plan(BATCH, sampler=Sampler()))
    paths = [str(root / name) for name in names]
    (work / f"jpeg{size}").mkdir()
    jpegs = [str(work / f"jpeg{size}" / name.replace("png", "jpg")) for name in names]
    for n, path in enumerate(jpegs):
        cv2.imwrite(path, film((size, size), n, 8))
    chain = Compose(
        [LoadImage(image_only=True), EnsureChannelFirst(), Resize((size, size)), ScaleIntensityRange(0, 255, -2, 2)]
    )
    buffer, order = np.empty((BATCH, 1, size, size), np.uint8), np.random.default_rng(0)
    whole = units.cache.gather(np.arange(films))

    def copies() -> None:
        for start in range(0, films - BATCH + 1, BATCH):
            np.copyto(buffer, whole[start : start + BATCH])

    def gathers() -> None:
        shuffled = order.permutation(films)
        for start in range(0, films - BATCH + 1, BATCH):
            units.cache.gather(shuffled[start : start + BATCH], out=buffer)

    def batches() -> None:
        for _ in loader:
            pass

    def batches_normalised() -> None:
        for batch in loader:
            batch.image.float() * pre.scale + pre.shift

    def drained(dataset: object, options: dict) -> object:
        made = DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=0, **options)
        return lambda: [None for _ in made]

    runs = {
        "memory copy (limit)": copies,
        "medvit gather": gathers,
        "medvit batches": batches,
        "medvit batches, float on CPU": batches_normalised,
        "MONAI CacheDataset": drained(CacheDataset(paths, chain, progress=False), {}),
        "MONAI PersistentDataset": drained(PersistentDataset(paths, chain, work / f"persistent{size}"), {}),
        "PNG folder as timm users have": drained(PictureFolder(paths, size), {}),
        "JPEG folder, stored at the size": drained(PictureFolder(jpegs, size), {}),
    }
    if present("lmdb", "MONAI LMDBDataset"):
        runs["MONAI LMDBDataset"] = drained(LMDBDataset(paths, chain, work / f"lmdb{size}", progress=False), {})
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    memory = {}
    for name, run in runs.items():
        run()  # fills MONAI's caches and warms the page cache
        before = anonymous_mb()
        run()
        memory[name] = anonymous_mb() - before
    for _ in range(rounds):
        for name, run in runs.items():
            repeats = 20 if name.startswith(("memory", "medvit")) else 1
            start = time.process_time()
            for _ in range(repeats):
                run()
            seconds[name].append((time.process_time() - start) / repeats / films)
    report(f"epoch >= 2, {size} px, {films} films", seconds, "MONAI PersistentDataset", memory)


class PictureFolder(torch.utils.data.Dataset):
    """PIL to RGB, resize, tensor, normalise: the image folder of timm and Hugging Face scripts."""

    def __init__(self, paths: list[str], size: int) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        from PIL import Image

        picture = Image.open(self.paths[index]).convert("RGB").resize((self.size, self.size), Image.Resampling.BICUBIC)
        return (torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255 - 0.5) / 0.25


def report(title: str, seconds: dict[str, list[float]], reference: str, memory: dict[str, float] | None = None) -> None:
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"\n{title}\n{'':38}{'per second':>12}{'x ' + reference:>28}{'MB grown':>10}")
    for name, value in middle.items():
        grown = f"{memory[name]:10.1f}" if memory else ""
        ratio = f"{middle[reference] / value:28.1f}" if reference in middle else f"{'-':>28}"
        print(f"{name:38}{1 / value:12.0f}{ratio}{grown}")


def present(module: str, row: str, package: str = "") -> bool:
    """Say whether a module can be imported, and print which row is left out where it cannot."""
    found = importlib.util.find_spec(module) is not None
    if not found:
        print(f"left out: {row} (needs pip install {package or module})")
    return found


def write_dicom(path: Path, stored: np.ndarray, lossless: bool) -> None:
    import imagecodecs
    from pydicom.encaps import encapsulate
    from pydicom.uid import ExplicitVRLittleEndian, JPEGLosslessSV1

    from medvit.phantom import dicom_objects

    dataset = dicom_objects.make_dataset(
        "1.2.840.10008.5.1.4.1.1.1.1", dicom_objects.uid("bench", path.name), {"Modality": "DX"}
    )
    dicom_objects.set_pixels(dataset, stored, 12, "MONOCHROME2")
    if lossless:
        dataset.PixelData = encapsulate([imagecodecs.jpeg_encode(stored, lossless=True, bitspersample=12, predictor=1)])
        dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1 if lossless else ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)


def first_epoch(work: Path, files: int, rounds: int, lossless: bool) -> None:
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Resize, ScaleIntensity

    kind = "JPEG lossless" if lossless else "uncompressed"
    root = work / kind.replace(" ", "")
    root.mkdir()
    names = [f"{n}.dcm" for n in range(files)]
    for n, name in enumerate(names):
        write_dicom(root / name, film((2500, 2048), n), lossless)
    rows, pre = table(names), FilmPreprocess(size=(224, 224))
    chain = Compose(
        [LoadImage(reader="PydicomReader", image_only=True), EnsureChannelFirst(), Resize((224, 224)), ScaleIntensity()]
    )

    chains = {
        "medvit (decode, resize, write)": lambda folder: Cache.build(rows, root, pre, folder, workers=1),
    }
    if not lossless or present("gdcm", "MONAI LoadImage chain, JPEG lossless", "python-gdcm"):
        chains["MONAI LoadImage chain"] = lambda _folder: [chain(root / name) for name in names]
    seconds: dict[str, list[float]] = {name: [] for name in chains}
    for turn in range(rounds + 1):
        for name, run in chains.items():
            start = time.process_time()
            run(root / f"cache{turn}")
            if turn:
                seconds[name].append((time.process_time() - start) / files)
    report(f"first epoch, {kind}, 2500x2048 to 224, one core", seconds, "MONAI LoadImage chain")
    if importlib.util.find_spec("joblib"):
        scaling(rows, root, pre)
    shutil.rmtree(root)


def scaling(rows: pd.DataFrame, root: Path, pre: FilmPreprocess) -> None:
    """Print the clock time of one build with 1 and with 2 processes; the files are listed several times over."""
    many = pd.concat([rows] * 4, ignore_index=True)
    many["uid"] = [f"{n:032x}" for n in range(len(many))]
    taken = {}
    for workers in (1, 2):
        Cache.build(many[:64], root, pre, root / f"start{workers}", workers=workers)  # joblib keeps its processes
        start = time.perf_counter()
        Cache.build(many, root, pre, root / f"workers{workers}", workers=workers)
        taken[workers] = (time.perf_counter() - start) / len(many)
    rates = ", ".join(f"{workers}: {1 / each:.0f} files/s" for workers, each in taken.items())
    print(f"processes by the clock: {rates}, {taken[1] / taken[2]:.2f} times", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=256)
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="*", default=[224, 512])
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        for size in given.sizes:
            later_epochs(Path(folder), size, given.films, given.rounds)
        for lossless in (False, True) if given.files else ():
            first_epoch(Path(folder), given.files, given.rounds, lossless)


if __name__ == "__main__":
    main()
