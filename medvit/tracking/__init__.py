"""Runs, their tags, provenance and models in MLflow: the only place that imports mlflow."""

import os

# read when mlflow is imported, so set before anything else
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")  # 3.17 allows it by default
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
