"""Every setting of index, split, unpack and doctor is changed once, and what the command says or writes is another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from every_setting.leaves import Setting, another, words
from every_setting.training import Seen, composed, digest, films, shows
from PIL import Image

from medvit.errors import MedvitError

COMMANDS = ("index", "split", "unpack", "doctor")


def settings_of(command: str) -> list[Setting]:
    """Return every setting of a command's file."""
    return [each for each in words("")[command] if each.key != "trust"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films, one of them without a PatientID; pictures with label tables; arrays; an indexed set."""
    from medvit.phantom.films import write_films

    folder = tmp_path_factory.mktemp("commands")
    made = write_films(folder / "films", 3, 1)
    made.assign(finding=[row % 2 for row in range(len(made))], other=1).to_csv(folder / "films.csv", index=False)
    film = pydicom.dcmread(next((folder / "films" / "dicom").rglob("IM*")))
    film.PatientID, film.AccessionNumber = "", "A-none"
    film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    film.save_as(folder / "films" / "dicom" / "nobody.dcm")
    (folder / "png").mkdir()
    rows = []
    for number in range(6):
        Image.fromarray(np.full((64, 64), 20 * number, np.uint8)).save(folder / "png" / f"{number}.png")
        rows.append({"file": f"{number}.png", "pid": f"p{number // 2}", "pid2": f"q{number}", "sid": f"s{number}",
                     "finding": number % 2, "other": number // 3, "site": "ab"[number % 2],
                     "listed": "a|b" if number % 2 else "b", "listed2": "b" if number % 2 else "a|b"})  # fmt: skip
    table = pd.DataFrame(rows)
    table.to_csv(folder / "t.csv", index=False)
    table.assign(finding=1 - table["finding"]).to_csv(folder / "t2.csv", index=False)
    table.iloc[:5].to_csv(folder / "less.csv", index=False)
    twice = [table, table.iloc[:1].assign(finding=1), table.iloc[:1]]  # most say 0 of the first
    pd.concat(twice).to_csv(folder / "twice.csv", index=False)
    for name, column in (("m1", "x"), ("m2", "y")):
        table[["file"]].assign(more=column).to_csv(folder / f"{name}.csv", index=False)
    for name, part in (("l1", rows[:3]), ("l2", rows[3:])):
        (folder / f"{name}.txt").write_text("".join(f"{row['file']}\n" for row in part))
    for name in ("arrays", "arrays2"):
        (folder / name).mkdir()
        np.save(folder / name / "one.npy", np.full((4, 40, 40), 7 if name == "arrays" else 9, np.uint8))
    films(folder / "set")
    (folder / "broken").mkdir()
    (folder / "broken" / "mlflow.db").write_text("no database")
    write_films(folder / "films2", 2, 5)
    return folder


def _age(place: Path, share: float) -> float:
    from medvit.dataset import manifest

    return float(manifest.read(place / "set" / "data").table["age_years"].quantile(share))


def pictures(place: Path, **more: Any) -> dict[str, Any]:
    return {"data.root": place / "png", "data.kind": "film", "labels.csv": place / "t.csv", "labels.on": "path",
            "labels.column": "file", "labels.patient": "pid", "labels.target": ["finding"], **more}  # fmt: skip


def beside(command: str, key: str, place: Path) -> dict[str, Any]:
    """Return the settings in which a setting can be seen."""
    if command == "index":
        derived = {"made": {"column": "file", "pattern": "([0-9])"}}
        lists = {"train": place / "l1.txt", "test": place / "l2.txt"}
        of_labels: dict[str, dict[str, Any]] = {
            "labels.derive": {"labels.derive": derived, "labels.keep": ["made"]},
            "labels.lists": {"labels.lists": lists, "labels.keep": ["split"]},
            "labels.more": {"labels.more": [{"csv": str(place / "m1.csv"), "on": ["file"]}], "labels.keep": ["more"]},
            "labels.where": {"labels.unmatched": "keep"},
            "labels.keep": {"labels.keep": ["site"]},
            "labels.separator": {"labels.separator": "|", "labels.listed_in": "listed", "labels.target": ["a"]},
            "labels.listed_in": {"labels.separator": "|", "labels.listed_in": "listed", "labels.target": ["a"]},
            "labels.repeated": {"labels.csv": place / "twice.csv", "labels.repeated": "max"},
            "labels.unmatched": {"labels.csv": place / "less.csv", "labels.unmatched": "keep"},
        }
        films_root = {"data.root": place / "films" / "dicom", "on_bad": "skip", "workers": 1}
        own = pictures(place, **of_labels.get(key, {})) if key.startswith("labels.") else films_root
        return {"data.folder": place / "out", **own}
    if command == "split":
        own = {
            "split.folds": {"split.strategy": "kfold"},
            "split.column": {"split.strategy": "leave_one_out", "split.column": "sex"},
            "split.cutoff": {"split.strategy": "after", "split.column": "age_years", "split.cutoff": _age(place, 0.3)},
            "split.on_shared": {"split.strategy": "given", "split.column": "label.side"},
            "embed": {"audit": True},
            "tracking.folder": {"audit": True, "embed": "latest"},
        }.get(key, {})
        return {"data.folder": place / "set" / "data", **own}
    if command == "unpack":
        return {"source": place / "arrays", "out": place / "out"}
    return {"data.folder": place / "new", "tracking.folder": place / "runs"}


def other(place: Path) -> dict[str, Any]:
    return {
        "data.root": str(place / "films2" / "dicom"), "data.folder": str(place / "out2"), "data.kind": "volume",
        "data.patient_fallback": "file", "data.leave_out": ["nobody*"], "data.accept": {"min_side": 4000},
        "data.series": {"min_slices": 0}, "labels.csv": str(place / "t2.csv"), "labels.header": ["file", "pid"],
        "labels.derive": {"made": {"column": "file", "pattern": "(png)"}}, "labels.where": {"other": 1},
        "labels.lists": {"train": str(place / "l2.txt"), "test": str(place / "l1.txt")},
        "labels.more": [{"csv": str(place / "m2.csv"), "on": ["file"]}], "labels.on": "AccessionNumber",
        "labels.column": "pid", "labels.target": ["other"], "labels.keep": ["listed"], "labels.patient": "pid2",
        "labels.study": "sid", "labels.separator": "b", "labels.listed_in": "listed2", "labels.repeated": "majority",
        "labels.unmatched": "drop", "on_bad": "refuse", "workers": 3,
        "split:data.folder": "/nowhere/set", "embed": "/nowhere/encoder", "tracking.folder": str(place / "broken"),
        "split.strategy": "kfold", "split.fractions": {"train": 0.4, "val": 0.3, "test": 0.3}, "split.folds": 3,
        "split.column": "manufacturer", "split.cutoff": _age(place, 0.7), "split.balance": ["sex", "age_years"],
        "split.on_shared": "to_train",
        "source": str(place / "arrays2"), "out": str(place / "out2"), "spacing_mm": [3.0, 1.0, 1.0],
        "doctor:data.folder": "/proc",  # where nothing can be written
    }  # fmt: skip


def indexed(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Seen:
    from medvit.dataset import indexing, manifest
    from medvit.index import check, index_by

    if problems := check(settings):
        return {"refused": "\n".join(problems)}
    given: list[int] = []
    collect = indexing.collect
    monkeypatch.setattr(
        indexing, "collect", lambda root, folder, how: (given.append(how.workers), collect(root, folder, how))[1]
    )
    index_by(settings)
    folder = Path(settings["data"]["folder"])
    table = manifest.read(folder).table
    seen = {"rows": digest(table), "place": str(folder), "files": sorted(file.name for file in folder.iterdir())}
    return {**seen, "excluded": (folder / "exclusions.csv").read_text("utf-8"), "workers": given}


def divided(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Seen:
    from medvit.split import check, split_by

    if problems := check(settings):
        return {"refused": "\n".join(problems)}
    folder = Path(settings["data"]["folder"])
    (folder / "audit.html").unlink(missing_ok=True)
    (folder / "splits.parquet").unlink(missing_ok=True)
    return {"division": digest(split_by(settings).table), "audited": (folder / "audit.html").is_file()}


def unpacked(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Seen:
    from medvit import unpack

    unpack.run.__wrapped__(settings)  # type: ignore[attr-defined]
    files = sorted(file for file in Path(settings["out"]).rglob("*") if file.is_file())
    return {"files": [(str(file), digest(file.read_bytes())) for file in files]}


def examined(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Seen:
    from medvit.doctor import examine

    folders = (Path(settings[part]["folder"]) for part in ("data", "tracking"))
    found = [each for each in examine(*folders, deep=settings["deep"]) if each.name not in ("memory", "weights")]
    return {"lines": [(each.name, each.state, each.fix) for each in found]}


SEEN: dict[str, Callable[[dict[str, Any], pytest.MonkeyPatch], Seen]] = {
    "index": indexed,
    "split": divided,
    "unpack": unpacked,
    "doctor": examined,
}


def seen_of(command: str, given: dict[str, Any], place: Path, monkeypatch: pytest.MonkeyPatch) -> Seen:
    for name in ("out", "out2"):
        shutil.rmtree(place / name, ignore_errors=True)
    with monkeypatch.context() as patched:
        try:
            return SEEN[command](composed(command, given), patched)
        except MedvitError as error:
            return {"refused": str(error)}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_setting_of_a_command_that_is_changed_changes_what_it_does_or_is_refused(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bases: dict[str, Seen] = {}
    idle = {}
    table = other(place)
    for setting in settings_of(command):
        given = beside(command, setting.key, place)
        name = repr(sorted(given.items(), key=str))
        if name not in bases:
            bases[name] = seen_of(command, given, place, monkeypatch)
            assert seen_of(command, given, place, monkeypatch) == bases[name], "the same settings give the same"
        value: Any = composed(command, given)
        for part in setting.key.split("."):
            value = value[part]
        wanted = table.get(f"{command}:{setting.key}", None) or another(setting, value, table)
        after = seen_of(command, {**given, setting.key: wanted}, place, monkeypatch)
        found = shows(setting, bases[name], after, wanted)
        if not found.startswith(
            ("effect", "refused")
        ):  # data that no longer fit are refused for what is wrong with them
            idle[setting.key] = found
    assert idle == {}
