"""Predictions as a table: one row per unit, fp64, ordered by uid, so that every number can be computed again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from medvit.dataset.manifest import MASKS
from medvit.engine.module import Predictions, gather
from medvit.model.network import Encode
from medvit.types import Batch, Facts

_FACTS = [name for name in Facts.__dataclass_fields__ if name != "spacing_mm"]


@torch.inference_mode()
def predict(
    network: nn.Module,
    loader: Iterable[Batch],
    scale: float,
    shift: float,
    device: str = "cpu",
    encode: Encode | None = None,
) -> Predictions:
    """Return fp32 logits (as fp64) of every unit of a loader, whatever the batch size; `encode` as in `Network`."""
    given = () if encode is None else (encode,)
    network = network.to(device).eval()
    parts: list[tuple[tuple[str, ...], Tensor, Tensor, Tensor]] = []
    for batch in loader:
        image = batch.image.to(device)
        pixels = image if image.is_floating_point() else image.float() * scale + shift
        bag = None if batch.bag is None else type(batch.bag)(*(part.to(device) for part in batch.bag))
        parts.append((batch.uid, network(pixels, bag, *given).float().cpu(), batch.target, batch.weight))
    return gather(parts)


def table(found: Predictions, task: Any, rows: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return the predictions table: identifiers, logits, probabilities, targets (NaN where missing) and facts.

    `rows` are the units; their `pixel_sha256` is kept where they have it.
    """
    rows = rows.set_index("uid").loc[list(found.uid)].reset_index()
    kept = [str(name) for name in rows.columns if str(name).startswith("table.") and name not in MASKS]
    columns = [column for column in ("uid", "patient", "study", "pixel_sha256", *_FACTS) if column in rows] + kept
    frame = rows[columns].copy()
    frame.insert(3, "split", split)
    probabilities = np.asarray(task.probabilities_numpy(found.logits), np.float64)
    truth = task.truth(found.target, found.weight)
    values = {
        f"{what}.{name}": column[:, place]
        for what, column in (("logit", found.logits), ("prob", probabilities), ("target", truth))
        for place, name in enumerate(task.names)
    }
    return pd.concat([frame, pd.DataFrame(values)], axis=1)
