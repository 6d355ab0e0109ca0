"""Scan the headers of a folder, one row per object: parallel, resumable, without identifiers (RE-06).

A chunk is one joblib task, so `joblib.parallel_config(backend="dask")` (or "ray") hands the work to a cluster. Its rows
are written as one Parquet part before the next chunks start: a stopped scan goes on where it was, and only a few chunks
are in memory at a time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import pydicom

from medvit.dataset import exposures, image_headers
from medvit.dataset.manifest import replace_file
from medvit.dataset.walk import Found, walk
from medvit.dicom import storage, tags
from medvit.dicom.facts import read_facts
from medvit.dicom.header import read_header
from medvit.dicom.policy import Accept, check_accepted
from medvit.errors import DicomRefusal
from medvit.types import Facts

JOINS = ("AccessionNumber", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "StudyID")
VOLUMES = frozenset({"MR", "CT", "PT", "NM"})
_FORMAT = 6
_WAVE = 4  # chunks in flight per worker
_NO_IMAGE = frozenset({"SEG", "RTDOSE"})
_DICOM_NAMES = frozenset({".dcm", ".dicom", ".ima", ".dc3"})
_REFUSAL = ("code", "tag", "found", "allowed", "fix")


@runtime_checkable
class Pseudonymise(Protocol):
    """Turns identifiers into pseudonyms; must be picklable, as it travels to the workers."""

    def __call__(self, kind: str, *parts: str) -> str:
        """Return the pseudonym of `parts` as a `kind`."""


def scan(
    root: Path,
    parts: Path,
    mask: Pseudonymise,
    accept: Accept | None = None,
    *,
    workers: int = 1,
    chunk: int = 250,
    progress: Callable[[int], object] | None = None,
) -> tuple[pd.DataFrame, Counter[str]]:
    """Read the headers of all objects below `root`; return one row per object and the counts of what was skipped.

    `parts` keeps one Parquet file per chunk; a chunk whose files have not changed (name, size, time) is not read again.
    Columns: name, kind ("film", "volume", ""), uid, patient, alike (see `likeness`), study, series, study_year,
    `on.<identifier>` (keyed hashes to join a label table on), the fields of `Facts` with `facts` as JSON, and the parts
    of a refusal (`code` is "" for an object that was read).
    """
    import joblib

    accept = accept or Accept()
    root = root.absolute()  # a worker may have been started in another working directory
    skipped: Counter[str] = Counter()
    chunks = _chunks(walk(root, skipped), chunk)
    salt = json.dumps([_FORMAT, dataclasses.asdict(accept), mask("scan", "")], default=str)
    parts.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    with joblib.Parallel(n_jobs=workers) as pool:  # starts its processes only when it is given work
        while wave := list(islice(chunks, max(1, workers) * _WAVE)):
            todo = {}
            for items in wave:
                path = parts / f"{_key(items, salt)}.parquet"
                files.append(path)
                if not _whole(path):
                    todo[path] = items
            tasks = [joblib.delayed(read_chunk)(root, items, mask, accept) for items in todo.values()]
            results = (
                pool(tasks) if len(tasks) > 1 else [read_chunk(root, items, mask, accept) for items in todo.values()]
            )
            for path, rows in zip(todo, results, strict=True):
                _write_part(rows, path)
            if progress:
                progress(sum(len(items) for items in wave))
    for stale in set(parts.glob("*.parquet")) - set(files):
        stale.unlink()
    table = pd.concat([pd.read_parquet(path) for path in files], ignore_index=True) if files else pd.DataFrame()
    return table, skipped


def read_chunk(root: Path, items: Sequence[Found], mask: Pseudonymise, accept: Accept) -> list[dict[str, Any]]:
    """Return one row for each file: what it is, or why it cannot be used. Runs in a worker."""
    return [_row(root, item, mask, accept) for item in items]


def _row(root: Path, item: Found, mask: Pseudonymise, accept: Accept) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(("uid", "patient", "alike", "study", "series", "kind", *_REFUSAL), "")
    row |= {"name": os.fsencode(item.name), "study_year": None, "facts": "{}", **{f"on.{key}": "" for key in JOINS}}
    row[exposures.COLUMN] = exposures.NOTHING
    row["uid"] = mask("file", item.name)
    path = root / item.name
    try:
        loaded = storage.load(path, image_headers.HEAD)
        head, state = bytes(loaded.view), loaded.stat
        if (state.st_size, state.st_mtime_ns) != (item.size, item.changed_ns):
            raise DicomRefusal("E-CHANGED", "the file changed during the scan", fix="wait until the export is complete")
        plain = image_headers.kind_of(head)
        if plain:
            facts = image_headers.read_facts(path, head)
            row |= {"kind": "film" if plain == "picture" else "volume"}
        else:
            facts = _read_dicom(path, row, mask)
        check_accepted(facts, accept if row["kind"] == "film" else dataclasses.replace(accept, min_side=0))
        row["facts"] = json.dumps(dataclasses.asdict(facts))
    except OSError as error:
        _refuse(row, DicomRefusal("E-IO", f"the file cannot be read: {error.strerror}", fix="check the storage"))
    except DicomRefusal as refusal:
        _refuse(row, _no_dicom(refusal, item))
    return row


def _read_dicom(path: Path, row: dict[str, Any], mask: Pseudonymise) -> Facts:
    """Fill identity into `row` before the facts can be refused, so that a refusal is listed under its object."""
    dataset = read_header(path)
    row |= _identity(dataset, mask)
    row["kind"] = "volume" if tags.text_value(dataset, "Modality").upper() in VOLUMES else "film"
    if tags.text_value(dataset, "Modality").upper() in _NO_IMAGE:
        raise DicomRefusal("I-SKIP", "segmentation or dose, no image")
    row[exposures.COLUMN] = exposures.exposure_of(dataset, mask)
    facts = read_facts(dataset)
    year = tags.text_value(dataset, "StudyDate")[:4]
    row["study_year"] = int(year) if year.isdigit() else None
    return dataclasses.replace(facts, age_years=None if facts.age_years is None else min(facts.age_years, 90.0))


def _identity(dataset: pydicom.Dataset, mask: Pseudonymise) -> dict[str, str]:
    word = {key: tags.text_value(dataset, key) for key in JOINS}
    issuer = tags.text_value(dataset, "IssuerOfPatientID")
    found = {f"on.{key}": mask(f"on.{key}", value) if value else "" for key, value in word.items()}
    found["patient"] = mask("patient", issuer, word["PatientID"]) if word["PatientID"] else ""
    found["alike"] = mask("alike", issuer, normalised_identifier(word["PatientID"])) if word["PatientID"] else ""
    for name, key in (("study", "StudyInstanceUID"), ("series", "SeriesInstanceUID"), ("uid", "SOPInstanceUID")):
        if word[key]:
            found[name] = mask("instance" if name == "uid" else name, word[key])
    return found


def normalised_identifier(identifier: str) -> str:
    """Return what two spellings of one identifier share: no capitals, blanks, signs at the ends or leading zeros."""
    bare = re.sub(r"\s+|^\W+|\W+$", "", identifier.casefold())
    return bare.lstrip("0") or bare or identifier


def _no_dicom(refusal: DicomRefusal, item: Found) -> DicomRefusal:
    """Turn "not DICOM" into "skip" where neither the name nor the content claims to be DICOM."""
    claims = Path(item.name).suffix.lower() in _DICOM_NAMES or refusal.fix
    if refusal.code == "E-NOTDICOM" and not claims:
        return DicomRefusal("I-SKIP", "neither DICOM, a picture nor NIfTI")
    return refusal


def _refuse(row: dict[str, Any], refusal: DicomRefusal) -> None:
    row.update({name: getattr(refusal, name) for name in _REFUSAL})


def _chunks(found: Iterator[Found], size: int) -> Iterator[list[Found]]:
    while items := list(islice(found, size)):
        yield items


def _key(items: Sequence[Found], salt: str) -> str:
    state = hashlib.sha256(salt.encode())
    for item in items:
        state.update(f"{item.name}\0{item.size}\0{item.changed_ns}\0".encode("utf-8", "surrogateescape"))
    return state.hexdigest()[:32]


def _whole(path: Path) -> bool:
    """Say whether a part is there with its footer; a damaged one is made again."""
    from pyarrow import parquet

    try:
        return path.exists() and parquet.read_metadata(path).num_rows >= 0
    except (OSError, ValueError):
        return False


def _write_part(rows: list[dict[str, Any]], path: Path) -> None:
    frame = pd.DataFrame(rows).astype({"study_year": "Int64"})
    replace_file(path, lambda draft: frame.to_parquet(draft, index=False))
