"""Embeddings of the images of a manifest by a trained run or a checkpoint, for the leakage audit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medvit.data.cache import Cache
from medvit.data.units import Units
from medvit.dataset.leakage import near_duplicates
from medvit.dataset.leakage.near_duplicates import NearDuplicates
from medvit.dataset.manifest import Manifest
from medvit.model.network import Network
from medvit.pretraining.unlabelled import Unlabelled

_BATCH = 32
_SIZE = (224, 224)  # pixels, for a checkpoint; a run says its own


class PooledVector(nn.Module):
    """A network that answers with its pooled vector [B W], as the head reads it."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, bag: Any = None) -> Tensor:
        """Return one vector per unit."""
        vector: Tensor = self.network.embed(image, bag)
        return vector


@dataclass(frozen=True)
class Embedder:
    """A network in eval mode, the preprocessing it wants, and what to call it in a report (no path)."""

    network: Network
    preprocess: Any
    name: str


def of_run(folder: Path) -> Embedder:
    """Return the best network of a finished run; raises RunError as `checkpoint.load_run` does."""
    from medvit.engine.checkpoint import load_run

    trained = load_run(folder)
    return Embedder(trained.network.eval(), trained.preprocess, f"run {folder.name[:8]}")


def of_checkpoint(source: str) -> Embedder:
    """Return a film encoder (local directory, safetensors file or hub id) at 224 pixels with its own constants.

    Raises WeightsError as `weights.load` does.
    """
    from medvit.model.pool import MeanPool
    from medvit.model.pretrained.load import load
    from medvit.preprocess.film import FilmPreprocess

    backbone = load(source, _SIZE, 1).backbone
    preprocess = FilmPreprocess(size=_SIZE, mean=float(backbone.mean[0]), std=float(backbone.std[0]))
    return Embedder(Network(backbone, MeanPool(), 1).eval(), preprocess, f"checkpoint {Path(source).name}")


def near_duplicates_by_embedding(
    embedder: Embedder, manifest: Manifest, folder: Path, workers: int = 1
) -> NearDuplicates:
    """Return the images of different patients that look alike to the network; rows are those of the manifest.

    Images of another kind than the network's (film, volume) and unreadable ones are left out and counted. Pixels go
    through the cache of the data set `folder`, as in training.
    """
    mine = manifest.table["kind"].eq(embedder.preprocess.kind).to_numpy()
    rows = manifest.table[mine].assign(_row=np.flatnonzero(mine))
    cache = Cache.build(rows, manifest.root, embedder.preprocess, folder / "cache", workers, on_bad="exclude")
    units = Units(cache, np.arange(len(cache)), Unlabelled())
    picked = near_duplicates.altered_rows(len(units))
    planted = {way: _vectors(embedder, units, picked, way) for way in near_duplicates.WAYS}
    vectors, patient = _vectors(embedder, units, np.arange(len(units))), units.frame["patient"].to_numpy()
    found = near_duplicates.find_near_duplicates(vectors, planted, patient, embedder.name)
    place = units.frame["_row"].to_numpy()
    pairs = found.pairs.assign(**{side: place[found.pairs[side].to_numpy(int)] for side in ("row", "other")})
    left = len(manifest.table) - len(units)
    return NearDuplicates(pairs, found.told + f"; {left} images left out" * bool(left))


@torch.inference_mode()
def _vectors(embedder: Embedder, units: Units, chosen: NDArray[np.int64], way: str = "") -> NDArray[np.float64]:
    """Return the embeddings [n W] of units, or of copies of them planted in one `way`."""
    preprocess, parts = embedder.preprocess, []
    for start in range(0, len(chosen), _BATCH):
        some = chosen[start : start + _BATCH]
        batch = units.batch(some, some)
        image = torch.from_numpy(near_duplicates.altered_copies(batch.image.numpy(), way)) if way else batch.image
        vector = embedder.network.embed(image.float() * preprocess.scale + preprocess.shift, batch.bag)
        parts.append(vector.double().numpy())
    return np.concatenate(parts) if parts else np.zeros((0, embedder.network.head.in_features))
