"""A loss of torch or MONAI, or a class of one's own, in place of medvit's: tried before training, masked exactly."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from medvit.errors import ConfigError, DataError
from medvit.task.loss import NOTHING, LossContext, Matrix, binary_loss, masked_mean, zero_masked_targets

ENTRIES, ROWS, MEAN = "entries", "rows", "mean"
_STEPS = (-4.0, -1.0, 1.0, 4.0)  # from surely wrong to surely right


class LibraryLoss:
    """`loss` (an `nn.Module`) on [B K] logits and targets, in fp32; an entry of weight 0 counts exactly nothing.

    `exclusive`: the columns are classes that exclude each other, and a loss that wants the number of the class gets it.
    `values`: the outputs are values, not logits. A loss that gives every entry a number of its own is masked entry by
    entry; one of a number per image, or for all, sees the images whose labels are all known (`refuse_partial`).
    Raises ConfigError for what is no loss of such shapes, or no loss of logits.
    """

    def __init__(self, loss: Any, outputs: int, exclusive: bool = False, values: bool = False) -> None:
        self.name = f"{type(loss).__module__}.{type(loss).__qualname__}"
        if not isinstance(loss, nn.Module):
            raise ConfigError(
                f"task.loss is a {type(loss).__name__}: expected a word, or _target_ of a torch.nn.Module"
            )
        if count := sum(parameter.numel() for parameter in loss.parameters()):
            raise ConfigError(f"task.loss: {self.name} has {count} weights of its own, which no optimiser would train")
        self.loss = copy.deepcopy(loss)
        if hasattr(self.loss, "reduction"):
            vars(self.loss)["reduction"] = "none"
        self.outputs, self.exclusive = outputs, exclusive
        self.as_index = False
        self.per = self._tried()
        if problems := self._wrong_of_values() if values else self._wrong_of_logits():
            raise ConfigError(f"task.loss: {self.name} {problems}")

    def __call__(
        self, logits: Matrix, target: Matrix, weight: Matrix, _state: LossContext = NOTHING
    ) -> Float[Tensor, ""]:
        """Return the mean over the entries, or the images, that count; 0 with a gradient of 0 where none does."""
        logits = logits.float()
        if self.per == ENTRIES:
            return masked_mean(self._raw(logits, zero_masked_targets(target, weight)), weight)
        row = weight.amin(dim=1)
        known = row > 0
        if not known.any():
            return (logits * 0).sum()
        found = self._raw(logits[known], target[known].float())
        return found if self.per == MEAN else (found * row[known]).sum() / row[known].sum()

    def refuse_partial(self, weight: NDArray[Any], names: Sequence[str]) -> None:
        """Refuse rows with some labels known and others not, where the loss cannot leave out single labels.

        Raises:
            DataError: how many rows, and which loss could.
        """
        partial = ((weight > 0).any(axis=1) & ~(weight > 0).all(axis=1)).sum()
        if self.per != ENTRIES and partial:
            raise DataError(
                f"{partial} training rows lack some of the labels {', '.join(names)}, and task.loss={self.name} gives "
                "one number for all of them: leave these labels or rows out, or take a loss of a number per label, "
                "such as task.loss=bce"
            )

    def _raw(self, logits: Tensor, target: Tensor) -> Tensor:
        given = target.argmax(dim=1) if self.as_index else target
        found: Tensor = self.loss.to(logits.device)(logits, given)
        return found.mean(dim=1) if self.per == ROWS and found.ndim == 2 else found

    def _tried(self) -> str:
        """Return what the loss gives a number for, learnt from three images; class numbers are tried where it wants."""
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(3, self.outputs, generator=generator)
        target = torch.eye(self.outputs)[[0, -1, 0]] if self.exclusive else (logits > 0.3).float()
        said, self.per = "", MEAN
        for as_index in (False, True) if self.exclusive else (False,):
            self.as_index = as_index
            try:
                shape = tuple(self._raw(logits, target).shape)
            except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
                said = said or (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                continue
            kinds = {(3, self.outputs): ENTRIES, (3,): ROWS, (3, 1): ROWS, (): MEAN}
            if shape not in kinds:
                raise ConfigError(f"task.loss: {self.name} gives {list(shape)} for 3 images of {self.outputs} outputs")
            return ROWS if kinds[shape] == ENTRIES and not self._apart(logits, target) else kinds[shape]
        raise ConfigError(f"task.loss: {self.name} does not take logits and targets [3, {self.outputs}]: {said}")

    def _apart(self, logits: Tensor, target: Tensor) -> bool:
        """Return whether the label of one output leaves the numbers of the others alone, as masking it needs."""
        if self.exclusive or self.outputs == 1:
            return True
        flipped = torch.cat([1 - target[:, :1], target[:, 1:]], dim=1)
        return bool(torch.equal(self._raw(logits, target)[:, 1:], self._raw(logits, flipped)[:, 1:]))

    def _wrong_of_logits(self) -> str:
        """Return what shows that the loss is none of logits: right costs less than wrong, and never below 0."""
        right = torch.eye(self.outputs) if self.exclusive else torch.ones(1, self.outputs)
        signs = 2 * right - 1
        weight = torch.ones_like(right)
        costs = [float(self(step * signs, right, weight)) for step in _STEPS]
        if not all(torch.isfinite(torch.tensor(costs))):
            return "is not finite for logits of -4 to 4"
        if min(costs) < -1e-6:
            return "is negative: it expects probabilities or their logarithms, and gets logits"
        surely_wrong, wrong, fair, surely_right = costs
        if not surely_wrong >= wrong > fair or surely_right >= wrong:  # smoothed labels make the last dearer again
            listed = ", ".join(f"{cost:.3g}" for cost in costs)
            return f"does not fall as logits go from surely wrong to surely right ({listed}): it is no loss of logits"
        return ""

    def _wrong_of_values(self) -> str:
        zero, weight = torch.zeros(1, self.outputs), torch.ones(1, self.outputs)
        costs = [float(self(zero + away, zero, weight)) for away in (0.0, 1.0, 4.0, -1.0, -4.0)]
        grows = costs[0] < costs[1] <= costs[2] and costs[0] < costs[3] <= costs[4]
        return "" if grows else "does not grow with the distance from the target: it is no loss of a regression"


def criterion_of(
    loss: Any, outputs: int, options: dict[str, Any] | None = None, exclusive: bool = False, values: bool = False
) -> Any:
    """Return what computes `task.loss`: medvit's own by its word, or a loss of a library (see `LibraryLoss`).

    A mapping is what a stored task keeps of one (`setting_of`): a finished run is asked for no loss, and has none.

    Raises:
        ConfigError: an unknown word, `options` beside a loss that has its own, or a loss that does not fit.
    """
    if isinstance(loss, str):
        return binary_loss(loss, options)
    if isinstance(loss, dict):
        if set(loss) != {"made_by"}:
            raise ConfigError(f"task.loss={loss}: expected a word, or _target_ of a torch.nn.Module with its arguments")
        return _absent
    if options:
        raise ConfigError(f"task.options={options} are of medvit's own losses; give the other's inside task.loss")
    return LibraryLoss(loss, outputs, exclusive, values)


def setting_of(criterion: Any, loss: Any) -> Any:
    """Return what a task's settings keep of its loss, plain JSON: the word, or the name of a library's class."""
    return {"made_by": criterion.name} if isinstance(criterion, LibraryLoss) else loss


def _absent(*_arguments: Any) -> Tensor:
    raise ConfigError("the loss of a finished run is not built again: only its name is kept; train from its settings")
