"""Where checkpoints are kept on this machine; it needs no torch, so that what only lists them starts at once."""

from __future__ import annotations

import os
from pathlib import Path

OWN = "local/"
"""How the names of checkpoints begin that were fetched without an entry in the catalogue."""


def folder() -> Path:
    """Return the local store: MEDVIT_WEIGHTS, else ~/.cache/medvit/weights; one directory per checkpoint."""
    return Path(os.environ.get("MEDVIT_WEIGHTS") or Path.home() / ".cache" / "medvit" / "weights")


def local(hub_id: str) -> Path:
    """Return where the store keeps a hub id (which need not be there)."""
    return folder() / hub_id.split("@", maxsplit=1)[0].replace("/", "--")


def present(hub_id: str) -> bool:
    """Return whether the store, or the cache of huggingface_hub, holds a hub id; nothing is read of it."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub") / f"models--{hub_id.replace('/', '--')}"
    return local(hub_id).is_dir() or any(cache.glob("snapshots/*/*.safetensors"))


def own() -> list[str]:
    """Return the names of the checkpoints in the store that have no entry in the catalogue."""
    start = OWN.replace("/", "--")
    return sorted(OWN + home.name.removeprefix(start) for home in folder().glob(f"{start}*") if home.is_dir())
