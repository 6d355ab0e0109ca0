"""What callbacks log, kept until the epoch is reported."""

from __future__ import annotations

from typing import Any

from pytorch_lightning.loggers import Logger


class EpochLogger(Logger):
    """What callbacks log, the last value of each number, for `ReportEpoch` to hand on with those of the epoch."""

    name, version = "medvit", ""

    def __init__(self) -> None:
        super().__init__()
        self.latest: dict[str, float] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # noqa: ARG002
        """Keep the numbers."""
        self.latest |= metrics

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: the settings stand in the run already."""
