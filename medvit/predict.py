"""`python -m medvit.predict bundle=DIR input=DIR_OR_FILE out=DIR`: DICOM in, predictions out, by an exported bundle.

Needs neither torch nor MONAI nor MLflow. Exit codes: 0 all predicted, 10 some files rejected, 20 a bad bundle,
30 an internal error; 2 and 3 for settings and folders that cannot be used.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import sys
import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.config import entry
from medvit.errors import DataError, DicomRefusal, MedvitError

if TYPE_CHECKING:
    from medvit.export.runtime import Result, Runtime

SOME_REJECTED, INTERNAL = 10, 30
_IDENTIFIERS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unit:
    """One film, or the files of one series: positions in the sorted list of files (from 1), and pseudonyms."""

    files: tuple[Path, ...]
    places: tuple[int, ...]
    uid: str
    study: str


def predict(bundle: Path, source: Path, out: Path, crosswalk: bool = False, workers: int | None = None) -> int:
    """Predict every DICOM file of a folder (or one file) and return the exit code: 0, or 10 when some were rejected.

    Writes `predictions.csv` (one row per film or series, in the order of the file names) and `studies/<study>.json`.
    Images are named by pseudonym and position; with `crosswalk`, `crosswalk.csv` (mode 0600) says which file is which.

    Raises:
        BundleError: the bundle is incomplete or altered.
        DataError: no file in the input, or the output folder is taken or cannot be written.
    """
    from medvit.export.folder import writing

    runtime = verified(bundle, workers)
    files = _files(source)
    units = _units(files, series=runtime.preprocess.kind == "volume")
    with writing(out, DataError) as part:
        results = list(_watched(runtime.stream([_source(unit) for unit in units]), len(units)))
        _write_table(part / "predictions.csv", runtime, units, results)
        _write_studies(part / "studies", runtime, units, results)
        if crosswalk:
            _write_crosswalk(part / "crosswalk.csv", source, units)
    count = {status: sum(result.status == status for result in results) for status in ("OK", "REJECTED", "SKIPPED")}
    logger.info("%d predicted, %d rejected, %d skipped (no images)", count["OK"], count["REJECTED"], count["SKIPPED"])
    return SOME_REJECTED if count["REJECTED"] else 0


def verified(bundle: Path, workers: int | None = None) -> Runtime:
    """Open a bundle after checking its hashes and that this machine says of its golden cases what training said.

    Raises:
        BundleError: the bundle is incomplete or altered, or this machine reads images differently.
    """
    from medvit.export import golden
    from medvit.export.runtime import Runtime

    runtime = Runtime(bundle, workers)
    cases, worst = golden.check(runtime)
    logger.info("bundle %s verified: %d golden cases, off by at most %.1g", runtime.bundle.digest[:12], cases, worst)
    return runtime


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    found = sorted(path for path in source.rglob("*") if path.is_file() and not path.is_symlink())
    if not found:
        raise DataError("The input folder holds no file. Give input=DIR with DICOM files, or one file.")
    return found


def _source(unit: Unit) -> Path | list[Path]:
    return unit.files[0] if len(unit.files) == 1 else list(unit.files)


def _units(files: Sequence[Path], series: bool) -> list[Unit]:
    """Group files into what is predicted at once: single films, or (with `series`) the files of each series."""
    from medvit.data import pseudonym
    from medvit.dicom import tags
    from medvit.dicom.header import read_header

    hide = pseudonym.load()
    groups: dict[str, list[tuple[Path, int, str, str]]] = defaultdict(list)
    for place, file in enumerate(files, 1):
        uid = study = group = ""
        try:
            header = read_header(file)
            uid, study, group = (
                hide(kind, name) if (name := tags.word(header, key)) else ""
                for kind, key in zip(("instance", "study", "series"), _IDENTIFIERS, strict=True)
            )
        except DicomRefusal:
            logger.debug("file %d of %d has no header that can be read", place, len(files))
        if series and group:
            uid = hashlib.sha256(f"{group}/".encode()).hexdigest()[:32]  # as the manifest names a series of one volume
        groups[group if series and group else f"{place}"].append((file, place, uid, study))
    units = []
    for members in groups.values():
        paths, places, uids, studies = zip(*members, strict=True)
        units.append(Unit(paths, places, uids[0], studies[0]))
    return units


def _watched(results: Iterator[Result], total: int) -> Iterable[Result]:
    """Show a bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(results, "predicting", total=total, console=console, disable=not console.is_terminal)


def _write_table(file: Path, runtime: Runtime, units: Sequence[Unit], results: Sequence[Result]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        head = ["file", "uid", "study", *results[0].row(runtime.names), "warnings"]
        writer.writerow(head)
        for unit, result in zip(units, results, strict=True):
            place = f"{unit.places[0]}" if len(unit.places) == 1 else f"{unit.places[0]}+{len(unit.places) - 1}"
            cells = ["" if value is None else value for value in result.row(runtime.names).values()]
            writer.writerow([place, unit.uid, unit.study, *cells, "; ".join(result.warnings)])


def _write_studies(folder: Path, runtime: Runtime, units: Sequence[Unit], results: Sequence[Result]) -> None:
    """Write one JSON per study, without a time, so that the same input twice gives the same bytes."""
    bundle = runtime.bundle
    model = {
        "name": bundle.manifest["name"],
        "bundle": bundle.digest[:12],
        "run": bundle.manifest["provenance"].get("run_id", ""),
        "medvit": metadata.version("medvit"),
    }
    studies: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for unit, result in zip(units, results, strict=True):
        if unit.study:
            studies[unit.study].append({"uid": unit.uid, "files": list(unit.places), **_told(result, runtime)})
    folder.mkdir()
    for study, images in studies.items():
        content = {"schema": "medvit.result/1", "not_for_diagnostic_use": True, "draft": bundle.draft, "model": model}
        text = json.dumps({**content, "study": study, "images": images}, indent=1)
        (folder / f"{study}.json").write_text(text + "\n", encoding="utf-8")


def _told(result: Result, runtime: Runtime) -> dict[str, Any]:
    if result.status != "OK":
        return {"status": result.status, "code": result.code, "reason": result.reason}
    findings = {
        name: {
            "probability": result.probability[name],
            "uncalibrated": result.uncalibrated[name],
            "decision": result.decision.get(name),
            "threshold": runtime.bundle.thresholds.get(name, {}).get("threshold"),
        }
        for name in runtime.names
    }
    return {"status": result.status, "findings": findings, "warnings": list(result.warnings)}


def _write_crosswalk(file: Path, source: Path, units: Sequence[Unit]) -> None:
    root = source if source.is_dir() else source.parent
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "uid", "study", "path"])
        for unit in units:
            for path, place in zip(unit.files, unit.places, strict=True):
                writer.writerow([place, unit.uid, unit.study, path.relative_to(root)])


def check(settings: dict[str, Any]) -> list[str]:
    """Return what is not there, before anything is opened."""
    problems = [] if Path(settings["bundle"]).is_dir() else ["bundle: no such folder; give one made by medvit.export"]
    if settings["verify"]:
        return problems
    problems += [f"{key} has no value; give {key}=..." for key in ("input", "out") if not settings[key]]
    if settings["input"] and not Path(settings["input"]).exists():
        problems.append("input: no such file or folder")
    return problems


@entry("predict", check)
def main(settings: dict[str, Any]) -> int:
    """Run the command of conf/predict.yaml."""
    bundle = Path(settings["bundle"])
    try:
        if settings["verify"]:
            verified(bundle)
            return 0
        return predict(
            bundle, Path(settings["input"]), Path(settings["out"]), settings["crosswalk"], settings["workers"]
        )
    except MedvitError:
        raise
    except Exception as error:  # noqa: BLE001 (the outermost border: a message may hold a path or a name, so it is not shown)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        sys.stderr.write(f"internal error: {type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}\n")
        return INTERNAL


if __name__ == "__main__":
    main()
