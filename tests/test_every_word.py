"""Every word of conf/ is trained for an epoch, evaluated, exported and predicted, and so is every recipe.

Words are found by globbing conf/. Each model is one case, small but of its kind, with task and pool in turn; each other
optim is one, on the encoder of a run; so is the bag of slices. The first case of each task and the bag are registered
too. Other pairs of words are not run. Each optimizer and scheduler has its case in tests/test_foreign_parts.py.
Classes have names with signs, brackets and umlauts.
"""

from __future__ import annotations

import sys
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import yaml
from whole_path import CONF, QUICK, TASKS, furthest, generated, smaller, whole_path, words

import medvit

GROUPS = ("task", "model", "pool", "optim", "bag")
NEEDS = {"convnext_tiny": "transformers"}  # an extra of the package
Case = dict[str, Any]


def poolings(model: str) -> list[str]:
    """Return the pools a model can have: the class token needs one."""
    node = yaml.safe_load((CONF / "model" / f"{model}.yaml").read_text(encoding="utf-8"))
    token = node["_target_"].endswith(".vit") and node.get("prefix", 1) > 0
    return [pool for pool in words("pool") if not pool.startswith("cls") or token]


def cases() -> list[Case]:
    tasks, pools = cycle(words("task")), cycle(words("pool"))

    def case(**given: str) -> Case:
        asked = {"model": "vit_pico", "optim": "scratch", "bag": "none", **given}
        classes = ["binary", "multilabel", "multiclass"] if asked["optim"] == "logistic" else words("task")
        whole = {"task": next(task for task in tasks if task in classes), **asked}
        fit = poolings(whole["model"]) if whole["optim"] != "logistic" else ["cls", "mean", "cls_mean"]  # no weights
        return {"pool": next(pool for pool in pools if pool in fit), **whole}

    found = [case(model=model) for model in words("model")]
    found += [case(optim=optim) for optim in words("optim") if optim != "scratch"]
    return found + [case(bag=bag) for bag in words("bag") if bag != "none"]


def named(case: Case) -> str:
    return "-".join(case[group] for group in GROUPS)


def registered(case: Case) -> bool:
    """Return whether this is the first case of its task, or the bag."""
    return case["bag"] != "none" or case == next(one for one in cases() if one["task"] == case["task"])


def test_every_word_of_conf_stands_in_a_case(capsys: pytest.CaptureFixture[str]) -> None:
    held = {group: {case[group] for case in cases()} for group in GROUPS}
    assert held == {group: set(words(group)) for group in GROUPS}
    told = f"{len(cases())} cases hold all {sum(map(len, held.values()))} words of {', '.join(GROUPS)}"
    with capsys.disabled():
        sys.stdout.write(f"\n{told}; {len(words('experiment'))} recipes\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("words")


@cache
def encoder(place: Path, model: str) -> str:
    """Return the folder of a run of this model, which stands for the weights of a hub."""
    size = smaller(model)
    films = len(size["model.image_size"]) == 2
    made = {} if films else {"preprocess": "volume", "preprocess.size": size["model.image_size"]}
    data = {**generated(place, "films" if films else "heads"), **made, **size, **TASKS["binary"]}
    run = medvit.train(**QUICK, **data, model=model, pool="mean", **{"tracking.folder": str(place / "runs")})
    return str(run.folder)


def tuned(place: Path, optim: str, model: str) -> Case:
    """Return what a strategy needs beside its word: an encoder to start from, and epochs for both of its phases."""
    more: Case = {} if optim == "scratch" else {"model.weights": encoder(place, model)}
    return more | ({"trainer.epochs": 2, "optim.strategy.probe_epochs": 1} if optim == "lp_ft" else {})


def asked_of(case: Case, place: Path) -> tuple[Case, Path]:
    """Return the settings of a case, and the folder of its images."""
    size = smaller(case["model"])
    kind = "films" if len(size["model.image_size"]) == 2 and case["bag"] == "none" else "heads"
    asked = {**generated(place, kind), **size, **TASKS[case["task"]], **case}
    if kind == "heads":
        asked["preprocess"] = "slices" if case["bag"] == "study" else "volume"
        asked["preprocess.size"] = [4, 32, 32] if case["bag"] == "study" else size["model.image_size"]
    return asked | tuned(place, case["optim"], case["model"]), place / kind / "raw" / "dicom"


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(), ids=named)
def test_a_word_is_trained_evaluated_exported_and_says_the_same_as_a_bundle(case: Case, place: Path) -> None:
    if case["model"] in NEEDS:
        pytest.importorskip(NEEDS[case["model"]])
    tested, said = whole_path(place, *asked_of(case, place), register=registered(case))
    assert furthest(tested, said) < 1e-4  # of calibrated numbers: the gate held the bundle to 1e-5 before calibration
    assert said["status"].eq("OK").all()


@pytest.mark.slow
@pytest.mark.parametrize("name", words("experiment"))
def test_a_recipe_runs_on_a_set_of_its_layout_and_predict_says_what_evaluate_said(name: str, place: Path) -> None:
    """A bundle of two echoes refused all it was trained on, with parity 4e-8 at the export."""
    recipe = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8"))
    default = yaml.safe_load((CONF / "train.yaml").read_text(encoding="utf-8"))
    groups = [line for line in default["defaults"] + recipe["defaults"] if isinstance(line, dict)]
    word = {key.split("/")[-1]: value for line in groups for key, value in line.items()}
    model, kind = word["model"], "heads" if word["preprocess"] != "film" else "films"
    size = {key: value for key, value in smaller(model).items() if recipe.get("model", {}).get(key[6:], 0) is not None}
    asked = {**generated(place, kind), **size, **TASKS[word["task"]], "experiment": name}
    asked |= {"labels.values": None, "data.generate": None} if word["data"] != "folder" else {}
    asked |= {"optim": "logistic"} if word["optim"] == "logistic" else {}  # which has no epochs
    del asked["data"]
    if word["preprocess"] == "slices":
        asked["preprocess.size"] = [4, *size["model.image_size"]]
    asked |= tuned(place, word["optim"], model)
    tested, said = whole_path(place, asked, place / kind / "raw" / "dicom", register=False)
    assert furthest(tested, said) < 1e-4  # of calibrated numbers: the gate held the bundle to 1e-5 before calibration
    assert said["status"].eq("OK").all()
