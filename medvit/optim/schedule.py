"""Warm-up and cosine decay, per parameter group."""

from __future__ import annotations

import math

from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from medvit.errors import ConfigError
from medvit.optim.training_length import TrainingLength


class WarmupCosine:
    """The rate of one group over the steps, as a multiple of its own: up linearly, then down along a cosine.

    A group that is frozen at first rises when it is set free: its warm-up starts there. The scheduler stores `start`,
    so that a resumed run continues where it was; the length is that of the settings, also of a run that is extended.
    """

    # the scheduler's state is the __dict__: numbers only
    __slots__ = ("__dict__", "_parameters", "floor", "steps", "warmup")

    def __init__(self, parameters: list[Parameter], warmup: int, steps: int, floor: float) -> None:
        self._parameters = parameters
        self.warmup, self.steps, self.floor = warmup, steps, floor
        self.start: int | None = None

    def __call__(self, step: int) -> float:
        """Return the multiple at `step`."""
        if not any(p.requires_grad for p in self._parameters):
            self.start = None
            return 0.0
        if self.start is None:
            self.start = step
        rise = 1.0 if self.warmup == 0 else min(1.0, (step - self.start + 1) / self.warmup)
        progress = min(1.0, max(0.0, (step - self.warmup) / max(1, self.steps - self.warmup)))
        return rise * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress)) / 2)


def warmup_cosine(optimizer: Optimizer, warmup: int, steps: int, floor: float = 0.0) -> LambdaLR:
    """Return the schedule, to be stepped once per batch: `warmup` of `steps` steps up, then down to `floor` in [0, 1].

    Raises:
        ConfigError: numbers that make no schedule.
    """
    if not (0 <= warmup <= steps and steps > 0 and 0 <= floor <= 1):
        raise ConfigError(f"schedule: expected 0 <= warmup={warmup} <= steps={steps}, and 0 <= floor={floor} <= 1")
    return LambdaLR(
        optimizer, [WarmupCosine(group["params"], warmup, steps, floor) for group in optimizer.param_groups]
    )


def cosine_after_warmup(
    optimizer: Optimizer, length: TrainingLength, lr: float, warmup_epochs: float = 1.0, final_lr: float = 1e-6
) -> LambdaLR:
    """Return `warmup_cosine` over a training of this length; `lr` is the plan's, and falls to `final_lr`."""
    return warmup_cosine(optimizer, length.within(warmup_epochs), length.steps, final_lr / lr)
