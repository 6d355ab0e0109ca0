"""Callback that writes the state of a training, so that it can go on after any stop with the bits it would have had."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from medvit.engine.checkpoint_file import LAST, remove_drafts
from medvit.engine.guards.stop import asked, stop_if_asked
from medvit.engine.module import FineTuner
from medvit.engine.predict import of_all_devices
from medvit.errors import RunError

_LEAVE_S = 60
_log = logging.getLogger(__name__)


class SaveCheckpoints(Checkpoint):
    """Write `last.ckpt` at the end of every epoch, every `minutes` within one, and before a signal ends the process.

    Within an epoch it is written after a step of the optimiser that no validation follows; what a signal asks for
    during the last step or validation is done at the epoch's end. `made_of`: what a resumed part of the run must have
    in common with the earlier ones.
    """

    def __init__(self, folder: Path, minutes: float, made_of: Mapping[str, str]) -> None:
        self.folder, self.seconds, self.made_of = folder, 60 * minutes, dict(made_of)
        self._written = 0.0
        self._place: dict[str, Any] = {}
        self._resumed: dict[str, Any] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: FineTuner) -> None:  # type: ignore[override]  # noqa: ARG002
        """Remove what a killed process left half written."""
        if trainer.is_global_zero:
            remove_drafts(self.folder)

    def on_train_start(self, trainer: pl.Trainer, pl_module: FineTuner) -> None:  # type: ignore[override]
        """Take up the place of a resumed run."""
        self._written = time.monotonic()
        place, self._resumed = self._resumed, {}
        if ranks := place.get("ranks"):
            if len(ranks) != trainer.world_size:
                raise RunError(
                    f"this run was stopped within an epoch on {len(ranks)} devices, and there are {trainer.world_size} "
                    f"now: give trainer.devices={len(ranks)} on such a machine"
                )
            pl_module.strategy.on_epoch(pl_module.network, trainer.current_epoch)
            # Lightning forgets it where `configure_optimizers` asks for the length of the training
            trainer.train_dataloader.load_state_dict(place["loader"])  # type: ignore[union-attr]
            own = ranks[trainer.global_rank]
            pl_module.resume_epoch(own["losses"], own["units"])
            set_random_state(own["random"])
            trainer.fit_loop._restarting = False  # Lightning would leave out this epoch's step of a plateau schedule
        for config in trainer.lr_scheduler_configs:
            # Lightning moves those that look at a score only after it asked for a checkpoint
            due = config.interval == "epoch" and trainer.current_epoch % config.frequency == 0
            if config.reduce_on_plateau and due and config.monitor in place.get("scores", {}):
                config.scheduler.step(place["scores"][config.monitor])

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: FineTuner, *_: Any) -> None:  # type: ignore[override]
        """Write one where it is time to, or where a signal asks for it; then end."""
        due = time.monotonic() - self._written > self.seconds and trainer.global_rank == 0
        wanted = 2 * (asked() is not None) + due
        if trainer.world_size > 1:  # all devices do the same
            there = torch.tensor(wanted, device=pl_module.device)
            wanted = int(trainer.strategy.reduce(there, reduce_op="max"))
        if not wanted or not _between_steps(trainer):
            return
        own = {**pl_module.epoch_so_far(), "random": random_state(pl_module.device)}
        place = {"loader": trainer.train_dataloader.state_dict(), "ranks": of_all_devices(own)}  # type: ignore[union-attr]
        self._write(trainer, place)
        if wanted > 1:
            for process in getattr(trainer.strategy.launcher, "procs", None) or ():
                process.wait(_LEAVE_S)  # Lightning kills those that are left, and then this process too
            stop_if_asked()
            raise KeyboardInterrupt  # another device's process was asked

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: FineTuner) -> None:  # type: ignore[override]  # noqa: ARG002
        """Write one, with the scores that a schedule will look at next."""
        self._write(trainer, {"scores": {key: float(value) for key, value in trainer.callback_metrics.items()}})
        stop_if_asked()

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the training, and what the run is made of."""
        return {"made_of": self.made_of, "place": self._place}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the place; raises RunError where the run is made of something else now."""
        told = {key: value for key, value in state_dict["made_of"].items() if self.made_of.get(key) != value}
        if "settings" in told:
            raise RunError("config.json of this run was changed since the run was stopped: restore it")
        if told:
            said = ", ".join(f"{key} {value}, now {self.made_of.get(key)}" for key, value in told.items())
            _log.warning("this run was begun with %s: the bits of an unbroken run are not promised", said)
        self._resumed = state_dict["place"]

    def _write(self, trainer: pl.Trainer, place: dict[str, Any]) -> None:
        module: Any = trainer.lightning_module
        module.guard.look(list(module.parameters()))
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._place = place
            # the whole state is Lightning's default too, and unsaid it prints a line at every checkpoint
            trainer.save_checkpoint(self.folder / "checkpoints" / LAST, weights_only=False)
        self._written = time.monotonic()


def _between_steps(trainer: pl.Trainer) -> bool:
    """Say whether the optimiser has just moved, and the next thing is the next batch of the same epoch."""
    done = trainer.fit_loop.batch_idx + 1
    every = trainer.val_check_batch
    validates = every not in (None, float("inf")) and done % int(every) == 0
    plateau = any(each.reduce_on_plateau and each.interval == "step" for each in trainer.lr_scheduler_configs)
    return not (trainer.is_last_batch or validates or plateau or trainer.fit_loop._should_accumulate())


def random_state(device: torch.device) -> dict[str, Any]:
    """Return where the generators of Python, NumPy and torch are, as plain values and tensors."""
    numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002 (libraries draw from it)
    found: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    found["numpy"] = {
        **numpy,
        "state": {**numpy["state"], "key": torch.from_numpy(numpy["state"]["key"].astype(np.int64))},
    }
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators where `random_state` found them."""
    random.setstate(state["python"])
    key = state["numpy"]["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**state["numpy"], "state": {**state["numpy"]["state"], "key": key}})  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
