"""The strategy of pretraining: every weight moves, all at one rate."""

from __future__ import annotations

from typing import Any

from torch import nn

from medvit.optim.parameter_groups import decayed


class AllWeights:
    """What a training asks of its strategy, for any module; there are no phases."""

    def groups(self, network: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return the optimiser's groups of what needs a gradient: matrices, which decay, and the rest, which do not."""
        matrices, moved = decayed(network), [p for p in network.parameters() if p.requires_grad]
        return [
            {
                "params": [p for p in moved if (id(p) in matrices) == matrix],
                "name": name,
                "lr": lr,
                "weight_decay": decay,
            }
            for matrix, name, decay in ((True, "matrices", weight_decay), (False, "the rest", 0.0))
        ]

    def on_epoch(self, network: nn.Module, epoch: int) -> None:
        """Nothing changes."""
