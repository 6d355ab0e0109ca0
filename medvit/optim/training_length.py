"""How long a training is, as schedules of the learning rate need it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingLength:
    """Steps of the optimiser in all, and in one epoch; `of_epochs` where epochs have different numbers of them."""

    steps: int
    per_epoch: int
    of_epochs: tuple[int, ...] = ()

    @property
    def epochs(self) -> float:
        """Passes over the training side; not whole where `trainer.max_steps` ends it."""
        return self._passes(self.steps) if self.of_epochs else self.steps / self.per_epoch

    def within(self, epochs: float) -> int:
        """Return the steps of the first `epochs` passes, at most all."""
        if not self.of_epochs:
            return round(self.steps * min(1.0, epochs / self.epochs))
        whole = min(int(epochs), len(self.of_epochs))
        begun = self.of_epochs[whole] * (epochs - whole) if whole < len(self.of_epochs) else 0.0
        return min(self.steps, round(sum(self.of_epochs[:whole]) + begun))

    def _passes(self, steps: int) -> float:
        for epoch, count in enumerate(self.of_epochs):
            if steps <= count:
                return epoch + steps / count
            steps -= count
        return float(len(self.of_epochs))
