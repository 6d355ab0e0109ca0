"""Save and load what a report holds besides predictions, to make the same report again without images.

Baseline scores and the training rows of the audit go to parquet, everything else to extras.json. Pictures are not kept:
they stand in the page only.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from medvit.errors import EvaluationError
from medvit.metric.bootstrap import Interval
from medvit.report.figures import Figure
from medvit.report.page import Extras, Section
from medvit.report.table import NAN, Table, plain

log = logging.getLogger(__name__)
_FILE, _BASELINES, _TRAIN = "extras.json", "baselines.parquet", "train.parquet"
_TABLE_OF = {"robustness": "robustness", "ood": "ood", "explain": "faithfulness"}  # by which a section is known
_AUDITED = ("uid", "patient", "study", "pixel_sha256")


def save_archive(extras: Extras, folder: Path) -> None:
    """Write what `load` needs into `folder`; figures' PNG files are written with the report."""
    sections = [
        {
            "title": section.title,
            "text": section.text,
            "hidden": list(section.hidden),
            "tables": [{"name": table.name, **table.to_json()} for table in section.tables],
            "figures": [
                {"name": f.name, "title": f.title, "caption": f.caption, "svg": f.svg} for f in section.figures
            ],
        }
        for section in extras.sections
    ]
    content = {"provenance": plain(extras.provenance), "answers": dict(extras.answers),
               "cautions": list(extras.cautions), "sections": sections}  # fmt: skip
    (folder / _FILE).write_text(json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n", "utf-8")
    if extras.baselines:
        tables = [table.assign(baseline=name) for name, table in extras.baselines.items()]
        pd.concat(tables).to_parquet(folder / _BASELINES, index=False)
    if extras.train is not None:
        columns = [name for name in _AUDITED if name in extras.train]
        extras.train[columns].to_parquet(folder / _TRAIN, index=False)


def load_archive(folder: Path) -> Extras:
    """Return what `save` wrote; an evaluation without extras gives none.

    Raises:
        EvaluationError: the files are damaged.
    """
    if not (folder / _FILE).is_file():
        return Extras()
    try:
        content = json.loads((folder / _FILE).read_text("utf-8"))
        scores = pd.read_parquet(folder / _BASELINES) if (folder / _BASELINES).is_file() else pd.DataFrame()
        train = pd.read_parquet(folder / _TRAIN) if (folder / _TRAIN).is_file() else None
        names = list(dict.fromkeys(scores["baseline"])) if len(scores) else []
        return Extras(
            provenance=content["provenance"],
            answers=content["answers"],
            cautions=tuple(content.get("cautions", ())),
            baselines={name: scores[scores["baseline"] == name].drop(columns="baseline") for name in names},
            train=train,
            sections=tuple(_section(section, folder) for section in content["sections"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError("extras.json or a table beside it is damaged; evaluate the run again") from error


def set_aside(out: Path, asked: Mapping[str, Any], given: bool) -> None:
    """Keep an earlier report of `out` that has sections which the one to come leaves out: its folder is renamed.

    asked: conf/evaluate.yaml, sections. given: `out` was given and may hold more than a report.

    Raises:
        EvaluationError: such a report in a folder that was given, or a folder that cannot be renamed.
    """
    try:
        tables = set(json.loads((out / "report.json").read_text("utf-8"))["tables"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # no report that anyone could lose
    lost = ", ".join(f"sections.{name}" for name, table in _TABLE_OF.items() if table in tables and not asked[name])
    if not lost:
        return
    if given:
        raise EvaluationError(f"out has a report with what is left out now ({lost}); give another out=DIR to keep it")
    places = (out.with_name(f"{out.name}_earlier{number or ''}") for number in itertools.count())
    place = next(place for place in places if not place.exists())
    try:
        out.rename(place)
    except OSError as error:
        raise EvaluationError(f"the earlier report cannot be kept ({error.strerror}); give another out=DIR") from error
    log.warning("the report that was here has what is left out now (%s): it is kept in %s", lost, place)


def _section(data: Mapping[str, Any], folder: Path) -> Section:
    tables = tuple(
        Table(
            name=table["name"],
            title=table["title"],
            columns=table["columns"],
            rows=[{key: _cell(value) for key, value in row.items()} for row in table["rows"]],
            note=table["note"],
        )
        for table in data["tables"]
    )
    figures = tuple(
        Figure(**figure, png=(folder / "figures" / f"{figure['name']}.png").read_bytes()) for figure in data["figures"]
    )
    return Section(data["title"], tables, figures, data["text"], tuple(data["hidden"]))


def _cell(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"value", "low", "high", "draws", "note"}:
        number, low, high = (NAN if value[key] is None else value[key] for key in ("value", "low", "high"))
        return Interval(number, low, high, value["draws"], value["note"])
    return value
