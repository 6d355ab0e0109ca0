"""The one LightningModule: a network, a task, and the plan by which it is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from medvit.errors import RunError
from medvit.model.linear import frozen_weights
from medvit.model.network import Encode, Network
from medvit.optim.schedule import warmup_cosine
from medvit.types import Bag, Batch

_LOOK_AT_LOSS_EVERY = 20


@dataclass(frozen=True)
class Plan:
    """How the weights move: AdamW with warm-up and cosine decay, in epochs; `ema` is the decay of averaged weights."""

    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_epochs: float = 1.0
    final_lr: float = 1e-6
    betas: Sequence[float] = (0.9, 0.999)
    clip: float = 1.0
    ema: float = 0.999


@dataclass(frozen=True)
class Predictions:
    """What a pass over a loader gives: one row per unit, ordered by `uid`, no unit twice."""

    uid: tuple[str, ...]
    logits: np.ndarray
    target: np.ndarray
    weight: np.ndarray


class FineTuner(pl.LightningModule):
    """Fit `network` to `task`. Validation scores are computed once per epoch on all gathered predictions in fp64.

    Args:
        network: image -> logits [B K].
        task: the loss, the targets and the scores.
        strategy: which parameters move, in which groups (`medvit.optim`).
        plan: learning rate and its course.
        scale: float = integer * scale + shift turns cached integers into the network's input on the device.
        shift: see `scale`.
        seed: with the epoch it decides every draw on the device, so that a resumed run equals an unbroken one.

    `encode` stands in for a frozen backbone when the batches hold cached features instead of images.
    """

    encode: Encode | None = None

    def __init__(
        self, network: Network, task: Any, strategy: Any, plan: Plan, scale: float, shift: float, seed: int
    ) -> None:
        super().__init__()
        self.network, self.task, self.strategy, self.plan = network, task, strategy, plan
        self.scale, self.shift, self.seed = scale, shift, seed
        self._gathered: list[tuple[tuple[str, ...], Tensor, Tensor, Tensor]] = []
        self._losses: list[Tensor] = []
        self._units: list[int] = []
        self._resting = ExitStack()
        self.validation: Predictions | None = None

    def forward(self, image: Tensor, bag: Bag | None = None) -> Tensor:
        """Return logits [B K] of an image batch as the loader gives it (integers or floats)."""
        pixels = image if image.is_floating_point() else image.float() * self.scale + self.shift
        logits: Tensor = self.network(pixels, bag, self.encode)
        return logits

    def on_train_epoch_start(self) -> None:
        """Tie the draws of drop path and dropout to (seed, epoch, rank), and let the strategy change phase."""
        torch.manual_seed(hash((self.seed, self.current_epoch, self.global_rank)) % 2**63)
        self.strategy.on_epoch(self.network, self.current_epoch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss over the labels that are there."""
        logits = self(batch.image, batch.bag).float()
        loss: Tensor = self.task.loss(logits, batch.target, batch.weight, epoch=self.current_epoch)
        self._losses.append(loss.detach())
        self._units.append(len(batch.uid))
        if (share := self._share(batch_idx)) != 1:
            loss = loss * share
        if batch_idx % _LOOK_AT_LOSS_EVERY == 0 and not torch.isfinite(torch.stack(self._losses)).all():
            raise RunError(
                f"the loss is not finite in epoch {self.current_epoch + 1}, at or shortly before batch {batch_idx}; "
                f"this batch held uids {', '.join(u[:8] for u in batch.uid[:4])}...; the best checkpoint is kept. "
                "Lower optim.plan.lr, or train with trainer.precision=32-true"
            )
        return loss

    def _share(self, batch_idx: int) -> float:
        """Return what makes the gradient of an epoch's last step the mean over the batches it holds.

        Lightning divides every loss by `trainer.accumulate`, also in a last step of fewer batches.
        """
        full, batches = self.trainer.accumulate_grad_batches, int(self.trainer.num_training_batches)
        held = batches % full
        return full / held if held and batch_idx >= batches - held else 1.0

    def epoch_numbers(self) -> dict[str, float]:
        """Return the mean loss of all units of the epoch and the highest learning rate; begin to count anew."""
        if not self._losses:
            return {}
        losses, units = torch.stack(self._losses), torch.tensor(self._units, dtype=torch.float32)
        mean = (losses * units.to(losses.device)).sum() / units.sum()
        loss = self.trainer.strategy.reduce(mean, reduce_op="mean")  # every rank sees equally many units
        self._losses.clear()
        self._units.clear()
        rate = max(group["lr"] for group in self.optimizers().param_groups)  # type: ignore[union-attr]
        return {"train/loss": float(loss), "train/lr": float(rate)}

    def on_validation_epoch_start(self) -> None:
        """The weights stay as they are until the epoch's end."""
        self._resting.enter_context(frozen_weights(self.network))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Keep the predictions of the batch."""
        logits = self(batch.image, batch.bag).float()
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
        self.log("val/loss", float(loss), rank_zero_only=True)
        for name, value in scores.items():
            if np.isfinite(value):
                self.log(f"val/{name}", float(value), prog_bar=f"val/{name}" == self.task.monitor, rank_zero_only=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out a backbone that only lends its cached features: it is what it was."""
        if self.encode is not None:
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith("network.backbone.")}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the backbone that was left out from the network as it is."""
        if self.encode is not None:
            own = {k: v for k, v in self.state_dict().items() if k.startswith("network.backbone.")}
            checkpoint["state_dict"] = {**own, **checkpoint["state_dict"]}

    def configure_optimizers(self) -> Any:
        """Return AdamW over the strategy's groups, with the schedule stepped per batch."""
        groups = self.strategy.groups(self.network, self.plan.lr, self.plan.weight_decay)
        optimizer = torch.optim.AdamW(
            groups, lr=self.plan.lr, betas=(self.plan.betas[0], self.plan.betas[1]), fused=True
        )
        # Lightning refuses to clip where the step unscales gradients itself: it must unscale before it clips
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        steps = int(self.trainer.estimated_stepping_batches)
        epochs = max(1, self.trainer.max_epochs or 1)
        warmup = round(steps * min(1.0, self.plan.warmup_epochs / epochs))
        schedule = warmup_cosine(optimizer, warmup, steps, self.plan.final_lr / self.plan.lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def gather(parts: Sequence[tuple[Sequence[str], Tensor, Tensor, Tensor]]) -> Predictions:
    """Join batches of all devices, drop the copies a distributed sampler pads with, and order by uid.

    So a score depends neither on batch size nor on the number of devices.
    """
    everyone: list[Any] = [parts]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        everyone = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everyone, parts)
    flat = [part for one in everyone for part in one]
    uids = [uid for part in flat for uid in part[0]]
    first = {uid: place for place, uid in reversed(list(enumerate(uids)))}
    order = [first[uid] for uid in sorted(first)]
    stacked = [torch.cat([part[field] for part in flat]).double().numpy()[order] for field in (1, 2, 3)]
    return Predictions(tuple(sorted(first)), *stacked)
