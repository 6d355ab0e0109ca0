"""The model file that MLflow runs to load a registered model (models-from-code): a medvit bundle behind one column.

MLflow copies this file into the model and executes it, so nothing is pickled. Input: a column `dicom` with the bytes of
one DICOM file per row. A model of volumes puts the rows of one volume together, each of which gets the answer on the
volume. Output: one row per file: `status` (OK, REJECTED or SKIPPED), `code`, `reason`, `draft`, then a probability
and a decision per finding (null where there is none). It needs no torch.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from medvit.bundle import golden
from medvit.bundle.runtime import Runtime, Source
from medvit.clinical.units import volumes_in
from medvit.preprocess import VolumePreprocess
from medvit.series.policy import SeriesPolicy


class DicomModel(PythonModel):
    """Predicts from DICOM bytes with the bundle stored beside this file."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the bundle, checking every hash in it and that this machine reads images as training did."""
        self.runtime = Runtime(Path(context.artifacts["bundle"]))
        golden.check(self.runtime)

    # MLflow takes no schema from this hint (the stored signature has it) but warns where there is none.
    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:  # noqa: ARG002
        """Return one row per DICOM file of the column `dicom`."""
        files = [_file(item) for item in model_input["dicom"]]
        preprocess = self.runtime.preprocess
        units: list[tuple[list[int], Source]] = [([place], file) for place, file in enumerate(files)]
        if isinstance(preprocess, VolumePreprocess):
            units = [*volumes_in(files, SeriesPolicy(**preprocess.series))]
        rows = {}
        for (places, _), result in zip(units, self.runtime.predict([source for _, source in units]), strict=True):
            rows.update(dict.fromkeys(places, result.row(self.runtime.names)))
        # objects, so that "no number" stays None: a NaN is no JSON
        return pd.DataFrame([rows[place] for place in range(len(files))], dtype=object)


def _file(item: Any) -> bytes:
    """Return the file of a row; of `inputs` and `instances` MLflow leaves base64 as it is, which no DICOM file is."""
    data = item.encode() if isinstance(item, str) else bytes(item)
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        return data


set_model(DicomModel())
