"""`python -m medvit.doctor`: what this machine can do, what is missing or broken, and how to mend it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from medvit.config import entry
from medvit.errors import MedvitError

_BROKEN = 1  # the exit code
_GIB = 1 << 30
_LEAST_GIB = {"disk": 5.0, "memory": 4.0}
_STATES = ("ok", "look", "broken")
_INSTALL_TORCH = "install torch for this machine (pytorch.org says how), or a driver that fits it"
_CONTAINER = Path("/sys/fs/cgroup/memory.max")  # what a container may use


@dataclass(frozen=True)
class Finding:
    """One line: `state` is "ok", "look" (medvit works with less) or "broken"; `fix` says what to do."""

    name: str
    state: str
    found: str
    fix: str = ""

    def __str__(self) -> str:
        """Return the line, and below it what to do."""
        return f"{self.state:<8}{self.name:<14}{self.found}" + (f"\n{'':22}-> {self.fix}" if self.fix else "")


def examine(data: Path, runs: Path, *, deep: bool = False) -> Iterator[Finding]:
    """Yield what is found of this machine, changing nothing; `data` and `runs` are the folders to be written.

    torch is imported only with `deep`, which lets it say what it can do with the processor and the GPU.
    """
    yield Finding("python", "ok", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    yield _packages()
    yield from _torch() if deep else _torch_build()
    yield _codecs()
    yield from (_disk(name, folder) for name, folder in (("data folder", data), ("runs folder", runs)))
    yield _memory()
    yield _store(runs / "mlflow.db")
    yield _key()
    yield _weights()
    yield _telemetry()


def _packages() -> Finding:
    """Compare what is installed with what medvit's metadata asks for, extras left out."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("medvit") or []
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            "packages", "look", "medvit runs from a folder, not installed", "pip install -e . checks versions"
        )
    asked = [Requirement(line) for line in lines]
    needed = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = []
    for one in needed:
        try:
            version = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{one.name} is missing")
            continue
        if not one.specifier.contains(version, prereleases=True):
            wrong.append(f"{one.name} {version} (expected {one.specifier})")
    if wrong:
        return Finding("packages", "broken", "; ".join(wrong), "pip install -c constraints.txt -e . in the environment")
    version = importlib.metadata.version("medvit")
    return Finding("packages", "ok", f"medvit {version}, {len(needed)} dependencies as asked")


def _torch_build() -> Iterator[Finding]:
    """Tell torch's build by its files and the GPU by the driver's tool, both without importing torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        yield Finding("torch", "broken", "is missing", _INSTALL_TORCH)
        return
    file = Path(spec.origin).with_name("version.py")
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    said = dict(re.findall(r"^(__version__|cuda|hip)\b[^=]*= *'([^']+)'", text, re.MULTILINE))
    build = next((f"{name.upper()} {said[name]}" for name in ("cuda", "hip") if name in said), "CPU")
    yield Finding("torch", "ok", f"{said.get('__version__', 'of unknown version')}, built for {build}")
    cards = _driver()
    yield _gpu([f"{name} ({memory}, bf16 {'yes' if _number(power) >= 8 else 'no'})" for name, memory, power in cards])
    if cards and build == "CPU":
        yield Finding("torch and GPU", "broken", "this build of torch cannot use the GPU", _INSTALL_TORCH)


def _torch() -> Iterator[Finding]:
    """Let torch itself say what it can do."""
    try:
        torch: Any = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        yield Finding("torch", "broken", f"cannot be imported ({type(error).__name__})", _INSTALL_TORCH)
        return
    build = next((f"{k.upper()} {v}" for k in ("cuda", "hip") if (v := getattr(torch.version, k))), "CPU")
    yield Finding("torch", "ok", f"{torch.__version__}, built for {build}, {torch.get_num_threads()} threads")
    usable = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    cards = [torch.cuda.get_device_properties(number) for number in usable]
    yield _gpu([f"{card.name} ({card.total_memory / _GIB:.0f} GiB)" for card in cards])
    if _driver() and not cards:
        yield Finding("torch and GPU", "broken", "torch cannot use the GPU that the driver shows", _INSTALL_TORCH)
    precision = importlib.import_module("medvit.engine.settings.precision").best_precision()
    yield Finding("bf16", "ok", f"{'yes' if 'bf16' in precision else 'no'}; trainer.precision=auto is {precision} here")


def _gpu(cards: list[str]) -> Finding:
    if cards:
        return Finding("GPU", "ok", ", ".join(cards))
    small = "training runs on the CPU (the default run, frozen probes and small ViTs are made for that)"
    return Finding("GPU", "look", f"none; {small}")


def _driver() -> list[tuple[str, str, str]]:
    """Return name, memory and compute capability of the NVIDIA cards that the driver sees."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    asked = [tool, "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader"]
    try:
        seen = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout  # noqa: S603
    except (subprocess.SubprocessError, OSError):
        return []
    rows = (line.split(", ") for line in seen.splitlines())
    return [(row[0], row[1], row[2]) for row in rows if len(row) == 3]


def _number(text: str) -> float:
    return float(text) if re.fullmatch(r"\d+\.\d+", text) else 0.0


def _codecs() -> Finding:
    from medvit.dicom.codec.decode import CODECS, available

    missing = sorted({codec.name for codec in CODECS.values() if not available(codec)})
    if missing:
        fix = "pip install --force-reinstall imagecodecs"
        return Finding("DICOM codecs", "broken", f"not there: {', '.join(missing)}; such files are refused", fix)
    return Finding("DICOM codecs", "ok", "JPEG, JPEG lossless, JPEG-LS, JPEG 2000, HTJ2K, JPEG XL, RLE")


def _disk(name: str, folder: Path) -> Finding:
    at = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(at).free / _GIB
    if not os.access(at, os.W_OK):
        fix = f"give {name.split(maxsplit=1)[0].replace('runs', 'tracking')}.folder=DIR"
        return Finding(name, "broken", "cannot be written", fix)
    if free < _LEAST_GIB["disk"]:
        return Finding(name, "look", f"{free:.1f} GiB free", "a cache takes 50 KB per film at 224 pixels; make room")
    return Finding(name, "ok", f"{free:.0f} GiB free")


def _memory() -> Finding:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if _CONTAINER.is_file() and (most := _CONTAINER.read_text(encoding="utf-8").strip()).isdigit():
        size = min(size, int(most))
    found = f"{size / _GIB:.0f} GiB, {os.cpu_count()} cores"
    if size / _GIB < _LEAST_GIB["memory"]:
        return Finding("memory", "look", found, "take a smaller trainer.batch_size")
    return Finding("memory", "ok", found)


def _store(file: Path) -> Finding:
    """Look into the runs' database without MLflow and without changing it."""
    ours = f"MLflow {importlib.metadata.version('mlflow')}"
    if not file.is_file():
        return Finding("MLflow store", "ok", f"{ours}; none yet in the runs folder, the first training makes it")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file.resolve()))}?mode=ro", uri=True)) as store:
            (schema,) = store.execute("select version_num from alembic_version").fetchone()
            (runs,) = store.execute("select count(*) from runs where lifecycle_stage = 'active'").fetchone()
            (running,) = store.execute("select count(*) from runs where status = 'RUNNING'").fetchone()
    except (sqlite3.Error, TypeError) as error:
        if getattr(error, "sqlite_errorcode", None) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            return Finding("MLflow store", "look", "another process holds it locked", "look again when that has ended")
        fix = "restore mlflow.db from a copy, or give tracking.folder=DIR another folder"
        return Finding("MLflow store", "broken", "mlflow.db is damaged or no MLflow store", fix)
    if (latest := _latest_schema()) and schema != latest:
        fix = "install the MLflow that made it, or run `mlflow db upgrade` on a copy of mlflow.db"
        return Finding("MLflow store", "broken", f"mlflow.db is not of {ours}", fix)
    found = f"{ours}, {runs} runs"
    if running:
        fix = "a run that was killed goes on with python -m medvit.train resume=RUN_ID"
        return Finding("MLflow store", "look", f"{found}, {running} marked RUNNING", fix)
    return Finding("MLflow store", "ok", found)


def _latest_schema() -> str:
    """Return the revision that the installed MLflow migrates its database to; "" if its files do not say."""
    spec = importlib.util.find_spec("mlflow")
    root = Path(spec.origin).parent if spec and spec.origin else Path()
    texts = [file.read_text("utf-8") for file in (root / "store" / "db_migrations" / "versions").glob("*.py")]
    made, before = (
        {*re.findall(rf'^{key} = "(\w+)"', "\n".join(texts), re.MULTILINE)} for key in ("revision", "down_revision")
    )
    return (made - before).pop() if len(made - before) == 1 else ""


def _key() -> Finding:
    """Look at the pseudonym key without making one."""
    from medvit.dataset import pseudonym

    if not pseudonym.key_path().exists():
        found = f"none yet; the first index makes it ({pseudonym.KEY_VARIABLE} names another place)"
        return Finding("pseudonym key", "ok", found)
    try:
        key_id = pseudonym.load().key_id
    except MedvitError as error:
        found, _, fix = str(error).removeprefix("pseudonym key: ").partition("; ")
        return Finding("pseudonym key", "broken", found, fix)
    return Finding("pseudonym key", "ok", f"key {key_id}; keep a copy: without it a new index gives other pseudonyms")


def _weights() -> Finding:
    from medvit.model.pretrained import catalogue, local_store

    known = catalogue.table()
    here = [name for name in known if local_store.present(name)]
    if here:
        return Finding("weights", "ok", f"{len(here)} of {len(known)} known checkpoints: {', '.join(here)}")
    fix = "python -m medvit.weights list, then fetch or unpack"
    return Finding("weights", "look", "no published checkpoint here", fix)


def _telemetry() -> Finding:
    from medvit import TELEMETRY_OFF

    on = [name for name, value in TELEMETRY_OFF.items() if os.environ.get(name) != value]
    if on:
        fix = f"export {' '.join(f'{name}={TELEMETRY_OFF[name]}' for name in on)}, and find what changes it"
        return Finding("telemetry", "broken", f"{', '.join(on)} changed after medvit had set it", fix)
    return Finding("telemetry", "ok", "off: onnxruntime, MLflow, Hugging Face hub")


@entry("doctor")
def run(settings: dict[str, Any]) -> int:
    """Run the command of conf/doctor.yaml; exit code 1 if something is broken."""
    found = []
    folders = Path(settings["data"]["folder"]), Path(settings["tracking"]["folder"])
    for finding in examine(*folders, deep=settings["deep"]):
        sys.stdout.write(f"{finding}\n")
        found.append(finding.state)
    count = {state: found.count(state) for state in _STATES}
    sys.stdout.write(f"\n{count['ok']} ok, {count['look']} to look at, {count['broken']} broken\n")
    return _BROKEN if count["broken"] else 0


if __name__ == "__main__":
    run()
