"""What a reader of the docs has at hand, made small: folders of images and their label tables, from generated data."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np


def films(folder: Path) -> None:
    """Write `films/` (DICOM), `labels.csv` (AccessionNumber, finding, ...) and `new_films/`."""
    from medvit.phantom.films import write_films

    table = write_films(folder / "raw", patients=40)
    shutil.move(folder / "raw" / "dicom", folder / "films")
    edema = np.random.default_rng(0).random(len(table)) < 0.4
    table.assign(opacity=(table["finding"] == "opacity").astype(int), edema=edema.astype(int)).drop(
        columns=["path", "PatientID"]
    ).to_csv(folder / "labels.csv", index=False)
    (folder / "new_films").mkdir()
    for number, name in enumerate(table["path"][:3]):  # of both classes
        shutil.copy(folder / "films" / Path(name).relative_to("dicom"), folder / "new_films" / f"{number}.dcm")


def pictures(folder: Path) -> None:
    """Write `png/` and `labels.csv` with the columns file, patient, finding."""
    import cv2

    import medvit
    from medvit.phantom.films import write_films

    table = write_films(folder / "raw", patients=40)
    (folder / "png").mkdir()
    names = [f"{number:04d}.png" for number in range(len(table))]
    for name, path in zip(names, table["path"], strict=True):
        display = medvit.read_film(folder / "raw" / path).display()
        cv2.imwrite(str(folder / "png" / name), np.round(display * 255).astype(np.uint8))
    table.assign(file=names, patient=table["PatientID"])[["file", "patient", "finding"]].to_csv(
        folder / "labels.csv", index=False
    )


def volumes(folder: Path) -> None:
    """Write `nifti/` and `labels.csv` with the columns file, patient, finding."""
    import nibabel

    import medvit
    from medvit.phantom.mr_series import write_volumes

    table = write_volumes(folder / "raw", patients=24, contrasts=["FLAIR"])
    (folder / "nifti").mkdir()
    names = [f"head{number:03d}.nii.gz" for number in range(len(table))]
    for name, path in zip(names, table["path"], strict=True):
        volume = medvit.read_volume(folder / "raw" / path)
        to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
        nibabel.save(nibabel.Nifti1Image(volume.values, to_ras), folder / "nifti" / name)
    table.assign(file=names, patient=table["PatientID"])[["file", "patient", "finding"]].to_csv(
        folder / "labels.csv", index=False
    )


def runs(folder: Path) -> None:
    """Write `runs/` with two trainings of other seeds, and `work/site_b`, the indexed films of another site.

    The patient numbers of both sites coincide, so site B is indexed with a key of its own.
    """
    from medvit.phantom.films import write_films

    shim, root = str(Path(__file__).with_name("quick_python.py")), folder / "site_b"
    write_films(root, patients=24, seed=1)
    table = [f"labels.csv={root}/labels.csv", "labels.target=[finding]"]
    given = [f"data.root={root}/dicom", "data.folder=work/site_b", *table]
    for words in (["index", *given], ["train", "seed=0"], ["train", "seed=1"]):
        key = {"MEDVIT_PSEUDO_KEY_FILE": str(folder / "site_b.key")} if words[0] == "index" else {}
        call = [sys.executable, shim, "-m", f"medvit.{words[0]}", *words[1:]]
        subprocess.run(call, cwd=folder, check=True, env={**os.environ, **key})


KINDS = {"runs": runs, "films": films, "pictures": pictures, "volumes": volumes}
