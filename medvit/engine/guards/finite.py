"""A loss, gradient or weight that is not finite: the step is left out, or the training ends; images are named."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer

from medvit.errors import Diverged

_LOOK_EVERY = 20  # steps: a look at a GPU's numbers waits for it
_SHOWN = 8
_log = logging.getLogger(__name__)


@dataclass
class FiniteGuard:
    """Looks at each step of the optimiser before it is made.

    Up to `skips` steps of a training whose loss or gradient is not finite are left out; the next one ends it, and so
    does the first where `skips` is 0. On a GPU, where every look waits for it, `_LOOK_EVERY` steps are then looked at
    together.
    """

    skips: int = 0
    skipped: int = 0
    _batches: list[tuple[int, Sequence[str], Tensor]] = field(default_factory=list)  # since the last step
    _steps: list[tuple[Tensor, str]] = field(default_factory=list)  # not looked at yet: finite or not, and which images

    def batch(self, number: int, uids: Sequence[str], loss: Tensor) -> None:
        """Take note of a batch's loss (detached, not divided by the number of batches of the step)."""
        self._batches.append((number, uids, loss))

    def step(self, norm: Tensor | None, optimizer: Optimizer, epoch: int) -> int:
        """Look at a step about to be made, by its gradient's norm and its losses.

        Returns how many batches it left out: 0 where all is well. `norm` None: something else looks at the gradient.

        Raises:
            RunError: what is not finite may not be left out.
        """
        batches, self._batches = self._batches, []
        fine = torch.isfinite(torch.stack([loss for *_, loss in batches])).all()
        if norm is not None:
            fine = fine & torch.isfinite(norm)
        names = [uid[:8] for _, uids, _ in batches for uid in uids]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        where = f"epoch {epoch + 1}, batch {batches[-1][0] + 1}, with the images {', '.join(names[:_SHOWN])}{more}"
        if fine.device.type == "cpu" or self.skips:
            if bool(fine):
                return 0
            if self.skipped >= self.skips:
                self._refuse(where)
            self.skipped += 1
            optimizer.zero_grad(set_to_none=True)  # an optimiser leaves weights without a gradient alone
            _log.warning("a step is left out (%d of %d): its loss or gradient is not finite in %s",
                         self.skipped, self.skips, where)  # fmt: skip
            return len(batches)
        self._steps.append((fine, where))
        if len(self._steps) >= _LOOK_EVERY:
            self.look()
        return 0

    def look(self, weights: Sequence[Tensor] = ()) -> None:
        """Look at the steps made since the last look, and at the weights; raises RunError."""
        steps, self._steps = self._steps, []
        if steps and not (fine := torch.stack([each for each, _ in steps])).all():
            self._refuse(steps[int(torch.nonzero(~fine)[0])][1])
        if weights and not torch.isfinite(torch.stack(torch._foreach_norm(list(weights)))).all():
            raise Diverged(f"weights are not finite; {_ADVICE}")

    def _refuse(self, where: str) -> None:
        left = f"{self.skipped} such steps were left out already; " if self.skipped else ""
        raise Diverged(f"the loss or its gradient is not finite in {where}; {left}{_ADVICE}")


_ADVICE = (
    "the best checkpoint is kept. Lower optim.plan.lr, train with trainer.precision=32-true, look at these images, or "
    "let some steps be left out with trainer.skip_non_finite=10"
)
