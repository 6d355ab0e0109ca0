"""From scanned objects to manifest rows: films, volumes of series, duplicates removed, refusals listed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from medvit.dataset import image_headers
from medvit.dataset.exposures import left_out
from medvit.dataset.manifest import KEPT, fact_columns
from medvit.dataset.scan import JOINS
from medvit.dicom.storage import Source
from medvit.errors import ConfigError, DicomRefusal
from medvit.series.policy import SeriesPolicy
from medvit.series.read import Plan, plan_series
from medvit.types import Facts

log = logging.getLogger(__name__)
KINDS = ("auto", "film", "volume")
FALLBACKS = ("", "study", "file")
REFUSAL = ("code", "tag", "found", "allowed", "fix")
VOLUME = KEPT + "volume"


class VolumePart(NamedTuple):
    """One volume of a series: its name there, the key to read it by from `files` (in slice order), its slices."""

    name: str
    key: str
    files: tuple[int, ...]
    shape: tuple[int, int] | None = None  # rows and columns of a slice; None where the header of a file says it all
    spacing_mm: tuple[float, float] | None = None


@dataclass(frozen=True)
class Rows:
    """`images`: manifest rows with `on.*` join keys; `excluded`: refused objects likewise, with the refusal's parts."""

    images: pd.DataFrame
    excluded: pd.DataFrame
    counts: dict[str, int]


def rows_of_scan(
    scanned: pd.DataFrame,
    root: Path,
    skipped: Counter[str],
    *,
    kind: str = "auto",
    patient_fallback: str = "",
    policy: SeriesPolicy | None = None,
    exposure: str = "all",
    workers: int = 1,
    progress: Callable[[int], object] | None = None,
) -> Rows:
    """Turn the rows of `scan` into films and volumes.

    kind: "auto" makes volumes of MR, CT, PT and NM series and of NIfTI files; "film" or "volume" take all as such.
    patient_fallback: what stands for a missing PatientID: "" refuses (`E-ID`), "study", or "file".
    exposure: which film of one exposure is taken, see `Accept.exposure`; the others are excluded as `I-EXPOSURE`.

    Raises:
        ConfigError: an unknown `kind` or `patient_fallback`.
    """
    if kind not in KINDS or patient_fallback not in FALLBACKS:
        raise ConfigError(
            f"data.kind={kind!r} (auto, film, volume), data.patient_fallback={patient_fallback!r} (empty, study, file)"
        )
    names = [os.fsdecode(name) for name in scanned["name"]]  # may hold what is no text: objects, not strings
    scanned = scanned.assign(name=pd.Series(names, index=scanned.index, dtype=object))
    scanned["files"] = [[name] for name in scanned["name"]]
    counts = Counter(skipped)
    silent = scanned["code"] == "I-SKIP"
    for found, number in scanned.loc[silent, "found"].value_counts().items():
        counts[str(found)] += int(number)
    objects = scanned[~silent]
    good = _without_copies(objects[objects["code"] == ""].copy(), root, counts)
    good = _with_patients(good, patient_fallback)
    volume = good["kind"].eq("volume") if kind == "auto" else pd.Series(kind == "volume", index=good.index)
    good["kind"] = ["volume" if one else "film" for one in volume]
    bad = [objects[objects["code"] != ""], good[good["code"] != ""]]
    broken = set(pd.concat(bad)["series"]) - {""}
    torn = (good["kind"] == "volume") & good["series"].isin(broken) & (good["code"] == "")
    fix = "repair or remove the refused files of this series"
    _refuse(good, good.index[torn], DicomRefusal("E-SERIES", "other files of the series are refused", fix=fix))
    for at, reason in left_out(good[(good["kind"] == "film") & (good["code"] == "")], exposure).items():
        _refuse(good, pd.Index([at]), reason)
    bad[1] = good[good["code"] != ""]
    good = good[good["code"] == ""]
    films = _films(good[good["kind"] == "film"])
    volumes, lost = _volumes(good[good["kind"] == "volume"], root, policy or SeriesPolicy(), workers, progress)
    images = pd.concat([part for part in (films, volumes) if len(part)] or [films], ignore_index=True)
    excluded = pd.concat([part for part in (*bad, lost) if len(part)] or [bad[0]], ignore_index=True)
    return Rows(images, excluded, dict(counts))


def _without_copies(good: pd.DataFrame, root: Path, counts: Counter[str]) -> pd.DataFrame:
    """Keep one of several byte-identical files of one SOP instance; refuse all of those that differ (B073)."""
    for _, group in good[good["uid"].duplicated(keep=False)].groupby("uid"):
        if len({_file_hash(root / name) for name in group["name"]}) == 1:
            counts["copy of the same object"] += len(group) - 1
            good = good.drop(group.index[1:])
        else:
            found = f"{len(group)} different files with one SOPInstanceUID"
            _refuse(
                good, group.index, DicomRefusal("E-DUPUID", found, tag="(0008,0018)", fix="export the objects again")
            )
    return good


def _file_hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return f"unreadable {path}"


def _with_patients(good: pd.DataFrame, fallback: str) -> pd.DataFrame:
    """Fill empty patient, study and series; a missing patient is a refusal unless a fallback was chosen (B106)."""
    good["study"] = good["study"].where(good["study"] != "", good["uid"])
    good["series"] = good["series"].where(good["series"] != "", good["uid"])
    nobody = good["patient"] == ""
    if fallback:
        good.loc[nobody, "patient"] = good.loc[nobody, "study" if fallback == "study" else "uid"]
    return good


def exclude_without_patient(images: pd.DataFrame, excluded: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Move rows that still have no patient (after the label table had its say) to the excluded ones: `E-ID`."""
    nobody = images["patient"] == ""
    if not nobody.any():
        return images, excluded
    lost = images[nobody].copy()
    fix = "name the patient column of the label table (labels.patient) or set data.patient_fallback=study or file"
    _refuse(lost, lost.index, DicomRefusal("E-ID", "no PatientID", tag="(0010,0020)", fix=fix))
    return images[~nobody], pd.concat([excluded, lost], ignore_index=True)


def exclude_without_label(images: pd.DataFrame, kept: pd.DataFrame, excluded: pd.DataFrame) -> pd.DataFrame:
    """Add to the excluded ones the images that the join with the label table dropped: `I-LABEL`, asked for."""
    lost = images[~images["uid"].isin(kept["uid"])].copy()
    if lost.empty:
        return excluded
    fix = "labels.unmatched=keep takes it without a label; column files of manifest.parquet then names its file"
    _refuse(lost, lost.index, DicomRefusal("I-LABEL", "no row of the label table (labels.unmatched=drop)", fix=fix))
    return pd.concat([excluded, lost], ignore_index=True)


def _refuse(frame: pd.DataFrame, index: pd.Index, refusal: DicomRefusal) -> None:
    for name in REFUSAL:
        frame.loc[index, name] = getattr(refusal, name)


def _films(good: pd.DataFrame) -> pd.DataFrame:
    facts = pd.DataFrame([fact_columns(_facts(text)) for text in good["facts"]], index=good.index)
    return pd.concat([_identity(good).assign(volume_key=""), facts], axis=1)


def _identity(good: pd.DataFrame) -> pd.DataFrame:
    keys = [f"on.{key}" for key in JOINS]
    return good[["uid", "patient", "alike", "study", "series", "kind", "files", "study_year", *keys, *REFUSAL]]


def _facts(text: str) -> Facts:
    values = json.loads(text)
    pair = values["spacing_mm"]
    return Facts(**{**values, "spacing_mm": tuple(pair) if pair else None})


def _volumes(
    good: pd.DataFrame, root: Path, policy: SeriesPolicy, workers: int, progress: Callable[[int], object] | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return one row per volume of each series, and the series that are refused (one row each)."""
    import joblib

    groups = [group for _, group in good.groupby("series", sort=True)]
    root = root.absolute()  # a worker may have been started in another working directory
    rows: list[dict[str, Any]] = []
    lost: list[dict[str, Any]] = []
    with joblib.Parallel(n_jobs=workers) as pool:
        for start in range(0, len(groups), 64):  # a bounded number of series in flight
            wave = groups[start : start + 64]
            tasks = (joblib.delayed(_plan)([root / name for name in group["name"]], policy) for group in wave)
            for group, result in zip(wave, pool(tasks), strict=True):
                first = {str(key): value for key, value in _identity(group).iloc[0].items()}
                first["files"] = list(group["name"])
                if isinstance(result, DicomRefusal):
                    lost.append({**first, "uid": first["series"], **{name: getattr(result, name) for name in REFUSAL}})
                else:
                    rows += _volume_rows(group, first, result)
            if progress:
                progress(sum(len(group) for group in wave))
    return pd.DataFrame(rows), pd.DataFrame(lost)


def _plan(paths: list[Path], policy: SeriesPolicy) -> list[VolumePart] | DicomRefusal:
    """Return the volumes of one series, or the refusal; runs in a worker."""
    try:
        return volumes_of(paths, policy)
    except DicomRefusal as refusal:
        return refusal


def volumes_of(sources: Sequence[Source], policy: SeriesPolicy) -> list[VolumePart]:
    """Return the volumes that the files of one series hold, for a manifest and for a prediction; raises DicomRefusal.

    Volumes are named where there are several; each comes with its own files, or, where these do not tell it, all.
    """
    steps = image_headers.nifti_steps(sources[0]) if len(sources) == 1 else 0
    if steps:
        return [VolumePart(key, key, (0,)) for key in ([f"t={step}" for step in range(steps)] if steps > 1 else [""])]
    plans = plan_series(sources, policy)
    if len(plans) == 1:
        return [_part(plans[0], "", plans[0].key, tuple(dict.fromkeys(plans[0].files)))]
    return [_alone(plan, sources, policy) for plan in plans]


def _alone(plan: Plan, sources: Sequence[Source], policy: SeriesPolicy) -> VolumePart:
    """Return the volume with its own files if they give it by themselves, else with those of the whole series."""
    files = tuple(dict.fromkeys(plan.files))
    try:
        again = plan_series([sources[index] for index in files], policy)
    except DicomRefusal:
        again = []
    if len(again) == 1 and len(again[0].files) == len(plan.files):
        return _part(plan, plan.key, again[0].key, files)
    return _part(plan, plan.key, plan.key, tuple(range(len(sources))))


def _part(plan: Plan, name: str, key: str, files: tuple[int, ...]) -> VolumePart:
    return VolumePart(name, key, files, plan.slices[0].shape, plan.slices[0].spacing)


def _volume_rows(group: pd.DataFrame, first: dict[str, Any], parts: list[VolumePart]) -> list[dict[str, Any]]:
    names, found = list(group["name"]), []
    for part in parts:
        facts = _facts(group["facts"].iloc[part.files[0]])
        if part.shape:  # a tile of a mosaic, as reading has it
            facts = dataclasses.replace(facts, rows=part.shape[0], columns=part.shape[1])
        if facts.spacing_mm is None and part.spacing_mm:  # of enhanced objects it stands in the functional groups
            facts = dataclasses.replace(facts, spacing_mm=part.spacing_mm, spacing_kind="PixelSpacing")
        uid = hashlib.sha256(f"{first['series']}/{part.name}".encode()).hexdigest()[:32]
        files = [names[index] for index in part.files]
        found.append(
            {**first, "uid": uid, "files": files, "volume_key": part.key, VOLUME: part.name, **fact_columns(facts)}
        )
    return found
