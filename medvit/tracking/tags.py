"""The `medvit.*` tags of MLflow runs and model versions that say where weights and bundles come from."""

from __future__ import annotations

import re
from collections.abc import Mapping

_OF_CHECKPOINT = ("family", "weights", "revision", "sha256", "licence", "forbids", "pretrained_on", "citation")


def checkpoint_tags(weights: Mapping[str, str]) -> dict[str, str]:
    """Return where a run's first weights came from, as `medvit.weights.*`; a hub id's slash is --, as in the store."""
    plain = {
        key: re.sub(r"[^\w .,:;+=()@-]+", " ", weights.get(key, "").replace("/", "--"))[:200] for key in _OF_CHECKPOINT
    }
    return {f"medvit.weights.{'id' if key == 'weights' else key}": value for key, value in plain.items() if value}


def bundle_tags(digest: str, run_id: str | None = None) -> dict[str, str]:
    """Return which bundle was made of a run, for the run itself, or with `run_id` for a version of the registry."""
    return {"medvit.bundle": digest, **({"medvit.run": run_id} if run_id else {})}
