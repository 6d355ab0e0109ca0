"""The model file that MLflow runs to load a registered model (models-from-code): a medvit bundle behind one column.

MLflow copies this file into the model and executes it, so nothing is pickled. Input: a column `dicom` with the bytes of
one DICOM file per row. A model of volumes puts the rows of one series together, each of which gets the answer on the
series. Output: one row per file: `status` (OK, REJECTED or SKIPPED), `code`, `reason`, `draft`, then a probability
and a decision per finding (null where there is none). It needs no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from medvit.bundle import golden
from medvit.bundle.runtime import Runtime
from medvit.clinical.results import series_of


class DicomModel(PythonModel):
    """Predicts from DICOM bytes with the bundle stored beside this file."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the bundle, checking every hash in it and that this machine reads images as training did."""
        self.runtime = Runtime(Path(context.artifacts["bundle"]))
        golden.check(self.runtime)

    # MLflow takes no schema from this hint (the stored signature has it) but warns where there is none.
    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:  # noqa: ARG002
        """Return one row per DICOM file of the column `dicom`."""
        files = [bytes(item) for item in model_input["dicom"]]
        volumes = self.runtime.preprocess.kind == "volume"
        groups = series_of(files) if volumes else [[place] for place in range(len(files))]
        sources = [files[group[0]] if len(group) == 1 else [files[place] for place in group] for group in groups]
        rows = {}
        for group, result in zip(groups, self.runtime.predict(sources), strict=True):
            rows.update(dict.fromkeys(group, result.row(self.runtime.names)))
        return pd.DataFrame([rows[place] for place in range(len(files))])


set_model(DicomModel())
