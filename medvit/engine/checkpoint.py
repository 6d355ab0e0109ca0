"""Checkpoints of a run: weights as safetensors and the settings that rebuild the network."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medvit.atomic_file import replace_file
from medvit.config import build
from medvit.engine.build import ARCHITECTURE, build_network
from medvit.errors import DataError, RunError
from medvit.model.ensemble import Ensemble
from medvit.model.network import Network
from medvit.preprocess import from_json as preprocess_from_json
from medvit.task import from_json as task_from_json

SETTINGS, HASHES, BEST = "config.json", "hashes.json", "checkpoints/best.safetensors"
BEST_HEAD = "checkpoints/best_head.safetensors"
PREPROCESS, TASK, WEIGHTS = "preprocess.json", "task.json", "weights.json"
ENSEMBLE = "ensemble.json"  # of the run of a crossval: the runs whose logits are averaged
PIPELINE = "pipeline.json"  # every step of preprocessing and augmentation, and how it ran


@dataclass(frozen=True)
class TrainedRun:
    """A finished run, ready to predict: `network` in eval mode. `weights` says where its first weights came from."""

    network: Network
    task: Any
    preprocess: Any
    settings: dict[str, Any]
    hashes: dict[str, str]
    folder: Path
    weights: dict[str, str] = field(default_factory=dict)

    def data_folder(self) -> Path:
        """Return the data set folder the run was trained on.

        Raises:
            DataError: it is no longer there.
        """
        folder = Path(self.settings["data"]["folder"])
        if not (folder / "manifest.parquet").is_file():
            raise DataError(
                "The data set this run was trained on is not where it was. data.folder in the run's config.json names"
                " it; a relative name counts from the folder the training was started in. Put it back, or start there."
            )
        return folder


def save_weights(network: nn.Module, path: Path, without: str | None = None) -> None:
    """Write the network's tensors so that a crash leaves the old file or the new one, never a torn one.

    Those whose name starts with `without` are left out, for `complete` to add.
    """
    write_weights(weights_of(network, without), path)


def weights_of(network: nn.Module, without: str | None = None) -> dict[str, Tensor]:
    """Return a copy of the network's tensors, but for those whose name starts with `without`."""
    state = {name: t for name, t in network.state_dict().items() if without is None or not name.startswith(without)}
    return {name: tensor.detach().contiguous().clone() for name, tensor in state.items()}


def write_weights(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors as a whole or not at all; raises OSError where the disk is full."""

    def write(draft: Path) -> None:
        try:
            save_file(tensors, draft)
        except SafetensorError as error:
            raise OSError(str(error)) from error

    replace_file(path, write)


def complete(network: Network, part: Path, path: Path) -> None:
    """Write all tensors of the network to `path`, those in the file `part` as they are there."""
    network.load_state_dict({**network.state_dict(), **load_file(part)})
    save_weights(network, path)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, keys sorted."""
    text = json.dumps(content, indent=1, sort_keys=True)
    replace_file(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def _network(folder: Path, settings: dict[str, Any], outputs: int, architecture: dict[str, Any]) -> Network:
    """Return the network of a run, or the ensemble, as built; the weights are still to come."""
    file, made = folder / ENSEMBLE, list[Network]()
    members = json.loads(file.read_text(encoding="utf-8"))["members"] if file.is_file() else ["itself"]
    for _ in members:
        made.append(build_network(settings, outputs, architecture))
        build(settings["optim"]["strategy"]).prepare(made[-1])
    return Ensemble(made) if file.is_file() else made[0]


def load_run(folder: Path) -> TrainedRun:
    """Rebuild the best network of the run in `folder`.

    Raises:
        RunError: the run is unfinished, or its weights do not fit its settings.
    """
    needed = (SETTINGS, HASHES, PREPROCESS, TASK, ARCHITECTURE, BEST)
    missing = [name for name in needed if not (folder / name).is_file()]
    if TASK in missing and (folder / SETTINGS).is_file() and '"objective"' in (folder / SETTINGS).read_text("utf-8"):
        raise RunError(
            "the run is a pretraining, which predicts nothing: fine-tune it first (python -m medvit.train "
            "model.weights=runs/RUN), and give the run of that"
        )
    if missing:
        raise RunError(
            f"the run lacks {', '.join(missing)}: it did not finish, or was cleaned up; train again or resume it"
        )
    settings, hashes, preprocess, task, architecture = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in needed[:-1]
    )
    network = _network(folder, settings, len(task["names"]), architecture)
    state, wanted = load_file(folder / BEST), network.state_dict()
    shared = set(state) & set(wanted)
    wrong = sorted(set(state) ^ set(wanted)) + sorted(k for k in shared if state[k].shape != wanted[k].shape)
    if wrong:
        raise RunError(f"the weights of this run do not fit its settings: {', '.join(wrong[:5])} ({len(wrong)} in all)")
    network.load_state_dict(state)
    parts = network.eval(), task_from_json(task), preprocess_from_json(preprocess)
    file = folder / WEIGHTS
    weights = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return TrainedRun(*parts, settings, hashes, folder, weights)
