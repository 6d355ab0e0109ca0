"""The MLflow store of a runs folder: a SQLite file `mlflow.db` and the folder `artifacts`, both where the folder is."""

from __future__ import annotations

import logging
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from medvit.atomic_file import replace_file
from medvit.errors import RunError
from medvit.file_lock import locked
from medvit.tracking.run_lock import close_abandoned

logger = logging.getLogger(__name__)
_PATIENCE = 900.0  # seconds that a database may stay locked by another process; MLflow itself gives up after 20
_PLACES = (  # where MLflow keeps absolute addresses of artifacts
    *(("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location")),
    *(("model_versions", "source"), ("model_versions", "storage_location")),
)


def store_uri(folder: Path) -> str:
    """Return the tracking address of a runs folder; refuse names that a database address cannot hold."""
    path = folder.resolve() / "mlflow.db"
    if set(str(path)) & set("?#%"):
        raise RunError(
            "tracking.folder has ?, # or % in its name, which a database address cannot hold. Rename the folder."
        )
    return f"sqlite:///{path}"


def called(folder: Path) -> str:
    """Return a runs folder as an error may name it: without its name where that has what a person's could have."""
    name = str(folder)
    told = re.fullmatch(r"[\w./-]{1,120}", name) and not re.search(r"\d{5}", name)
    return f"tracking.folder={name}" if told else "the folder of tracking.folder"


def open_client(folder: Path) -> Any:
    """Return an MLflow client for a runs folder, creating the folder and the database when they are not there.

    Processes that start at once wait for each other. A database that a crash left half made is never seen: it gets its
    name when it is whole. In a folder that was moved or copied, MLflow's absolute addresses become those of the folder.
    Runs whose process is gone are closed (`run_lock.close_abandoned`).

    Raises:
        RunError: the folder cannot be written, or the database cannot be opened.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)  # one line per schema step otherwise
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # tracebacks of what is raised, too
    uri, database = store_uri(folder), folder.resolve() / "mlflow.db"
    try:
        (folder / "artifacts").mkdir(parents=True, exist_ok=True)
        with locked(folder / ".mlflow.lock"):
            if not database.exists():
                _create(database)
            client = Patient(_patiently(MlflowClient, tracking_uri=uri, registry_uri=uri))
            client.search_experiments(max_results=1)
            _follow(database)
            close_abandoned(client, database)
    except OSError as error:
        raise RunError(
            f"{called(folder)} cannot be written ({error.strerror}). Give tracking.folder=DIR on a disk with space."
        ) from error
    except (MlflowException, SQLAlchemyError, sqlite3.Error) as error:
        raise RunError(
            f"mlflow.db of {called(folder)} cannot be opened: it is damaged or read-only, the disk is full, or it was "
            "made by another MLflow version (then run `mlflow db upgrade` on a copy of it)."
        ) from error
    return client


def _create(database: Path) -> None:
    """Lay out an empty store and give it its name when it is whole."""
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine
    from sqlalchemy import event

    def in_memory(connection: Any, _: Any) -> None:
        """Spare the disk of MLflow's hundred commits: a draft that a crash left is thrown away."""
        for pragma in ("synchronous=OFF", "journal_mode=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")

    def lay_out(draft: Path) -> None:
        engine = create_sqlalchemy_engine(f"sqlite:///{draft}")
        event.listen(engine, "connect", in_memory)
        _initialize_tables(engine)
        engine.dispose()

    replace_file(database, lay_out)


def _follow(database: Path) -> None:
    """Point a store at the artifacts beside it where it was copied or moved here; what it was copied from is left."""
    here = (database.parent / "artifacts").as_uri()
    with closing(sqlite3.connect(database, timeout=_PATIENCE)) as store, store:
        known = store.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        moved = [at for (at,) in known if at.startswith("file:///") and at.endswith("/artifacts") and at != here]
        for there in moved:
            for table, column in _PLACES:
                store.execute(  # the names are those above
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (here, len(there) + 1, there, len(there) + 1, f"{there}/"),
                )


class Patient:
    """An MLflow client whose calls wait while another process has the database locked, up to a quarter of an hour."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return (lambda *values, **named: _patiently(found, *values, **named)) if callable(found) else found


def _patiently(call: Callable[..., Any], *values: Any, **named: Any) -> Any:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    until, told = time.monotonic() + _PATIENCE, False
    while True:
        try:
            return call(*values, **named)
        except (MlflowException, OperationalError) as error:
            if "database is locked" not in str(error) or time.monotonic() > until:
                raise
        if not told:
            logger.warning("mlflow.db is locked by another process; waiting for it, for up to %g s", _PATIENCE)
            told = True
        time.sleep(1)
