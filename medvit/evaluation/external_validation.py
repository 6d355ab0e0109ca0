"""External validation: evaluate another site's data set with the thresholds of the training site."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medvit.errors import EvaluationError

if TYPE_CHECKING:
    from medvit.data.split_data import SplitData
    from medvit.data.units import Units
    from medvit.engine.checkpoint import TrainedRun
    from medvit.tracking.run import Run


def open_external(trained: TrainedRun, folder: Path) -> SplitData:
    """Return all images of another data set folder as a test side, prepared as the run's own; no split is needed.

    Raises:
        DataError: no manifest, labels the task does not know, or files that cannot be read.
    """
    from medvit.data.loading import loading_of
    from medvit.data.split_data import SplitData
    from medvit.dataset import manifest

    loading = {**loading_of(trained.settings), "fold": None, "subset": None, "allow_test": True}
    data = SplitData(folder, trained.preprocess, trained.task, **loading)
    found = manifest.read(folder)
    data.prepare_rows(found.table.assign(_side="test"), found.root)
    data.hashes = {"manifest": found.digest, "preprocess": trained.preprocess.digest}
    return data


def external_warnings(trained: TrainedRun, other: Path, known: list[Units], tested: Units) -> tuple[str, ...]:
    """Return what a reader must know of the two sets: names that cannot be compared, and images that look alike."""
    from medvit.dataset import manifest

    home = Path(trained.settings["data"]["folder"])
    keys = [manifest.read(folder).task_hint.get("key_id") for folder in (home, other)]
    told = []
    if keys[0] != keys[1]:
        told.append(
            "The two data sets have pseudonyms of different keys: a patient in both cannot be found by name, only by "
            "identical or like images."
        )
    alike = shared_pictures(known, tested)
    if alike is None:
        told.append("Too many images to compare all of them: look-alikes of training images were not sought.")
    elif alike:
        told.append(
            f"{alike} of {len(tested)} images look like images the model was trained or validated on (another size, "
            "window or compression of one film?): look at them before believing the numbers."
        )
    return tuple(told)


def shared_pictures(known: list[Units], tested: Units) -> int | None:
    """Return how many tested units show a picture that is in `known`, windows and sizes aside; None if too many."""
    from medvit.dataset.leakage.audit import NEAR_UP_TO
    from medvit.dataset.leakage.fingerprint import near_pairs, sketch
    from medvit.evaluation.inference import middle_plane
    from medvit.preprocess.resize import to_uint8

    sides = [*known, tested]
    if sum(map(len, sides)) > NEAR_UP_TO:
        return None
    planes = [to_uint8(middle_plane(units, n)) for units in sides for n in range(len(units))]
    small = np.stack([sketch(plane) for plane in planes])
    first = len(planes) - len(tested)
    pairs = near_pairs(small, [n >= first for n in range(len(planes))], crops=False)
    return int(pairs["other"].nunique())


def frozen_before(run: Run, folder: Path) -> tuple[Path, str] | None:
    """Return thresholds.json of the run's own test evaluation, copied into `folder`, and its sealed hash, or None.

    Raises:
        RunError: the run, its weights or its report changed since that evaluation.
    """
    from medvit.tracking import evaluation_seal

    if "evaluation/test.json" not in run.artifacts():
        return None
    sealed: dict[str, Any] = evaluation_seal.check(run)
    return run.fetch("report/test/thresholds.json", folder), str(sealed["hash"])


def refuse_swapped(run: Run, file: Path) -> None:
    """Refuse validation predictions that are not those the training ended with: thresholds would come from others.

    Raises:
        EvaluationError: validation.parquet changed since the run was trained.
    """
    import json
    import tempfile

    from medvit.tracking.journal import file_sha256

    if "hashes.json" not in run.artifacts():
        return
    with tempfile.TemporaryDirectory() as place:
        wanted = json.loads(run.fetch("hashes.json", Path(place)).read_text("utf-8")).get("validation")
    if wanted is not None and wanted != file_sha256(file):
        raise EvaluationError(
            "validation.parquet of this run changed since it was trained, so that thresholds would come from other "
            "predictions; the test set stays closed. Restore the file, or train again"
        )
