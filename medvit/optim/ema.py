"""Exponential moving average of the weights that move: what is validated, kept and exported."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medvit.errors import ConfigError, RunError


class EMA:
    """Averages of the trained parameters and of floating buffers; frozen weights are not copied.

    Made after `Strategy.prepare`, when every weight that will ever move needs a gradient. The decay rises as
    min(decay, (1 + n) / (10 + n)) with the number n of updates, so that the first weights are soon forgotten.
    Raises ConfigError for a decay outside (0, 1).
    """

    def __init__(self, network: nn.Module, decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise ConfigError(f"optim.plan.ema={decay}: expected 0 < decay < 1, or 0 to switch the average off")
        self.decay, self.updates = decay, 0
        moving = [name for name, p in network.named_parameters() if p.requires_grad]
        floating = [name for name, b in network.named_buffers() if b.is_floating_point()]
        state = network.state_dict(keep_vars=True)
        self.average = {name: state[name].detach().clone() for name in (*moving, *floating) if name in state}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network's weights, after an optimiser step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        now = self._live(network)
        torch._foreach_lerp_(list(self.average.values()), now, 1 - decay)

    @torch.no_grad()
    def swap(self, network: nn.Module) -> None:
        """Exchange average and weights; a second call puts them back, bit for bit."""
        for mean, live in zip(self.average.values(), self._live(network), strict=True):
            kept = live.clone()
            live.copy_(mean)
            mean.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the number of updates."""
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a stored average.

        Raises:
            RunError: the stored average is of other weights.
        """
        stored: dict[str, Tensor] = state["average"]
        shapes = {name: tuple(value.shape) for name, value in stored.items()}
        own = {name: tuple(value.shape) for name, value in self.average.items()}
        if shapes != own:
            other = sorted(name for name in shapes.keys() | own.keys() if shapes.get(name) != own.get(name))
            raise RunError(
                f"the stored average does not fit this network: {len(other)} tensors differ, the first {other[:3]}; "
                "resume with the settings the run was started with"
            )
        self.updates = int(state["updates"])
        for name, value in stored.items():
            self.average[name].copy_(value)

    def _live(self, network: nn.Module) -> list[Tensor]:
        places = (name.rpartition(".") for name in self.average)  # a whole state_dict costs more than the averaging
        return [getattr(network.get_submodule(module), own) for module, _, own in places]
