"""The one LightningModule: a network, a task, and the plan by which it is fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from torch import Tensor
from torch.optim import Optimizer

from medvit.engine.epoch_metrics import EpochMetrics
from medvit.engine.guards.finite import FiniteGuard
from medvit.engine.predict import Predictions, gather
from medvit.errors import RunError
from medvit.model.linear import frozen_weights
from medvit.model.network import Encode
from medvit.optim.plan import Plan
from medvit.optim.training_length import TrainingLength
from medvit.types import Bag, Batch


class FineTuner(pl.LightningModule):
    """Fit `network` to `task`. Validation scores are computed once per epoch on all gathered predictions in fp64.

    Args:
        network: image -> logits [B K], as `medvit.model.network.Network`.
        task: the loss, the targets and the scores.
        strategy: which parameters move, in which groups (`medvit.optim`).
        plan: learning rate, optimiser and schedule.
        scale: float = integer * scale + shift turns cached integers into the network's input on the device.
        shift: see `scale`.
        seed: with the epoch it decides every draw on the device, so that a resumed run equals an unbroken one.

    `encode` stands in for a frozen backbone when the batches hold cached features instead of images.
    """

    encode: Encode | None = None
    curves: EpochMetrics | None = None  # beside the task's own scores

    def __init__(
        self, network: Any, task: Any, strategy: Any, plan: Plan, scale: float, shift: float, seed: int
    ) -> None:
        super().__init__()
        self.network, self.task, self.strategy, self.plan = network, task, strategy, plan
        self.scale, self.shift, self.seed = scale, shift, seed
        self._gathered: list[tuple[tuple[str, ...], Tensor, Tensor, Tensor]] = []
        self._losses: list[Tensor] = []
        self._units: list[int] = []
        self.rate = 0.0  # the highest of the last step
        self._resting = ExitStack()
        self.validation: Predictions | None = None
        self.guard = FiniteGuard()
        self.last_batch: tuple[Tensor, int] | None = None  # its loss and units; None where its step was left out
        self.gradient_norm: Tensor | None = None  # of the last step, before it was clipped

    def forward(self, image: Tensor, bag: Bag | None = None) -> Tensor:
        """Return logits [B K] of an image batch as the loader gives it (integers or floats)."""
        pixels = image if image.is_floating_point() else image.float() * self.scale + self.shift
        logits: Tensor = self.network(pixels, bag, self.encode)
        return logits

    def outputs(self, batch: Batch) -> Tensor:
        """Return the network's outputs of a batch, fp32."""
        return self(batch.image, batch.bag).float()  # type: ignore[no-any-return]

    def on_train_epoch_start(self) -> None:
        """Tie the draws of drop path and dropout to (seed, epoch, rank), and let the strategy change phase."""
        torch.manual_seed(hash((self.seed, self.current_epoch, self.global_rank)) % 2**63)
        self.strategy.on_epoch(self.network, self.current_epoch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss over the labels that are there."""
        logits = self.outputs(batch)
        loss: Tensor = self.task.loss(logits, batch.target, batch.weight, epoch=self.current_epoch)
        self._losses.append(loss.detach())
        self._units.append(len(batch.uid))
        self.last_batch = (loss.detach(), len(batch.uid))
        self.guard.batch(batch_idx, batch.uid, loss.detach())
        if (share := self._share(batch_idx)) != 1:
            loss = loss * share
        return loss

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip the gradient as Lightning does, and look at its norm and the losses it comes from.

        Raises:
            RunError: they are not finite, see `FiniteGuard`.
        """
        self.rate = max(group["lr"] for group in optimizer.param_groups)
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
        else:
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        self.gradient_norm = norm.detach()
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None  # it leaves out steps by itself
        if left_out := self.guard.step(None if scaled else norm, optimizer, self.current_epoch):
            del self._losses[-left_out:], self._units[-left_out:]
            self.last_batch = None

    def _share(self, batch_idx: int) -> float:
        """Return what makes the gradient of an epoch's last step the mean over the batches it holds.

        Lightning divides every loss by `trainer.accumulate`, also in a last step of fewer batches.
        """
        full, batches = self.trainer.accumulate_grad_batches, int(self.trainer.num_training_batches)
        held = batches % full
        return full / held if held and batch_idx >= batches - held else 1.0

    def epoch_numbers(self) -> dict[str, float]:
        """Return the mean loss of all units of the epoch and the highest rate of its last step; begin to count anew."""
        if not self._losses:
            return {}
        losses, units = torch.stack(self._losses), torch.tensor(self._units, dtype=torch.float32)
        mean = (losses * units.to(losses.device)).sum() / units.sum()
        loss = self.trainer.strategy.reduce(mean, reduce_op="mean")  # every rank sees equally many units
        self._losses.clear()
        self._units.clear()
        return {"train/loss": float(loss), "train/lr": float(self.rate)}

    def epoch_so_far(self) -> dict[str, Any]:
        """Return what `epoch_numbers` counts, for a resumed run."""
        return {"losses": torch.stack(self._losses).cpu(), "units": list(self._units)}

    def resume_epoch(self, losses: Tensor, units: Sequence[int]) -> None:
        """Take up what an earlier part of the run counted of this epoch."""
        self._losses, self._units = list(losses.to(self.device).unbind()), list(units)

    def on_validation_epoch_start(self) -> None:
        """The weights stay as they are until the epoch's end."""
        self.guard.look()
        self._resting.enter_context(frozen_weights(self.network))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Keep the predictions of the batch."""
        logits = self.outputs(batch)
        self._gathered.append((batch.uid, logits.cpu(), batch.target.cpu(), batch.weight.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Score all validation units of all devices at once."""
        self._resting.close()
        self.validation = gather(self._gathered)
        self._gathered.clear()
        found = self.validation
        if not np.isfinite(found.logits).all():
            raise RunError(
                f"validation outputs are not finite in epoch {self.current_epoch + 1}; the best checkpoint is kept. "
                "Lower optim.plan.lr, or train with trainer.precision=32-true"
            )
        logits, target, weight = (torch.from_numpy(part) for part in (found.logits, found.target, found.weight))
        loss = self.task.loss(logits.float(), target.float(), weight.float(), epoch=self.current_epoch)
        probabilities = self.task.probabilities_numpy(found.logits)
        scores = self.task.scores(probabilities, found.target, found.weight)
        if self.curves is not None:
            truth = self.task.truth(found.target, found.weight)
            more = self.curves.values(probabilities, truth)
            scores |= {f"metrics/{name}": value for name, value in more.items()}
        self.log("val/loss", float(loss), rank_zero_only=True)
        for name, value in scores.items():
            if np.isfinite(value):
                self.log(f"val/{name}", float(value), prog_bar=f"val/{name}" == self.task.monitor, rank_zero_only=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out a backbone that only lends its cached features: it is what it was."""
        checkpoint["skipped"] = self.guard.skipped
        if self.encode is not None:
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith("network.backbone.")}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the backbone that was left out from the network as it is."""
        self.guard.skipped = checkpoint.get("skipped", 0)
        if self.encode is not None:
            own = {k: v for k, v in self.state_dict().items() if k.startswith("network.backbone.")}
            checkpoint["state_dict"] = {**own, **checkpoint["state_dict"]}

    def configure_optimizers(self) -> Any:
        """Return the plan's optimiser over the strategy's groups, and its schedule."""
        groups = self.strategy.groups(self.network, self.plan.lr, self.plan.weight_decay)
        optimizer = self.plan.make_optimizer(groups)
        steps = int(self.trainer.estimated_stepping_batches)  # also sets the number of batches
        batches = self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        per_epoch = math.ceil(batches) if math.isfinite(batches) else steps  # without an end of epochs it is not known
        length = self._uneven() or TrainingLength(steps, per_epoch)
        schedule = self.plan.make_scheduler(optimizer, length)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _uneven(self) -> TrainingLength | None:
        """Return the length of a training whose accumulation changes from epoch to epoch."""
        trainer = self.trainer
        schedulers = [one for one in trainer.callbacks if isinstance(one, GradientAccumulationScheduler)]  # type: ignore[attr-defined]
        if not schedulers or trainer.max_epochs is None or trainer.max_epochs < 0:
            return None
        held = [schedulers[0].get_accumulate_grad_batches(epoch) for epoch in range(trainer.max_epochs)]
        each = tuple(math.ceil(trainer.num_training_batches / count) for count in held)
        steps = sum(each) if trainer.max_steps < 0 else min(sum(each), trainer.max_steps)
        return TrainingLength(steps, each[0], each)
