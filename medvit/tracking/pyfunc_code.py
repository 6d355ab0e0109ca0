"""The model file that MLflow runs to load a registered model (models-from-code): a medvit bundle behind one column.

MLflow copies this file into the model and executes it, so nothing is pickled. Input: a column `dicom` with the bytes of
one DICOM film per row. Output: one row per film: `status` ("OK" or "REJECTED"), `code`, `reason`, `draft`, then a
probability and a decision per finding (null where rejected). It needs no torch.
"""

from __future__ import annotations

from pathlib import Path

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from medvit.export import golden
from medvit.export.runtime import Runtime


class DicomModel(PythonModel):
    """Predicts from DICOM bytes with the bundle stored beside this file."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the bundle, checking every hash in it and that this machine reads images as training did."""
        self.runtime = Runtime(Path(context.artifacts["bundle"]))
        golden.check(self.runtime)

    # MLflow reads type hints here as a schema of its own; the stored signature says it already.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, ARG002
        """Return one row per DICOM file of the column `dicom`."""
        import pandas as pd

        results = self.runtime.predict([bytes(item) for item in model_input["dicom"]])
        return pd.DataFrame([result.row(self.runtime.names) for result in results])


set_model(DicomModel())
