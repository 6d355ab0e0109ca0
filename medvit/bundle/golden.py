"""Golden cases: generated images with the expected outputs, kept in the bundle so that every site can check them.

A decoder, a resize or a medvit of another version that reads images differently shows here, not in a clinic.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.bundle.parity import Trained
from medvit.errors import BundleError, DicomRefusal

if TYPE_CHECKING:
    from medvit.bundle.runtime import Runtime

logger = logging.getLogger(__name__)
LIMIT = 1e-5  # largest difference of a probability
_FOLDER = Path("medvit") / "golden"


def write(part: Path, trained: Trained, names: Sequence[str], cases: Sequence[Sequence[bytes]]) -> None:
    """Write the cases (each the files of one film or series, generated ones only) and what training says of them.

    Raises:
        BundleError: training refuses one of the cases.
    """
    from medvit.bundle.parity import training_logits

    listed: list[list[str]] = []
    for number, files in enumerate(cases):
        listed.append([f"{number:02d}_{place:03d}.dcm" for place in range(len(files))])
        for name, data in zip(listed[-1], files, strict=True):
            (part / _FOLDER).mkdir(parents=True, exist_ok=True)
            (part / _FOLDER / name).write_bytes(data)
    sources = [source([part / _FOLDER / name for name in group]) for group in listed]
    expected: list[dict[str, Any]] = []
    found = training_logits(trained.network, trained.preprocess, sources)
    for group, logits in zip(listed, found, strict=True):
        if logits is None:
            raise BundleError(f"Golden case {group[0]} is refused by the preprocessing; generate other cases.")
        said = trained.probabilities(logits[None])[0]
        expected.append({"files": group, "expected": dict(zip(names, map(float, said), strict=True))})
    text = json.dumps(expected, indent=1)
    (part / _FOLDER).mkdir(parents=True, exist_ok=True)
    (part / _FOLDER / "expected.json").write_text(text + "\n", encoding="utf-8")


def check(runtime: Runtime) -> tuple[int, float]:
    """Predict the golden cases and return how many there are and the largest difference of a probability.

    Raises:
        BundleError: a case is refused here, or differs by more than 1e-5, or by more than twice what its variant of the
            network did on validation images.
    """
    folder = runtime.bundle.folder / _FOLDER
    try:
        cases = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise BundleError("The bundle has no golden cases to check this machine by. Export again.") from error
    results = runtime.predict([source([folder / name for name in case["files"]]) for case in cases], accept=False)
    worst = 0.0
    for number, (case, result) in enumerate(zip(cases, results, strict=True)):
        if result.status != "OK":
            raise BundleError(f"Golden case {number} cannot be read on this machine: {result.reason}")
        gaps = [abs(result.uncalibrated[name] - said) for name, said in case["expected"].items()]
        worst = max(worst, *gaps)
    measured = (runtime.bundle.variants or {}).get(runtime.variant, {}).get("uncalibrated_max", 0.0)
    allowed = max(LIMIT, 2 * measured)
    if not worst <= allowed:
        raise BundleError(
            f"This machine does not reproduce the model: golden cases differ by up to {worst:.2g} in probability "
            f"(allowed {allowed:.2g}). Install the versions in medvit/manifest.json, under provenance, packages."
        )
    return len(cases), worst


def source(files: Sequence[Path]) -> Path | list[Path]:
    """Return one file as a film, several as a series."""
    return files[0] if len(files) == 1 else list(files)


def generated_cases(preprocess: Any) -> list[list[bytes]]:
    """Return generated films or MR series for the golden cases: those that this preprocessing takes."""
    found = []
    for case in generated_films() if preprocess.kind == "film" else generated_series():
        try:
            preprocess.prepare(case[0] if len(case) == 1 else case)
        except DicomRefusal:
            logger.info("a generated image is refused by the settings of this run: it is no golden case")
            continue
        found.append(case)
    return found


def generated_series(count: int = 2) -> list[list[bytes]]:
    """Return generated MR series of heads as DICOM bytes, one list of files each."""
    from medvit.phantom.mr_series import write_volumes

    with tempfile.TemporaryDirectory() as folder:
        write_volumes(Path(folder) / "heads", patients=count, contrasts=["FLAIR"])
        series = sorted(path for path in (Path(folder) / "heads" / "dicom").glob("*/*") if path.is_dir())
        return [[file.read_bytes() for file in sorted(one.iterdir())] for one in series]


def generated_films(count: int = 4) -> list[list[bytes]]:
    """Return generated chest films as DICOM bytes, one file each: golden cases and MLflow's input example."""
    from medvit.phantom.films import write_films

    with tempfile.TemporaryDirectory() as folder:
        write_films(Path(folder) / "films", patients=count)
        files = sorted((Path(folder) / "films" / "dicom").rglob("IM*"))
        return [[file.read_bytes()] for file in files[:count]]
