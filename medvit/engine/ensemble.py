"""A run that is made of others: their weights in one file, from which the mean of their logits is rebuilt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file, save_file
from torch import Tensor

from medvit.atomic_file import replace_file
from medvit.dataset.leakage import seen_patients
from medvit.engine import checkpoint
from medvit.engine.build import ARCHITECTURE
from medvit.errors import RunError

_ALIKE = (ARCHITECTURE, checkpoint.PREPROCESS, checkpoint.HASHES, checkpoint.TASK)


def write_ensemble(
    folder: Path, members: Sequence[Path], fold: str | None, tracking: dict[str, Any], validation: pd.DataFrame
) -> None:
    """Write into `folder` the run whose network is the mean of the logits of the runs in `members`.

    fold: `splits.ALL_FOLDS` for the models of folds, None for those of one split. validation: the predictions that
    thresholds are chosen on; out-of-fold ones, so that no network judged an image it had learnt from.

    Raises:
        RunError: the runs are of different architectures, preprocessing, data or outputs.
    """
    settings = [_read(member / checkpoint.SETTINGS) for member in members]
    refuse_unlike(members, settings)
    (folder / "checkpoints").mkdir(exist_ok=True)
    scales = [_read(member / checkpoint.TASK)["fitted"] for member in members]
    tensors = {
        f"members.{number}.{key}": value
        for number, member in enumerate(members)
        for key, value in on_scale(load_file(member / checkpoint.BEST), scales[number], scales[0]).items()
    }
    replace_file(folder / checkpoint.BEST, lambda draft: save_file(tensors, draft))
    for name in (*_ALIKE, checkpoint.WEIGHTS, checkpoint.PIPELINE):
        checkpoint.write_json(folder / name, _read(members[0] / name))
    own = {"data": {**settings[0]["data"], "fold": fold}, "tracking": tracking}
    checkpoint.write_json(folder / checkpoint.SETTINGS, {**settings[0], **own})
    made_of = [
        {"run": m.name, "fold": s["data"]["fold"], "seed": s["seed"]} for m, s in zip(members, settings, strict=True)
    ]
    checkpoint.write_json(folder / checkpoint.ENSEMBLE, {"members": made_of, "joined": "mean of the logits"})
    seen_patients.write(folder, set().union(*(seen_patients.read(member) for member in members)))
    replace_file(folder / "validation.parquet", lambda draft: validation.to_parquet(draft, index=False))


def on_scale(state: dict[str, Tensor], own: dict[str, Any], first: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights with a head that measures in the first member's unit; those of other tasks as they are.

    A regression's outputs are on the scale of its own training side, value = output * std + mean.
    """
    if "std" not in own or own == first:
        return state
    factor, shift = own["std"] / first["std"], (own["mean"] - first["mean"]) / first["std"]
    return {**state, "head.weight": state["head.weight"] * factor, "head.bias": state["head.bias"] * factor + shift}


def refuse_unlike(members: Sequence[Path], settings: Sequence[dict[str, Any]]) -> None:
    """Raise RunError for runs whose weights cannot stand in one network, or whose inputs or outputs differ."""
    found = [
        {
            ARCHITECTURE: _read(member / ARCHITECTURE),
            checkpoint.PREPROCESS: _read(member / checkpoint.PREPROCESS),
            checkpoint.TASK: [_read(member / checkpoint.TASK)[key] for key in ("kind", "names")],
            checkpoint.HASHES: [_read(member / checkpoint.HASHES)[key] for key in ("manifest", "split", "preprocess")],
            "optim.strategy": each["optim"]["strategy"],
        }
        for member, each in zip(members, settings, strict=True)
    ]
    other = [name for name in found[0] if any(each[name] != found[0][name] for each in found)]
    if other:
        raise RunError(
            f"the runs cannot be one model: they differ in {', '.join(other)}. Where optim=auto chose differently for "
            "folds of unequal size, name the strategy (optim=full)"
        )


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
