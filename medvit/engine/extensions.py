"""Callbacks and loggers a user adds to a training, made of the nodes of conf/callbacks and conf/logger.

A callback may look at everything and stop the training; weights and what is frozen are changed by the optimiser alone,
for the averaged weights, the best checkpoint and the strategy would not know of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from torch import Tensor

from medvit.config import build, class_of
from medvit.engine.settings.part_problems import FINDERS
from medvit.errors import ConfigError, RunError

_HOOKS = [name for name in vars(pl.Callback) if name.startswith("on_") and "checkpoint" not in name]
_OFTEN = (
    "batch",
    "gradient",
    "backward",
    "optimizer",
    "zero_grad",
)  # hooks of every step: no sum over all weights there


def callbacks_of(settings: Mapping[str, Any], folder: Path) -> list[pl.Callback]:
    """Return the callbacks of `settings`, each watched for changes of the weights.

    Raises:
        ConfigError: what is no callback of Lightning, arguments one does not take, or two that cannot be resumed.
    """
    found = []
    for name, node in _nodes(settings, "callbacks"):
        if node["_target_"].rpartition(".")[2] in FINDERS:  # they have found what they are for (medvit.engine.finders)
            continue
        places = {"dirpath": str(folder / "checkpoints" / "lightning")} if _takes(node, "dirpath") else {}
        made = build(_with_epochs(node), **places)
        if not isinstance(made, pl.Callback):
            raise ConfigError(f"callbacks.{name}: {node['_target_']} is no callback of pytorch_lightning")
        found.append(_watched(made, name))
    keys = [each.state_key for each in found if type(each).state_dict is not pl.Callback.state_dict]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ConfigError(f"callbacks: two of {', '.join(twice)} could not be told apart by a resumed run; keep one")
    return found


def loggers_of(settings: Mapping[str, Any], folder: Path) -> list[Logger]:
    """Return the loggers of `settings`, which write into the run's folder.

    Raises:
        ConfigError: what is no logger of Lightning, or arguments it does not take.
    """
    found = []
    for name, node in _nodes(settings, "logger"):
        made = build(node, **({"save_dir": str(folder)} if _takes(node, "save_dir") else {}))
        if not isinstance(made, Logger):
            raise ConfigError(f"logger.{name}: {node['_target_']} is no logger of pytorch_lightning")
        found.append(made)
    return found


def refuse_unusable(settings: Mapping[str, Any], folder: Path = Path("unused")) -> None:
    """Make what `settings` add, without a run.

    Raises:
        ConfigError: what cannot be made.
    """
    callbacks_of(settings, folder)
    loggers_of(settings, folder)


def _nodes(settings: Mapping[str, Any], group: str) -> list[tuple[str, dict[str, Any]]]:
    return [(name, node) for name, node in (settings.get(group) or {}).items() if node is not None]


def _with_epochs(node: dict[str, Any]) -> dict[str, Any]:
    """Return the node with the epochs of a schedule as numbers, which JSON keeps as text."""
    held = node.get("scheduling")
    return {**node, "scheduling": {int(epoch): n for epoch, n in held.items()}} if isinstance(held, dict) else node


def _takes(node: dict[str, Any], argument: str) -> bool:
    return argument in inspect.signature(class_of(node)).parameters


def _watched(callback: pl.Callback, name: str) -> pl.Callback:
    """Return the callback; a hook of its own that changes weights, or what is frozen, raises RunError."""
    if isinstance(callback, ModelCheckpoint):
        return callback
    for hook in _HOOKS:
        own = getattr(callback, hook)
        if getattr(type(callback), hook) is not getattr(pl.Callback, hook):
            setattr(callback, hook, _guarded(own, f"callbacks.{name}", hook))
    return callback


def _guarded(hook: Callable[..., Any], name: str, at: str) -> Callable[..., Any]:
    thorough = not any(word in at for word in _OFTEN)

    @wraps(hook)
    def guarded(trainer: pl.Trainer, module: pl.LightningModule, *rest: Any, **more: Any) -> Any:
        before = _state(module, thorough)
        result = hook(trainer, module, *rest, **more)
        if _state(module, thorough) != before:
            raise RunError(
                f"{name} changes weights, or what is frozen, in {at}, behind the averaged weights and the strategy: "
                "take it away; optim and optim.plan.ema say which weights move and which are kept"
            )
        return result

    return guarded


def _state(module: pl.LightningModule, thorough: bool) -> list[Any]:
    """Return what changes with any weight: its count of changes, and where there is time the sum of what it holds."""
    parameters: list[Tensor] = list(module.parameters())
    found: list[Any] = [(p._version, p.requires_grad) for p in parameters]
    if thorough and parameters:
        with torch.no_grad():
            found += torch.stack(torch._foreach_norm(parameters)).tolist()  # an edit of p.data is not counted
    return found
