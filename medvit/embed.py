"""`python -m medvit.embed`: one vector per image, series or study from a checkpoint, run or bundle, as a table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.command_line import command_line
from medvit.config import entry
from medvit.config_check import out_of_range
from medvit.config_words import nearest
from medvit.engine.settings.contradictions import of_sizes

if TYPE_CHECKING:
    from medvit.engine.embedding.table import Embeddings

_SIDES, _UNITS = ("train", "val", "test"), (None, "series", "study", "patient")
_ANY = float("inf")
_LIMITS: dict[str, tuple[float, float]] = {
    "batch_size": (1, _ANY),
    "neighbours": (1, 20),
    "clusters": (2, 50),
    "seed": (0, _ANY),
}


def check(settings: dict[str, Any]) -> list[str]:
    """Return what is wrong with the settings, before anything heavy is imported."""
    weights, folder = settings["model"]["weights"], settings["data"]["folder"]
    asked = {"run": settings["run"], "bundle": settings["bundle"], "model.weights": weights}
    given = [key for key, value in asked.items() if value]
    wrong = []
    if len(given) != 1:
        wrong.append(
            f"give one of run=RUN_ID, bundle=DIR or model.weights=CHECKPOINT; found {', '.join(given) or 'none'}"
        )
    elif not weights:
        wrong += [
            f"{key}=... is of model.weights alone; {given[0]} brings its own: leave it out"
            for key in ("preprocess", "pool") if settings.get(key)
        ]  # fmt: skip
    else:
        wrong += _of_checkpoint(settings)
    if settings["bundle"] and not Path(settings["bundle"]).is_dir():
        wrong.append("bundle: no such folder; give one made by medvit.export")
    if not (Path(folder) / "manifest.parquet").is_file():
        line = command_line("index", {"data.root": "DIR", "data.folder": folder})
        wrong.append(f"data.folder={folder} has no manifest.parquet; run `{line}`")
    wrong += [
        f"data.include: {side!r} is no side of a split; expected some of {', '.join(_SIDES)}{nearest(side, _SIDES)}"
        for side in settings["data"]["include"] or () if side not in _SIDES
    ]  # fmt: skip
    if settings["data"]["include"] == []:
        wrong.append("data.include=[]: expected at least one side, or null")
    if settings["data"]["on_bad"] not in ("refuse", "exclude"):
        wrong.append(f"data.on_bad={settings['data']['on_bad']}: expected refuse or exclude")
    if settings["unit"] not in _UNITS:
        wrong.append(
            f"unit={settings['unit']}: expected null, series, study or patient{nearest(settings['unit'], _UNITS)}"
        )
    return [*wrong, *out_of_range("", settings, _LIMITS)]


def _of_checkpoint(settings: dict[str, Any]) -> list[str]:
    """Return what a checkpoint lacks to be asked: a preprocessing, and a pool that needs no training."""
    if not settings.get("preprocess"):
        return ["model.weights needs a preprocessing: give preprocess=film, or slices or volume for MR series"]
    pool = (settings.get("pool") or {}).get("_target_", "")
    wrong = of_sizes(settings)
    if pool.endswith(".AttentionPool"):
        wrong.append("pool: attention has queries of its own, which no checkpoint brings; give cls, mean or cls_mean")
    return wrong


def embed_by(settings: dict[str, Any]) -> Embeddings:
    """Write the table, and with `page` the page of neighbours and clusters, as conf/embed.yaml asks; return the table.

    Raises:
        MedvitError: no such run, bundle or checkpoint, or images that cannot be used.
    """
    from medvit.engine.embedding.table import embed
    from medvit.quality import embedding_page

    if settings["run"]:
        from medvit.tracking import run as tracking

        found = tracking.get(settings["run"], Path(settings["tracking"]["folder"]), finished=True)
        settings = {**settings, "run": str(found.folder)}
    made = embed(settings)
    if settings["page"]:
        embedding_page.write(made, settings["neighbours"], settings["clusters"], settings["seed"])
    return made


@entry("embed", check)
def run(settings: dict[str, Any]) -> None:
    """Run the command of conf/embed.yaml."""
    made = embed_by(settings)
    rows, width = made.vectors.shape
    more = " and embeddings.html" * bool(settings["page"])
    sys.stdout.write(
        f"{rows} vectors of {width} numbers by {made.about['model']}: {made.folder}/embeddings.parquet{more}\n"
    )


if __name__ == "__main__":
    run()
