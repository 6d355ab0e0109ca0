"""A bundle with transforms of MONAI: it carries them as JSON, says what training says, and names the extra it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvit.bundle.build import export
from medvit.bundle.parity import LIMIT, gate
from medvit.bundle.runtime import Runtime
from medvit.errors import BundleError, ConfigError
from medvit.preprocess import FilmPreprocess, from_json
from medvit.preprocess.steps import build_all

ROOT = Path(__file__).resolve().parents[2]
STEPS = {
    "after_reading": [{"_target_": "monai.transforms.GaussianSmoothd", "sigma": 3.0}],
    "before_normalisation": [{"_target_": "monai.transforms.AdjustContrastd", "gamma": 2.0}],
}
WHOLE = {"whole": [{"_target_": "monai.transforms.Resized", "spatial_size": [48, 48], "mode": "area"}]}
WITHOUT_MONAI = """
import sys
sys.modules["torch"] = sys.modules["monai"] = None  # an import of them raises ImportError
from medvit.predict import main
main()
"""


def exported(trained: Any, contents: Any, films: list[Path], out: Path, steps: dict[str, Any]) -> tuple[Any, Any]:
    """Return what was trained with these steps, and its bundle."""
    pre = FilmPreprocess(size=(48, 48), steps=steps)
    stepped = replace(trained, preprocess=pre)
    return stepped, export(stepped, replace(contents, preprocess=pre.to_json()), films[:3], out)


@pytest.fixture(scope="module")
def stepped(trained, contents, films, tmp_path_factory) -> tuple[Any, Any]:
    return exported(trained, contents, films, tmp_path_factory.mktemp("stepped") / "bundle", STEPS)


def test_the_steps_lie_in_the_bundle_as_plain_json_with_the_version_that_made_them(stepped) -> None:
    folder = stepped[1].folder
    held = json.loads((folder / "medvit" / "preprocess.json").read_text())["steps"]
    assert {
        place: [{k: v for k, v in one.items() if k != "made_by"} for one in each] for place, each in held.items()
    } == STEPS
    assert {one["made_by"].split()[0] for each in held.values() for one in each} == {"monai"}
    needed = json.loads((folder / "configs" / "metadata.json").read_text())["required_packages_version"]
    assert {"monai", "torch"} < set(needed)


def test_the_bundle_says_what_training_says_also_in_its_child_processes(stepped, trained, films) -> None:
    there, made = stepped
    assert made.parity.images == 3
    assert made.parity.probability <= LIMIT
    child = [one.logit["opacity"] for one in Runtime(made.folder, 1).stream(films[:2], accept=False, isolate=True)]
    here = [one.logit["opacity"] for one in Runtime(made.folder).predict(films[:2], accept=False)]
    assert child == here
    np.testing.assert_allclose(here, logits(there, films[:2]), atol=1e-4)
    assert np.abs(np.subtract(here, logits(trained, films[:2]))).min() > 1e-2, "the steps did nothing"


@pytest.mark.slow
def test_a_list_that_is_another_chain_leaves_with_the_model_too(trained, contents, films, tmp_path) -> None:
    there, made = exported(trained, contents, films, tmp_path / "bundle", WHOLE)
    assert made.parity.probability <= LIMIT
    assert [one.status for one in Runtime(made.folder).predict(films[:2], accept=False)] == ["OK", "OK"]
    assert np.abs(np.subtract(logits(there, films[:2]), logits(trained, films[:2]))).min() > 1e-2


def logits(trained: Any, films: list[Path]) -> list[float]:
    from medvit.bundle.parity import training_logits

    return [float(row[0]) for row in training_logits(trained.network, trained.preprocess, films)]


@pytest.mark.slow
def test_the_gate_refuses_a_bundle_whose_step_is_another(stepped, films) -> None:
    there, made = stepped
    other = {**STEPS, "before_normalisation": [{"_target_": "monai.transforms.AdjustContrastd", "gamma": 2.2}]}
    with pytest.raises(BundleError, match="does not say what the trained one says"):
        gate(made.folder, there.network, replace(there.preprocess, steps=other), there.probabilities, films[:1])


@pytest.mark.parametrize("words", [["verify=true"], ["input=FILMS", "out=said"]], ids=["verify", "predict"])
def test_without_monai_the_refusal_is_one_sentence_that_names_the_steps_and_the_extra(
    stepped, films, tmp_path, words
) -> None:
    given = [word.replace("FILMS", str(films[0].parent)) for word in words]
    command = [sys.executable, "-c", WITHOUT_MONAI, f"bundle={stepped[1].folder}", *given]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 20
    assert done.stderr == (
        "BundleError: The bundle prepares images by GaussianSmoothd, AdjustContrastd of MONAI, which is not installed "
        "here. Install it: pip install 'medvit[monai]'.\n"
    )
    assert not (tmp_path / "said").exists()


def test_without_monai_a_bundle_of_fused_steps_alone_is_verified(bundle, tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MONAI, f"bundle={bundle}", "verify=true"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_model_in_mlflow_requires_monai_and_torch_where_it_has_steps_of_monai(bundle, stepped, tmp_path) -> None:
    from medvit.tracking import model

    asked = {}
    for name, folder in {"with": stepped[1].folder, "without": bundle}.items():
        model._save(tmp_path / name, folder, ("0" * 32, f"m-{name}"), ("opacity",), None)
        asked[name] = (tmp_path / name / "requirements.txt").read_text().splitlines()
    extra = {line.partition("==")[0] for line in set(asked["with"]) - set(asked["without"])}
    assert extra == {"monai", "torch"}
    assert set(asked["without"]) < set(asked["with"])


def test_a_bundle_makes_nothing_that_it_names_among_the_arguments_of_a_step(stepped, tmp_path) -> None:
    """Only a step's own class was checked: `{_target_: os.system}` as an argument of a step was called."""
    whole = json.loads((stepped[1].folder / "medvit" / "preprocess.json").read_text())
    mark = tmp_path / "called"
    whole["steps"]["after_reading"][0]["sigma"] = {"_target_": "os.system", "_args_": [f"touch {mark}"]}
    with pytest.raises(ConfigError, match=r"_target_ os\.system is none of the classes that conf/ names"):
        build_all(from_json(whole).steps)
    assert not mark.exists()
