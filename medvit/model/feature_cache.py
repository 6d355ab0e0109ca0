"""Disk cache of the tokens of a frozen backbone, for fast probes.

A cache is found by what it was made from: the backbone's weights and design, the preprocessing, and the list of
images. A file that is there is whole: it is written under another name and renamed at the end. A folder of caches keeps
to its limit: what was used longest ago makes room.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from medvit.errors import CacheError
from medvit.model.network import Backbone
from medvit.types import Tokens

logger = logging.getLogger(__name__)
KEEP = ("tokens", "summary")
_STALE_S = 24 * 3600  # a file half written this long ago is of a run that was killed


@dataclass(frozen=True)
class Features:
    """Cached features `values` [n T W], prefix first: tokens, fp16, or as a `summary` class token and mean, fp32."""

    values: NDArray[Any]
    prefix: int
    grid: tuple[int, ...]
    summary: bool = False

    def tokens(self, stored: Tensor) -> Tokens:
        """Return rows of `values` as the tokens the backbone gave; of a summary the mean is the only patch.

        They are fp32, or all tokens in the dtype of autocast, to which every product would cast them anew.
        """
        kind = stored.device.type
        mixed = torch.is_autocast_enabled(kind) and not self.summary
        dtype = torch.get_autocast_dtype(kind) if mixed else torch.float32
        prefix, patches = stored.split((self.prefix, stored.shape[1] - self.prefix), dim=1)  # type: ignore[no-untyped-call]
        return Tokens(prefix.float().to(dtype).contiguous(), patches.float().to(dtype).contiguous(), self.grid)


class FeatureCache:
    """A folder of cached features that together take at most `limit_gib`; one that alone would take more is refused."""

    def __init__(self, folder: Path, limit_gib: float = 16.0) -> None:
        self.folder, self.limit = Path(folder), limit_gib

    def get(
        self,
        backbone: Backbone,
        made_by: str,
        uids: list[str],
        batches: Iterable[tuple[tuple[str, ...], Float[Tensor, "B C *S"]]],
        keep: str = "tokens",
    ) -> Features:
        """Return the features of `uids` in their order, from disk or by one pass through the backbone.

        Args:
            backbone: the frozen encoder; it is put into evaluation for the pass.
            made_by: digest of all else that decides the features: the files' content, preprocessing, design of the
                encoder (its weights do not tell heads, activation or eps).
            uids: pseudonyms of all images.
            batches: uids and normalised images, in any order, each image once; read only when nothing is cached.
            keep: "tokens" (fp16, for an attention head) or "summary" (fp32, class token and mean; far smaller).

        Raises:
            CacheError: an unknown `keep`, a cache beyond the limit, or images that are missing, unknown or twice.
        """
        if keep not in KEEP:
            raise CacheError(f"feature cache keep={keep!r}: expected tokens or summary")
        made_of = [weights_digest(backbone), _code_digest(), _classes_digest(backbone), made_by, keep, uids]
        name = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]
        data, meta = self.folder / f"{name}.npy", self.folder / f"{name}.json"
        if not (data.exists() and meta.exists()):
            self._fill(backbone, uids, batches, keep, data, meta)
        now = time.time_ns()
        os.utime(data, ns=(now, now))  # used now, finer than the clock a bare utime takes
        form = json.loads(meta.read_text())
        return Features(np.load(data, mmap_mode="r"), form["prefix"], tuple(form["grid"]), keep == "summary")

    def _fill(
        self, backbone: Backbone, uids: list[str], batches: Iterable[Any], keep: str, data: Path, meta: Path
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        place = {uid: row for row, uid in enumerate(uids)}
        seen = np.zeros(len(uids), bool)
        room, form = None, {"prefix": 0, "grid": []}
        part = data.with_suffix(f".{os.getpid()}.part")
        was_training = backbone.training
        backbone.train(False)
        try:
            for names, image in batches:
                rows = _rows(names, place, seen)
                with torch.inference_mode():
                    values, form = _kept(backbone(image), keep)
                if room is None:
                    room = self._room(part, (len(uids), *values.shape[1:]), values.dtype)
                room[rows], seen[rows] = values, True
            if room is None or not seen.all():
                raise CacheError(f"feature cache: the loader left out {int((~seen).sum())} of {len(uids)} images")
            room.flush()
            written = part.with_suffix(".json")
            written.write_text(json.dumps(form))
            written.replace(meta)
            part.replace(data)
        finally:
            part.unlink(missing_ok=True)
            backbone.train(was_training)

    def _room(self, part: Path, shape: tuple[int, ...], dtype: Any) -> np.memmap[Any, Any]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize / 2**30
        if size > self.limit:
            raise CacheError(
                f"feature cache: {shape[0]} images would take {size:.1f} GiB and the limit is {self.limit:g} GiB. "
                "pool=cls and pool=mean need far less; or raise optim.strategy.cache_gib; or set it to 0, to run the "
                "backbone anew in every epoch"
            )
        self._make_room(self.limit - size)
        logger.info("feature cache: %d images, %.2f GiB", shape[0], size)
        room: np.memmap[Any, Any] = np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape)
        return room

    def _make_room(self, limit: float) -> None:
        """Remove the caches used longest ago until the others take at most `limit` GiB, and what killed runs left."""
        for left in self.folder.glob("*.part*"):
            if time.time() - left.stat().st_mtime > _STALE_S:
                left.unlink()
        caches = sorted(self.folder.glob("*.npy"), key=lambda data: data.stat().st_mtime_ns)
        taken = sum(data.stat().st_size for data in caches)
        for data in caches:
            if taken <= limit * 2**30:
                return
            taken -= data.stat().st_size
            data.unlink()  # a run that has it open keeps reading it
            data.with_suffix(".json").unlink(missing_ok=True)
            logger.info("feature cache: one used longest ago was removed, the folder's limit is %g GiB", self.limit)


def weights_digest(module: Any) -> str:
    """Return the sha256 of all weights and buffers of a module, or a backbone, by name."""
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        found.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


@cache  # what this process runs does not change when a file on disk does
def _code_digest() -> str:
    """Return the sha256 of what computes the features: all of `medvit.model`."""
    state = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        state.update(path.name.encode() + path.read_bytes())
    return state.hexdigest()


def _classes_digest(backbone: Backbone) -> str:
    """Return the sha256 of the files of the network's classes that are neither medvit's nor torch's."""
    module: Any = backbone
    kinds = {type(part) for part in module.modules()}
    foreign = {kind for kind in kinds if kind.__module__.partition(".")[0] not in {"medvit", "torch"}}
    files = {getattr(sys.modules.get(kind.__module__), "__file__", None) for kind in foreign}
    state = hashlib.sha256()
    for file in sorted(filter(None, files)):
        state.update(Path(file).read_bytes())
    return state.hexdigest()


def _rows(names: tuple[str, ...], place: dict[str, int], seen: NDArray[np.bool_]) -> list[int]:
    unknown = sum(name not in place for name in names)
    rows = [place[name] for name in names if name in place]
    twice = len(rows) - len(set(rows)) + int(seen[sorted(set(rows))].sum())
    if unknown or twice:
        raise CacheError(f"feature cache: the loader gave {unknown} unknown images and {twice} a second time")
    return rows


def _kept(tokens: Tokens, keep: str) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return what is stored of a batch, and its form."""
    prefix = tokens.prefix.shape[1]
    if keep == "tokens":
        both = torch.cat([tokens.prefix, tokens.patches], dim=1).half()
        if not torch.isfinite(both).all():
            raise CacheError("feature cache: a token is beyond fp16 (65504) or not finite; use pool=cls or pool=mean")
        return both.cpu().numpy(), {"prefix": prefix, "grid": list(tokens.grid)}
    mean = tokens.patches.float().mean(dim=1, keepdim=True)
    both = torch.cat([tokens.prefix[:, :1].float(), mean], dim=1)
    return both.cpu().numpy(), {"prefix": min(1, prefix), "grid": list(tokens.grid)}
