"""How batches are made: settings of data and trainer, checked without importing what makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medvit.errors import ConfigError

UNITS = (None, "study", "series", "patient")


@dataclass(frozen=True)
class Loading:
    """How batches are made.

    workers: threads that make batches ahead, 0 for none; prefetch: batches that wait beside those; pin: page-locked
    memory; "auto" of the three measures (`loader_tuning`). bag: None, "study", "series" or "patient". fold: of a k-fold
    split. audit_share: part of the training rows decoded again each epoch. on_bad: "refuse" or "exclude" files that
    cannot be read. same_batches: in every epoch, augmented the same. build_workers: decoding processes of the cache, 0
    for one per core. allow_test: only `evaluate` sets it, and `pretrain` where it is told to. learn: the sides that
    make up the training side. subset: the share of the training patients that is learnt from, `dataset.subset`.
    """

    batch_size: int = 32
    workers: int | str = "auto"
    prefetch: int | str = "auto"
    pin: bool | str = "auto"
    bag: str | None = None
    seed: int = 0
    fold: int | str | None = None
    audit_share: float = 0.001
    on_bad: str = "refuse"
    build_workers: int = 0
    same_batches: bool = False
    allow_test: bool = False
    learn: Sequence[str] = ("train",)
    subset: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check every setting at once; raises ConfigError."""
        wrong = [] if self.batch_size > 0 else [f"batch_size={self.batch_size}: expected above 0"]
        workers_right = self.workers == "auto" or (isinstance(self.workers, int) and self.workers >= 0)
        prefetch_right = self.prefetch == "auto" or (isinstance(self.prefetch, int) and self.prefetch >= 1)
        wrong += [] if prefetch_right else [f"prefetch={self.prefetch!r}: expected auto or 1 and more"]
        wrong += (
            [] if self.pin == "auto" or isinstance(self.pin, bool) else [f"pin={self.pin!r}: expected auto or a bool"]
        )
        wrong += [] if workers_right else [f"workers={self.workers!r}: expected auto or 0 and more"]
        wrong += [] if 0 <= self.audit_share <= 1 else [f"audit_share={self.audit_share}: expected 0 to 1"]
        wrong += [] if self.on_bad in {"refuse", "exclude"} else [f"on_bad={self.on_bad!r}: expected refuse or exclude"]
        wrong += [] if self.bag in UNITS else [f"unit={self.bag!r}: expected null, study, series or patient"]
        if wrong:
            raise ConfigError("; ".join(wrong))


def loading_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `Loading` that the settings of a training give; an evaluation reads the same images."""
    node, trainer = settings["data"], settings["trainer"]
    return {
        "bag": node["unit"],
        "workers": trainer["workers"],
        "prefetch": trainer.get("prefetch", "auto"),
        "pin": trainer.get("pin", "auto"),
        "on_bad": node["on_bad"],
        "audit_share": node["audit_share"],
        "batch_size": trainer["batch_size"],
        "same_batches": trainer.get("overfit_batches", 0) > 0,
        "seed": settings["seed"],
        "fold": node["fold"],
        "subset": settings.get("subset"),
    }
