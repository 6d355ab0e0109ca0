"""What does leakage do to a number? The pixel nearest neighbour on brain MR slices, split by image and by group.

    MEDVIT_REAL_DATA=DIR python benchmarks/leakage.py

1,512 contrast-enhanced T1 slices of 3 tumour types; the patient numbers are lost, `group_inferred` keeps neighbouring
slices of one patient together. The classifier learns nothing: it copies the label of the most similar training image
(48 x 48 pixels, five folds). What it loses when groups stay together is what leaked. Goal: about 95 % and about 70 %.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from medvit.data import splits
from medvit.data.fingerprint import near_pairs, sketch
from medvit.data.manifest import Manifest
from medvit.metric.baseline import nearest, shrink

FOLDS = 5


def accuracy(pixels: np.ndarray, labels: np.ndarray, patient: pd.Series) -> tuple[float, np.ndarray]:
    """Return the share of slices whose nearest slice of the other folds has their label, and the fold of each."""
    table = pd.DataFrame({"uid": [f"{n:032x}" for n in range(len(labels))], "patient": patient, "label.type": labels})
    made = splits.make(Manifest(table, Path(), ""), splits.SplitSpec(strategy="kfold", folds=FOLDS))
    fold = table["patient"].map(made.table.set_index("patient")["fold"]).to_numpy()
    right = np.zeros(len(labels), bool)
    for number in range(FOLDS):
        train, test = fold != number, fold == number
        scores = [nearest(pixels[train], labels[train] == kind, pixels[test]) for kind in np.unique(labels)]
        right[test] = np.unique(labels)[np.argmax(scores, axis=0)] == labels[test]
    return float(right.mean()), fold


def main() -> None:
    """Print both accuracies, and what the leakage audit says of both splits."""
    folder = Path(os.environ["MEDVIT_REAL_DATA"]) / "labelled" / "mri_brain_tumor_3class"
    table = pd.read_csv(folder / "labels.csv")
    images = [cv2.imread(str(folder / path), cv2.IMREAD_GRAYSCALE) for path in table["path"]]
    pixels = shrink(np.stack([cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA) for image in images]))
    labels = table["label"].to_numpy()
    pairs = near_pairs(np.stack([sketch(image) for image in images]), range(len(images)), crops=False)
    one, two = pairs["row"].to_numpy(int), pairs["other"].to_numpy(int)
    patients = {"by image": pd.Series(range(len(table))).astype(str), "by group": table["group_inferred"]}
    for name, patient in patients.items():
        share, fold = accuracy(pixels, labels, patient)
        across = int((fold[one] != fold[two]).sum())
        sys.stdout.write(
            f"split {name}: 1-nearest neighbour {100 * share:.1f} %, "
            f"{across} of {len(pairs)} near-duplicate pairs stand on two sides\n"
        )


if __name__ == "__main__":
    main()
