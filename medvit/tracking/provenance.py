"""Provenance of a run: code, environment, machine and hashes of its inputs."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.atomic_file import replace_file
from medvit.tracking.journal import file_sha256
from medvit.tracking.tags import checkpoint_tags

if TYPE_CHECKING:
    from medvit.tracking.run import Run

PACKAGES = (
    *("medvit", "torch", "monai", "pytorch-lightning", "torchmetrics", "numpy", "pandas", "pyarrow", "pydicom"),
    *("highdicom", "imagecodecs", "opencv-python-headless", "scikit-learn", "safetensors", "onnx", "onnxruntime"),
    *("hydra-core", "mlflow"),
)

SHARED_CONFIG = "config.shared.json"  # in the folder of a run: its settings without places
_REBUILD = (  # as medvit.engine leaves them
    *("checkpoints/best.safetensors", SHARED_CONFIG, "hashes.json", "preprocess.json", "task.json"),
    *("architecture.json", "weights.json", "pipeline.json", "ensemble.json", "seen_patients.json"),
    "validation.parquet",
)


def environment() -> dict[str, Any]:
    """Return code, packages and hardware as plain JSON: no host name, user name or path."""
    return {"code": code(), "python": platform.python_version(), "packages": packages(), "machine": machine()}


def facts(given: Sequence[str], backbone: Any, strategy: Any = None) -> dict[str, Any]:
    """Return parameters that shape a model and are no settings: recipe, code, first weights, strategy chosen.

    `given` are the words of the command line; `strategy` is the one that trains, also where it was chosen by "auto".
    """
    recipes = [word.partition("=")[2] for word in given if word.lstrip("+").startswith("experiment=")]
    here, weights = code(), dict(getattr(backbone, "provenance", {}))
    known = {tag.rpartition(".")[2]: value for tag, value in checkpoint_tags(weights).items()}
    found: dict[str, Any] = {
        "recipe": recipes[-1] if recipes else "none",
        "commit": f"{here['commit'] or metadata.version('medvit')}{' with changes' if here['dirty'] else ''}",
        "checkpoint": {key: known[key] for key in ("id", "sha256") if key in known} or {"id": "random"},
    }
    return found if strategy is None else {**found, "chosen": {"strategy": strategy.to_json()}}


def attach(run: Run, settings: dict[str, Any], data: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Attach settings, environment and hashes to a run, and return hashes and environment.

    `data` are the hashes of its data; its validation predictions, which thresholds will come from, are hashed too.
    """
    from medvit.tracking.allow_list import portable, redacted

    sealed = {"validation": file_sha256(run.folder / "validation.parquet")}
    found, here = hashes(settings, **data, **sealed), environment()
    for name, content in (("config", redacted(settings)), ("environment", here), ("hashes", found)):
        run.json(content, f"{name}.json")
    shared = json.dumps(portable(settings), indent=1, sort_keys=True)
    replace_file(run.folder / SHARED_CONFIG, lambda draft: draft.write_text(shared, encoding="utf-8"))
    run.files([name for name in _REBUILD if (run.folder / name).is_file()])
    return found, here


def code() -> dict[str, Any]:
    """Return the git commit medvit runs from and whether its files differ from it; commit "" outside a checkout."""
    package = Path(__file__).resolve().parents[1]
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py")
    if tracked is None:  # installed from a wheel, perhaps inside somebody else's repository
        return {"commit": "", "dirty": None}
    changed = _git(package, "status", "--porcelain", "--", str(package), str(package.parent / "conf"))
    return {"commit": (_git(package, "rev-parse", "HEAD") or "").strip(), "dirty": bool((changed or "").strip())}


def _git(folder: Path, *arguments: str) -> str | None:
    program = shutil.which("git")
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 (a fixed program with arguments of our own)
            [program, "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def packages() -> dict[str, str]:
    """Return the installed version of every package that can change a result."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


def machine() -> dict[str, Any]:
    """Return processor, cores, memory and GPU; the GPU only where torch is loaded already."""
    found: dict[str, Any] = {
        "system": platform.system(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": [],
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        found["cuda"] = torch.version.cuda
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def json_sha256(value: Any) -> str:
    """Return the SHA-256 of a JSON value in one canonical spelling (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hashes(config: Mapping[str, Any], **digests: str) -> dict[str, str]:
    """Return `digests` (manifest, splits, preprocess, ...) with those of the configuration and of constraints.txt."""
    found = {"config": json_sha256(config), **digests}
    constraints = Path(__file__).resolve().parents[2] / "constraints.txt"
    if constraints.is_file():
        found["constraints"] = file_sha256(constraints)
    return dict(sorted(found.items()))
