"""An exported bundle in Python: files, bytes, data sets, arrays or folders in, a table of predictions out."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom

from medvit.clinical.units import files_in, predictions_of, units_in
from medvit.errors import DataError
from medvit.predict import verified
from medvit.preprocess import FilmPreprocess, VolumePreprocess
from medvit.types import Facts, Film, Volume


class LoadedBundle:
    """A bundle whose hashes and golden cases were checked.

    Raises:
        BundleError: the bundle is incomplete or altered, or this machine reads images differently.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.runtime = folder, verified(folder)

    def predict(self, source: Any, *, isolate: bool = False) -> pd.DataFrame:
        """Return one row per film or series, with the columns of predictions.csv; rejected ones say why.

        source: a file or folder, the bytes of a file, a pydicom data set, a 2-D array of display values (see
        `medvit.read_film`; it has no header, so the limits of the training set are not checked and a warning says so),
        or a list of these. isolate: decode in child processes with caps, as the command does for files of strangers.

        Raises:
            DataError: an empty folder, or a source of another type.
        """
        many = list(source) if isinstance(source, list | tuple) else [source]
        rows = [row for one in many for row in self._rows(one, isolate)]
        return pd.DataFrame(rows)

    def maps(self, source: str | Path) -> list[dict[str, Any]]:
        """Return occlusion maps of a file or folder: per film or series `uid`, `study` and `maps`, by name.

        A map lies on the original's pixels (or voxels), float32: how far the logit falls where a window shows even
        grey, 0 where the model never looked. Rejected images have no maps. Costs about 50 forward passes per film.

        Raises:
            DataError: an empty folder. BundleError: a bundle that does not tell its patch grid.
        """
        from medvit.clinical.occlusion import occlusion

        runtime = self.runtime
        units = units_in(Path(source), runtime.preprocess)
        found = []
        for unit, result in zip(units, predictions_of(runtime, units, isolate=False), strict=True):
            drawn = {}
            if result.status == "OK":
                made = occlusion(runtime, runtime.preprocess.prepare(unit.source))  # type: ignore[arg-type]
                drawn = {name: made.on_original(name) for name in made.names}
            found.append({"uid": unit.uid, "study": unit.study, "maps": drawn})
        return found

    def _rows(self, source: Any, isolate: bool) -> list[dict[str, Any]]:
        runtime = self.runtime
        if isinstance(source, np.ndarray):
            if runtime.preprocess.kind == "volume":
                raise DataError("This bundle takes volumes, whose geometry an array lacks; give the files of a series.")
            return [self._row(runtime.film(film_from(source, {})))]
        if isinstance(source, pydicom.Dataset):
            source = encoded(source)
        if isinstance(source, bytes):
            return [self._row(runtime.one(source))]
        if not isinstance(source, str | Path):
            raise DataError(f"predict takes files, folders, bytes, data sets or arrays; found {type(source).__name__}")
        units = units_in(Path(source), runtime.preprocess)
        found = predictions_of(runtime, units, isolate=isolate)
        return [self._row(one, unit.uid, unit.study) for unit, one in zip(units, found, strict=True)]

    def _row(self, result: Any, uid: str = "", study: str = "") -> dict[str, Any]:
        return {"uid": uid, "study": study, **result.row(self.runtime.names), "warnings": "; ".join(result.warnings)}


def film_from(source: Any, policy: Mapping[str, Any]) -> Film:
    """Read one film from a path, bytes, a data set or an array; see `medvit.read_film`."""
    if isinstance(source, np.ndarray):
        return _film_of_array(source)
    if isinstance(source, pydicom.Dataset):
        source = encoded(source)
    return FilmPreprocess(voi=policy).read(Path(source) if isinstance(source, str) else source)


def volume_from(source: str | Path | Sequence[str | Path | bytes], key: str, policy: Mapping[str, Any]) -> Volume:
    """Read the volume `key` of a series: of its folder, its files or their bytes, or a NIfTI file."""
    if isinstance(source, str | Path):
        files: list[Path | bytes] = [*files_in(Path(source))]
    else:
        files = [Path(file) if isinstance(file, str) else file for file in source]
    return VolumePreprocess(series=dict(policy)).read(files, key)


def encoded(dataset: pydicom.Dataset) -> bytes:
    """Return a data set as the bytes of its file, so that it is read as the file would be.

    Raises:
        DataError: it has no transfer syntax, or an element that cannot be written.
    """
    held = io.BytesIO()
    try:
        pydicom.dcmwrite(held, dataset, enforce_file_format=True)
    except (AttributeError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            "The pydicom data set cannot be written as a file, so it cannot be read as one: it needs file_meta with "
            f"a transfer syntax, and elements of the right types ({type(error).__name__})."
        ) from error
    return held.getvalue()


def _film_of_array(values: Any) -> Film:
    if values.ndim != 2:
        raise DataError(
            f"An array must be one film, (row, column); found {values.ndim} axes. Volumes need their files."
        )
    warning = ("W-ARRAY no header: what the model was trained for is not checked",)
    if values.dtype.kind == "u":
        return Film(values, 1.0 / np.iinfo(values.dtype).max, 0.0, Facts(), warnings=warning)
    if values.dtype.kind != "f" or not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise DataError(
            f"An array must hold display values: unsigned integers, or floats from 0 (black) to 1; found {values.dtype}"
            + (f" from {values.min():g} to {values.max():g}." if values.size else ".")
        )
    return Film(np.round(values * 65535).astype(np.uint16), 1.0 / 65535, 0.0, Facts(), warnings=warning)
