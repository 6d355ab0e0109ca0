"""Settings of a training that contradict each other or this machine; found without importing torch."""

from __future__ import annotations

import os
import sys
from typing import Any

from medvit.config_words import nearest

_PRECISIONS = ("auto", "bf16-mixed", "16-mixed", "32-true")
_PRECISION_MEANT = {"fp16": "16-mixed", "16": "16-mixed", "half": "16-mixed", "amp": "16-mixed", "bf16": "bf16-mixed"}
_PRECISION_MEANT |= {"fp32": "32-true", "32": "32-true", "float32": "32-true"}
_ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
RANDOM = "random"  # model.weights: an encoder without pretrained weights is meant


def contradictions(settings: dict[str, Any]) -> list[str]:
    """Return what is wrong with the settings of conf/train.yaml taken together, each with the word that helps."""
    return [*_device(settings["trainer"]), *_task(settings), *_sizes(settings), *_strategy(settings)]


def _device(trainer: dict[str, Any]) -> list[str]:
    precision, accelerator, devices = (trainer[key] for key in ("precision", "accelerator", "devices"))
    found = []
    if precision not in _PRECISIONS:
        meant = _PRECISION_MEANT.get(str(precision))
        hint = f"; did you mean '{meant}'?" if meant else nearest(precision, _PRECISIONS)
        found.append(f"trainer.precision={precision}: expected {', '.join(_PRECISIONS)}{hint}")
    if accelerator not in _ACCELERATORS:
        found.append(f"trainer.accelerator={accelerator}: expected {', '.join(_ACCELERATORS)}")
    elif accelerator == "mps" and sys.platform != "darwin":
        found.append("trainer.accelerator=mps: only Apple's processors have it; give auto, gpu or cpu")
    elif accelerator == "cpu" and precision == "16-mixed":
        found.append("trainer.precision=16-mixed: a processor has no 16-bit floats; give bf16-mixed, 32-true or auto")
    counted = devices if isinstance(devices, list) else [devices]
    numbers = [n for n in counted if isinstance(n, int) and not isinstance(n, bool)]
    least = 0 if isinstance(devices, list) else 1
    if devices != "auto" and (not numbers or len(numbers) != len(counted) or min(numbers) < least):
        found.append(f"trainer.devices={devices}: expected auto, a number from 1, or a list of GPUs such as [0,1]")
    if int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        found.append(
            f"srun starts this command {os.environ['SLURM_STEP_NUM_TASKS']} times, and each would be a run of its own: "
            "start it once (srun --ntasks=1) with trainer.devices=N; medvit starts a process for each device itself"
        )
    return found


def _task(settings: dict[str, Any]) -> list[str]:
    label, targets = settings["task"].get("label"), settings["labels"]["target"]
    if not isinstance(targets, list) or len(targets) < 2 or label != targets[0]:
        return []
    said = f"labels.target=[{','.join(map(str, targets))}]: this task learns one label and would leave out the others"
    return [f"{said}; give labels.target=[{label}], or task=multilabel for several findings"]


def _sizes(settings: dict[str, Any]) -> list[str]:
    size, made = (settings[part].get(key) for part, key in (("model", "image_size"), ("preprocess", "size")))
    if not isinstance(size, list) or not isinstance(made, list):
        return []
    mode, patch = settings["preprocess"].get("mode"), settings["model"].get("patch_size")
    images = made[1:] if mode == "slices" else made
    if size != images:
        said = f"model.image_size={size} and preprocess.size={made} contradict each other"
        return [f"{said}: give model.image_size alone, which preprocess.size follows"]
    if isinstance(patch, list) and len(patch) != len(size):
        return [f"model.image_size={size} has {len(size)} sides and model.patch_size={patch} {len(patch)}"]
    sides = [(side, step) for side, step in zip(size, patch or [], strict=True) if side % step] if patch else []
    return [
        f"model.image_size={size}: {side} is no multiple of the patch, {step}; the nearest are "
        f"{side // step * step} and {(side // step + 1) * step}"
        for side, step in sides[:1]
    ]


def _strategy(settings: dict[str, Any]) -> list[str]:
    module, _, name = settings["optim"]["strategy"]["_target_"].rpartition(".")
    if module != "medvit.optim.strategy" or name == "Full" or settings["model"].get("weights") is not None:
        return []
    given = "model.weights=CHECKPOINT" if "weights" in settings["model"] else "a model that has weights"
    meant = f"; model.weights={RANDOM} says that a random encoder is meant" if "weights" in settings["model"] else ""
    return [f"optim: {name} adapts a pretrained encoder, and this one is random: give {given}, or optim=scratch{meant}"]
