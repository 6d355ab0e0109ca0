"""Lion: the sign of the momentum as the step.

Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, program 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from medvit.errors import ConfigError


class Lion(Optimizer):
    """Each step moves a weight by `lr` along the sign of its momentum, and shrinks it by lr * weight_decay beside that.

    torch has no Lion, and the step is eight lines: not worth a package. Raises ConfigError for betas outside [0, 1) and
    rates or weight decays below 0.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-4, betas: Sequence[float] = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas) or lr < 0 or weight_decay < 0:
            raise ConfigError(
                f"Lion: expected two betas in [0, 1), lr and weight_decay from 0; found betas={list(betas)}, lr={lr}, "
                f"weight_decay={weight_decay}"
            )
        super().__init__(params, {"lr": lr, "betas": list(betas), "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Make one step; `closure` computes loss and gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            for p in moving:
                self.state[p].setdefault("exp_avg", torch.zeros_like(p))
            if moving:
                self._move(moving, group)
        return loss

    def _move(self, moving: list[Tensor], group: dict[str, Any]) -> None:
        first, second = group["betas"]
        gradients = [p.grad for p in moving if p.grad is not None]
        momenta = [self.state[p]["exp_avg"] for p in moving]
        torch._foreach_mul_(moving, 1 - group["lr"] * group["weight_decay"])
        signs = torch._foreach_sign(torch._foreach_lerp(momenta, gradients, 1 - first))
        torch._foreach_add_(moving, signs, alpha=-group["lr"])
        torch._foreach_lerp_(momenta, gradients, 1 - second)
