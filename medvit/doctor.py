"""`python -m medvit.doctor`: what this machine can do, what is missing or broken, and how to mend it."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvit.config import entry
from medvit.errors import MedvitError

_BROKEN = 1  # the exit code
_GIB = 1 << 30
_LEAST_GIB = {"disk": 5.0, "memory": 4.0}
_STATES = ("ok", "look", "broken")


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


def examine(data: Path, runs: Path) -> Iterator[Finding]:
    """Yield what is found of this machine; `data` and `runs` are the folders that are to be written."""
    yield Finding("python", "ok", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    yield _packages()
    yield from _torch()
    yield _codecs()
    yield from (_disk(name, folder) for name, folder in (("data folder", data), ("runs folder", runs)))
    yield _memory()
    yield _store(runs)
    yield _key()
    yield _weights()


def _packages() -> Finding:
    """Compare what is installed with what medvit's metadata asks for, extras left out."""
    from packaging.requirements import Requirement

    wrong = []
    asked = [Requirement(line) for line in importlib.metadata.requires("medvit") or []]
    needed = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
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
    return Finding(
        "packages", "ok", f"medvit {importlib.metadata.version('medvit')}, {len(needed)} dependencies as asked"
    )


def _torch() -> Iterator[Finding]:
    try:
        torch: Any = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        yield Finding("torch", "broken", f"cannot be imported ({type(error).__name__})", "install torch again")
        return
    build = (
        f"CUDA {torch.version.cuda}"
        if torch.version.cuda
        else f"HIP {torch.version.hip}"
        if torch.version.hip
        else "CPU"
    )
    yield Finding("torch", "ok", f"{torch.__version__}, built for {build}, {torch.get_num_threads()} threads")
    yield _gpu(torch)
    precision = importlib.import_module("medvit.engine.fit").best_precision()
    yield Finding("bf16", "ok", f"{'yes' if 'bf16' in precision else 'no'}; trainer.precision=auto is {precision} here")


def _gpu(torch: Any) -> Finding:
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        names = ", ".join(f"{card.name} ({card.total_memory / _GIB:.0f} GiB)" for card in cards)
        return Finding("GPU", "ok", f"{names}; bf16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}")
    if driver := _driver():
        fix = "install torch for CUDA (pytorch.org says how), or a driver that fits it"
        return Finding("GPU", "broken", f"{driver}, which this build of torch cannot use", fix)
    return Finding(
        "GPU",
        "look",
        "none; training runs on the CPU (the default run, frozen probes and small ViTs are made for that)",
    )


def _driver() -> str:
    """Return the NVIDIA card that the driver sees, "" if there is no driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    asked = [tool, "--query-gpu=name", "--format=csv,noheader"]
    seen = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=20)  # noqa: S603
    return ", ".join(seen.stdout.splitlines()) if seen.returncode == 0 else ""


def _codecs() -> Finding:
    from medvit.dicom.decode import CODECS, available

    missing = sorted({codec.name for codec in CODECS.values() if not available(codec)})
    if missing:
        fix = "pip install --force-reinstall imagecodecs"
        return Finding("DICOM codecs", "broken", f"not there: {', '.join(missing)}; such files are refused", fix)
    return Finding("DICOM codecs", "ok", "JPEG, JPEG lossless, JPEG-LS, JPEG 2000, HTJ2K, JPEG XL, RLE")


def _disk(name: str, folder: Path) -> Finding:
    at = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(at).free / _GIB
    if not os.access(at, os.W_OK):
        return Finding(
            name,
            "broken",
            "cannot be written",
            f"give {name.split(maxsplit=1)[0].replace('runs', 'tracking')}.folder=DIR",
        )
    if free < _LEAST_GIB["disk"]:
        return Finding(name, "look", f"{free:.1f} GiB free", "a cache takes 50 KB per film at 224 pixels; make room")
    return Finding(name, "ok", f"{free:.0f} GiB free")


def _memory() -> Finding:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    if size < _LEAST_GIB["memory"]:
        return Finding("memory", "look", f"{size:.1f} GiB", "take a smaller trainer.batch_size")
    return Finding("memory", "ok", f"{size:.0f} GiB, {os.cpu_count()} cores")


def _store(runs: Path) -> Finding:
    if not (runs / "mlflow.db").is_file():
        return Finding("MLflow store", "ok", "none yet in the runs folder; the first training makes it")
    from medvit.tracking.run import open_client

    try:
        client = open_client(runs)
    except MedvitError as error:
        return Finding("MLflow store", "broken", "cannot be opened", str(error))
    experiments = [one.experiment_id for one in client.search_experiments()]
    running = client.search_runs(experiments, "attributes.status = 'RUNNING'")
    found = f"MLflow {importlib.metadata.version('mlflow')}, {len(experiments)} experiments"
    if running:
        return Finding(
            "MLflow store",
            "look",
            f"{found}, {len(running)} runs marked RUNNING",
            "those that were killed go on with train resume=RUN",
        )
    return Finding("MLflow store", "ok", found)


def _key() -> Finding:
    """Look at the pseudonym key without making one."""
    from medvit.dataset import pseudonym

    path = pseudonym.key_path()
    if not path.exists():
        return Finding(
            "pseudonym key", "ok", f"none yet; the first index makes it ({pseudonym.KEY_VARIABLE} names another place)"
        )
    try:
        key_id = pseudonym.load().key_id
    except MedvitError as error:
        return Finding(
            "pseudonym key",
            "broken",
            str(error).removeprefix("pseudonym key: "),
            f"mode now {stat.filemode(path.stat().st_mode)}",
        )
    return Finding("pseudonym key", "ok", f"key {key_id}; keep a copy: without it a new index gives other pseudonyms")


def _weights() -> Finding:
    from medvit.model.pretrained import families, store

    known = families.table().checkpoints
    here = [name for name in known if store.local(name).is_dir()]
    if here:
        return Finding("weights", "ok", f"{len(here)} of {len(known)} known checkpoints: {', '.join(here)}")
    return Finding(
        "weights", "look", "no published checkpoint here", "python -m medvit.weights list, then fetch or unpack"
    )


@entry("doctor")
def run(settings: dict[str, Any]) -> int:
    """Run the command of conf/doctor.yaml; exit code 1 if something is broken."""
    found = []
    for finding in examine(Path(settings["data"]["folder"]), Path(settings["tracking"]["folder"])):
        sys.stdout.write(f"{finding}\n")
        found.append(finding.state)
    count = {state: found.count(state) for state in _STATES}
    sys.stdout.write(f"\n{count['ok']} ok, {count['look']} to look at, {count['broken']} broken\n")
    return _BROKEN if count["broken"] else 0


if __name__ == "__main__":
    run()
