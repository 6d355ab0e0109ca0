"""Parity gate of the export: bundle and training path give equal outputs on real files.

Training path: preprocessing, torch network, task. Exported path: another process without torch, from the same files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvit.bundle.runtime import Source
from medvit.errors import BundleError, DicomRefusal
from medvit.preprocess import VolumeFiles

if TYPE_CHECKING:
    from torch import nn

LIMIT = 1e-5  # largest difference of a probability
Probabilities = Callable[[NDArray[Any]], NDArray[np.float64]]


@dataclass(frozen=True)
class Trained:
    """What was trained: the network, the preprocessing object, and the task's `probabilities_numpy`.

    `golden` are generated cases for the bundle, each the bytes of one film or of the files of one series; `onnx` is the
    file that keeps the network as ONNX between train, register and export (see `medvit.bundle.onnx.write_onnx`).
    """

    network: nn.Module
    preprocess: Any
    probabilities: Probabilities
    golden: Sequence[Sequence[bytes]] = ()
    onnx: Path | None = None


@dataclass(frozen=True)
class Parity:
    """How far the two paths lie apart over `images` images; `rejected` of the samples were refused by both."""

    images: int
    rejected: int
    probability: float
    logit: float
    flips: int


def gate(
    bundle: Path, network: nn.Module, preprocess: Any, probabilities: Probabilities, samples: Sequence[Source]
) -> Parity:
    """Compare both paths on `samples` and return the differences.

    `bundle` is sealed; `network`, `preprocess` and `probabilities` (the task's `probabilities_numpy`) are the training
    path; `samples` are DICOM files, or lists of the files of one series, real ones where there are any.

    Raises:
        BundleError: no sample could be read, one path refuses what the other reads, a probability differs by more
            than 1e-5, or a decision differs away from its threshold.
    """
    if not samples:
        raise BundleError("The export cannot be checked: no sample image. Give samples=DIR with DICOM files.")
    ours = training_logits(network, preprocess, samples)
    theirs = _exported(bundle, samples)
    mixed = [n for n, (a, b) in enumerate(zip(ours, theirs, strict=True), 1) if (a is None) != (b["status"] != "OK")]
    if mixed:
        raise BundleError(f"Samples {mixed} are read by one of training and export and refused by the other.")
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None]
    if not pairs:
        raise BundleError(f"None of the {len(samples)} samples can be read: {theirs[0]['reason']}")
    logits = np.stack([a for a, _ in pairs])
    names = list(pairs[0][1]["logit"])
    exported = {key: np.array([[b[key][n] for n in names] for _, b in pairs]) for key in ("logit", "uncalibrated")}
    worst = float(np.abs(probabilities(logits) - exported["uncalibrated"]).max())
    drift = float(np.abs(logits - exported["logit"]).max())
    flips = _flips(bundle, logits, [b["decision"] for _, b in pairs])
    if not worst <= LIMIT or flips:
        raise BundleError(
            f"The exported model does not say what the trained one says: probabilities differ by up to {worst:.2g} "
            f"(allowed {LIMIT:g}), {flips} decisions differ, over {len(pairs)} images. Nothing was exported."
        )
    return Parity(len(pairs), len(samples) - len(pairs), worst, drift, flips)


def training_logits(network: nn.Module, preprocess: Any, samples: Sequence[Source]) -> list[NDArray[np.float64] | None]:
    """Return the logits [K] of each sample by the training path, None where the file is refused."""
    import torch

    from medvit.types import Bag

    found: list[NDArray[np.float64] | None] = []
    network = network.eval()
    device = next(network.parameters()).device
    for sample in samples:
        try:
            prepared = preprocess.prepare(preprocess.read(sample))
        except DicomRefusal:
            found.append(None)
            continue
        integers = torch.from_numpy(prepared.pixels.astype(np.float32)).to(device)
        images = integers * preprocess.scale + preprocess.shift  # as the training step normalises on the device
        with torch.no_grad():
            if getattr(network, "bag", None) is None:
                logits = network(images)
            else:
                position = torch.from_numpy(prepared.position_mm)[None].to(device)
                mask, kind = torch.ones_like(position, dtype=torch.bool), torch.zeros_like(position).long()
                logits = network(images[None], Bag(mask, position, kind))
        found.append(logits[0].double().cpu().numpy())
    return found


def _exported(bundle: Path, samples: Sequence[Source]) -> list[dict[str, Any]]:
    """Return what the bundle says of each sample in a fresh process that has no torch."""
    with tempfile.TemporaryDirectory() as folder:
        asked, told = Path(folder) / "sources.json", Path(folder) / "results.json"
        asked.write_text(json.dumps([_listed(sample) for sample in samples]), encoding="utf-8")
        root = Path(__file__).resolve().parents[2]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, "-m", "medvit.bundle.subprocess_check", str(bundle), str(asked), str(told)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise BundleError(f"The bundle does not run by itself (exit code {done.returncode}): {last}")
        results: list[dict[str, Any]] = json.loads(told.read_text(encoding="utf-8"))
    return results


def _listed(sample: Source) -> Any:
    if isinstance(sample, VolumeFiles):
        return {"files": [str(file) for file in sample.files], "volume_key": sample.volume_key}
    return str(sample) if isinstance(sample, Path) else [str(file) for file in sample]


def _flips(bundle: Path, logits: NDArray[np.float64], said: list[dict[str, str]]) -> int:
    """Count decisions that differ although the probability is not at its threshold (within LIMIT)."""
    from medvit.bundle.contents import read
    from medvit.bundle.decision import Decider

    opened = read(bundle)
    names = tuple(opened.labels["names"])
    decider = Decider(names, opened.labels["activation"], opened.calibration, opened.thresholds)
    raw, scaled = decider.probabilities(logits), decider.calibrated(logits)
    count = 0
    for row, (ours, theirs) in enumerate(zip(decider.decisions(raw, scaled), said, strict=True)):
        for name in ours.keys() & theirs.keys():
            rule, column = opened.thresholds[name], names.index(name)
            score = (raw if rule.get("score") == "probability" else scaled)[row, column]
            count += int(ours[name] != theirs[name] and abs(score - float(rule["threshold"])) > LIMIT)
    return count
