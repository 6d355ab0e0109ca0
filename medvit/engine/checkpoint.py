"""Checkpoints of a run: weights as safetensors and the settings that rebuild the network."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from safetensors.torch import load_file, save_file

from medvit.atomic_file import replace_file
from medvit.config import build
from medvit.engine.build import ARCHITECTURE, build_network
from medvit.errors import DataError, RunError
from medvit.model.network import Network
from medvit.preprocess import from_json as preprocess_from_json
from medvit.task import from_json as task_from_json

SETTINGS, HASHES, BEST = "config.json", "hashes.json", "checkpoints/best.safetensors"
BEST_HEAD = "checkpoints/best_head.safetensors"
PREPROCESS, TASK, WEIGHTS = "preprocess.json", "task.json", "weights.json"


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


def save_weights(network: Network, path: Path, without: str | None = None) -> None:
    """Write the network's tensors so that a crash leaves the old file or the new one, never a torn one.

    Those whose name starts with `without` are left out, for `complete` to add.
    """
    state = {name: t for name, t in network.state_dict().items() if without is None or not name.startswith(without)}
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in state.items()}
    replace_file(path, lambda draft: save_file(tensors, draft))


def complete(network: Network, part: Path, path: Path) -> None:
    """Write all tensors of the network to `path`, those in the file `part` as they are there."""
    network.load_state_dict({**network.state_dict(), **load_file(part)})
    save_weights(network, path)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, keys sorted."""
    text = json.dumps(content, indent=1, sort_keys=True)
    replace_file(path, lambda draft: draft.write_text(text, encoding="utf-8"))


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, written beside their place: its own go through TMPDIR, and tear on another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002
        """Write the checkpoint as a whole or not at all."""
        replace_file(Path(path), lambda draft: torch.save(checkpoint, draft))


def load_run(folder: Path) -> TrainedRun:
    """Rebuild the best network of the run in `folder`.

    Raises:
        RunError: the run is unfinished, or its weights do not fit its settings.
    """
    needed = (SETTINGS, HASHES, PREPROCESS, TASK, ARCHITECTURE, BEST)
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise RunError(
            f"the run lacks {', '.join(missing)}: it did not finish, or was cleaned up; train again or resume it"
        )
    settings, hashes, preprocess, task, architecture = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in needed[:-1]
    )
    network = build_network(settings, len(task["names"]), architecture)
    build(settings["optim"]["strategy"]).prepare(network)
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
