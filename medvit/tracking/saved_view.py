"""The saved view of an experiment: the MLflow page opens as a training experiment with the columns that matter.

MLflow 3.17 opens on traces and shows no metric. A view is one experiment tag; its format is not documented by MLflow,
so a browser test keeps watch, and a format that changes leaves only the plain page.
"""

from __future__ import annotations

import base64
import json
import shlex
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

KEY = "medvit"


def save(client: Any, experiment_id: str, metrics: Sequence[str], params: Sequence[str]) -> None:
    """Write the view "medvit" into the experiment: runs ordered by the first metric, metric then parameter columns."""
    columns = [f"metrics.`{name}`" for name in metrics] + [f"params.`{name}`" for name in params]
    shown = ["attributes.`Created`", "attributes.`Duration`", *columns]
    state = {
        "searchFilter": "",
        "orderByKey": columns[0] if metrics else "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": shown,
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "FIRST_10_RUNS",
        "hideEmptyCharts": True,
        "groupBy": None,
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    now = int(time.time() * 1000)
    view = {"name": "medvit: results", "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"}
    client.set_experiment_tag(experiment_id, f"mlflow.sharedViewState.{KEY}", json.dumps(view))


def link(experiment_id: str, run_id: str | None = None, base: str = "http://127.0.0.1:5000") -> str:
    """Return the address of the saved view, or of one run, in a running MLflow UI."""
    if run_id:
        return f"{base}/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"
    return f"{base}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={KEY}"


def command(folder: str) -> str:
    """Return the line for any shell that opens the MLflow UI on a runs folder, on this machine only, telemetry off."""
    program = Path(sys.executable).with_name("mlflow")
    store = shlex.quote(f"sqlite:///{folder}/mlflow.db")
    where = f"--backend-store-uri {store} --host 127.0.0.1 --port 5000"
    return f"MLFLOW_DISABLE_TELEMETRY=true {shlex.quote(str(program))} ui {where}"
