"""How far two trainings of the same settings are the same: the levels of `trainer.determinism`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LEVELS = {
    "bitwise": "the same bits on the same machine with the same packages, where a GPU has quicker ways",
    "seeded": "the same draws; on a GPU sums may be taken in another order",
    "fast": "the same draws; on a GPU the quickest kernels are looked for, and float32 products are made in TF32",
}
DEFAULT = "seeded"


def level_of(trainer: Mapping[str, Any]) -> str:
    """Return the level of a run, also of one made when there were two, `deterministic` or not."""
    return str(trainer.get("determinism") or ("bitwise" if trainer.get("deterministic") else DEFAULT))


def described(trainer: Mapping[str, Any]) -> str:
    """Return the level of a run and what it promises, for the log and the model card."""
    level = level_of(trainer)
    return f"{level} ({LEVELS[level]})"


def switches(level: str) -> dict[str, Any]:
    """Set the precision of float32 products on a GPU, and return the arguments of Lightning's Trainer for a level."""
    import torch

    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high" if level == "fast" else "highest")
    return {"deterministic": level == "bitwise", "benchmark": level == "fast"}
