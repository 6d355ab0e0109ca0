"""Settings of a training that contradict each other or this machine; found without importing torch."""

from __future__ import annotations

import re
import sys
from typing import Any

from medvit.config_check import out_of_range, refused_by
from medvit.config_words import nearest
from medvit.engine.guards.determinism import DEFAULT, LEVELS
from medvit.engine.settings.part_problems import part_problems, trainer_problems

_PRECISIONS = ("auto", "bf16-mixed", "16-mixed", "32-true")
_PRECISION_MEANT = {"fp16": "16-mixed", "16": "16-mixed", "half": "16-mixed", "amp": "16-mixed", "bf16": "bf16-mixed"}
_PRECISION_MEANT |= {"fp32": "32-true", "32": "32-true", "float32": "32-true"}
_ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
RANDOM = "random"  # model.weights: an encoder without pretrained weights is meant


_ANY = float("inf")
_TRAINER: dict[str, tuple[float, float]] = {
    "epochs": (1, _ANY),
    "batch_size": (1, _ANY),
    "accumulate": (1, _ANY),
    "overlay_every": (0, _ANY),
    "checkpoint_minutes": (0, _ANY),
    "skip_non_finite": (0, _ANY),
}
_PLAN: dict[str, tuple[float, float]] = dict.fromkeys(
    ("weight_decay", "warmup_epochs", "final_lr", "clip"), (0.0, _ANY)
)
_PLAN |= {"lr": (1e-12, _ANY), "ema": (0, 1)}


def ranges(settings: dict[str, Any]) -> list[str]:
    """Return the numbers of seed, trainer and plan that make no sense."""
    wrong = out_of_range("", settings, {"seed": (0, _ANY)})
    wrong += _subset(settings.get("subset") or {})
    wrong += out_of_range("trainer.", settings["trainer"], _TRAINER)
    if settings["trainer"].get("patience") is not None:
        wrong += out_of_range("trainer.", settings["trainer"], {"patience": (1, _ANY)})
    plan = settings["optim"]["plan"]
    wrong += out_of_range("optim.plan.", plan, _PLAN)
    if not wrong and {"lr", "final_lr"} <= set(plan) and plan["final_lr"] > plan["lr"]:
        wrong.append(f"optim.plan.final_lr={plan['final_lr']:g}: expected at most optim.plan.lr={plan['lr']:g}")
    return wrong


def _subset(subset: dict[str, Any]) -> list[str]:
    wrong = out_of_range("subset.", subset, {"seed": (0, _ANY)})
    if (share := subset.get("share")) is not None and not 0 < share <= 1:
        wrong.append(
            f"subset.share={share:g}: expected a share of the training patients, above 0 and at most 1, or null"
        )
    return wrong


def contradictions(settings: dict[str, Any]) -> list[str]:
    """Return what is wrong with the settings of conf/train.yaml taken together, each with the word that helps."""
    parts = (_task, of_sizes, _strategy, of_loading, _of_kind, _bags, part_problems)
    return [*of_device(settings["trainer"]), *(each for part in parts for each in part(settings))]


def of_device(trainer: dict[str, Any]) -> list[str]:
    """Return what is wrong with precision, accelerator and devices."""
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
    if (level := trainer.get("determinism", DEFAULT)) not in LEVELS:
        found.append(f"trainer.determinism={level}: expected {', '.join(LEVELS)}{nearest(level, LEVELS)}")
    counted = devices if isinstance(devices, list) else [devices]
    numbers = [n for n in counted if isinstance(n, int) and not isinstance(n, bool)]
    least = 0 if isinstance(devices, list) else 1
    if devices != "auto" and (not numbers or len(numbers) != len(counted) or min(numbers) < least):
        found.append(f"trainer.devices={devices}: expected auto, a number from 1, or a list of GPUs such as [0,1]")
    return [*found, *trainer_problems(trainer)]


def of_loading(settings: dict[str, Any]) -> list[str]:
    """Return what no loader can be made by, each with the setting's whole name."""
    from medvit.data.loading import Loading
    from medvit.data.sampler import Sampler

    data, trainer = settings["data"], settings["trainer"]
    loading = {key: trainer[key] for key in ("workers", "prefetch", "pin")}
    loading |= {key: data[key] for key in ("audit_share", "on_bad")}
    found = refused_by(lambda: Loading(**loading, bag=data["unit"]), lambda: Sampler(data["sampler"]))
    names = {**dict.fromkeys(("workers", "prefetch", "pin"), "trainer."), "sampler": "data.sampler: "}
    return [f"{names.get(re.split('[= ]', one)[0], 'data.')}{one}" for one in found]


def _task(settings: dict[str, Any]) -> list[str]:
    if not isinstance(words := settings["labels"].get("values"), dict | None):
        told = f"labels.values={words}: expected a mapping of the label table's words, in single quotes for the shell"
        return [f"{told} and with a space after each colon: 'labels.values={{normal: 0, pneumonia: 1}}'"]
    label, targets = settings["task"].get("label"), settings["labels"]["target"]
    if not isinstance(targets, list) or len(targets) < 2 or label != targets[0]:
        return []
    said = f"labels.target=[{','.join(map(str, targets))}]: this task learns one label and would leave out the others"
    return [f"{said}; give labels.target=[{label}], or task=multilabel for several findings"]


def _of_kind(settings: dict[str, Any]) -> list[str]:
    """Return what the kind of task does not go with."""
    kind, found = settings["task"]["_target_"].split(".")[-2], []
    if settings["optim"]["strategy"]["_target_"].endswith(".LogisticProbe") and kind in ("ordinal", "regression"):
        found.append(f"optim=logistic solves for a classification, and this task is {kind}: give optim=probe")
    if settings["data"]["sampler"] == "weighted" and kind == "regression":
        found.append("data.sampler=weighted weights classes, and this task is regression: give plain or patient")
    return found


def _bags(settings: dict[str, Any]) -> list[str]:
    """Return where several images make one unit and nothing gathers them."""
    if settings.get("bag"):
        return []
    if (unit := settings["data"]["unit"]) is not None:
        return [
            f"data.unit={unit}: a unit is several images, and bag=none takes one; give bag=study, or data.unit=null"
        ]
    if settings["preprocess"].get("mode") == "slices":
        return ["preprocess=slices: a series is several images, and bag=none takes one; give bag=study"]
    return []


def of_sizes(settings: dict[str, Any]) -> list[str]:
    """Return what is wrong with the sizes of image and patch."""
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
