"""`python -m medvit.curve`: what a label is worth: several starts trained on shares of the training patients."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medvit import generated, resume, run_lifecycle
from medvit.config import conf_dir, entry, settings_by, settings_of
from medvit.config_check import out_of_range, preflight
from medvit.config_words import overrides_of, readable
from medvit.errors import ConfigError, SplitError
from medvit.evaluate import problems, spec_from
from medvit.train import check as check_training
from medvit.train import train

if TYPE_CHECKING:
    from medvit.evaluation.learning_curve import Point
    from medvit.tracking.run import Run

log = logging.getLogger("medvit.curve")  # also when it runs as __main__
_FILE = "curve.json"  # in the folder of the curve's run: the settings it was started with
_OWN = ("seed=", "subset", "tracking", "resume")  # what the curve itself sets
_EXAMPLE = "{scratch: {}, pretrained: {model.weights: runs/RUN_ID, optim: llrd}}"
_ALL_ALIKE = ("data", "labels", "task")  # settings that the trainings must share to be compared


def check(settings: dict[str, Any]) -> list[str]:
    """Return what is wrong with the settings and with those of every start, before anything heavy is imported."""
    if settings["resume"]:
        return []
    shares, seeds, starts = settings["shares"], settings["seeds"], settings["starts"]
    wrong = out_of_range("bootstrap.", settings["bootstrap"], {"draws": (100, float("inf")), "level": (0.5, 0.999)})
    if not shares or any(not isinstance(one, int | float) or not 0 < one <= 1 for one in shares):
        wrong.append(f"shares={shares}: expected some shares of the training patients, each above 0 and at most 1")
    if not seeds or any(not isinstance(one, int) or one < 0 for one in seeds) or len(set(seeds)) < len(seeds):
        wrong.append(f"seeds={seeds}: expected different whole numbers from 0")
    if settings["split"] not in ("test", "val"):
        wrong.append(f"split={settings['split']}: expected test or val")
    if settings["least_steps"] is not None and settings["least_steps"] < 1:
        wrong.append(f"least_steps={settings['least_steps']}: expected 1 and more, or null")
    if not starts or not all(isinstance(each, Mapping) for each in starts.values()):
        return [*wrong, f"starts={starts}: expected names with their settings of medvit.train: {_EXAMPLE}"]
    for name, given in {"": settings["train"], **starts}.items():
        taken = [word for word in overrides_of(given) if word.lstrip("+").startswith(_OWN)]
        wrong += [f"{_of(name)}: {word} is for the curve to set; leave it out" for word in taken]
    if wrong:
        return wrong
    for name, given in starts.items():
        found = preflight(conf_dir(), "train", readable(_words(settings, given)), check_training)
        wrong += [f"{_of(name)}: {problem}" for problem in found]
    return list(dict.fromkeys(wrong))


def _of(name: str) -> str:
    return f"starts.{name}" if name else "train"


def _words(settings: dict[str, Any], *given: Mapping[str, Any]) -> list[str]:
    """Return the words of a training: what all share, then what is given."""
    return [word for each in (settings["train"], *given) for word in overrides_of(each)]


def curve(settings: dict[str, Any], given: Sequence[str] = ()) -> Run:
    """Train and test every start on every share, and return the parent run with table and figure of the curve.

    `settings` are those of conf/curve.yaml; `given` are the words of the command line, which a resumed curve checks.

    Raises:
        MedvitError: settings that do not fit each other, a share too small for the labels, or what a training refuses.
        Stopped: the process was asked to end; the message says how the curve goes on.
    """
    place, parent = Path(settings["tracking"]["folder"]), None
    if (main := run_lifecycle.helped(place)) is not None:  # a further device of one of the trainings
        own = json.loads((main.folder / "config.json").read_text(encoding="utf-8"))
        train({**own, "resume": main.id if resume.has_checkpoint(main.folder) else None})
        raise SystemExit(0)
    if settings["resume"]:
        parent, settings = resume.children_as_they_were(settings, given, place, _FILE)
    jobs = _jobs(settings)
    data = _composed(settings, settings["starts"][jobs[0].start])["data"]["name"]
    with run_lifecycle.tracked(parent, settings, f"curve {data}", "curve", run_lifecycle.children_stopped) as parent:
        (parent.folder / _FILE).write_text(json.dumps(settings, indent=1, sort_keys=True), encoding="utf-8")
        points = []
        for number, job in enumerate(jobs, start=1):
            log.info("curve: %d of %d: %s, %g of the patients, seed %d", number, len(jobs), *job[:3])
            points.append(_point(settings, job, parent, baselines=job.start == jobs[0].start))
        _publish(parent, points, settings)
    return parent


class Job(NamedTuple):
    """One training of the curve, with the numbers of patients and of units (`data.unit`) it learns from."""

    start: str
    share: float
    seed: int
    patients: int
    units: int


def _jobs(settings: dict[str, Any]) -> list[Job]:
    """Return every training, small shares first.

    Raises:
        ConfigError: starts of other data, labels or task; a regression. SplitError: shares too small for the labels.
    """
    from medvit.dataset import manifest, splits
    from medvit.dataset.subset import learnt, too_few

    first, *others = [_composed(settings, given) for given in settings["starts"].values()]
    unlike = sorted({key for each in others for key in _ALL_ALIKE if each[key] != first[key]})
    if unlike:
        raise ConfigError(
            f"starts: they differ in {', '.join(unlike)}; a curve compares starts on one data set and task"
        )
    if first["task"]["_target_"].endswith(".Regression"):
        raise ConfigError("task=regression has no AUROC, which the curve is of; give a task that classifies")
    if generated.wanted(first["data"]):
        generated.make(first["data"], first["labels"])
    folder = Path(first["data"]["folder"])
    table = manifest.read(folder)
    rows = splits.read(folder, table).rows(table, "train", first["data"]["fold"])
    wrong, jobs = [], []
    for share in sorted(set(settings["shares"])):
        for seed in settings["seeds"]:
            part = learnt(rows, {"share": share, "seed": seed})
            wrong += [
                f"share {share:g}, seed {seed}: {told}" for told in too_few(rows, part, first["labels"]["target"])
            ]
            count, unit = part["patient"].nunique(), first["data"]["unit"]
            units = len(part) if unit is None else part[unit].nunique()
            jobs += [Job(start, float(share), seed, count, units) for start in settings["starts"]]
    if wrong:
        raise SplitError("\n".join([*wrong, "give larger shares, or index more patients"]))
    return jobs


def _composed(settings: dict[str, Any], *given: Mapping[str, Any]) -> dict[str, Any]:
    return settings_by("train", _words(settings, *given), check_training)


def _own(settings: dict[str, Any], job: Job, parent: str | None = None) -> dict[str, Any]:
    """Return the settings of one training beside those that all share."""
    tracking = {key: settings["tracking"][key] for key in ("folder", "uri", "experiment")}
    own = {**settings["starts"][job.start], "subset": {"share": job.share, "seed": job.seed}, "seed": job.seed,
           "tracking": {**tracking, "name": _name(job), "parent": parent, "log_model": False}}  # fmt: skip
    made = _composed(settings, own)
    if settings["least_steps"] is None or made["optim"]["strategy"]["_target_"].endswith(".LogisticProbe"):
        return own
    batches = math.ceil(job.units / made["trainer"]["batch_size"])
    epochs = math.ceil(settings["least_steps"] / math.ceil(batches / made["trainer"]["accumulate"]))
    return {**own, "trainer.epochs": max(made["trainer"]["epochs"], epochs)}


def _name(job: Job) -> str:
    return f"{job.start}, {job.share:g} of the patients, seed {job.seed}"


def _trained(settings: dict[str, Any], job: Job, parent: Run) -> str:
    """Return the id of the finished run of a job: as it is, gone on with where it was stopped, or trained now."""
    from medvit.tracking import run as runs

    own = _own(settings, job, parent.id)
    asked = _composed(settings, own)
    for run, _ in runs.children(parent):
        if run.client.get_run(run.id).info.run_name != _name(job):
            continue
        if run.status == "FINISHED":
            return str(run.id)
        if resume.has_checkpoint(run.folder):
            return train({**asked, "resume": run.id})
    return train(asked, _words(settings, own))


def _point(settings: dict[str, Any], job: Job, parent: Run, *, baselines: bool) -> Point:
    """Return one point of the curve, trained and tested; what was done before the curve was stopped stays."""
    from medvit.evaluation.learning_curve import Point
    from medvit.evaluation.protocol import evaluation_folder
    from medvit.evaluation.run import evaluate_run

    place, run = Path(settings["tracking"]["folder"]), _trained(settings, job, parent)
    folder = evaluation_folder(place, run, settings["split"])
    if not (folder / "report.json").is_file():
        none = {"robustness": False, "ood": False, "explain": False, "logistic": baselines}
        asked = {"run": run, "split": settings["split"], "sections": none, "bootstrap": settings["bootstrap"],
                 "detail.figures": False, "tracking.folder": place}  # fmt: skip
        evaluate_run(settings_of("evaluate", asked, problems), spec_from)
    return Point(job.start, job.share, job.seed, job.patients, folder)


def _publish(parent: Run, points: Sequence[Point], settings: dict[str, Any]) -> None:
    """Write table and figure into the parent's folder and attach them, and log the curve as metrics by patients."""
    from medvit.evaluation.learning_curve import learning_curve
    from medvit.tracking.allow_list import mlflow_name

    made = learning_curve(points, settings["split"])
    files = {"csv": made.table.to_csv().encode(), "md": made.markdown.encode(), "svg": made.figure.svg.encode(),
             "png": made.figure.png}  # fmt: skip
    for kind, content in files.items():
        (parent.folder / f"curve.{kind}").write_bytes(content)
        parent.artifact(parent.folder / f"curve.{kind}")
    for row in made.table.rows:
        name = mlflow_name(f"auroc_{row['start']}".replace(" ", "_").replace("/", "_"))
        ends = {"": row["auroc"].value, "_low": row["auroc"].low, "_high": row["auroc"].high}
        known = {f"{settings['split']}/{name}{end}": value for end, value in ends.items() if math.isfinite(value)}
        parent.metrics(known, step=int(row["patients"]))
    parent.note(made.markdown)


@entry("curve", check)
def run(settings: dict[str, Any]) -> None:
    """Run the command of conf/curve.yaml."""
    from hydra.core.hydra_config import HydraConfig

    done = curve(settings, HydraConfig.get().overrides.task)
    sys.stdout.write(
        f"\n{(done.folder / 'curve.md').read_text(encoding='utf-8')}\nthe curve: {done.folder}/curve.svg\n"
    )


if __name__ == "__main__":
    run()
