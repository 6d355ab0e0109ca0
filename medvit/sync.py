"""`python -m medvit.sync RUN_DIR`: send an MLflow server what it has not got of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from medvit.config import entry
from medvit.errors import RunError
from medvit.mlflow_server import server_of


def sync(run: str, tracking: dict[str, Any]) -> str:
    """Send what its server has not got of a run, the status too, and return the run's id there.

    Args:
        run: the folder of a run, or its id, or latest.
        tracking: of conf/sync.yaml; without `uri` and MLFLOW_TRACKING_URI it is the server that the run went to.

    Raises:
        RunError: no such run, no server, one that does not answer or refuses it, or another process is sending it.
    """
    from medvit.tracking.journal import NAME, read
    from medvit.tracking.mirror import state
    from medvit.tracking.uploader import send_all

    folder = _folder(run, Path(tracking["folder"]))
    uri = server_of(tracking) or state(folder).get("uri")
    if not uri:
        raise RunError("no server is named: give tracking.uri=http://SERVER:5000, or set MLFLOW_TRACKING_URI")
    if not (folder / NAME).is_file():
        raise RunError(f"the run has no {NAME}: it is of an earlier version, and is not sent to a server")
    return send_all(folder, uri, read(folder), tracking["experiment"])


def _folder(run: str, place: Path) -> Path:
    """Return the folder of a run; one whose process was killed is closed, where the database beside it is there."""
    from medvit.tracking import run as runs

    if not (own := Path(run)).is_dir():
        return runs.get(run, place).folder
    if (own.resolve().parent / "mlflow.db").is_file():
        return runs.get(own.resolve().name, own.resolve().parent).folder
    return own.resolve()


@entry("sync")
def main(settings: dict[str, Any]) -> None:
    """Run the command of conf/sync.yaml."""
    from medvit.tracking import mirror, saved_view

    sync(settings["run"], settings["tracking"])
    there = mirror.state(_folder(settings["run"], Path(settings["tracking"]["folder"])))
    sys.stdout.write(f"the server has all of it: {saved_view.link(there['experiment'], there['run'], there['uri'])}\n")


def run() -> None:
    """Take the folder as it is typed, `medvit sync runs/RUN_ID`, and run the command."""
    from medvit.config_words import overrides_of

    first = sys.argv[1] if len(sys.argv) > 1 else ""
    if first and not first.startswith("-") and (Path(first).is_dir() or "=" not in first):
        sys.argv[1:2] = overrides_of({"run": first.rstrip("/")})
    main()


if __name__ == "__main__":
    run()
