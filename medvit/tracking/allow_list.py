"""What may be written into a run: declared names only, and no value that could be a path or an identifier."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import unicodedata
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from medvit.errors import RunError

WITHHELD = "(withheld)"

# Top-level groups of a resolved configuration whose values are parameters of the experiment.
GROUPS = frozenset(
    {
        *("augment", "bag", "batch", "cache", "callbacks", "checkpoint", "chosen", "commit", "data", "device"),
        *("epochs", "evaluate", "include", "labels", "logger", "loss", "metrics", "model", "objective"),
        *("optim", "optimizer", "patience", "pool", "precision", "preprocess", "pruning", "recipe", "sampler"),
        *("schedule", "scheduler", "seed", "seeds", "shares", "space", "split", "starts", "strategy", "study"),
        *("subset", "task", "train", "trainer", "weights"),
    }
)
# Settings that name a place, a machine or a person, wherever they stand.
PLACES = frozenset(
    {
        *("csv", "dir", "file", "files", "folder", "host", "input", "key", "key_file", "out", "output", "path"),
        *("root", "run", "user"),
    }
)

_METRIC = re.compile(r"^(train|val|test|time|system|external)/[^\x00-\x1f]{1,200}$")
_SIGNS = {">=": " ge ", "<=": " le ", ">": " gt ", "<": " lt ", "=": " eq ", "+": " plus ", "%": " percent "}
_METRIC_VALUE = re.compile(r"^(train|val|test)/[A-Za-z0-9_.\-]{1,80}$")
_PLAIN = re.compile(r"^[\w .,:;+*=%()\[\]<>@-]{0,200}$")
_KINDS = ("json", "csv", "html", "md", "parquet", "pdf", "png", "svg", "txt", "yaml")
_ARTIFACT = re.compile(rf"^[A-Za-z0-9_][\w.\-]*(/[A-Za-z0-9_][\w.\-]*)*\.({'|'.join(_KINDS)})$")
_FILE = re.compile(
    r"^[/~]|\\|^\.\.?/|://|\.(csv|tsv|txt|xlsx?|json|ya?ml|parquet|dcm|nii|gz|png|jpe?g|key|onnx|pt2?|pth|safetensors)$",
    re.IGNORECASE,
)
_TAG = re.compile(r"^medvit\.[a-z0-9_.]{1,60}$")


def redacted(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the declared part of a resolved configuration, same shape, with places and odd strings withheld.

    Keys outside the declared groups are left out. A value is withheld when its key names a place or a person, or when
    the string has a character (such as a slash) that no setting of an experiment needs.
    """
    return {key: _value(key, value) for key, value in config.items() if key in GROUPS}


def _value(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(inner): _value(str(inner), item) for inner, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_value(key, item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = str(value)
    if key.lower() in PLACES or not (_PLAIN.match(text) or _METRIC_VALUE.match(text)):
        return WITHHELD
    return text


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resolved configuration, same shape, with every place withheld: a run is rebuilt from it elsewhere.

    Labels and tasks may have names with a slash; anywhere else a slash, or a file's ending, makes a place.
    """
    return {key: _portable(key, value, key in ("labels", "task")) for key, value in config.items()}


def _portable(key: str, value: Any, slashes: bool) -> Any:
    if isinstance(value, Mapping):
        return {str(inner): _portable(str(inner), item, slashes) for inner, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_portable(key, item, slashes) for item in value]
    if not isinstance(value, (str, PurePath)):
        return value
    text = str(value)
    place = key.lower() in PLACES or _FILE.search(text) or ("/" in text and not slashes)
    return WITHHELD if place and not _METRIC_VALUE.match(text) else text


def flat(config: Mapping[str, Any]) -> dict[str, str]:
    """Return `redacted(config)` as dotted names with text values; lists and empty groups are JSON."""
    found: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            nested = isinstance(value, (dict, list))  # sorted: config.json, which a resumed run reads, is too
            found[mlflow_name(prefix)] = json.dumps(value, sort_keys=True) if nested else str(value)

    walk("", redacted(config))
    return found


def mlflow_name(name: str) -> str:
    """Return a metric or parameter name in the characters that MLflow takes; one that has only such stays as it is.

    Signs become words and accents fall; six hex digits of the name's hash keep changed names apart ("KL>=2" is
    "KL_ge_2.<hash>"). The name itself stays in `labels.json`, the tables and the report.
    """
    kept = re.fullmatch(r"[A-Za-z0-9_.\- /]{1,120}", name) and posixpath.normpath(name) == name
    if kept and not name.startswith(("/", "..")) and name != ".":
        return name
    text = name
    for sign, word in _SIGNS.items():
        text = text.replace(sign, word)
    text = unicodedata.normalize("NFKD", text.replace("ß", "ss")).encode("ascii", "ignore").decode()
    parts = [re.sub(r"[^A-Za-z0-9.\-]+", "_", part).strip("_.") for part in text.split("/")]
    readable = "/".join(part for part in parts if part)[:100].rstrip("/") or "name"
    return f"{readable}.{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def check_metrics(values: Mapping[str, float]) -> None:
    """Raise RunError naming every metric that is not `train|val|test|time|system|external/<name>`."""
    _refuse("metric", [name for name in values if not _METRIC.match(name)], "train/<name>, val/<name>, test/<name>")


def check_artifact(name: str) -> None:
    """Raise RunError unless `name` is a relative path of a kind a run may hold (tables, figures, text; no pickle)."""
    bad = [name] if not _ARTIFACT.match(name) or name.endswith("manifest.parquet") else []
    _refuse("artifact", bad, f"a relative name ending in one of {', '.join(_KINDS)}")


def check_tags(values: Mapping[str, str]) -> None:
    """Raise RunError naming every tag that is not `medvit.<name>`, or whose value could be a path."""
    bad = [name for name, value in values.items() if not _TAG.match(name) or not _PLAIN.match(value)]
    _refuse("tag", bad, "medvit.<name> with a plain value of at most 200 characters")


def _refuse(kind: str, bad: list[str], allowed: str) -> None:
    if bad:
        shown = ", ".join(repr(name[:60]) for name in bad[:5])
        raise RunError(f"{len(bad)} {kind} name(s) may not be written into a run: {shown}. Allowed: {allowed}.")
