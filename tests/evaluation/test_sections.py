from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from medvit.data.datamodule import DataModule
from medvit.engine.predict import table
from medvit.errors import EvaluationError
from medvit.evaluation import archive, protocol
from medvit.evaluation.annotations import BOX, from_box
from medvit.evaluation.inference import OpenedRun
from medvit.evaluation.run import RunEvaluation
from medvit.evaluation.sections import sections
from medvit.explain import localisation
from medvit.index import index
from medvit.model.design import Architecture
from medvit.model.network import Network
from medvit.model.pool import AttentionPool
from medvit.model.vit import ViT
from medvit.phantom.films import write_films
from medvit.prediction.spec import from_json
from medvit.preprocess.film import FilmPreprocess
from medvit.report.page import Extras, Section, write
from medvit.report.table import Table
from medvit.split import split
from medvit.task.binary import Binary

ASKED = {"robustness": True, "ood": True, "explain": True, "images": 6, "methods": ["relevance", "gradcam"]}
SPEC = from_json({"kind": "binary", "names": ["finding"], "bootstrap": {"draws": 100}, "detail": {"figures": False}})


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A network that has learnt nothing, on generated films whose boxes were kept."""
    folder = tmp_path_factory.mktemp("films")
    write_films(folder / "raw", patients=36, seed=3)
    kept = [name.removeprefix("table.") for name in BOX]
    labels = {"csv": folder / "raw" / "labels.csv", "on": "AccessionNumber", "target": ["finding"], "keep": kept}
    index(folder / "raw" / "dicom", folder, labels)
    split(folder, fractions={"train": 0.4, "val": 0.3, "test": 0.3})
    task, step = Binary("finding", {"normal": 0, "opacity": 1}), FilmPreprocess((48, 48))
    data = DataModule(folder, step, task, batch_size=16, build_workers=1, allow_test=True)
    data.setup()
    torch.manual_seed(0)
    network = Network(ViT([48, 48], [8, 8], 1, 16, 2, 2, Architecture(positions="sincos")), AttentionPool("classes"), 1)
    trained = SimpleNamespace(network=network, task=task, preprocess=step, settings={"trainer": {"batch_size": 16}})
    return OpenedRun(trained, *(data.units(side) for side in ("train", "val", "test")), "test", "cpu")


@pytest.fixture(scope="module")
def evaluated(opened, tmp_path_factory):
    """The report of that network with every section, and what was there when the sections were made."""
    out, seen = tmp_path_factory.mktemp("out"), []

    def predicted(units, side):
        return table(opened.predict_units(opened.trained.network, units), opened.trained.task, units.frame, side)

    def open_test():
        seen.append(("test", (out / "thresholds.json").is_file()))
        return predicted(opened.test, "test")

    def late(sample, frozen):
        seen.append(("sections", frozen.hash))
        return sections(opened, ASKED, sample, frozen)

    val = predicted(opened.validation, "val")
    report = protocol.evaluate_predictions(val, open_test, SPEC, out, extras=Extras(late=late))
    return report, out, seen


def test_sections_are_made_after_the_thresholds_are_frozen_and_the_test_side_is_open(evaluated):
    report, _, seen = evaluated
    assert seen == [("test", True), ("sections", report.content["thresholds"])]


def test_every_disturbance_has_its_paired_change(evaluated):
    rows = evaluated[0].tables["robustness"].rows
    assert len(rows) == 15
    whole = evaluated[0].tables["findings"].rows[0]["auroc"].value
    for row in rows:
        assert row["change"].value == pytest.approx(row["auroc"] - whole)
        assert row["change"].low <= row["change"].value <= row["change"].high


def test_all_six_foreign_sets_are_scored_by_every_distance(evaluated):
    rows = evaluated[0].tables["ood"].rows
    assert {row["set"] for row in rows} == {"test images", "hand", "lateral", "brain", "photo", "noise", "inverted"}
    assert len(rows) == 28
    noise = [row for row in rows if row["set"] == "noise"]
    assert max(row["auroc"].value for row in noise) > 0.95  # even an untrained network tells noise from films


def test_edges_fail_the_sanity_check_and_a_method_is_chosen_on_validation(opened, evaluated):
    rows = {row["method"]: row for row in evaluated[0].tables["faithfulness"].rows}
    assert set(rows) == {"relevance", "gradcam", "edges", "noise"}
    assert rows["edges"]["verdict"] == "fails"
    assert opened.best in ASKED["methods"]
    passing = [m for m in ASKED["methods"] if rows[m]["verdict"] == "passes"] or ASKED["methods"]
    assert opened.best in passing
    assert rows[opened.best]["difference"].value == max(rows[m]["difference"].value for m in passing)


def test_an_untrained_network_points_no_better_than_chance(opened, evaluated):
    rows = {row["method"]: row for row in evaluated[0].tables["localisation"].rows}
    assert {"centre prior", "even map", f"{opened.best}, shuffled weights"} <= set(rows)
    for method in ASKED["methods"]:
        assert rows[method]["energy"].low < rows["even map"]["energy"].value * 1.5
    assert rows["even map"]["iou"].value == pytest.approx(rows["even map"]["energy"].value)


def test_boxes_land_on_the_opacity_at_the_models_input(opened):
    units, inside = opened.test, []
    boxes = units.frame[list(BOX)].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    for number in np.flatnonzero(np.isfinite(boxes).all(axis=1)):
        truth = from_box(units, int(number), boxes[number])
        row, image = units.frame.iloc[number], units.cache.gather(units.members[number])[0, 0]
        wide = (boxes[number][2] - boxes[number][0] + 1) * row["spacing_column_mm"]
        assert np.ptp(np.flatnonzero(truth.mask.any(axis=0))) * truth.spacing_mm[1] == pytest.approx(wide, abs=20)
        mirrored = truth.mask[:, ::-1]
        if np.flatnonzero(truth.mask.any(axis=0)).mean() > truth.mask.shape[1] / 2:  # opposite the heart's side: lung
            inside.append(float(image[truth.mask].mean()) - float(image[mirrored & ~truth.mask].mean()))
        assert localisation.score(truth.mask, truth)["iou"] == 1
    assert inside
    assert np.mean(inside) > 5  # denser than the other lung


def test_the_report_can_be_made_again_from_what_was_kept(evaluated, tmp_path):
    report, out, _ = evaluated
    validation, test = protocol.open_predictions(out / "predictions.parquet")
    again = protocol.evaluate_predictions(
        validation, test, SPEC, tmp_path, frozen=out / "thresholds.json", extras=archive.load_archive(out)
    )
    assert again.content["tables"]["robustness"] == report.content["tables"]["robustness"]
    filled = {row["item"]: row["state"] for row in report.tables["checklist"].rows if "obustness" in row["what"]}
    assert set(filled.values()) == {"auto-filled"}


def test_the_gallery_shows_film_and_map_side_by_side(opened, evaluated):
    shown = opened.overlay_of(opened.test, 0)
    assert shown.shape == (48, 96, 3)
    np.testing.assert_array_equal(shown[:, :48, 0], opened.test.cache.gather(opened.test.members[0])[0, 0])
    assert (shown[:, 48:, 0].astype(int) > shown[:, :48, 0]).any()


def test_sections_of_a_closed_test_side_are_refused():
    trial = RunEvaluation.__new__(RunEvaluation)
    trial._tested = None
    with pytest.raises(EvaluationError, match="the test side is closed"):
        trial.sections(None, None)


def test_a_report_is_never_replaced_by_one_that_leaves_out_its_sections(evaluated, tmp_path, caplog):
    full = {"robustness": True, "ood": True, "explain": True}
    part = {**full, "robustness": False, "explain": False}
    for name in ("evaluation_test", "evaluation_test_earlier"):
        out = tmp_path / "evaluation_test"
        write(evaluated[0], out)
        before = (out / "report.json").read_bytes()
        archive.set_aside(out, full, given=False)
        with pytest.raises(EvaluationError, match=r"sections\.robustness, sections\.explain.*give another out=DIR"):
            archive.set_aside(out, part, given=True)
        assert (out / "report.json").read_bytes() == before
        archive.set_aside(out, part, given=False)
        kept = tmp_path / f"evaluation_test_earlier{'1' * (name != 'evaluation_test')}"
        assert not out.exists()
        assert (kept / "report.json").read_bytes() == before
        assert f"(sections.robustness, sections.explain): it is kept in {kept}" in caplog.text


def test_sections_made_late_stand_with_those_given(evaluated, tmp_path):
    report, out, _ = evaluated
    note = Section("Note", (Table("seeds", "Seeds", {"a": "A"}, [{"a": 1.0}]),))
    validation, test = protocol.open_predictions(out / "predictions.parquet")
    extras = Extras(sections=(note,), late=lambda _sample, _frozen: (Section("Late", text="made late"),))
    both = protocol.evaluate_predictions(validation, test, SPEC, tmp_path, extras=extras)
    titles = [section.title for section in both.sections]
    assert titles.index("Note") + 1 == titles.index("Late")
    assert report.title == both.title
