"""The one definition of file -> model input, shared by train, evaluate, export and predict. Needs no torch."""

from __future__ import annotations

from typing import Any

from medvit.errors import ConfigError
from medvit.preprocess.definition import Prepared, VolumeFiles
from medvit.preprocess.film import FilmPreprocess
from medvit.preprocess.placement import Placement
from medvit.preprocess.volume import VolumePreprocess

__all__ = ["FilmPreprocess", "Placement", "Prepared", "VolumeFiles", "VolumePreprocess", "from_json"]


def from_json(data: dict[str, Any]) -> FilmPreprocess | VolumePreprocess:
    """Rebuild a preprocessing from `to_json`; raises ConfigError when the kind or a field is unknown."""
    fields = dict(data)
    kind = fields.pop("kind", None)
    if kind not in {"film", "volume"}:
        raise ConfigError(f"preprocess kind {kind!r}: expected film or volume")
    try:
        return FilmPreprocess(**{"picture_bits": "image", **fields}) if kind == "film" else VolumePreprocess(**fields)
    except TypeError as error:
        raise ConfigError(f"preprocess of kind {kind}: {error}") from error
