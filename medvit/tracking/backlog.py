"""What the journal of a run tells that its server has not got yet, sent in an order that can be taken up anywhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvit.tracking import saved_view
from medvit.tracking.run import artifacts_of, dataset_input

OVER = ("FINISHED", "FAILED", "KILLED")
PLACE = "run/"  # on a server, among the artifacts: what rebuilds the run
_PARAMS, _POINTS, _TAGS = 100, 1000, 100  # that MLflow takes in one request


@dataclass
class Backlog:
    """Events of a journal, folded into what is left to send; what is sent leaves it.

    Everything has a key, so that sending it again changes nothing: a parameter and a tag its name, a point its name and
    step, a file its name and SHA-256, the status the run.
    """

    start: dict[str, Any] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    points: dict[tuple[str, int], tuple[float, int]] = field(default_factory=dict)  # value, time
    datasets: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[str, str] = field(default_factory=dict)  # SHA-256 by name
    files: dict[str, str] = field(default_factory=dict)  # the same of what rebuilds the run
    view: dict[str, Any] = field(default_factory=dict)
    status: tuple[str, int] | None = None
    _params_seen: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        told = len(self.params) + len(self.tags) + len(self.points) + len(self.datasets) + len(self.artifacts)
        told += len(self.files)
        return told + bool(self.view) + (self.status is not None)

    def take(self, events: Iterable[dict[str, Any]]) -> None:
        """Add events of the journal."""
        for event in events:
            getattr(self, f"_take_{event['event']}", _ignore)(event)

    def leave_out(self, points: dict[tuple[str, int], float], artifacts: dict[str, str]) -> None:
        """Drop the points and files that the server has already, with the same value and content."""
        for key in points.keys() & self.points.keys():
            if _as_kept(points[key]) == _as_kept(self.points[key][0]):
                del self.points[key]
        for name, digest in artifacts.items():
            if self.artifacts.get(name) == digest:
                del self.artifacts[name]
        self.files = {name: own for name, own in self.files.items() if artifacts.get(PLACE + name) != own}

    def _take_start(self, event: dict[str, Any]) -> None:
        self.start = event

    def _take_params(self, event: dict[str, Any]) -> None:
        for key, value in event["values"].items():  # the first value counts: MLflow takes no second one
            if key not in self._params_seen:
                self._params_seen.add(key)
                self.params[key] = value

    def _take_metrics(self, event: dict[str, Any]) -> None:
        for key, value in event["values"].items():
            self.points[key, event["step"]] = (float(value), event["at"])

    def _take_tags(self, event: dict[str, Any]) -> None:
        self.tags |= event["values"]

    def _take_dataset(self, event: dict[str, Any]) -> None:
        self.datasets.append(event)

    def _take_view(self, event: dict[str, Any]) -> None:
        self.view = event

    def _take_artifact(self, event: dict[str, Any]) -> None:
        self.artifacts[event["name"]] = event["sha256"]

    def _take_files(self, event: dict[str, Any]) -> None:
        self.files = dict(event["values"])

    def _take_status(self, event: dict[str, Any]) -> None:
        self.status = (event["status"], event["at"])

    def send(self, client: Any, run: str, experiment: str, folder: Path, sent: Callable[[str, str], None]) -> None:
        """Send all of it to the run of a server; `sent` is told the name and SHA-256 of each file, and "" in between.

        Where an error ends it, what was sent before is not sent again. A file that is not there any more is left out.
        """
        self._send_values(client, run, sent)
        while self.datasets:
            one = self.datasets[0]
            given = dataset_input(one["name"], one["digest"], one["context"], one["profile"])
            client.log_inputs(run, [given])
            self.datasets.pop(0)
            sent("", "")
        for name, digest in list(self.artifacts.items()):
            file = artifacts_of(folder) / name
            if file.is_file():
                above = name.rpartition("/")[0]
                client.log_artifact(run, str(file), above or None)
                sent(name, digest)
            del self.artifacts[name]
        if self.view:
            saved_view.save(client, experiment, self.view["metrics"], self.view["params"])
            self.view = {}
        if self.status:
            status, at = self.status
            if status in OVER:
                client.set_terminated(run, status, end_time=at)
            else:
                client.update_run(run, status)
            self.status = None
            sent("", "")
        for name, digest in list(self.files.items()):  # weights take longest, and the run is closed by now
            if (folder / name).is_file():
                client.log_artifact(run, str(folder / name), (PLACE + name).rpartition("/")[0])
                sent(PLACE + name, digest)
            del self.files[name]

    def _send_values(self, client: Any, run: str, sent: Callable[[str, str], None]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        def some(values: dict[Any, Any], most: int) -> list[Any]:
            return list(values.items())[:most]

        while self.params or self.tags or self.points:
            params, tags = some(self.params, _PARAMS), some(self.tags, _TAGS)
            points = some(self.points, _POINTS - len(params) - len(tags))
            client.log_batch(
                run,
                metrics=[Metric(key, value, at, step) for (key, step), (value, at) in points],
                params=[Param(key, value) for key, value in params],
                tags=[RunTag(key, value) for key, value in tags],
            )
            for kept, gone in ((self.params, params), (self.tags, tags), (self.points, points)):
                for key, _ in gone:
                    del kept[key]
            sent("", "")


def _as_kept(value: float) -> str:
    """Return a value as text that is the same for one that a server has kept: without infinity, and nan is nan."""
    most = sys.float_info.max
    return repr(min(max(value, -most), most) if value == value else value)  # noqa: PLR0124


def _ignore(_: dict[str, Any]) -> None:
    """Leave an event of a later version."""
