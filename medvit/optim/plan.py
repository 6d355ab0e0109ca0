"""How the weights move: the optimiser and its schedule, made of the nodes of conf/optimizer and conf/scheduler."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from medvit.config import build
from medvit.errors import ConfigError
from medvit.optim.training_length import TrainingLength

OF_LIGHTNING = ("interval", "frequency", "monitor", "strict")  # beside the schedule's own settings, as Lightning takes
_LENGTHS = ("T_max", "total_iters", "total_steps")  # null: as long as the training
_FOREIGN = (TypeError, ValueError, RuntimeError, KeyError, AttributeError, IndexError, NotImplementedError)


def _adamw() -> dict[str, Any]:
    return {"_target_": "torch.optim.AdamW", "fused": True}


def _warmup_cosine() -> dict[str, Any]:
    return {"_target_": "medvit.optim.schedule.cosine_after_warmup"}


@dataclass(frozen=True)
class Plan:
    """Rate and weight decay of the groups, clipping, `ema` (decay of averaged weights), optimiser and schedule.

    The last two are nodes of the folders of conf/ named in `PARTS`.
    """

    PARTS: ClassVar[tuple[str, str]] = ("optimizer", "scheduler")
    lr: float = 1e-3
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float = 0.999
    optimizer: Mapping[str, Any] = field(default_factory=_adamw)
    scheduler: Mapping[str, Any] = field(default_factory=_warmup_cosine)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Plan:
        """Return the plan of the settings of conf/train.yaml; a run of 0.1 has no optimiser or schedule of its own."""
        numbers = dict(settings["optim"]["plan"])
        betas = {key: numbers.pop(key) for key in ("betas",) if key in numbers}
        cosine = {key: numbers.pop(key) for key in ("warmup_epochs", "final_lr") if key in numbers}
        optimizer = settings.get("optimizer") or {**_adamw(), **betas}
        return cls(
            **numbers, optimizer=optimizer, scheduler=settings.get("scheduler") or {**_warmup_cosine(), **cosine}
        )

    def make_optimizer(self, groups: list[dict[str, Any]]) -> Optimizer:
        """Return the optimiser of the strategy's `groups`.

        Raises:
            ConfigError: arguments it does not take, or a weight decay that it would not use.
        """
        found: Optimizer = build(dict(self.optimizer), params=_named(groups), lr=self.lr)
        decay = max(group["weight_decay"] for group in groups)
        if decay and "weight_decay" not in found.defaults:
            raise ConfigError(f"optimizer {_name(self.optimizer)} has no weight decay: give optim.plan.weight_decay=0")
        if getattr(found, "_step_supports_amp_scaling", False):
            # Lightning refuses to clip where the step unscales gradients itself: it must unscale before it clips
            found._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        return found

    def make_scheduler(self, optimizer: Optimizer, length: TrainingLength) -> dict[str, Any]:
        """Return the schedule as Lightning takes it, with how often it moves and what it looks at.

        Raises:
            ConfigError: arguments it does not take, an interval that is none, or a training too short for it.
        """
        node = dict(self.scheduler)
        options = {"interval": "step", **{key: node.pop(key) for key in OF_LIGHTNING if key in node}}
        if options["interval"] not in ("step", "epoch"):
            raise ConfigError(f"scheduler.interval={options['interval']}: expected step or epoch")
        if node["_target_"].startswith("medvit."):
            return {"scheduler": build(node, optimizer=optimizer, length=length, lr=self.lr), **options}
        ends = length.steps if options["interval"] == "step" else math.ceil(length.epochs)
        return {"scheduler": build(_filled(node, optimizer, ends)), **options}

    def refuse_unusable(self) -> None:
        """Make one step of optimiser and schedule with a matrix and a bias.

        Raises:
            ConfigError: what they cannot do, which would stop a run after its data was made ready, or its resumption.
        """
        matrix, bias = (nn.Parameter(torch.zeros(shape)) for shape in ((2, 2), (2,)))
        groups = [
            {"params": [matrix], "name": "matrix", "lr": self.lr, "weight_decay": self.weight_decay},
            {"params": [bias], "name": "bias", "lr": self.lr, "weight_decay": 0.0},
        ]
        optimizer = self.make_optimizer(groups)
        schedule = self.make_scheduler(optimizer, TrainingLength(1000, 100))["scheduler"]
        matrix.grad, bias.grad = torch.ones(2, 2), torch.ones(2)
        plateau = isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau)
        stored = io.BytesIO()
        try:
            optimizer.step()
            schedule.step(*([1.0] if plateau else []))
            torch.save([optimizer.state_dict(), schedule.state_dict()], stored)
        except _FOREIGN as error:
            raise ConfigError(f"optimizer {_name(self.optimizer)} cannot train here: {error}") from error
        stored.seek(0)
        try:
            torch.load(stored, weights_only=True)
        except Exception as error:  # of whatever class: what cannot be loaded so is refused here
            said = f"{_name(self.optimizer)} with {_name(self.scheduler)}"
            raise ConfigError(f"{said} keeps a state that cannot be resumed without a pickle: {error}") from error


def _named(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the groups, those of a layer without weight decay under another name, as monitors of the rate ask."""
    names = [group["name"] for group in groups]
    twice = [name in names[:place] for place, name in enumerate(names)]
    return [
        {**group, "name": f"{group['name']} (rest)"} if again else group
        for group, again in zip(groups, twice, strict=True)
    ]


def _filled(node: Any, optimizer: Optimizer, length: int) -> Any:
    """Return the node of a schedule of torch, and those in it, with the optimiser and the length that was left open."""
    if isinstance(node, list):
        return [_filled(one, optimizer, length) for one in node]
    if not isinstance(node, Mapping):
        return node
    values = {key: _filled(value, optimizer, length) for key, value in node.items()}
    if "_target_" not in node:
        return values
    values |= {key: length for key in _LENGTHS if key in node and node[key] is None}
    if "max_lr" in node and node["max_lr"] is None:
        values["max_lr"] = [group["lr"] for group in optimizer.param_groups]
    return {**values, "optimizer": optimizer}


def _name(node: Mapping[str, Any]) -> str:
    return str(node.get("_target_")).rpartition(".")[2]
