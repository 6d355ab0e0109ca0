"""`python -m medvit.predict bundle=DIR input=DIR_OR_FILE out=DIR`: DICOM in, predictions out, by an exported bundle.

Needs neither torch nor MONAI nor MLflow. Exit codes: 0 all predicted, 10 some files rejected, 20 a bad bundle,
30 an internal error; 2 and 3 for settings and folders that cannot be used.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.config import entry
from medvit.errors import DataError

if TYPE_CHECKING:
    from medvit.bundle.runtime import Result, Runtime
    from medvit.clinical.study_results import Wanted

SOME_REJECTED = 10
_HOT = 0.5  # of conf/predict.yaml
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtraOutputs:
    """What to write beside the pseudonymous results; all of it names patients, so it stays where the images stay.

    `reports` is short for a structured report per image; `dicom` is a `medvit.clinical.study_results.Wanted`.
    """

    crosswalk: bool = False
    reports: bool = False
    dicom: Wanted | None = None


def predict(
    bundle: Path,
    source: Path,
    out: Path,
    also: ExtraOutputs = ExtraOutputs(),
    workers: int | None = None,
    *,
    isolate: bool = True,
    variant: str = "onnxruntime_fp32",
) -> int:
    """Predict every image of a folder (or one file); return the exit code: 0, or 10 if some or all were refused.

    Writes `predictions.csv` (one row per film or volume, in the order of the file names) and `studies/<study>.json`.
    Images are named by pseudonym and position; with `also.crosswalk`, `crosswalk.csv` (mode 0600) says which file is
    which, and the DICOM results of `also` go to `sr/`, `sc/`, `seg/`, `pm/` and `pdf/`, a folder per kind. `isolate`
    decodes in child processes with caps: a file that crashes a decoder, or takes over 30 s or 2 GiB, is rejected alone.

    Raises:
        BundleError: the bundle is incomplete or altered, or maps are asked of one that does not tell its patch grid.
        DataError: no file in the input, or the output folder is taken or cannot be written.
    """
    from medvit.bundle.atomic_folder import atomic_folder
    from medvit.clinical import results
    from medvit.clinical.occlusion import grid_of
    from medvit.clinical.study_results import Wanted
    from medvit.clinical.units import counted, predictions_of, units_in

    wanted = also.dicom or Wanted(sr=also.reports)
    runtime = verified(bundle, workers, variant)
    if wanted.drawn:
        grid_of(runtime)  # told before the first image is read
    skipped: Counter[str] = Counter()
    units = units_in(source, runtime.preprocess, skipped)
    with atomic_folder(out, DataError) as part:
        found = list(_watched(predictions_of(runtime, units, isolate=isolate), len(units)))
        if wanted.any:
            found = results.write_objects(part, runtime, units, found, wanted)
        results.write_table(part / "predictions.csv", runtime, units, found)
        results.write_studies(part / "studies", runtime, units, found)
        if also.crosswalk:
            results.write_crosswalk(part / "crosswalk.csv", source, units)
    count = Counter(result.status for result in found)
    skipped += Counter({"neither DICOM, a picture nor NIfTI": count["SKIPPED"]})
    why = f" ({counted(skipped)})" if skipped else ""
    logger.info("%d predicted, %d rejected, %d skipped%s", count["OK"], count["REJECTED"], skipped.total(), why)
    names = "" if also.crosswalk else " (which file is which: crosswalk=true)"
    logger.info("predictions: %s%s", out / "predictions.csv", names)
    return SOME_REJECTED if count["REJECTED"] or not count["OK"] else 0


def verified(bundle: Path, workers: int | None = None, variant: str = "onnxruntime_fp32") -> Runtime:
    """Open a bundle after checking its hashes and that this machine says of its golden cases what training said.

    `variant` says what runs the network, in which precision (`medvit.bundle.session`).

    Raises:
        BundleError: the bundle is incomplete or altered, or this machine reads images differently or cannot run
            the variant.
    """
    from medvit.bundle import golden
    from medvit.bundle.runtime import Runtime

    runtime = Runtime(bundle, workers, variant)
    cases, worst = golden.check(runtime)
    logger.info("bundle %s verified: %d golden cases, off by at most %.1g", runtime.bundle.digest[:12], cases, worst)
    return runtime


def _watched(results: Iterator[Result], total: int) -> Iterable[Result]:
    """Show a bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(results, "predicting", total=total, console=console, disable=not console.is_terminal)


def check(settings: dict[str, Any]) -> list[str]:
    """Return what is not there, before anything is opened."""
    problems = [] if Path(settings["bundle"]).is_dir() else ["bundle: no such folder; give one made by medvit.export"]
    if settings["verify"]:
        return problems
    problems += [f"{key} has no value; give {key}=..." for key in ("input", "out") if not settings[key]]
    if settings["input"] and not Path(settings["input"]).exists():
        problems.append("input: no such file or folder")
    return problems + _problems_of_dicom(settings["dicom"], settings["sr"])


def _problems_of_dicom(dicom: dict[str, Any], sr: bool) -> list[str]:
    words = {"per": ("image", "study"), "findings": ("present", "all")}
    problems = [
        f"dicom.{key}={dicom[key]}: expected {' or '.join(allowed)}"
        for key, allowed in words.items()
        if dicom[key] not in allowed
    ]
    if not 0 < dicom["hot"] <= 1:
        problems.append(f"dicom.hot={dicom['hot']}: expected above 0 and at most 1, a share of the map's highest value")
    drawn = dicom["maps"] or dicom["seg"] or dicom["parametric"]
    if dicom["per"] != "image" and not sr:
        problems.append("dicom.per is of structured reports: give sr=true")
    if dicom["findings"] != "present" and not drawn:
        problems.append("dicom.findings is of maps: give dicom.maps=true, dicom.seg=true or dicom.parametric=true")
    if dicom["hot"] != _HOT and not dicom["seg"]:
        problems.append("dicom.hot is of segmentations: give dicom.seg=true")
    return problems


def predict_by(settings: dict[str, Any]) -> int:
    """Predict, or with `verify` only verify, as conf/predict.yaml asks; return the exit code."""
    bundle = Path(settings["bundle"])
    if settings["verify"]:
        verified(bundle, variant=settings["runtime"])
        return 0
    from medvit.clinical.study_results import Wanted

    also = ExtraOutputs(settings["crosswalk"], dicom=Wanted(sr=settings["sr"], **settings["dicom"]))
    source, out, isolate = Path(settings["input"]), Path(settings["out"]), settings["isolate"]
    return predict(bundle, source, out, also, settings["workers"], isolate=isolate, variant=settings["runtime"])


@entry("predict", check)
def main(settings: dict[str, Any]) -> int:
    """Run the command of conf/predict.yaml."""
    return predict_by(settings)


if __name__ == "__main__":
    main()
