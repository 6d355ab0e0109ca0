"""A config is data: it calls what conf/ names or what its user trusts, and nothing a file can bring along."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medvit.config import build, conf_dir, settings_of
from medvit.config_check import preflight
from medvit.config_targets import named, trust_only
from medvit.errors import ConfigError
from medvit.renamed import TARGETS

DROPOUT = "torch.nn.Dropout"


@pytest.fixture(autouse=True)
def nothing_is_trusted() -> Any:
    trust_only([])
    yield
    trust_only([])


def marks(place: Path) -> dict[str, Any]:
    """A node that leaves a file where it is called: harmless, and seen."""
    return {"_target_": "pathlib.Path.touch", "_args_": [{"_target_": "pathlib.Path", "_args_": [str(place)]}]}


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "pickle.loads",
        "torch.hub.load",
        "torch.nn.Sequential",
        "medvit.config.os.system",
        "medvit.config.build",
        "medvit.engine.checkpoint.write_json",
        "medvit.bundle.isolate.Isolated",
        "medvit.data.cache.Cache",
        "medvit.phantom.films.write_films",
        "pytorch_lightning.loggers.CometLogger",
        "${oc.env:TARGET}",
        "",
    ],
)
def test_only_classes_that_conf_names_are_called(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TARGET", "os.getcwd")
    for node in ({"_target_": target}, {"_target_": "medvit.model.pool.MeanPool", "inner": [{"_target_": target}]}):
        with pytest.raises(ConfigError, match="is none of the classes that conf/ names"):
            build(node)


def test_a_target_that_comes_into_being_by_interpolation_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The allow-list looked at the texts of a node, and the node was resolved afterwards."""
    monkeypatch.setenv("PART", "{_target_: pathlib.Path.touch}")
    found = preflight(conf_dir(), "train", ['+pool.extra="${oc.decode:${oc.env:PART}}"'], None)
    assert any("pathlib.Path.touch is none of the classes" in line for line in found)
    with pytest.raises(ConfigError):
        build(
            {
                "_target_": "medvit.augment.monai_random.Monai",
                "transforms": ["${oc.decode:${oc.env:PART}}", marks(tmp_path / "marker")],
            }
        )
    assert not (tmp_path / "marker").exists()


def test_texts_are_not_resolved_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "spoken")
    task = build({"_target_": "medvit.task.regression.Regression", "label": "age", "unit": "${oc.env:SECRET}"})
    assert task.settings["unit"] == "${oc.env:SECRET}"


def test_what_generates_a_data_set_is_no_part_of_a_network() -> None:
    generator = "medvit.phantom.films.write_films"
    assert generator in named(conf_dir())["data"]
    with pytest.raises(ConfigError, match="none of the classes"):
        build({"_target_": generator, "folder": "anywhere"})
    with pytest.raises(ConfigError, match="none of the classes"):
        build({"_target_": "medvit.model.pool.MeanPool"}, "data")


def test_every_earlier_name_is_still_allowed() -> None:
    assert set(TARGETS.values()) <= {name for names in named(conf_dir()).values() for name in names}


def test_trust_counts_in_the_words_of_the_command_and_nowhere_else(tmp_path: Path) -> None:
    node = {"_target_": DROPOUT, "p": 0.5}
    with pytest.raises(ConfigError, match=r"add trust=\[torch.nn.Dropout\] to the command line"):
        build(node)
    (tmp_path / "experiment").mkdir()
    recipe = f"# @package _global_\ntrust: [{DROPOUT}]\naugment: {{_target_: {DROPOUT}, p: 0.5}}\n"
    (tmp_path / "experiment" / "theirs.yaml").write_text(recipe, encoding="utf-8")
    words = ["experiment=theirs", f"hydra.searchpath=[file://{tmp_path}]"]
    found = preflight(conf_dir(), "train", words, None)
    assert found[0] == "trust stands in a preset or recipe; it counts on the command line alone: trust=[...]"
    assert preflight(conf_dir(), "train", [*words, f"trust=[{DROPOUT}]"], None) == []
    assert type(build(node)).__name__ == "Dropout"
    settings_of("train", {})
    with pytest.raises(ConfigError):
        build(node)


def test_transforms_of_monai_need_no_trust_but_those_that_do_more_than_change_arrays() -> None:
    assert type(build({"_target_": "monai.transforms.RandFlip", "prob": 0.5})).__name__ == "RandFlip"
    for name in ("SaveImage", "Lambdad", "RandLambda", "DataStats", "TorchVisiond", "WriteFileMapping"):
        with pytest.raises(ConfigError, match=rf"add trust=\[monai.transforms.{name}\]"):
            build({"_target_": f"monai.transforms.{name}"})
    with pytest.raises(ConfigError, match="is none of the classes"):
        build({"_target_": "monai.transforms.utils.optional_import", "module": "os"})


def test_a_runs_folder_brings_no_trust_along(tmp_path: Path) -> None:
    """The config.json of a folder that was passed on named its own code and trusted it."""
    from medvit.engine.build import build_network

    settings = {"trust": ["pathlib.Path.touch", "pathlib.Path"], "model": marks(tmp_path / "marker"), "pool": None}
    with pytest.raises(ConfigError, match="add trust="):
        build_network(settings, 1)
    with pytest.raises(ConfigError, match="add trust="):
        build_network({**settings, "model": None}, 1, marks(tmp_path / "marker"))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("job", [["seed=0"], ["seed=0,1", "--multirun"]])
@pytest.mark.parametrize(
    "where",
    ["callbacks.theirs", "job_logging.handlers.theirs", "hydra_logging.formatters.theirs", "launcher", "sweeper"],
)
def test_hydra_itself_calls_nothing_that_a_recipe_names(where: str, job: list[str], tmp_path: Path) -> None:
    node: dict[str, Any] = {"_target_": "pathlib.Path.cwd"}
    if where.startswith("callbacks"):
        node = marks(tmp_path / "marker")
    elif "logging" in where:
        node = {"()": "subprocess.check_call", "args": ["touch", str(tmp_path / "marker")]}
    for key in reversed(["hydra", *where.split(".")]):
        node = {key: node}
    (tmp_path / "my_conf" / "experiment").mkdir(parents=True)
    recipe = f"# @package _global_\n{json.dumps(node)}\n"
    (tmp_path / "my_conf" / "experiment" / "theirs.yaml").write_text(recipe, encoding="utf-8")
    command = [sys.executable, "-m", "medvit.split", "data.folder=none", "+experiment=theirs", *job]
    command = [word.replace("seed", "split.seed") for word in command]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    assert f"hydra.{where.partition('.')[0]} makes Hydra call what a config names" in done.stderr
    assert not (tmp_path / "marker").exists()


def test_flags_that_open_a_pickle_or_another_config_are_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "medvit.split", "--experimental-rerun=run.pickle", "data.folder=x"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "--experimental-rerun: no flag of medvit" in done.stderr


def test_every_job_of_a_multirun_is_checked() -> None:
    """Sweeps were not looked at: each job ran with whatever it was given."""
    found = preflight(conf_dir(), "train", ["seed=0,-1", "+trainer.max_stepz=1,2", "optim.plan.lr=1e-3,2e-3"], None)
    assert found == ["'trainer.max_stepz' is not a setting; did you mean 'trainer.max_steps'?"]
    assert preflight(conf_dir(), "train", ["seed=0,1,2", "model=vit_pico,vit_tiny_16"], None) == []
