"""An MLflow server for tests, on this machine: killed, brought back at the same address, or made to misbehave."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from medvit.tracking import store


class Server:
    """MLflow's own application (`mlflow_app.py`) on a SQLite file and a folder of artifacts."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port = folder, 0
        store._create(folder / "server.db")  # MLflow takes 6 s for it
        self.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def start(self) -> None:
        code = str(Path(__file__).with_name("mlflow_app.py"))
        given = [self.folder / "server.db", self.folder / "artifacts", self.port, self.folder / "faults.json"]
        with (self.folder / "log.txt").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, code, *map(str, given)], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def misbehave(self, **faults: Any) -> None:
        file = self.folder / "faults.json"
        file.unlink(missing_ok=True)
        if faults:
            file.with_suffix(".draft").write_text(json.dumps(faults))
            file.with_suffix(".draft").rename(file)

    def run_of(self, own: str, experiment: str = "films") -> Any:
        """Return what the server has of a run of medvit; there has to be exactly one."""
        found = self.client.get_experiment_by_name(experiment)
        (run,) = self.client.search_runs([found.experiment_id], f"tags.`medvit.run` = '{own}'")
        return run

    def history(self, run: Any) -> dict[str, list[tuple[int, float]]]:
        """Return step and value of every point of a run."""
        return {
            name: [(one.step, one.value) for one in self.client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }

    def files(self, run: Any, path: str | None = None) -> list[str]:
        found = self.client.list_artifacts(run.info.run_id, path)
        return sorted(f for each in found for f in (self.files(run, each.path) if each.is_dir else [each.path]))


def at(runs: Path, uri: str) -> dict[str, Any]:
    """Return the settings `tracking` of medvit.sync."""
    return {"folder": str(runs), "uri": uri, "experiment": None}
