"""What test shares with the other sides stops an evaluation, or is said before every number."""

from __future__ import annotations

import hashlib

import pytest

from medvit.errors import EvaluationError
from medvit.evaluation import archive
from medvit.evaluation.protocol import evaluate_predictions
from medvit.prediction.spec import Aggregation
from medvit.report.page import Extras

ALLOWED = "LEAKS ALLOWED BY SETTING: 1 images with identical pixels on two sides"


def digests(table):
    return table.assign(pixel_sha256=[hashlib.sha256(uid.encode()).hexdigest() for uid in table["uid"]])


@pytest.fixture
def sides(make_table):
    """Validation, test and training tables with digests; nothing is shared."""
    return [digests(make_table(split)) for split in ("val", "test", "train")]


def test_a_test_picture_that_was_trained_on_stops_the_evaluation(sides, make_spec, tmp_path):
    validation, test, train = sides
    evaluate_predictions(validation, test, make_spec(), tmp_path / "clean", extras=Extras(train=train))
    train.loc[4, "pixel_sha256"] = "0" * 64 + "|" + test.loc[7, "pixel_sha256"]  # one film of a study of two
    with pytest.raises(EvaluationError, match="E-LEAK the test set shares 1 identical pixels with training"):
        evaluate_predictions(validation, test, make_spec(), tmp_path / "leak", extras=Extras(train=train))
    assert not (tmp_path / "leak" / "report.json").exists()


def test_a_test_picture_among_the_validation_pictures_stops_it_too(sides, make_spec, tmp_path):
    validation, test, _ = sides
    validation.loc[0, "pixel_sha256"] = test.loc[0, "pixel_sha256"]
    with pytest.raises(EvaluationError, match="1 identical pixels with validation"):
        evaluate_predictions(validation, test, make_spec(), tmp_path)


def test_leaks_allowed_at_training_are_told_before_every_number_and_kept(sides, make_spec, tmp_path):
    validation, test, train = sides
    train.loc[4, "pixel_sha256"] = test.loc[7, "pixel_sha256"]
    extras = Extras({"leakage": ALLOWED}, train=train)
    report = evaluate_predictions(validation, test, make_spec(), tmp_path, extras=extras)
    told = "The test set shares 1 identical pixels with training: every number flatters."
    assert report.headline[0] == f"{ALLOWED}. {told}"
    assert report.tables["audit"].note.startswith(ALLOWED)
    again = evaluate_predictions(
        validation, test, make_spec(), tmp_path / "again", extras=archive.load_archive(tmp_path)
    )
    assert again.headline[0] == report.headline[0]


def test_patients_with_several_studies_are_no_leak_when_patients_are_the_unit(sides, make_spec, tmp_path):
    validation, test, train = sides
    for table in sides:
        table["study"] = table["uid"]  # two studies and more of most patients
    spec = make_spec(aggregate=Aggregation("patient"))
    report = evaluate_predictions(validation, test, spec, tmp_path, extras=Extras(train=train))
    assert all(row["shared"] == 0 for row in report.tables["audit"].rows)
    train.loc[0, "pixel_sha256"] = test.loc[0, "pixel_sha256"]
    with pytest.raises(EvaluationError, match="1 identical pixels with training"):
        evaluate_predictions(validation, test, spec, tmp_path, extras=Extras(train=train))
