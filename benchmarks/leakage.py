"""What leaks, what finds it, and what it does to a number.

    MEDVIT_REAL_DATA=DIR python benchmarks/leakage.py [--films 600] [--copies 25]

Persons: numbers on both sides of the chest set's own split, by every way of reading them from the file names.
Copies: planted among chest films of one patient each; how many of each kind the audit finds, and how many other pairs.
Nearest neighbour: brain MR slices split by image and by group.

1,512 contrast-enhanced T1 slices of 3 tumour types; the patient numbers are lost, `group_inferred` keeps neighbouring
slices of one patient together. The classifier learns nothing: it copies the label of the most similar training image
(five folds), of pixels as they are at 48 x 48 and of each image standardised at 32 x 32. What it loses when groups stay
together is what leaked. Goal: about 95 % and about 70 %.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from medvit.dataset import splits
from medvit.dataset.leakage.fingerprint import near_pairs, pixel_digest, sketch
from medvit.dataset.manifest import Manifest
from medvit.metric.baseline import downsample, nearest_neighbour

FOLDS = 5
COPIES = {
    "exact": lambda image: image,
    "resized to 60 %": lambda image: cv2.resize(image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA),
    "window narrowed": lambda image: np.clip((image.astype(float) - 15) * 1.2, 0, 255).astype(np.uint8),
    "gamma 1.8": lambda image: (255 * (image / 255.0) ** 1.8).astype(np.uint8),
    "inverted": lambda image: 255 - image,
    "JPEG quality 50": lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], 0),
    "cropped by 7 %": lambda image: image[8:-8, 8:-8],
    "cropped by 15 %": lambda image: image[22:-12, 12:-22],
    "cropped by 25 %": lambda image: image[28:-28, 28:-28],
    "turned by 5 degrees": lambda image: cv2.warpAffine(
        image, cv2.getRotationMatrix2D((image.shape[1] / 2, image.shape[0] / 2), 5, 1), image.shape[::-1]
    ),
}


def persons(folder: Path) -> None:
    """Print how many person numbers stand in train and test, by several ways of reading them."""
    table = pd.read_csv(folder / "labels.csv", dtype=str)
    name = table["path"]
    ways = {
        "personN (of pneumonia films)": name.str.extract(r"(person\d+)_")[0],
        "personN with the cause": name.str.extract(r"(person\d+_(?:bacteria|virus))")[0],
        "IM-N of normal films": name.str.extract(r"((?:NORMAL2-)?IM-\d+)")[0],
        "patient_id of the table": table["patient_id"],
        "the bare number, any film": name.str.extract(r"(?:person|IM-)0*(\d+)")[0],
    }
    for way, key in ways.items():
        sides = {side: set(key[table["split"] == side].dropna()) for side in ("train", "test")}
        shared = len(sides["train"] & sides["test"])
        sys.stdout.write(
            f"persons by {way}: {len(sides['train'])} in train, {len(sides['test'])} in test, {shared} in both\n"
        )


def copies(folder: Path, films: int, planted: int) -> None:
    """Plant copies of each kind among films of one patient each and print what the audit's fingerprints find."""
    table = pd.read_csv(folder / "labels.csv", dtype=str).drop_duplicates("patient_id")
    rng = np.random.default_rng(0)
    chosen = table.iloc[rng.permutation(len(table))[:films]]
    images = [cv2.imread(str(folder / path), cv2.IMREAD_GRAYSCALE) for path in chosen["path"]]
    origin = {way: rng.choice(films, planted, replace=False) for way in COPIES}
    made = {way: [COPIES[way](images[row]) for row in rows] for way, rows in origin.items()}
    everything = [*images, *(copy for group in made.values() for copy in group)]
    exact = pd.Series([pixel_digest(image) for image in everything])
    start = time.process_time()
    pairs = near_pairs(np.stack([sketch(image) for image in everything]), list(range(len(everything))))
    seconds = time.process_time() - start
    found = set(zip(pairs["row"], pairs["other"], strict=True))
    sources = np.concatenate([np.arange(films), *origin.values()])
    place = films
    for way, rows in origin.items():
        same = [exact[row] == exact[place + n] for n, row in enumerate(rows)]
        near = [(int(row), place + n) in found for n, row in enumerate(rows)]
        sys.stdout.write(f"copies, {way}: {sum(same)} of {planted} by digest, {sum(near)} by fingerprint\n")
        place += planted
    others = sum(sources[one] != sources[two] for one, two in found)
    compared = len(everything) * (len(everything) - 1) // 2
    sys.stdout.write(f"other pairs told: {others} of {compared}; {seconds / len(everything) * 1e3:.0f} ms per image\n")


def accuracy(pixels: np.ndarray, labels: np.ndarray, patient: pd.Series) -> tuple[float, np.ndarray]:
    """Return the share of slices whose nearest slice of the other folds has their label, and the fold of each."""
    table = pd.DataFrame({"uid": [f"{n:032x}" for n in range(len(labels))], "patient": patient, "label.type": labels})
    made = splits.make(Manifest(table, Path(), ""), splits.SplitSpec(strategy="kfold", folds=FOLDS))
    fold = table["patient"].map(made.table.set_index("patient")["fold"]).to_numpy()
    right = np.zeros(len(labels), bool)
    for number in range(FOLDS):
        train, test = fold != number, fold == number
        scores = [nearest_neighbour(pixels[train], labels[train] == kind, pixels[test]) for kind in np.unique(labels)]
        right[test] = np.unique(labels)[np.argmax(scores, axis=0)] == labels[test]
    return float(right.mean()), fold


def neighbours(folder: Path) -> None:
    """Print both accuracies, and what the leakage audit says of both splits."""
    table = pd.read_csv(folder / "labels.csv")
    images = [cv2.imread(str(folder / path), cv2.IMREAD_GRAYSCALE) for path in table["path"]]
    small = {
        "48 x 48, as they are": downsample(np.stack(images).astype(float), 48),
        "32 x 32, standardised": downsample(np.stack(images).astype(float), 32),
    }
    each = small["32 x 32, standardised"]
    small["32 x 32, standardised"] = (each - each.mean(1, keepdims=True)) / each.std(1, keepdims=True)
    labels = table["label"].to_numpy()
    pairs = near_pairs(np.stack([sketch(image) for image in images]), range(len(images)), crops=False)
    one, two = pairs["row"].to_numpy(int), pairs["other"].to_numpy(int)
    patients = {"by image": pd.Series(range(len(table))).astype(str), "by group": table["group_inferred"]}
    for name, patient in patients.items():
        shares = {way: accuracy(pixels, labels, patient) for way, pixels in small.items()}
        fold = next(iter(shares.values()))[1]
        across = int((fold[one] != fold[two]).sum())
        told = ", ".join(f"{100 * share:.1f} % ({way})" for way, (share, _) in shares.items())
        sys.stdout.write(
            f"split {name}: 1-nearest neighbour {told}; "
            f"{across} of {len(pairs)} near-duplicate pairs stand on two sides\n"
        )


def main() -> None:
    """Run all three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=600)
    parser.add_argument("--copies", type=int, default=25)
    given = parser.parse_args()
    root = Path(os.environ["MEDVIT_REAL_DATA"]) / "labelled"
    persons(root / "cxr_pneumonia_224")
    copies(root / "cxr_pneumonia_224", given.films, given.copies)
    neighbours(root / "mri_brain_tumor_3class")


if __name__ == "__main__":
    main()
