"""A run that only an MLflow server has, brought into the runs folder here, every file checked by its hash."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from medvit.atomic_file import replace_file
from medvit.errors import DataError, RunError
from medvit.tracking import journal, run_id
from medvit.tracking import run as runs
from medvit.tracking.allow_list import WITHHELD
from medvit.tracking.backlog import OVER, PLACE
from medvit.tracking.journal import file_sha256
from medvit.tracking.mirror import LIST, LIST_TAG, RUN_TAG, STATE, Mirror, answer_of, answers
from medvit.tracking.provenance import SHARED_CONFIG

logger = logging.getLogger(__name__)
_CONFIG, _HASHES = "config.json", "hashes.json"
_NOTE = "mlflow.note.content"


def bring(asked: str, tracking: Mapping[str, Any], uri: str | None, data: bool = True) -> str:
    """Return the id of the run that is asked for; one that is not here is fetched from the server at `uri`, if any.

    asked: an id (here or there), the first characters of one, or latest, which is one of this machine where it has any.
    With `data`, the data set of a run from a server is looked for by its digest: in `tracking.data_folder`, or below
    `work/` and the working directory.

    Raises:
        RunError: no such run, a server that does not answer or refuses, or a file that is not what was sent.
        DataError: the data set is not here.
    """
    folder = Path(tracking["folder"])
    run = _here(asked, folder)
    if run is None and uri is None:
        return asked  # what is wrong with it is said where it is opened
    if run is None:
        run = _fetch(asked, folder, uri or "")
    if data:
        _settle_data(run, tracking.get("data_folder"))
    return run.id


def _here(asked: str, folder: Path) -> runs.Run | None:
    """Return a run that is whole on this machine."""
    if not (folder / "mlflow.db").is_file():
        return None
    try:
        found = runs.get(asked, folder)
    except RunError:
        return None
    return found if found.folder.is_dir() else None


def _fetch(asked: str, folder: Path, uri: str) -> runs.Run:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch.") as place, answers(uri):
        draft = Path(place) / "run"
        draft.mkdir()
        server = Mirror(draft, uri)
        there = _there(server.client, asked, uri)
        own = there.data.tags[RUN_TAG]
        if there.info.status not in OVER:
            raise RunError(f"{uri}: run {own} is {there.info.status} there: wait for its end")
        files = _files(server.client, there, Path(place), uri)
        logger.info("fetching run %s from %s: %d files", own[:8], uri, len(files))
        for name, digest in files.items():
            into = draft / name.removeprefix(PLACE) if name.startswith(PLACE) else Path(place) / "artifacts" / name
            _download(server.client, there.info.run_id, name, digest, into, uri)
        _rebuild(draft, own)
        experiment = server.client.get_experiment(there.info.experiment_id).name
        run = _enter(folder, there, own, experiment)
        _tell(draft, server.client, there, experiment, files)
        sent = {"uri": uri, "run": there.info.run_id, "experiment": there.info.experiment_id, "behind": 0, "error": "",
                "artifacts": files, "listed": there.data.tags[LIST_TAG]}  # fmt: skip
        (draft / STATE).write_text(json.dumps(sent, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        _mirror_here(run, draft)
        if (kept := Path(place) / "artifacts").is_dir():
            shutil.copytree(kept, runs.artifacts_of(run.folder), dirs_exist_ok=True)
            for report in (kept / "report").glob("*"):  # where compare and export look for it
                shutil.copytree(report, draft / f"evaluation_{report.name}")
        draft.rename(run.folder)  # last: with it the run is here
    return run


def _there(client: Any, asked: str, uri: str) -> Any:
    """Return the run of a server that is meant by an id of medvit's or of the server's, the beginning of one, latest.

    Raises:
        RunError: there is none, or several begin so.
    """
    from mlflow.exceptions import MlflowException

    experiments = [each.experiment_id for each in client.search_experiments()]
    if asked == run_id.LATEST:
        newest = ["attributes.end_time DESC"]
        found = client.search_runs(experiments, "attributes.status = 'FINISHED'", max_results=100, order_by=newest)
        found = [each for each in found if RUN_TAG in each.data.tags][:1]
    elif not re.fullmatch(r"[0-9a-f]{6,32}", asked):
        found = []
    else:
        found = list(client.search_runs(experiments, f"tags.`{RUN_TAG}` LIKE '{asked}%'", max_results=2))
        if not found and len(asked) == 32:
            try:
                found = [client.get_run(asked)]
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
    found = [each for each in found if RUN_TAG in each.data.tags and each.info.lifecycle_stage == "active"]
    if not found:
        raise RunError(f"There is no run {asked!r} of medvit in the runs folder, and none on {uri}")
    if len(found) > 1:
        raise RunError(f"run={asked} is the beginning of several runs on {uri}: give more of it")
    return found[0]


def _files(client: Any, there: Any, place: Path, uri: str) -> dict[str, str]:
    """Return the SHA-256 of every file of the run there, by name, from its list, which the run's tag vouches for."""
    if LIST_TAG not in there.data.tags:
        own = there.data.tags[RUN_TAG]
        raise RunError(
            f"{uri} has no weights of run {own}: it is a fold or trial, not sent to its end, or of an earlier version. "
            f"Where it was trained: medvit sync RUNS/{own}"
        )
    file = place / LIST
    _download(client, there.info.run_id, PLACE + LIST, there.data.tags[LIST_TAG], file, uri)
    found: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    if odd := [name for name in found if not re.fullmatch(r"[\w.][\w.\-]*(/[\w][\w.\-]*)*", name) or ".." in name]:
        raise RunError(f"{uri}: the list of files of the run has {len(odd)} names that no run has")
    return found


def _download(client: Any, run: str, name: str, digest: str, into: Path, uri: str) -> None:
    """Bring a file of the server's run; refuse one that is not there or not what was sent, by name."""
    from mlflow.exceptions import MlflowException

    again = "send the run again where it was trained: delete its mirror.json, then medvit sync RUN_DIR"
    with tempfile.TemporaryDirectory(dir=into.parent.parent if into.parent.exists() else None) as place:
        try:
            got = Path(client.download_artifacts(run, name, place))
        except (MlflowException, OSError) as error:
            code, said = answer_of(error)
            if code == 404 or said == "RESOURCE_DOES_NOT_EXIST":
                raise RunError(f"{uri}: {name} of the run is missing there; {again}") from None
            raise
        if file_sha256(got) != digest:
            raise RunError(f"{uri}: {name} of the run is damaged there, its SHA-256 is not the one sent; {again}")
        into.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(got, into)


def _rebuild(draft: Path, own: str) -> None:
    """Write config.json from the settings that were shared; refuse a network that needs a file of another machine."""
    shared = json.loads((draft / SHARED_CONFIG).read_text(encoding="utf-8"))
    lost = [f"{part}.{key}" for part in ("model", "optim", "pool") for key in _withheld(shared.get(part))]
    if lost := [key for key in lost if key != "model.weights"]:
        raise RunError(
            f"run {own} is built from files of the machine it was trained on ({', '.join(lost)}): use it there"
        )
    (draft / _CONFIG).write_text(json.dumps(shared, indent=1, sort_keys=True), encoding="utf-8")


def _withheld(node: Any, prefix: str = "") -> list[str]:
    if isinstance(node, dict):
        return [each for key, value in node.items() for each in _withheld(value, f"{prefix}.{key}" if prefix else key)]
    if isinstance(node, list):
        return [each for value in node for each in _withheld(value, prefix)]
    return [prefix] if node == WITHHELD else []


def _enter(folder: Path, there: Any, own: str, experiment: str) -> runs.Run:
    """Give the store of the runs folder a run of this id."""
    from medvit.tracking.store import open_client

    client = open_client(folder)
    place = runs._experiment(client, folder, experiment)
    with closing(sqlite3.connect(folder / "mlflow.db", timeout=900)) as store, store:
        known = store.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (own,)).fetchone()
    if not known:
        made = client.create_run(place, start_time=there.info.start_time, run_name=there.info.run_name)
        with closing(sqlite3.connect(folder / "mlflow.db", timeout=900)) as store, store:  # MLflow chooses ids itself
            store.execute(
                "UPDATE runs SET run_uuid = ?, artifact_uri = replace(artifact_uri, ?, ?) WHERE run_uuid = ?",
                (own, made.info.run_id, own, made.info.run_id),
            )
            store.execute("UPDATE tags SET run_uuid = ? WHERE run_uuid = ?", (own, made.info.run_id))
    return runs.Run(client, own, place, folder.resolve() / own)


def _tell(draft: Path, client: Any, there: Any, experiment: str, files: Mapping[str, str]) -> None:
    """Write the journal of the run as the server tells it: a line per kind, and one per point of a metric."""
    book, data, info = journal.Journal(draft), there.data, there.info
    book.write("start", at=info.start_time, run=data.tags[RUN_TAG], experiment=experiment, name=info.run_name,
               parent=None, schema=journal.SCHEMA)  # fmt: skip
    book.write("params", values=dict(data.params))
    tags = {key: value for key, value in data.tags.items() if key.startswith("medvit.") or key == _NOTE}
    book.write("tags", values={key: value for key, value in tags.items() if key not in (RUN_TAG, LIST_TAG)})
    for name in data.metrics:
        for one in client.get_metric_history(info.run_id, name):
            told = {name: journal.plain(one.value)}
            book.write("metrics", durable=False, at=one.timestamp, step=one.step, values=told)
    for each in there.inputs.dataset_inputs:
        (context,) = [tag.value for tag in each.tags if tag.key == "mlflow.data.context"] or [""]
        digest = json.loads(each.dataset.source).get("sha256", each.dataset.digest)
        book.write("dataset", name=each.dataset.name, digest=digest, context=context,
                   profile=json.loads(each.dataset.profile or "{}"))  # fmt: skip
    for name, digest in files.items():
        if not name.startswith(PLACE):
            book.write("artifact", durable=False, name=name, sha256=digest)
    book.write("files", values={name.removeprefix(PLACE): own for name, own in files.items() if name.startswith(PLACE)})
    book.write("status", at=info.end_time, status=info.status)


def _mirror_here(run: runs.Run, draft: Path) -> None:
    """Write into the store what the journal tells; what was written already is written again and changes nothing."""
    from medvit.tracking.backlog import Backlog

    told = Backlog()
    told.take(journal.read(draft))
    told.artifacts.clear()
    told.files.clear()
    told.send(run.client, run.id, run.experiment_id, draft, lambda *_: None)


def _settle_data(run: runs.Run, asked: str | None) -> None:
    """Write into the run's settings where its data set is here; one that was trained here knows.

    Raises:
        DataError: no data set of its digest is here.
    """
    file = run.folder / _CONFIG
    if not file.is_file() or not (run.folder / SHARED_CONFIG).is_file():
        return
    settings = json.loads(file.read_text(encoding="utf-8"))
    if settings["data"]["folder"] != WITHHELD and not asked:
        return
    wanted = json.loads((run.folder / _HASHES).read_text(encoding="utf-8"))["manifest"]
    found = _data_of(wanted, asked)
    if found is None:
        where = "tracking.data_folder" if asked else "work/ and the folder this was started in"
        raise DataError(
            f"the data set {settings['data']['name']} that run {run.id} was trained on (manifest {wanted[:12]}) is not "
            f"in {where}: copy its folder here (manifest.parquet, splits.parquet), and give tracking.data_folder=DIR"
        )
    settings["data"]["folder"] = str(found)
    text = json.dumps(settings, indent=1, sort_keys=True)
    replace_file(file, lambda draft: draft.write_text(text, encoding="utf-8"))


def _data_of(digest: str, asked: str | None) -> Path | None:
    from medvit.dataset import manifest

    places = [Path(asked)] if asked else sorted({*Path().glob("work/*"), *Path().glob("*")})
    for place in places:
        if (place / "manifest.parquet").is_file():
            try:
                if manifest.read(place).digest == digest:
                    return place.resolve()
            except DataError as error:
                logger.warning("%s is passed over: %s", place.name, error)
    return None
