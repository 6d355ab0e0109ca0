from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from medvit.errors import EvaluationError
from medvit.evaluation.archive import load_archive
from medvit.evaluation.protocol import evaluate_predictions, freeze_thresholds, open_predictions
from medvit.metric.calibration import sigmoid
from medvit.metric.operating_point import RuleSpec
from medvit.metric.ranking import auroc
from medvit.prediction.spec import Aggregation, Detail, Resampling, from_json
from medvit.report.checklist import FROM_PROVENANCE
from medvit.report.page import Extras, Section
from medvit.report.table import Table
from medvit.report.wording import class_name, format_estimate

NAMES = ("pneumonia", "effusion", "rare")


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.values, self.addresses, self.tags, self.words = [], [], [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        self.values += [given["data-value"]] if "data-value" in given else []
        self.addresses += [given[key] for key in ("src", "href") if key in given]

    def handle_data(self, data):
        self.words += [data] if self.tags[-1:] != ["style"] else []


def decimals(text):
    return set(re.findall(r"[−-]?\d+\.\d+(?:e[−-]\d+)?", text.replace(",", " ")))


def numbers(node):
    if isinstance(node, dict):
        return {n for value in node.values() for n in numbers(value)}
    if isinstance(node, list):
        return {n for value in node for n in numbers(value)}
    return {float(node)} if isinstance(node, (int, float)) and not isinstance(node, bool) else set()


@pytest.fixture(scope="module")
def full(tmp_path_factory, make_table, make_spec):
    """Three findings, one without a positive in the test set, baselines, pictures and a section from elsewhere."""
    out = tmp_path_factory.mktemp("full")
    val, test = make_table("val", names=NAMES), make_table("test", names=NAMES)
    test["target.rare"] = 0.0
    test.loc[:19, "target.effusion"] = np.nan
    random = np.random.default_rng(0)
    baseline = pd.DataFrame({"uid": test["uid"], **{f"score.{n}": random.normal(size=200) for n in NAMES}})
    robust = Table(
        "robustness", "Robustness", {"what": "What", "delta": "Change"}, [{"what": "noise", "delta": -0.125}]
    )
    extras = Extras(
        provenance={key: f"known {key}" for key in FROM_PROVENANCE},
        baselines={"pixel ridge": baseline},
        train=pd.DataFrame({"uid": ["t1"], "patient": ["train-p"]}),
        pictures=lambda uids: {uid: np.full((300, 200), 7, np.uint8) for uid in uids},
        sections=(Section("Robustness", (robust,)),),
        answers={"CLAIM 2024 5": "Retrospective."},
    )
    spec = make_spec(NAMES, points=(RuleSpec("youden"), RuleSpec("sensitivity", 0.9, lower_confidence=True)))
    return evaluate_predictions(val, test, spec, out, extras=extras), out, test


def test_every_number_of_the_page_stands_in_the_json(full):
    _, out, _ = full
    page = Page()
    page.feed((out / "report.html").read_text())
    known = numbers(json.loads((out / "report.json").read_text()))
    assert len(page.values) > 200
    assert {float(value) for value in page.values} <= known


def test_every_decimal_a_reader_sees_is_a_number_or_a_word_of_the_json(full):
    page, text = Page(), (full[1] / "report.json").read_text()
    page.feed((full[1] / "report.html").read_text())
    seen = decimals(" ".join(page.words))
    known = {format_estimate(number) for number in numbers(json.loads(text))} | decimals(text)
    assert len(seen) > 150
    assert seen - known == set()


def test_the_page_needs_nothing_from_outside(full):
    page = Page()
    page.feed((full[1] / "report.html").read_text())
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "script" not in page.tags
    assert page.tags.count("img") > 20


def test_every_table_is_there_as_csv_with_all_its_digits(full):
    report, out, test = full
    assert {file.stem for file in (out / "tables").iterdir()} == set(report.content["tables"])
    table = pd.read_csv(out / "tables" / "findings.csv").set_index("finding")
    assert float(table.loc["pneumonia", "auroc"]) == auroc(test["target.pneumonia"], test["logit.pneumonia"])
    assert table.loc["rare", "auroc"] == "n/a (0 positives)"


def test_a_finding_without_positives_is_left_out_of_the_macro_mean_and_counted(full):
    rows = full[0].content["tables"]["findings"]["rows"]
    assert rows[-1]["finding"] == "macro (2 of 3 findings)"
    values = [row["auroc"]["value"] for row in rows[:2]]
    assert rows[-1]["auroc"]["value"] == pytest.approx(np.mean(values), abs=1e-15)
    assert rows[2]["auroc"] == {"value": None, "low": None, "high": None, "draws": 0, "note": "n/a (0 positives)"}
    assert rows[1]["unknown"] == 20


def test_more_than_sixty_percent_of_the_checklists_are_filled(full):
    rows = full[0].content["tables"]["checklist"]["rows"]
    filled = [row for row in rows if row["state"] == "auto-filled"]
    assert len(filled) / len(rows) >= 0.6
    assert all(row["text"] for row in filled)
    by_item = {(row["guideline"], row["item"]): row for row in rows}
    assert by_item["CLAIM 2024", "30"]["state"] == "auto-filled"  # the robustness section came from elsewhere
    assert by_item["CLAIM 2024", "5"]["text"] == "Retrospective."
    assert by_item["CLAIM 2024", "44"]["state"] == "needs author"
    assert by_item["CLAIM 2024", "33"]["state"] == "n/a"


def test_what_is_not_known_is_left_to_the_author(tmp_path, make_table, make_spec):
    report = evaluate_predictions(make_table("val"), make_table("test"), make_spec(), tmp_path)
    states = {(row["guideline"], row["item"]): row["state"] for row in report.content["tables"]["checklist"]["rows"]}
    assert states["CLAIM 2024", "25"] == "needs author"  # training: no provenance given
    assert states["CLAIM 2024", "30"] == "needs author"
    assert any("No shortcut baseline was given" in line for line in report.headline)


def test_sections_of_other_modules_are_printed(full):
    page = (full[1] / "report.html").read_text()
    assert 'id="robustness"' in page
    assert 'data-value="-0.125"' in page


def test_the_whole_report_is_made_again_from_its_folder(full, tmp_path, make_spec):
    report, out, _ = full
    validation, test = open_predictions(out / "predictions.parquet")
    frozen, extras = out / "thresholds.json", load_archive(out)
    again = evaluate_predictions(
        validation, test, from_json(report.content["spec"]), tmp_path, frozen=frozen, extras=extras
    )
    assert again.content == report.content
    for table in (out / "tables").iterdir():
        assert (tmp_path / "tables" / table.name).read_bytes() == table.read_bytes()


def test_extras_that_were_damaged_are_refused(full, tmp_path):
    (tmp_path / "extras.json").write_text("{}")
    with pytest.raises(EvaluationError, match="damaged"):
        load_archive(tmp_path)
    assert load_archive(tmp_path / "nothing") == Extras()


def test_the_gallery_shows_the_most_certain_errors_first(full):
    report, _, test = full
    rows = [row for row in report.content["tables"]["failures"]["rows"] if row["finding"] == "pneumonia"]
    false = [row for row in rows if row["kind"] == "false positive"]
    assert len(false) <= 20
    worst = test[test["target.pneumonia"] == 0].nlargest(1, "logit.pneumonia")["uid"].item()
    assert false[0]["uid"] == worst


def test_a_subgroup_too_small_prints_insufficient_and_never_a_number(full):
    rows = full[0].content["tables"]["subgroups"]["rows"]
    small = [row for row in rows if min(row["positives"], row["units"] - row["positives"]) < 10]
    assert small
    for row in small:
        assert row["auroc"]["value"] is None
        assert re.fullmatch(r"insufficient \(\d+\)", row["auroc"]["note"])


def test_many_films_of_few_patients_are_still_a_small_group(tmp_path, make_table, make_spec):
    val, test = make_table("val"), make_table("test")
    group = np.where(test["patient"].isin(test["patient"].unique()[:8]), "rare", "common")
    often = pd.concat([test.assign(group=group)] * 6).reset_index(drop=True)
    often["uid"] = [f"test{k}" for k in range(len(often))]
    report = evaluate_predictions(val.assign(group=""), often, make_spec(subgroups=("group",)), tmp_path)
    rows = {row["group"]: row for row in report.tables["subgroups"].rows}
    assert rows["rare"]["positives"] >= 10
    assert rows["rare"]["units"] - rows["rare"]["positives"] >= 10
    assert re.fullmatch(r"insufficient \([0-9]\)", rows["rare"]["auroc"].note)
    assert np.isfinite(rows["common"]["auroc"].value)


def test_words_of_a_column_on_age_stay_words_and_many_sites_do_not_stop_the_report(tmp_path, make_table, make_spec):
    test = make_table("test")
    test["table.site"] = [f"site {k % 30}" for k in range(200)]
    test["table.age_group"] = np.tile(["child", "adult"], 100)
    val = make_table("val").assign(**{"table.site": "site 0", "table.age_group": "adult"})
    usual = evaluate_predictions(val, test, make_spec(), tmp_path / "a").tables["subgroups"].rows
    sites = [row for row in usual if row["column"] == "table.site"]
    assert sites[0]["group"] == "19 others"
    assert (len(sites), sum(row["units"] for row in sites)) == (12, 200)
    asked = evaluate_predictions(val, test, make_spec(subgroups=("table.age_group",)), tmp_path / "b")
    assert {row["group"] for row in asked.tables["subgroups"].rows} == {"child", "adult"}


def test_transfer_syntaxes_are_read_by_name_and_kept_by_uid(tmp_path, make_table, make_spec):
    val, test = (make_table(split).assign(transfer_syntax="1.2.840.10008.1.2.5") for split in ("val", "test"))
    report = evaluate_predictions(val, test, make_spec(subgroups=("transfer_syntax",)), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "RLE Lossless" in page
    assert "1.2.840.10008" not in page
    assert report.content["tables"]["subgroups"]["rows"][0]["group"] == "1.2.840.10008.1.2.5"


def test_what_refuses_an_evaluation_is_told_before_the_long_sections(tmp_path, make_table, make_spec):
    def closed():
        raise AssertionError("the test set was opened")

    def slow(_sample, _frozen):
        raise AssertionError("sections were made")

    with pytest.raises(EvaluationError, match=r"sx is not in the predictions \(did you mean sex\?\)"):
        evaluate_predictions(make_table("val"), closed, make_spec(subgroups=("sx",)), tmp_path)
    with pytest.raises(EvaluationError, match="there are sex, age_years, manufacturer, view"):
        evaluate_predictions(make_table("val"), closed, make_spec(subgroups=("hospital",)), tmp_path)
    train = pd.DataFrame({"uid": ["x"], "patient": [make_table("test").loc[3, "patient"]]})
    extras = Extras(train=train, late=slow)
    with pytest.raises(EvaluationError, match="E-LEAK"):
        evaluate_predictions(make_table("val"), make_table("test"), make_spec(), tmp_path, extras=extras)


def test_one_known_finding_of_many_is_named_once(tmp_path, make_table, make_spec):
    names = ("a", "b", "c", "d")
    val, test = make_table("val", names=names), make_table("test", names=names)
    test[[f"target.{name}" for name in names[1:]]] = 0.0
    lines = evaluate_predictions(val, test, make_spec(names), tmp_path).headline
    assert len([line for line in lines if line.startswith("AUROC, a:")]) == 1


def test_a_planted_gap_between_vendors_is_found(tmp_path, make_table, make_spec):
    tables = [make_table(split, n=900) for split in ("val", "test")]
    for table in tables:
        noise = np.random.default_rng(5).normal(size=900) * 2.2 * (table["manufacturer"] == "Borealis")
        table["logit.pneumonia"] += noise
        table["prob.pneumonia"] = sigmoid(table["logit.pneumonia"])
    report = evaluate_predictions(*tables, make_spec(subgroups=("manufacturer",)), tmp_path)
    gap = next(row for row in report.content["tables"]["fairness"]["rows"] if row["metric"] == "auroc")
    assert (gap["worst_group"], gap["best_group"]) == ("Borealis", "ACME")
    assert gap["gap"]["value"] == pytest.approx(0.1, abs=0.05)
    assert gap["gap"]["low"] > 0


def test_a_missing_group_column_and_one_of_too_many_words_are_refused(tmp_path, make_table, make_spec):
    with pytest.raises(EvaluationError) as caught:
        evaluate_predictions(make_table("val"), make_table("test"), make_spec(subgroups=("sx", "patient")), tmp_path)
    assert "subgroup column sx is not in the predictions (did you mean sex?)" in str(caught.value)
    assert "patient has" in str(caught.value)


def test_a_baseline_of_another_test_set_is_refused(tmp_path, make_table, make_spec):
    other = make_table("other").assign(**{"score.pneumonia": 0.0})
    extras = Extras(baselines={"ridge": other})
    with pytest.raises(EvaluationError, match="of the same test set"):
        evaluate_predictions(make_table("val"), make_table("test"), make_spec(), tmp_path, extras=extras)


def test_a_training_patient_in_the_test_set_is_refused(tmp_path, make_table, make_spec):
    train = pd.DataFrame({"uid": ["x"], "patient": [make_table("test").loc[3, "patient"]]})
    with pytest.raises(EvaluationError, match="1 patients with training"):
        evaluate_predictions(make_table("val"), make_table("test"), make_spec(), tmp_path, extras=Extras(train=train))


def test_a_model_that_is_its_own_baseline_is_not_better(tmp_path, make_table, make_spec):
    test = make_table("test")
    same = pd.DataFrame({"uid": test["uid"], "score.pneumonia": test["logit.pneumonia"]})
    extras = Extras(baselines={"itself": same})
    report = evaluate_predictions(make_table("val"), test, make_spec(), tmp_path, extras=extras)
    row = report.content["tables"]["baselines"]["rows"][0]
    assert (row["gain"]["value"], row["p"], row["verdict"]) == (0.0, 1.0, "not told apart")


def test_an_external_site_keeps_the_thresholds_and_shows_its_shift(tmp_path, make_table, make_spec):
    frozen = freeze_thresholds(make_table("val"), make_spec(), tmp_path / "run")
    site = make_table("site_b").assign(manufacturer="Cirrus", age_years=80.0)
    report = evaluate_predictions(
        make_table("val"),
        site,
        make_spec(),
        tmp_path / "b",
        frozen=tmp_path / "run" / "thresholds.json",
        recorded=frozen.hash,
        extras=Extras(provenance={"external": "Site B, 2024."}),
        split="site_b",
    )
    shift = {(row["what"], row["value"]): row for row in report.tables["shift"].rows}
    assert shift["manufacturer", "Cirrus"]["change"].value == 1.0
    assert shift["age_years", "mean"]["standardised"].low > 0.5
    spread = {row["what"]: row for row in report.tables["shift_whole"].rows}
    assert spread["age_years"]["holm"] < 0.05 < spread["sex"]["p"]
    assert spread["manufacturer"]["psi"].low > 0.25
    assert report.content["thresholds"] == frozen.hash
    external = [row for row in report.tables["checklist"].rows if row["what"].startswith("Testing on external")]
    assert external[0]["text"] == "Site B, 2024."


def test_classes_grades_and_measurements_have_their_own_tables(tmp_path, make_table, make_spec):
    classes, tables = ("a", "b", "c"), {}
    for split in ("val", "test"):
        table = make_table(split, names=classes)
        z = table[[f"logit.{name}" for name in classes]].to_numpy()
        truth = np.eye(3)[np.argmax(z + np.random.default_rng(1).gumbel(size=z.shape), axis=1)]
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        steps = np.sort(p, axis=1)[:, ::-1]
        for k, name in enumerate(classes):
            table[f"target.{name}"], table[f"prob.{name}"] = truth[:, k], p[:, k]
            table[f"prob.step{k}"], table[f"logit.step{k}"] = steps[:, k], 0.0
            table[f"target.step{k}"] = (truth @ [0, 1, 2] >= k + 1).astype(float)
        table["prob.mm"], table["target.mm"] = z[:, 0] + 1.0, z[:, 0]
        tables[split] = table
    out = tmp_path / "classes"
    report = evaluate_predictions(tables["val"], tables["test"], make_spec(classes, "multiclass"), out)
    after = pd.read_parquet(out / "predictions.parquet")[[f"calibrated.{name}" for name in classes]].sum(axis=1)
    np.testing.assert_allclose(after, 1.0, atol=1e-12)  # one temperature: the classes stay exclusive
    assert report.content["tables"]["findings"]["rows"][0]["auroc"]["value"] > 0.6
    graded = evaluate_predictions(
        tables["val"], tables["test"], make_spec(("step0", "step1"), "ordinal"), tmp_path / "grades"
    )
    assert len(graded.content["tables"]["grades"]["rows"]) == 1
    spec = make_spec(("mm",), "regression")
    row = evaluate_predictions(tables["val"], tables["test"], spec, tmp_path / "mm").content["tables"]["measurements"][
        "rows"
    ][0]
    assert (row["mae"]["value"], row["bias"]["value"]) == pytest.approx((1.0, 1.0))


def test_studies_are_the_unit_where_asked(tmp_path, make_table, make_spec):
    spec = make_spec(aggregate=Aggregation("study"), detail=Detail(floor=5, figures=False))
    report = evaluate_predictions(make_table("val"), make_table("test"), spec, tmp_path)
    row = report.content["tables"]["cohort"]["rows"][1]
    assert (row["images"], row["units"]) == (200, make_table("test")["study"].nunique())


@pytest.mark.parametrize("unit", ["image", "patient"])
def test_a_baseline_of_images_is_pooled_as_the_model_is_where_patients_are_the_unit(
    tmp_path, make_table, make_spec, unit
):
    """A baseline that scores as the model does gains nothing and loses nothing; "200 scores, 86 units" stopped it."""
    spec, test = make_spec(aggregate=Aggregation(unit, "max"), detail=Detail(floor=5, figures=False)), make_table()
    same = test[["uid"]].assign(**{"score.pneumonia": test["logit.pneumonia"]}).sample(frac=1, random_state=0)
    report = evaluate_predictions(make_table("val"), test, spec, tmp_path, extras=Extras(baselines={"same": same}))
    (row,) = report.tables["baselines"].rows
    assert (row["gain"].value, row["gain"].low, row["gain"].high) == (0, 0, 0)
    short = Extras(baselines={"short": same[1:]})
    with pytest.raises(EvaluationError, match="199 scores for pneumonia, the test set 200 images"):
        evaluate_predictions(make_table("val"), test, spec, tmp_path / "short", extras=short)


def test_findings_that_tell_nothing_or_everything_get_words_in_place_of_intervals(tmp_path, make_table, make_spec):
    tables = [make_table(split, names=("constant", "perfect")) for split in ("val", "test")]
    for table in tables:
        table["logit.constant"], table["logit.perfect"] = 0.3, 8 * table["target.perfect"] - 4
        table["prob.constant"], table["prob.perfect"] = (
            sigmoid(table["logit.constant"]),
            sigmoid(table["logit.perfect"]),
        )
    points = (RuleSpec("sensitivity", 0.999, lower_confidence=True),)
    report = evaluate_predictions(*tables, make_spec(("constant", "perfect"), points=points), tmp_path)
    areas, rows = report.tables["findings"].rows, report.tables["operating_points"].rows
    assert format_estimate(areas[1]["auroc"]) == "1.000 (no interval: every draw gives this value)"
    assert "no estimate at AUROC 1" in areas[1]["size"]
    assert all(row["rule"].endswith("(not reached)") for row in rows)
    assert rows[1]["sensitivity"].note.startswith("Wilson")
    assert (rows[1]["sensitivity"].low < 0.99, rows[1]["sensitivity"].high) == (True, 1.0)
    slopes = [row["slope"].note for row in report.tables["calibration"].rows]
    assert slopes == ["n/a (separated or constant)"] * 4


@pytest.mark.slow
def test_five_hundred_films_with_two_thousand_draws_take_well_under_three_minutes(tmp_path, make_table, make_spec):
    began = time.monotonic()
    spec = make_spec(bootstrap=Resampling(), detail=Detail(), points=(RuleSpec(), RuleSpec("specificity", 0.9, True)))
    report = evaluate_predictions(make_table("val"), make_table("test", n=500), spec, tmp_path)
    assert time.monotonic() - began < 90
    assert report.tables["findings"].rows[0]["auroc"].draws == 2000


def test_bca_intervals_are_named_in_the_report(tmp_path, make_table, make_spec):
    spec = make_spec(bootstrap=Resampling(draws=200, method="bca"))
    report = evaluate_predictions(make_table("val"), make_table("test"), spec, tmp_path)
    plain = evaluate_predictions(make_table("val"), make_table("test"), make_spec(), tmp_path)
    first, second = (each.tables["findings"].rows[0]["auroc"] for each in (report, plain))
    assert first.value == second.value
    assert (first.low, first.high) != (second.low, second.high)
    assert "by bca bootstrap over patients, 200 draws, seed 0" in report.tables["findings"].note


def test_the_page_begins_with_what_was_tested_and_calls_the_finding_by_its_class(tmp_path, make_table, make_spec):
    about = {"title": "Evaluation: opacity on films", "Model": "ViT", "Data set": "films", "Run": "r1"}
    extras = Extras(
        provenance={"about": {**about, "Evaluated": "2026-11-29"}, "classes": {"finding": ("normal", "opacity")}},
        pictures=lambda uids: {uid: np.full((300, 200), 7, np.uint8) for uid in uids},
    )
    names = ("finding",)
    val, test = make_table("val", names=names), make_table("test", names=names)
    report = evaluate_predictions(val, test, make_spec(names), tmp_path, extras=extras)
    page = (tmp_path / "report.html").read_text()
    assert "<h1>Evaluation: opacity on films</h1>" in page
    assert all(f"<dt>{key}</dt>" in page for key in ("Model", "Data set", "Run", "Evaluated"))
    assert ">finding</td>" not in page
    assert any(line.startswith("AUROC, opacity:") for line in report.headline)
    row = report.tables["cross_table"].rows[0]
    table = re.search(r'<div class="cross">.*?</table>', page, re.DOTALL).group()
    assert [int(number) for number in re.findall(r"<td>(\d+)</td>", table)] == [
        row[k] for k in ("tp", "fn", "fp", "tn")
    ]
    assert 'Called opacity</th><th scope="col">Called normal' in table
    failed = report.tables["failures"].rows[0]
    assert f'<a href="#finding-{failed["kind"].replace(" ", "-")}-{failed["uid"]}"' in page
    assert f"Patient {failed['patient']}<br>Image {failed['uid']}" in page


@pytest.mark.parametrize(
    ("words", "called"), [(("negative", "positive"), "effusion"), (("NORMAL", "PNEUMONIA"), "PNEUMONIA")]
)
def test_a_word_that_only_says_yes_is_no_name_of_a_class(words, called):
    assert class_name("effusion", {"effusion": words}) == called
