"""Predictions as a table: one row per unit, fp64, ordered by uid, so that every number can be computed again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from medvit.dataset.manifest import MASKS
from medvit.model.network import Encode
from medvit.types import Batch, Facts

_FACTS = [name for name in Facts.__dataclass_fields__ if name != "spacing_mm"]


@dataclass(frozen=True)
class Predictions:
    """What a pass over a loader gives: one row per unit, ordered by `uid`, no unit twice."""

    uid: tuple[str, ...]
    logits: np.ndarray
    target: np.ndarray
    weight: np.ndarray


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


def gather(parts: Sequence[tuple[Sequence[str], Tensor, Tensor, Tensor]]) -> Predictions:
    """Join batches of all devices, drop the copies a distributed sampler pads with, and order by uid.

    So a score depends neither on batch size nor on the number of devices.
    """
    flat = [part for one in of_all_devices(parts) for part in one]
    uids = [uid for part in flat for uid in part[0]]
    first = {uid: place for place, uid in reversed(list(enumerate(uids)))}
    order = [first[uid] for uid in sorted(first)]
    stacked = [torch.cat([part[field] for part in flat]).double().numpy()[order] for field in (1, 2, 3)]
    return Predictions(tuple(sorted(first)), *stacked)


def of_all_devices(own: Any) -> list[Any]:
    """Return what each device's process has, in the order of their ranks; of one process its own alone."""
    everyone: list[Any] = [own]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        everyone = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everyone, own)
    return everyone


def inference_device() -> str:
    """Return where trained networks answer: the GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
