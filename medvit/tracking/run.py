"""One run in its journal and in MLflow: opened, written once per epoch, finished or failed, and found again by its id.

What is told of a run stands in its journal first (`medvit.tracking.journal`). The store is a file beside the runs
(`medvit.tracking.store`), so that nothing has to be started before training; the same folder opens in the MLflow UI.
Artifacts are read and written where that folder is, as files. Only the client is used, never MLflow's fluent functions:
those add the user's name and the script's path to every run.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from medvit.atomic_file import replace_file
from medvit.errors import RunError
from medvit.tracking import journal, saved_view
from medvit.tracking import run_id as run_id_of
from medvit.tracking.allow_list import check_artifact, check_metrics, check_tags, flat, mlflow_name
from medvit.tracking.journal import Journal, file_sha256
from medvit.tracking.store import called, open_client

_PARENT = "mlflow.parentRunId"
_STEPS = 200  # points that MLflow's store gets at once: each write there waits for the disk
_PARAM_LIMIT = 6000  # characters, MLflow's own limit for one parameter


@dataclass(frozen=True)
class Run:
    """A handle on one run. As a context manager it ends the run: FINISHED, FAILED on an error, KILLED by a signal."""

    client: Any
    id: str
    experiment_id: str
    folder: Path  # <runs>/<run id>: checkpoints and resolved settings, never uploaded as a whole
    _steps: list[tuple[str, float, int, int]] = field(default_factory=list, compare=False, repr=False)

    def params(self, config: Mapping[str, Any]) -> None:
        """Log the declared part of the resolved configuration, flattened; places and odd strings are withheld."""
        from mlflow.entities import Param

        texts = {key: value if len(value) <= _PARAM_LIMIT else "(too long)" for key, value in flat(config).items()}
        self._tell("params", values=texts)
        items = [Param(key, value) for key, value in texts.items()]
        with _writing("the parameters"):
            for start in range(0, len(items), 100):
                self.client.log_batch(self.id, params=items[start : start + 100])

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log metrics of one epoch in a single write. Names are `train/...`, `val/...`, `test/...`, `time/...`."""
        from mlflow.entities import Metric

        self._write_steps()
        now, named = self._tell_metrics(values, step)
        points = [Metric(key, value, now, step) for key, value in named.items()]
        with _writing("the metrics"):
            self.client.log_batch(self.id, metrics=points)

    def steps(self, values: Mapping[str, float], step: int) -> None:
        """Tell the journal of the numbers of a step; MLflow's store gets them with the epoch's, or 200 at once."""
        now, named = self._tell_metrics(values, step, durable=False)
        self._steps.extend((key, value, now, step) for key, value in named.items())
        if len(self._steps) >= _STEPS:
            self._write_steps()

    def _write_steps(self) -> None:
        from mlflow.entities import Metric

        with _writing("the metrics"):
            for start in range(0, len(self._steps), _STEPS):
                self.client.log_batch(self.id, metrics=[Metric(*each) for each in self._steps[start : start + _STEPS]])
        self._steps.clear()

    def _tell_metrics(
        self, values: Mapping[str, float], step: int, *, durable: bool = True
    ) -> tuple[int, dict[str, float]]:
        check_metrics(values)
        named = {mlflow_name(key): float(value) for key, value in values.items()}
        told = {key: journal.plain(value) for key, value in named.items()}
        return self._tell("metrics", durable=durable, step=step, values=told), named

    def tags(self, values: Mapping[str, str]) -> None:
        """Set `medvit.*` tags."""
        check_tags(values)
        self._set_tags(values)

    def note(self, markdown: str) -> None:
        """Set the description that the MLflow page of the run shows (Markdown, tables allowed)."""
        self._set_tags({"mlflow.note.content": markdown})

    def _set_tags(self, values: Mapping[str, str]) -> None:
        self._tell("tags", values=dict(values))
        for key, value in values.items():
            self.client.set_tag(self.id, key, value)

    def view(self, metrics: Sequence[str], params: Sequence[str]) -> None:
        """Let the page of the experiment show these columns."""
        self._tell("view", metrics=list(metrics), params=list(params))
        saved_view.save(self.client, self.experiment_id, metrics, params)

    def artifact(self, file: Path, name: str | None = None) -> None:
        """Attach a file under `name` ("report.html", "tables/metrics.csv"); only kinds on the allow-list."""
        name = name or file.name
        check_artifact(name)
        with _writing("an artifact"):
            replace_file(self._artifacts / name, lambda draft: shutil.copyfile(file, draft))
            digest = file_sha256(self._artifacts / name)
        self._tell("artifact", name=name, sha256=digest)

    def files(self, names: Sequence[str]) -> None:
        """Name the files of the run's folder that another machine rebuilds it from; a server gets them, as `run/`."""
        with _writing("the journal of the run"):
            found = {name: file_sha256(self.folder / name) for name in names}
        self._tell("files", values=found)

    def json(self, value: Any, name: str) -> None:
        """Attach `value` as a JSON artifact."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(name).name
            file.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            self.artifact(file, name)

    def dataset(self, name: str, digest: str, context: str, profile: Mapping[str, Any] | None = None) -> None:
        """Record a data set by name and content digest (context "training", "validation", "test"); never its place."""
        self._tell("dataset", name=name, digest=digest, context=context, profile=dict(profile or {}))
        self.client.log_inputs(self.id, [dataset_input(name, digest, context, profile or {})])

    def fetch(self, name: str, into: Path) -> Path:
        """Copy an artifact of the run into a folder and return the copy.

        Raises:
            RunError: the run has no such artifact.
        """
        have = self.artifacts()
        if name not in have:
            raise RunError(f"Run {self.id} has no artifact {name!r}; it has: {', '.join(have) or 'none'}.")
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(self._artifacts / name, into / name))

    def artifacts(self) -> list[str]:
        """Return the relative names of all files attached to the run."""
        files = (path for path in self._artifacts.rglob("*") if path.is_file())
        return sorted(path.relative_to(self._artifacts).as_posix() for path in files)

    @property
    def _artifacts(self) -> Path:
        return artifacts_of(self.folder)

    def _tell(self, event: str, **content: Any) -> int:
        with _writing("the journal of the run"):
            return Journal(self.folder).write(event, **content)

    @property
    def status(self) -> str:
        """RUNNING, FINISHED, FAILED or KILLED."""
        return str(self.client.get_run(self.id).info.status)

    @property
    def values(self) -> dict[str, float]:
        """The last value of every metric."""
        return dict(self.client.get_run(self.id).data.metrics)

    @property
    def labels(self) -> dict[str, str]:
        """The `medvit.*` tags."""
        tags = self.client.get_run(self.id).data.tags
        return {key: value for key, value in tags.items() if key.startswith("medvit.")}

    def finish(self, status: str = "FINISHED") -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        try:
            self._write_steps()
            self._tell("status", status=status)
        finally:  # also where the disk is full: a run is never left RUNNING
            self.client.set_terminated(self.id, status)

    def __enter__(self) -> Run:
        self._tell("status", status="RUNNING")
        self.client.update_run(self.id, "RUNNING")  # a resumed one was KILLED or FAILED
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        killed = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.finish("KILLED" if killed else "FINISHED" if kind is None else "FAILED")


def artifacts_of(folder: Path) -> Path:
    """Return where MLflow keeps the artifacts of the run whose folder this is."""
    return folder.parent / "artifacts" / folder.name / "artifacts"


def dataset_input(name: str, digest: str, context: str, profile: Mapping[str, Any]) -> Any:
    """Return a data set as MLflow lists it among the inputs of a run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"sha256": digest})
    data = Dataset(name, digest[:32], "medvit-manifest", source, profile=json.dumps(dict(profile)))
    return DatasetInput(data, [InputTag("mlflow.data.context", context)])


@contextmanager
def _writing(what: str) -> Iterator[None]:
    """Turn MLflow's and the disk's complaints into a RunError; theirs may hold paths and values."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = getattr(error, "error_code", None) or getattr(error, "strerror", None) or type(error).__name__
        raise RunError(
            f"{what} cannot be written into the runs folder ({reason}). Is the disk full, or the folder read-only? "
            "A parameter of a run can be written once: a resumed run must keep its settings."
        ) from error


def start(folder: Path, experiment: str, name: str, parent: str | None = None) -> Run:
    """Open a new run in `folder`, making the experiment when it is new, and its folder `<folder>/<run id>`.

    `parent`: the id of the run that MLflow shows it under.

    Raises:
        RunError: the folder cannot be written, or the experiment was deleted in the MLflow UI.
    """
    client = open_client(folder)
    experiment_id = _experiment(client, folder, experiment)
    tags = {"mlflow.source.type": "LOCAL", **({_PARENT: parent} if parent else {})}
    run = client.create_run(experiment_id, run_name=name, tags=tags)
    own = folder.resolve() / run.info.run_id
    try:
        own.mkdir(parents=True)
    except OSError as error:
        client.set_terminated(run.info.run_id, "FAILED")
        raise RunError(f"The folder of the run cannot be made ({error.strerror}). Give tracking.folder=DIR.") from error
    made = Run(client, run.info.run_id, experiment_id, own)
    made._tell("start", run=made.id, experiment=experiment, name=name, parent=parent, schema=journal.SCHEMA)
    return made


def children(parent: Run) -> list[tuple[Run, dict[str, str]]]:
    """Return the runs that were started under a run, the newest first, with their parameters."""
    wanted = f"tags.`{_PARENT}` = '{parent.id}'"
    found = parent.client.search_runs([parent.experiment_id], wanted, order_by=["attributes.start_time DESC"])
    place = parent.folder.parent
    return [
        (Run(parent.client, each.info.run_id, parent.experiment_id, place / each.info.run_id), dict(each.data.params))
        for each in found
    ]


def _experiment(client: Any, folder: Path, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        with suppress(MlflowException):  # another process may have made it since the line above
            return str(client.create_experiment(name, artifact_location=(folder.resolve() / "artifacts").as_uri()))
        found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise RunError(
            f"The experiment {name!r} was deleted in MLflow. Restore it, or give tracking.experiment=NAME a new name."
        )
    return str(found.experiment_id)


def get(run_id: str, folder: Path, finished: bool = False) -> Run:
    """Return the run `run_id` of a runs folder: its id, six or more first characters of it, or "latest" (started last).

    With `finished`, a run that is not FINISHED is refused, and "latest" is the last that finished.

    Raises:
        RunError: no database in the folder, no such run (the nearest are named) or several, or it is not finished.
    """
    from mlflow.exceptions import MlflowException

    if not (folder / "mlflow.db").is_file():
        raise RunError(f"{called(folder)} holds no mlflow.db. Train first, or give tracking.folder=DIR.")
    client = open_client(folder)
    run_id = run_id_of.resolve(client, run_id, finished)
    try:
        info = client.get_run(run_id).info
    except MlflowException:
        info = None
    if info is None or info.lifecycle_stage != "active":
        raise RunError(run_id_of.unknown(client, run_id))
    run = Run(client, info.run_id, info.experiment_id, folder.resolve() / info.run_id)
    if finished and info.status != "FINISHED":
        raise RunError(f"Run {run_id} is {info.status}, not FINISHED. Let it end, or train again.")
    if finished and (best := run.labels.get("medvit.best_run")):
        raise RunError(f"Run {run_id} is a search, which has no network of its own; its best trial is run={best}")
    return run
