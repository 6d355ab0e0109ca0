"""Which MLflow server runs are mirrored to: `tracking.uri`, or MLflow's own variable MLFLOW_TRACKING_URI."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

VARIABLE = "MLFLOW_TRACKING_URI"
REGISTRY = "MLFLOW_REGISTRY_URI"
_CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)"


def server_of(tracking: Mapping[str, Any]) -> str | None:
    """Return the address of the server that `tracking` or the environment names; None where runs stay here alone."""
    asked = str(tracking.get("uri") or os.environ.get(VARIABLE) or "")
    return asked.rstrip("/") if _is_address(asked) else None


def store_problems(tracking: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the places that `tracking` and MLflow's variables name."""
    folder, uri = str(tracking.get("folder") or ""), str(tracking.get("uri") or "")
    found = []
    if "://" in folder:
        found.append(
            f"tracking.folder={_without_credentials(folder)}: expected a folder on this machine, not an address; a "
            "server that runs are mirrored to goes into tracking.uri"
        )
    if uri:
        found += _problems_of("tracking.uri", uri)
    own = f"sqlite:///{Path(folder).resolve()}/mlflow.db"
    named = os.environ.get(VARIABLE, "")
    if folder and named not in ("", own) and not uri:
        found += _problems_of(VARIABLE, named)
    models = os.environ.get(REGISTRY, "")
    if folder and models not in ("", own) and models.rstrip("/") != server_of(tracking):
        found.append(
            f"{REGISTRY} is set to another place than the runs folder {folder}, where models are registered: unset it "
            f"(env -u {REGISTRY} ...)"
        )
    return found


def _problems_of(name: str, uri: str) -> list[str]:
    shown = f"{name}={_without_credentials(uri)}"
    if not _is_address(uri):
        return [f"{shown}: expected the address of an MLflow server, such as http://server:5000, or nothing"]
    if "@" in uri:  # also behind a slash, ? or #, where a password holds one
        return [f"{shown}: an address with a user or password would be kept with the run; give them as {_CREDENTIALS}"]
    if urlsplit(uri).query or urlsplit(uri).fragment:
        return [f"{shown}: expected an address without ? and #"]
    return []


def _is_address(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _without_credentials(uri: str) -> str:
    head, at, rest = uri.rpartition("@")
    return f"{head.partition('://')[0]}://...@{rest}" if at else uri
