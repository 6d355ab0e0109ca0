"""What prediction leaves: a table, one JSON per study, and on request what names patients."""

from __future__ import annotations

import csv
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from medvit.bundle.runtime import Result, Runtime
from medvit.clinical import study_results
from medvit.clinical.study_results import Wanted
from medvit.clinical.units import Unit


def write_table(file: Path, runtime: Runtime, units: Sequence[Unit], results: Sequence[Result]) -> None:
    """Write predictions.csv: one row per unit, rejected ones with their reason."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        head = ["file", "uid", "study", *results[0].row(runtime.names), "warnings"]
        writer.writerow(head)
        for unit, result in zip(units, results, strict=True):
            first, more = min(unit.places), len(unit.places) - 1
            place = f"{first}+{more}" if more else f"{first}"
            cells = ["" if value is None else value for value in result.row(runtime.names).values()]
            writer.writerow([place, unit.uid, unit.study, *cells, "; ".join(result.warnings)])


def write_studies(folder: Path, runtime: Runtime, units: Sequence[Unit], results: Sequence[Result]) -> None:
    """Write one JSON per study, without a time, so that the same input twice gives the same bytes."""
    bundle = runtime.bundle
    model = {
        "name": bundle.manifest["name"],
        "bundle": bundle.digest[:12],
        "run": bundle.manifest["provenance"].get("run_id", ""),
        "medvit": metadata.version("medvit"),
        "runtime": runtime.variant,
    }
    studies: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for unit, result in zip(units, results, strict=True):
        if unit.study:
            studies[unit.study].append({"uid": unit.uid, "files": sorted(unit.places), **_told(result, runtime)})
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


def write_objects(
    folder: Path, runtime: Runtime, units: Sequence[Unit], found: Sequence[Result], wanted: Wanted
) -> list[Result]:
    """Write the DICOM results, study by study, each kind into its folder (mode 0700): they name the patient.

    Returns the results, with a warning where an object could not be made.
    """
    told = list(found)
    studies: dict[str, list[int]] = defaultdict(list)
    for place, unit in enumerate(units):
        studies[unit.study or f" {place}"].append(place)  # without a study, alone
    for places in studies.values():
        made, notes = study_results.results(runtime, [units[at] for at in places], [found[at] for at in places], wanted)
        for output in made:
            kind = folder / output.kind
            kind.mkdir(mode=0o700, exist_ok=True)
            output.dataset.save_as(kind / f"{output.name}.dcm", enforce_file_format=True)
        for at, note in notes:
            one = told[places[at]]
            told[places[at]] = replace(one, warnings=(*one.warnings, note))
    return told


def write_crosswalk(file: Path, source: Path, units: Sequence[Unit]) -> None:
    """Write which pseudonym is which file, readable by the owner alone."""
    root = source if source.is_dir() else source.parent
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "uid", "study", "path"])
        for unit in units:
            for path, place in zip(unit.files, unit.places, strict=True):
                writer.writerow([place, unit.uid, unit.study, path.relative_to(root)])
