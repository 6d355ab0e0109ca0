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

SOME_REJECTED = 10
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtraOutputs:
    """What to write beside the pseudonymous results; both name patients, so they stay where the images stay."""

    crosswalk: bool = False
    reports: bool = False


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
    which, and with `also.reports` a DICOM structured report of each predicted image goes to `sr/<uid>.dcm`. `isolate`
    decodes in child processes with caps: a file that crashes a decoder, or takes over 30 s or 2 GiB, is rejected alone.

    Raises:
        BundleError: the bundle is incomplete or altered.
        DataError: no file in the input, or the output folder is taken or cannot be written.
    """
    from medvit.bundle.atomic_folder import atomic_folder
    from medvit.clinical import results
    from medvit.clinical.units import counted, predictions_of, units_in

    runtime = verified(bundle, workers, variant)
    skipped: Counter[str] = Counter()
    units = units_in(source, runtime.preprocess, skipped)
    with atomic_folder(out, DataError) as part:
        found = list(_watched(predictions_of(runtime, units, isolate=isolate), len(units)))
        if also.reports:
            found = results.write_reports(part / "sr", runtime, units, found)
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
    return problems


def predict_by(settings: dict[str, Any]) -> int:
    """Predict, or with `verify` only verify, as conf/predict.yaml asks; return the exit code."""
    bundle = Path(settings["bundle"])
    if settings["verify"]:
        verified(bundle, variant=settings["runtime"])
        return 0
    also = ExtraOutputs(settings["crosswalk"], settings["sr"])
    source, out, isolate = Path(settings["input"]), Path(settings["out"]), settings["isolate"]
    return predict(bundle, source, out, also, settings["workers"], isolate=isolate, variant=settings["runtime"])


@entry("predict", check)
def main(settings: dict[str, Any]) -> int:
    """Run the command of conf/predict.yaml."""
    return predict_by(settings)


if __name__ == "__main__":
    main()
