"""Does a trained model know images it must not answer about? Real ones too.

    python benchmarks/ood.py RUN_ID [RUNS_FOLDER] [NAME=FOLDER ...]

Prints, for the run's test images and every set, AUROC against the test images, FPR95 (the share accepted by the limit
that accepts 95 % of the test images) and the share beyond the limit that holds 99 % of validation. Sets: negatives of
the test films, five generated ones, under MEDVIT_REAL_DATA bones and two sorts of brain MRI, and every folder given
(pictures or DICOM; a file that cannot be read is counted). Run it where data.folder of the run is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from medvit.engine.checkpoint import load_run
from medvit.engine.fit import data_module
from medvit.errors import MedvitError
from medvit.evaluation.inference import OpenedRun
from medvit.evaluation.ood import distance_scores, envelope_of, features_of_images, foreign_sets
from medvit.report.wording import format_estimate

REAL = {
    "real bones": "labelled/xray_fracture_boxes/images",
    "real brain tumours, MRI": "labelled/mri_brain_tumor_3class/images",
    "real brain, MRI series": "labelled/mri_tumor_slices_masks/images",
}
MOST = 250  # of one folder, evenly chosen


def read(folder: Path, preprocess: object) -> np.ndarray:
    """Return up to MOST images of a folder as the model would get them, integers [n C H W]."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [files[k] for k in np.unique(np.linspace(0, len(files) - 1, min(MOST, len(files))).astype(int))]
    made, refused = [], 0
    for file in files:
        try:
            made.append(preprocess.integers(file))
        except MedvitError:
            refused += 1
    sys.stderr.write(f"{len(made)} of {len(files)} files read, {refused} refused\n")
    return np.stack(made)


def main(run: str, runs: str = "runs", *folders: str) -> None:
    """Print the table."""
    trained = load_run(Path(runs) / run)
    data = data_module(trained.settings, trained.preprocess, trained.task, allow_test=True)
    bench = OpenedRun(trained, *(data.units(side) for side in ("train", "val", "test")), "test", "cpu")
    given = dict(folder.split("=", 1) for folder in folders)
    if root := os.environ.get("MEDVIT_REAL_DATA"):
        given = {name: str(Path(root) / place) for name, place in REAL.items()} | given
    sets = dict(foreign_sets(bench))
    sets |= {name: features_of_images(bench, read(Path(place), trained.preprocess)) for name, place in given.items()}
    table = distance_scores(bench, envelope_of(bench), sets)
    sys.stdout.write("| images | n | distance | AUROC | FPR95 | beyond the limit |\n|---|---|---|---|---|---|\n")
    for row in table.rows:
        values = [row.get(key) for key in ("set", "images", "method", "auroc", "fpr95", "outside")]
        sys.stdout.write("| " + " | ".join(format_estimate(value) for value in values) + " |\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
