"""One vector per image, series, study or patient of an indexed set, by a checkpoint, a run or a bundle, as a table.

Pixels go through the preprocessing, the cache and the units that training and evaluation use. What a checkpoint says of
an image comes from the feature cache that probes read, and fills it for them.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from medvit.config import build
from medvit.data.loader import BatchLoader, Plan
from medvit.data.split_data import SplitData
from medvit.dataset import manifest, splits
from medvit.dataset.manifest import LABEL, Manifest
from medvit.engine.build import build_preprocess, describe, refuse_weights
from medvit.engine.cached_features import CachedFeatures
from medvit.engine.embedding.embeddings import PooledVector
from medvit.engine.predict import inference_device, predict
from medvit.errors import ConfigError, DataError
from medvit.model.feature_cache import weights_digest
from medvit.model.network import Network
from medvit.pretraining.unlabelled import Unlabelled

logger = logging.getLogger(__name__)
TABLE = "embeddings.parquet"
META = b"medvit"
_CACHE_GIB, _BATCH = 16.0, 32
_COARSE = ("series", "study", "patient")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Embeddings:
    """Vectors [n W] beside `table` (uid, patient, study, series, split, labels; a row each) and what made them.

    `place` [n] is the manifest row of the first image of each, `folder` is where the table was written.
    """

    table: pd.DataFrame
    vectors: NDArray[np.float32]
    place: NDArray[np.int64]
    about: dict[str, Any]
    manifest: Manifest
    folder: Path


@dataclass(frozen=True)
class Model:
    """What embeds: its name in a report (no path), the SHA-256 of its weights, its preprocessing, unit and pool.

    `vectors` gives one vector per unit of a data module's training side, in their order.
    """

    name: str
    digest: str
    preprocess: Any
    unit: str | None
    pool: str
    vectors: Callable[[SplitData], Floats]


def embed(settings: dict[str, Any]) -> Embeddings:
    """Write `embeddings.parquet` as conf/embed.yaml asks, and return it.

    Raises:
        MedvitError: no such run, bundle or checkpoint, another kind of image, files that cannot be read, or a unit
            smaller than what the model judges.
    """
    model = open_model(settings)
    if settings["unit"] and model.unit and _COARSE.index(settings["unit"]) < _COARSE.index(model.unit):
        raise ConfigError(f"unit={settings['unit']}: this model judges a whole {model.unit}; give that, or null")
    node = settings["data"]
    table = manifest.read(Path(node["folder"]))
    rows, split = _rows(table, node)
    data = SplitData(node["folder"], model.preprocess, Unlabelled(), bag=model.unit, on_bad=node["on_bad"],
                      batch_size=settings["batch_size"])  # fmt: skip
    data.prepare_rows(rows.assign(_side="train"), table.root)
    vectors, frame = model.vectors(data), data.units("train").frame
    if settings["unit"] and settings["unit"] != model.unit:
        frame, vectors = _pooled(frame, vectors, settings["unit"])
    labels = [str(name) for name in frame.columns if str(name).startswith(LABEL)]
    kept = frame[["uid", "patient", "study", "series", "split", *labels]].reset_index(drop=True)
    about = {
        "model": model.name,
        "model_sha256": model.digest,
        "preprocess": model.preprocess.digest,
        "pool": model.pool,
        "unit": settings["unit"] or model.unit or "image",
        "manifest": table.digest,
        "split": split,
        "left_out": len(rows) - len(data.cache or ()),
    }
    name = f"{re.sub(r'[^A-Za-z0-9]+', '-', model.name)}-{model.digest[:8]}"
    folder = Path(settings["out"]) if settings["out"] else Path(node["folder"]) / "embeddings" / name
    made = Embeddings(kept, vectors.astype(np.float32), frame["_place"].to_numpy(np.int64), about, table, folder)
    _write(made)
    return made


def _rows(table: Manifest, node: dict[str, Any]) -> tuple[pd.DataFrame, str]:
    """Return the manifest rows asked for with their place and side, labels of the test side left empty; and the split.

    Raises:
        SplitError: sides are asked for of a set without a split, or a fold that is not there.
    """
    whole = table.table.assign(_place=np.arange(len(table.table)), split="")
    if node["include"] is None and node["fold"] is None and not (Path(node["folder"]) / "splits.parquet").is_file():
        logger.info("no split: every image has a vector")
        return whole, ""
    frozen = splits.read(Path(node["folder"]), table)
    whole["split"] = whole["patient"].map(frozen.sides(node["fold"]))
    rows = whole[whole["split"].isin(node["include"] or ["train", "val"])].sort_values("uid", ignore_index=True)
    if rows.empty:
        raise DataError(f"data.include={node['include']}: these sides hold no image; make another split")
    labels = [name for name in rows.columns if name.startswith(LABEL)]
    rows[labels] = rows[labels].where(rows["split"] != "test")
    return rows, frozen.digest


def _pooled(frame: pd.DataFrame, vectors: Floats, unit: str) -> tuple[pd.DataFrame, Floats]:
    """Return one row per `unit`: the mean of its vectors; what differs within a unit is left empty."""
    if frame[unit].isna().any() or frame[unit].eq("").any():
        raise DataError(f"unit={unit}: some images have no {unit}; give unit=null, or mend the manifest")
    names, code = np.unique(frame[unit].astype(str), return_inverse=True)
    total = np.zeros((len(names), vectors.shape[1]))
    np.add.at(total, code, vectors)
    groups = frame.groupby(code)
    first = groups.first().assign(uid=names)  # the first known value, as a bag of images has
    for name in frame.columns.difference(["uid", "_place"]):
        if frame[name].map(lambda value: isinstance(value, list | np.ndarray)).any():
            continue
        first[name] = first[name].where(groups[name].nunique() <= 1)
    return first, total / np.bincount(code)[:, None]


def open_model(settings: dict[str, Any]) -> Model:
    """Return what `settings` name: `run` (a finished run's folder), `bundle` (a folder) or `model.weights`.

    Raises:
        RunError, BundleError, WeightsError: as those who open them.
    """
    if settings["run"]:
        return _of_run(Path(settings["run"]), settings["batch_size"])
    return _of_bundle(Path(settings["bundle"])) if settings["bundle"] else _of_checkpoint(settings)


def _of_run(folder: Path, batch_size: int) -> Model:
    from medvit.engine.checkpoint import load_run

    trained = load_run(folder)
    network, device = PooledVector(trained.network), inference_device()

    def vectors(data: SplitData) -> Floats:
        units = data.units("train")
        found = predict(network, BatchLoader(units, Plan(batch_size)), data.scale, data.shift, device)
        place = {uid: row for row, uid in enumerate(found.uid)}
        return np.asarray(found.logits[[place[uid] for uid in units.uid]], np.float64)

    pool = type(trained.network.pool).__name__
    unit = trained.settings["data"].get("unit")
    return Model(f"run {folder.name[:8]}", weights_digest(network), trained.preprocess, unit, pool, vectors)


def _of_bundle(folder: Path) -> Model:
    from medvit.bundle.vector import BundleVectors

    opened = BundleVectors(folder)
    bundle = opened.runtime.bundle

    def vectors(data: SplitData) -> Floats:
        units = data.units("train")
        places = (int(mine[0]) for mine in units.members)  # a bundle judges one film or series
        return np.stack([opened(units.cache.gather([row]), units.cache.position_mm(row)) for row in places])

    name = f"bundle {bundle.digest[:8]}"
    return Model(name, bundle.digest, opened.runtime.preprocess, None, "as exported", vectors)


def _of_checkpoint(settings: dict[str, Any]) -> Model:
    from medvit.model.pool import ClsMeanPool, MeanPool
    from medvit.model.pretrained.load import load
    from medvit.model.pretrained.store import public_name

    source = str(settings["model"]["weights"])
    backbone = load(source, settings["model"]["image_size"], 1).backbone
    refuse_weights(settings, backbone)
    pool: Any = build(settings["pool"]) if settings.get("pool") else ClsMeanPool() if backbone.prefix else MeanPool()
    network = Network(backbone, pool, 1).eval()
    network.norm = nn.Identity()  # a norm that nobody trained would only take the length away
    preprocess = build_preprocess(settings, network)
    design, device = describe(settings, network), inference_device()

    def vectors(data: SplitData) -> Floats:
        memory = CachedFeatures(network, data, design, _CACHE_GIB, torch.device(device))
        return _of_features(network.cpu(), memory)

    name = public_name(source)
    told = f"checkpoint {Path(source).name if name == 'local' else name}"
    return Model(told, weights_digest(backbone), preprocess, None, type(pool).__name__, vectors)


@torch.inference_mode()
def _of_features(network: Network, memory: CachedFeatures) -> Floats:
    """Return the pooled vectors [n W] of units whose features are cached; of a series the mean over its slices."""
    units, parts = memory.units("train"), []
    for start in range(0, len(units), _BATCH):
        rows = np.concatenate(units.members[start : start + _BATCH])
        each = network.from_tokens(memory.features.tokens(units.images(rows))).double().numpy()
        counts = units.cache.counts[rows]
        first = np.cumsum(counts) - counts
        parts.append(np.add.reduceat(each, first) / counts[:, None])
    return np.concatenate(parts)


def _write(made: Embeddings) -> None:
    """Write the table with `vector` as list<float32> and what made it as metadata, atomically."""
    import pyarrow as pa
    from pyarrow import parquet

    rows, width = made.vectors.shape
    flat = pa.array(made.vectors.reshape(-1), pa.float32())
    column = pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * width), flat)
    stored = pa.Table.from_pandas(made.table, preserve_index=False).append_column("vector", column)
    stored = stored.replace_schema_metadata({**(stored.schema.metadata or {}), META: json.dumps(made.about)})
    try:
        made.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"out cannot be made ({error.strerror}); give another out=DIR") from error
    manifest.replace_file(made.folder / TABLE, lambda draft: parquet.write_table(stored, draft))
