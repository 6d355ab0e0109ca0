"""Faster variants of a bundle's network: measured before they may be used, and used only where they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvit.bundle import session, variants
from medvit.bundle.build import export
from medvit.bundle.runtime import Runtime
from medvit.bundle.session import DEFAULT, FILES, open_session
from medvit.bundle.variants import Validation, Wanted, add, cost, problems
from medvit.errors import BundleError
from medvit.predict import predict, verified

FREE: dict[str, float | None] = dict.fromkeys(variants.LIMITS)
HERE = [name for name in FILES if name != DEFAULT and not session.unusable(name)]


@pytest.fixture(scope="module")
def validation(trained: Any, films: list[Path]) -> Validation:
    """Films as the network takes them, with outcomes by turns; one patient each."""
    prepared = [trained.preprocess.prepare(trained.preprocess.read(film)) for film in films]

    def images() -> Iterator[Any]:
        for one in prepared:
            yield trained.preprocess.normalise(one.pixels), one.position_mm

    target = np.arange(len(films))[:, None] % 2
    return Validation(images, target.astype(float), np.arange(len(films)))


@pytest.fixture(scope="module")
def measured(trained: Any, contents: Any, films: list[Path], validation: Validation, tmp_path_factory: Any) -> Path:
    """A bundle with every variant that this machine can run."""
    out = tmp_path_factory.mktemp("variants") / "bundle"
    export(trained, contents, films[:2], out, variants=Wanted(HERE, FREE, validation))
    return out


def test_what_a_variant_costs_is_what_predict_then_differs_by(
    measured: Path, films: list[Path], validation: Validation
) -> None:
    assert "openvino_fp32" in HERE
    told = json.loads((measured / "medvit" / "variants.json").read_text())
    assert list(told) == sorted(HERE)
    reference = [one.probability["opacity"] for one in Runtime(measured).predict(films, accept=False)]
    for name in HERE:
        said = [one.probability["opacity"] for one in Runtime(measured, variant=name).predict(films, accept=False)]
        apart = np.abs(np.subtract(said, reference))
        assert apart.max() == pytest.approx(told[name]["probability_max"], rel=1e-6)
        assert told[name]["units"] == told[name]["decisions"] == len(films)
    assert 0 < told["openvino_fp32"]["probability_max"] < 1e-5
    assert all(told[name]["probability_max"] > 1e-5 for name in HERE if name != "openvino_fp32")


def test_cost_counts_decisions_and_compares_ranks_by_patient(contents: Any) -> None:
    truth = np.array([0.0, 0.0, 1.0, 1.0])
    on = Validation(lambda: iter(()), truth[:, None], np.arange(4))
    rule = replace(contents, calibration={"opacity": {"slope": 1.0, "intercept": 0.0}})
    told = cost(rule, np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([[-2.0], [1.5], [1.0], [2.0]]), on)
    assert told["decisions_changed"] == 1
    assert told["probability_max"] == pytest.approx(1 / (1 + np.exp(-1.5)) - 1 / (1 + np.exp(1.0)))
    auroc = told["auroc"]["opacity"]
    assert (auroc["default"], auroc["variant"]) == (1.0, 0.75)  # 3 of 4 pairs are in order
    assert auroc["difference"] == -0.25
    assert told["patients"] == 4


def test_a_variant_that_costs_more_than_allowed_stops_the_export_with_its_figures(
    trained: Any, contents: Any, films: list[Path], validation: Validation, tmp_path: Path
) -> None:
    limits = {"probability": 1e-12, "decisions": 0.0, "auroc": 0.0}
    with pytest.raises(
        BundleError, match=r"openvino_fp32: a probability differs by \S+ \(probability: 1e-12\)"
    ) as told:
        export(trained, contents, films[:2], tmp_path / "out", variants=Wanted(["openvino_fp32"], limits, validation))
    assert not (tmp_path / "out").exists()
    assert "variants_at_most" in str(told.value)


def test_without_an_interval_a_limit_on_the_auroc_is_not_passed(contents: Any) -> None:
    on = Validation(lambda: iter(()), np.array([[0.0], [1.0], [0.0]]), np.array(["a", "b", "a"]))
    logits = np.array([[-2.0], [1.0], [0.0]])
    told = cost(contents, logits, logits + 1e-3, on)
    assert told["auroc"]["opacity"]["low"] is None
    assert "too few patients" in variants._beyond("v", told, {**FREE, "auroc": 0.1})[0]
    assert variants._beyond("v", told, FREE) == []


@pytest.mark.parametrize("name", ["openvino_bf16", "onnxruntime_int8", "openvino_fp64"])
def test_a_variant_that_was_not_measured_is_refused_with_those_that_were(bundle: Path, name: str) -> None:
    with pytest.raises(BundleError, match=rf"{name}: this bundle was not measured with it; it has onnxruntime_fp32"):
        Runtime(bundle, variant=name)


def test_a_processor_without_the_instructions_is_told_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(session, "_processor_flags", lambda: {"avx2"})
    with pytest.raises(BundleError, match="onnxruntime_int8 needs a processor with VNNI"):
        open_session(tmp_path, "onnxruntime_int8")
    openvino = pytest.importorskip("openvino")
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(BundleError, match="openvino_bf16 needs a processor with bf16"):
        open_session(tmp_path, "openvino_bf16")
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(BundleError, match=r"pip install 'medvit\[openvino\]'"):
        open_session(tmp_path, "openvino_fp32")


def test_all_that_is_wrong_with_variants_is_told_at_once() -> None:
    told = problems(["openvino_fp16", DEFAULT], {"probability": -1, "auroc": None, "speed": 2}, "regression")
    assert len(told) == 6
    for word in ("openvino_fp16", "leave it out", "a quantity", "at_most.speed", "at_most.decisions", "=-1"):
        assert sum(word in each for each in told) == 1, word


def test_threads_of_a_variant_give_the_numbers_of_one_thread(measured: Path, films: list[Path]) -> None:
    for name in HERE:
        alone = [one.logit["opacity"] for one in Runtime(measured, 1, name).predict(films, accept=False)]
        beside = [one.logit["opacity"] for one in Runtime(measured, 4, name).predict(films, accept=False)]
        assert alone == beside


def test_the_results_say_which_runtime_they_are_of(measured: Path, films: list[Path], tmp_path: Path) -> None:
    assert predict(measured, films[0], tmp_path / "out", isolate=False, variant="openvino_fp32") == 0
    (study,) = (tmp_path / "out" / "studies").glob("*.json")
    assert json.loads(study.read_text())["model"]["runtime"] == "openvino_fp32"
    for name in HERE:
        verified(measured, variant=name)


def test_a_machine_whose_variant_is_further_off_than_at_export_is_refused(
    measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = session._OpenVino.run
    monkeypatch.setattr(session._OpenVino, "run", lambda self, feed: run(self, feed) + 0.01)
    with pytest.raises(BundleError, match="This machine does not reproduce the model"):
        verified(measured, variant="openvino_fp32")


def test_adding_variants_needs_validation_units(contents: Any, measured: Path) -> None:
    nothing = Validation(lambda: iter(()), np.zeros((0, 1)), np.zeros(0))
    with pytest.raises(Exception, match="no validation unit"):
        add(measured / "models", contents, Wanted(["openvino_fp32"], FREE, nothing))
