"""Answers to reporting checklists (CLAIM, TRIPOD+AI) from what the run recorded of data, model and training.

Every sentence repeats recorded facts. What was not recorded is left out, so that its checklist items stay open.
"""

from __future__ import annotations

import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from medvit.data.units import Units
    from medvit.engine.checkpoint import TrainedRun
    from medvit.tracking.run import Run


def checklist_answers(trained: TrainedRun, run: Run, train: Units) -> dict[str, str]:
    """Return the sentences by the keys of `medvit.report.checklist.FROM_PROVENANCE`."""
    environment = _environment(run)
    found = {
        "data": f"Data set {trained.settings['data']['name']}, manifest sha256 {trained.hashes['manifest'][:12]}.",
        "criteria": _criteria(Path(trained.settings["data"]["folder"])),
        "partition": _partition(Path(trained.settings["data"]["folder"])),
        "preprocess": ", ".join(f"{key} {value}" for key, value in trained.preprocess.to_json().items()),
        "labels": _labels(trained),
        "model": _model(trained),
        "weights": _weights(trained.settings["model"].get("weights")),
        "training": _training(trained, run, environment),
        "selection": f"The epoch with the best {trained.task.monitor} on the validation split, one training.",
        "software": _software(environment),
        "materials": _materials(environment, run),
        "pseudonym": "Identifiers are replaced by keyed HMAC-SHA256 pseudonyms before anything is stored.",
        "imbalance": _imbalance(trained, train),
    }
    return {key: text for key, text in found.items() if text}


def label_words(trained: TrainedRun) -> dict[str, tuple[str, str]]:
    """Return the label table's words for absence and presence of a yes-or-no finding; {} where it spells 0 and 1."""
    spelt = trained.task.settings.get("values") or {}
    words = [" or ".join(str(word) for word, value in spelt.items() if value == side) for side in (0, 1)]
    return {trained.task.names[0]: (words[0], words[1])} if trained.task.kind == "binary" and all(words) else {}


def about(trained: TrainedRun, run: Run, split: str, external: bool, named: str) -> dict[str, str]:
    """Return the title of the report and what stands under it: model, data set, run and dates (UTC)."""
    info, home = run.client.get_run(run.id).info, str(trained.settings["data"]["name"])
    tested = f"{split} (trained on {home})" if external else f"{home}, {split} split"
    return {
        "title": f"Evaluation: {named} on {tested}",
        "Model": _model(trained),
        "Data set": f"{tested}; manifest sha256 {trained.hashes['manifest'][:12]}",
        "Run": f"{info.run_name} ({run.id})",
        "Trained": _day(info.start_time / 1000),
        "Evaluated": _day(time.time()),
    }


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _environment(run: Run) -> dict[str, Any]:
    """Return what training recorded of code, packages and machine; {} for a run without it."""
    if "environment.json" not in run.artifacts():
        return {}
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = json.loads(run.fetch("environment.json", Path(folder)).read_text("utf-8"))
    return found


def _criteria(folder: Path) -> str:
    """Say which objects were indexed and which were left out by the reading rules; who was enrolled is not known."""
    from medvit.dataset import manifest

    images = len(manifest.read(folder).table)
    file = folder / "exclusions.csv"
    if not file.is_file():
        return ""
    codes = pd.read_csv(file)["code"].value_counts()
    out = ", ".join(f"{code} {number}" for code, number in codes.items()) or "none"
    return (
        f"By object: {images} images or series that could be read and labelled were taken; left out by reason: {out} "
        "(exclusions.csv of the data set). How patients were chosen is for the author to say."
    )


def _partition(folder: Path) -> str:
    from medvit.dataset import manifest, splits

    division = splits.read(folder, manifest.read(folder))
    spec, counts = division.spec, division.table["split"].value_counts()
    sizes = ", ".join(f"{side} {counts[side]}" for side in ("train", "val", "test") if side in counts)
    return (
        f"By patient, strategy {spec['strategy']}, seed {spec['seed']}: patients {sizes}; frozen before training "
        f"(sha256 {division.digest[:12]})."
    )


def _labels(trained: TrainedRun) -> str:
    task, settings = trained.task, trained.task.settings
    spelt = f", spelt {settings['values']}" if settings.get("values") else ""
    policy = ", ".join(f"{what} labels: {settings[what]}" for what in ("missing", "uncertain") if what in settings)
    return f"Task {task.kind}: {', '.join(task.names)}{spelt}, as the label table says; {policy or 'no label policy'}."


def _model(trained: TrainedRun) -> str:
    network, step = trained.network, trained.preprocess
    count = sum(parameter.numel() for parameter in network.parameters())
    shape = " x ".join(str(side) for side in step.shape)
    inner = getattr(network.backbone, "network", network.backbone)  # of a network made elsewhere
    backbone, pool = type(inner).__name__, type(network.pool).__name__
    bag = f", {type(network.bag).__name__} over the images of a unit" if network.bag is not None else ""
    many = len(getattr(network, "members", ()))
    ensemble = f"Mean of the logits of {many} networks, each a " if many else ""
    return (
        f"{ensemble}{backbone} of width {network.backbone.width} and {len(network.backbone.blocks)} blocks, {pool}"
        f"{bag}, linear head with {network.outputs} outputs; {count:,} parameters{' in all' * bool(many)}; input "
        f"{shape} (channels, rows, columns)."
    )


def _weights(source: Any) -> str:
    if not source:
        return "Random initialisation, trained from scratch."
    name = Path(str(source)).name if Path(str(source)).is_absolute() else str(source)
    return f"Started from the checkpoint {name}; the head at random."


def _augmentation(trained: TrainedRun) -> str:
    """Return the random transforms by name, as the run wrote them down; of runs of medvit 0.1 the class alone."""
    from medvit.engine.checkpoint import PIPELINE

    if (file := trained.folder / PIPELINE).is_file():
        steps = json.loads(file.read_text(encoding="utf-8"))["augment"]
        return ", ".join(step["step"].rpartition(".")[2] for step in steps) or "none"
    augment = trained.settings.get("augment")
    return str(augment["_target_"]).rpartition(".")[2] if augment else "none"


def _training(trained: TrainedRun, run: Run, environment: dict[str, Any]) -> str:
    settings = trained.settings
    plan, trainer, strategy = settings["optim"]["plan"], settings["trainer"], settings["optim"]["strategy"]
    augment = _augmentation(trained)
    numbers = ", ".join(f"{key} {plan[key]}" for key in ("lr", "weight_decay", "warmup_epochs", "ema") if key in plan)
    info = run.client.get_run(run.id).info
    minutes = (info.end_time - info.start_time) / 60000 if info.end_time else None
    machine = environment.get("machine", {})
    where = ", ".join(machine.get("gpus") or [f"{machine['processor']}, {machine['cores']} cores"]) if machine else ""
    return (
        f"AdamW, strategy {strategy['_target_'].rpartition('.')[2]}, {numbers}, {trainer['epochs']} epochs of batch "
        f"{trainer['batch_size']}, seed {settings['seed']}; augmentation {augment} as in config.json of the run"
        + (f"; on {where}" if where else "")
        + (f"; {minutes:.0f} minutes" if minutes is not None else "")
        + "."
    )


def _software(environment: dict[str, Any]) -> str:
    named = ", ".join(f"{name} {version}" for name, version in environment.get("packages", {}).items() if version)
    return f"Python {environment['python']}, {named}." if named else ""


def _materials(environment: dict[str, Any], run: Run) -> str:
    commit = environment.get("code", {}).get("commit")
    version = environment.get("packages", {}).get("medvit")
    if not version:
        return ""
    changed = " with uncommitted changes" if environment["code"].get("dirty") else ""
    code = f"medvit {version}, Apache-2.0" + (f", commit {commit[:12]}{changed}" if commit else "")
    return f"Code: {code}. Weights: run {run.id}. Where both are offered is for the author to say."


def _imbalance(trained: TrainedRun, train: Units) -> str:
    """Say how common each outcome was in training, and what was done about it."""
    if trained.task.kind == "regression":
        return ""
    truth = trained.task.truth(train.target, train.weight)
    shares = ", ".join(
        f"{name} {int(np.nansum(column))} of {int(np.isfinite(column).sum())}"
        for name, column in zip(trained.task.names, truth.T, strict=True)
    )
    loss, sampler = trained.task.settings.get("loss", "cross-entropy"), trained.settings["data"]["sampler"]
    drawn = sampler if isinstance(sampler, str) else sampler.get("kind", "set by config.json")
    return f"Training units with each label: {shares}. Loss: {loss}; sampler: {drawn}; thresholds chosen on validation."
