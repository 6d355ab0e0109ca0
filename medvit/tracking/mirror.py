"""A run on an MLflow server, as its journal tells it: found or made there by medvit's run id, kept up to date."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medvit.errors import RunError
from medvit.tracking.backlog import PLACE, Backlog
from medvit.tracking.journal import file_sha256

RUN_TAG = "medvit.run"  # on the server: the id of the run here
LIST, LIST_TAG = "sha256.json", "medvit.sha256"  # below PLACE: SHA-256 of every file there; the tag has the list's own
STATE = "mirror.json"  # in the folder of a run: the server it goes to, and how far that has come
_TIMEOUT, _RETRIES = "30", "2"
_PARENT = "mlflow.parentRunId"


class Unreachable(RunError):
    """A server that does not answer, or not now."""


class Mirror:
    """The run of a folder on the server at `uri`; `experiment` is another name there than the journal has.

    Every call that needs the server raises Unreachable (try again later) or RunError (the server will not have it).
    """

    def __init__(self, folder: Path, uri: str, experiment: str | None = None, retries: str = _RETRIES) -> None:
        # read by MLflow at every request; its own are 7 retries, which take minutes
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", retries)
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", _TIMEOUT)
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # a line per retry
        self.folder, self.uri, self._experiment = folder, uri, experiment
        with answers(uri):
            self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.run = ""
        self.experiment_id = ""
        found = state(folder)
        known = found.get("uri") == uri
        self._known: str = found.get("run", "") if known else ""
        self._files: dict[str, str] = found.get("artifacts", {}) if known else {}
        self._listed: str = found.get("listed", "") if known else ""
        self._parent = ""

    def send(self, backlog: Backlog) -> None:
        """Send what is left; the first time, and after a failure, only what the server has not."""
        try:
            with answers(self.uri):
                if not self.run:
                    self._find(backlog)
                    backlog.leave_out(self._points(), self._there())
                self._join_parent()
                self.save(len(backlog))

                def sent(name: str, digest: str) -> None:
                    self._files |= {name: digest} if name else {}
                    self.save(len(backlog))

                backlog.send(self.client, self.run, self.experiment_id, self.folder, sent)
                self._list()
        except Unreachable:
            self.run = ""
            raise
        except RunError:
            self._refuse_deleted(backlog)
            raise
        self.save(len(backlog))

    def save(self, behind: int, error: str = "") -> None:
        """Leave word of how far it has come, for the process that trains and for `medvit sync`."""
        told = {
            "uri": self.uri,
            "run": self.run or self._known,
            "experiment": self.experiment_id,
            "behind": behind,
            "error": error,
            "process": os.getpid(),
            "artifacts": self._files,
            "listed": self._listed,
        }
        draft = self.folder / f".{STATE}.{os.getpid()}"
        with suppress(OSError):  # a full disk; nothing depends on it
            draft.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            draft.replace(self.folder / STATE)

    def _list(self) -> None:
        """Say on the server which files a machine without the run's folder needs, and their hashes."""
        if not any(name.startswith(PLACE) for name in self._files):
            return
        listed = self.client.get_run(self.run).data.tags.get(LIST_TAG, "")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / LIST
            if listed not in ("", self._listed):  # another machine added to the run
                place = Path(self.client.download_artifacts(self.run, PLACE + LIST, folder))
                if file_sha256(place) == listed:
                    self._files = json.loads(place.read_text(encoding="utf-8")) | self._files
            file.write_text(json.dumps(self._files, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            if (own := file_sha256(file)) != listed:
                self.client.log_artifact(self.run, str(file), PLACE.rstrip("/"))
                self.client.set_tag(self.run, LIST_TAG, own)
        self._listed = own

    def _find(self, backlog: Backlog) -> None:
        from mlflow.entities import ViewType

        own = self.folder.name if not backlog.start else backlog.start["run"]
        run = self._get(self._known)
        if run is None:
            experiment = self._experiment_id(self._experiment or backlog.start["experiment"])
            found = self.client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{own}'", ViewType.ALL, max_results=1)
            run = found[0] if found else None
        if run is None:
            begun, name = backlog.start["at"], backlog.start["name"]
            tags = {RUN_TAG: own, "mlflow.source.type": "LOCAL"}
            run = self.client.create_run(experiment, start_time=begun, run_name=name, tags=tags)
        self.run = self._known = run.info.run_id
        self._refuse_deleted(backlog)
        self.experiment_id = run.info.experiment_id
        self._parent = backlog.start.get("parent") or ""

    def _refuse_deleted(self, backlog: Backlog) -> None:
        with answers(self.uri):
            if self.run and self.client.get_run(self.run).info.lifecycle_stage != "active":
                name = self._experiment or backlog.start["experiment"]
                raise RunError(
                    f"{self.uri}: the run was deleted there, or its experiment {name!r} was; restore it there"
                )

    def _get(self, run: str) -> Any:
        """Return a run of the server; None where it has none of that id, as after a move to another database."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(run) if run else None
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                self._files.clear()
                return None
            raise

    def _experiment_id(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self.client.create_experiment(name))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = self.client.get_experiment_by_name(name)
        if found is None or found.lifecycle_stage != "active":
            raise RunError(
                f"{self.uri}: the experiment {name!r} was deleted there; restore it there, or give another one: "
                "tracking.experiment=NAME"
            )
        return str(found.experiment_id)

    def _points(self) -> dict[tuple[str, int], float]:
        """Return the last value that the server has of every point, by name and step."""
        found = {}
        for name in self.client.get_run(self.run).data.metrics:
            history = self.client.get_metric_history(self.run, name)
            for one in sorted(history, key=lambda each: int(each.timestamp)):
                found[name, int(one.step)] = float(one.value)
        return found

    def _there(self) -> dict[str, str]:
        """Return the files that were sent, by name, and that the server still lists."""
        if not self._files:
            return {}
        folders, listed = [None], set()
        while folders:
            for each in self.client.list_artifacts(self.run, folders.pop()):
                folders.append(each.path) if each.is_dir else listed.add(each.path)
        return {name: digest for name, digest in self._files.items() if name in listed}

    def _join_parent(self) -> None:
        """Show the run under its parent, once the server has that."""
        if not self._parent:
            return
        found = self.client.search_runs([self.experiment_id], f"tags.`{RUN_TAG}` = '{self._parent}'", max_results=1)
        if found:
            self.client.set_tag(self.run, _PARENT, found[0].info.run_id)
            self._parent = ""


def state(folder: Path) -> dict[str, Any]:
    """Return what was left word of about the mirror of a run; empty where it has none."""
    try:
        found = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def answers(uri: str) -> Iterator[None]:
    """Turn what MLflow and the network complain of into Unreachable or RunError; their own texts may hold credentials.

    `uri` holds none (`mlflow_server.store_problems`).
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        yield
    except RunError:
        raise
    except (MlflowException, RequestException, OSError) as error:
        code, name = answer_of(error)
        if not code and getattr(error, "filename", None):
            raise Unreachable(f"{uri}: a file of the run cannot be read ({error.strerror})") from None  # type: ignore[union-attr]
        if _caused_by(error, "SSLError"):
            said = "its certificate is not accepted; give the CA's file as MLFLOW_TRACKING_SERVER_CERT_PATH"
        elif code in (401, 403):
            said = (
                f"it refuses the credentials ({code}); give MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, of an account that may write"
            )
        elif name == "RESOURCE_DOES_NOT_EXIST":
            said = "the run, or its experiment, is not there any more"
        elif name == "ENDPOINT_NOT_FOUND" or code in (301, 302, 404, 405):
            said = f"it does not answer as an MLflow server of this version does ({code})"
        elif 400 <= code < 500 and code not in (408, 409, 425, 429):
            said = f"it refuses what it was sent ({name if code == 400 else code})"
        else:
            raise Unreachable(f"{uri}: {_silence(error, code)}") from None
        raise RunError(f"{uri}: {said}") from None


def answer_of(error: Exception) -> tuple[int, str]:
    """Return the HTTP status of the answer and MLflow's name of it; 0 where there was no answer."""
    response = getattr(error, "response", None)
    if response is not None:
        return int(response.status_code), ""
    name, text = str(getattr(error, "error_code", "")), str(error)
    # urllib3's, of an answer that it would ask for again; MLflow's, which has no name for every status
    if code := re.search(r"too many (\d{3}) error responses|failed with error code (\d{3})", text):
        return int(code[1] or code[2]), name
    if "failed with exception" in text or "failed with timeout" in text or not name:
        return 0, ""
    return int(error.get_http_status_code()), name  # type: ignore[attr-defined]


def _silence(error: Exception, code: int) -> str:
    if code:
        return f"it answers {code}"
    if _caused_by(error, "NameResolutionError", "gaierror"):
        return "no machine of this name is known"
    if _caused_by(error, "ConnectionRefusedError", "NewConnectionError"):
        return "nothing answers there"
    return "it does not answer in time, or the connection broke off"


def _caused_by(error: BaseException | None, *names: str) -> bool:
    """Say whether an error came of one whose class has one of these names; urllib3 hides some in `reason`."""
    seen = []
    while error is not None and error not in seen:
        seen.append(error)
        if type(error).__name__ in names:
            return True
        inner = getattr(error, "reason", None) or next((a for a in error.args if isinstance(a, BaseException)), None)
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
    return False
