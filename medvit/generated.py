"""The generated set of the default run: made, indexed and split once, in a folder of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medvit.command_line import command_line
from medvit.file_lock import locked
from medvit.renamed import with_present_targets

NOTE = "generated.json"  # in the data folder: the settings it was generated with


def wanted(data: dict[str, Any]) -> bool:
    """Return whether `data` (conf/data) asks for a generated set; it only ever fills its own folder."""
    return bool(data["generate"]) and Path(data["generate"]["folder"]).parent == Path(data["folder"])


def absent(data: dict[str, Any]) -> list[str]:
    """Return what a training misses in the folder of `data`, and the command that makes it."""
    if wanted(data):
        return []
    folder = data["folder"]
    for file, command, asked in (("manifest.parquet", "index", {"data.root": "DIR"}), ("splits.parquet", "split", {})):
        if not (Path(folder) / file).is_file():
            line = command_line(command, {**asked, "data.folder": folder})
            return [f"data.folder={folder} has no {file}; run `{line}`"]
    return []


def make(data: dict[str, Any], labels: dict[str, Any]) -> None:
    """Generate, index and split the set of `data` and `labels` (conf/data), where it is not there yet.

    Of several processes that ask at once one makes it, and the others wait.

    Raises:
        DataError: the folder holds a set generated with other settings or by another version, or cannot be written.
    """
    from medvit.errors import DataError

    try:
        with locked(Path(data["folder"]) / ".generated.lock"):
            _make(data, labels)
    except OSError as error:
        raise DataError(f"data.folder cannot be written ({error.strerror}); choose another") from error


def _make(data: dict[str, Any], labels: dict[str, Any]) -> None:
    from medvit.config import build
    from medvit.dataset.manifest import replace_file
    from medvit.errors import DataError
    from medvit.index import index
    from medvit.split import split

    folder, raw = Path(data["folder"]), Path(data["generate"]["folder"])
    note = folder / NOTE
    asked = {key: value for key, value in data["generate"].items() if key != "folder"}
    if not (folder / "splits.parquet").is_file():
        build(data["generate"], "data", folder=raw)
        index(Path(data["root"]), folder, {key: labels[key] for key in ("csv", "on", "target", "keep")}, workers=0)
        split(folder)
        text = json.dumps(asked, indent=1, sort_keys=True)
        replace_file(note, lambda draft: draft.write_text(text, encoding="utf-8"))
    elif note.is_file() and (there := with_present_targets(json.loads(note.read_text(encoding="utf-8")))) != asked:
        other = [key for key in sorted(asked | there) if asked.get(key) != there.get(key)]
        changed = ", ".join(f"{key}={asked.get(key)} (there: {there.get(key)})" for key in other)
        raise DataError(
            f"data.folder holds a set generated with other settings: {changed}; remove the folder, or give "
            "data.folder, data.root, data.generate.folder and labels.csv another place"
        )
    elif raw.is_dir():
        # writes nothing here, but refuses a set that an earlier version of the generator made
        build(data["generate"], "data", folder=raw)
