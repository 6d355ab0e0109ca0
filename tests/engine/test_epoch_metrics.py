"""Curves by torchmetrics: where they agree with the task's own scores, where not and why, and what is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torchmetrics
import yaml

from medvit.config import conf_dir
from medvit.config_targets import trust_only
from medvit.engine.epoch_metrics import EpochMetrics
from medvit.errors import ConfigError
from medvit.task.binary import Binary
from medvit.task.multiclass import Multiclass
from medvit.task.multilabel import Multilabel
from medvit.task.ordinal import Ordinal
from medvit.task.regression import Regression

WORDS = {p.stem: yaml.safe_load(p.read_text()) for p in sorted(conf_dir().glob("metrics/*.yaml")) if p.stem != "none"}
BINARY, MULTILABEL = Binary("finding"), Multilabel(["a", "b", "c"])
MULTICLASS, ORDINAL, REGRESSION = Multiclass("kind", ["x", "y", "z"]), Ordinal("grade", [0, 1, 2, 3]), Regression("age")
TASKS = [BINARY, MULTILABEL, MULTICLASS, ORDINAL, REGRESSION]
OF_QUANTITIES = {"mae", "mse", "r2", "pearson"}
NOT_OF = {"cohen_kappa": {"multilabel"}, "calibration_error": {"multilabel"}}


@pytest.fixture(autouse=True)
def nothing_is_trusted():
    trust_only([])
    yield
    trust_only([])


def fits(word: str, task) -> bool:
    return (task.kind == "regression") == (word in OF_QUANTITIES) and task.kind not in NOT_OF.get(word, ())


def metrics(task, *words: str, **nodes) -> EpochMetrics:
    return EpochMetrics({key: node for word in words for key, node in WORDS[word].items()} | nodes, task)


def side(task, n: int = 200, seed: int = 0):
    """Logits, target and weight of a validation side, with ties and missing labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, task.outputs))
    if task.kind in {"binary", "multilabel"}:
        logits = np.round(logits, 1)  # ties
    weight = (rng.random((n, task.outputs)) > 0.1).astype(float)
    if task.kind == "multilabel":
        target = (rng.random((n, 3)) < 0.3).astype(float)
    elif task.kind == "multiclass":
        target = np.eye(3)[rng.integers(3, size=n)]
    elif task.kind == "ordinal":
        target = (rng.integers(4, size=n)[:, None] > np.arange(3)).astype(float)
    else:
        target = rng.integers(2, size=(n, 1)).astype(float)
    if task.kind != "multilabel":
        weight = np.repeat(weight[:, :1], task.outputs, axis=1)
    if task.kind == "regression":
        task.fitted = {"mean": 50.0, "std": 20.0}
        target = logits * 18 + 50 + rng.normal(size=(n, 1)) * 10
    return logits, target, weight


def both(task, *words: str, **nodes) -> tuple[dict[str, float], dict[str, float]]:
    logits, target, weight = side(task)
    p = task.probabilities_numpy(logits)
    made = metrics(task, *words, **nodes).values(p, task.truth(target, weight))
    return made, task.scores(p, target, weight)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_every_word_gives_a_number_for_its_tasks_and_refuses_the_others_by_name(task):
    if task.kind == "regression":
        side(task)
    right = [word for word in WORDS if fits(word, task)]
    found, _ = both(task, *right)
    assert set(found) == set(right)
    for word in set(WORDS) - set(right):
        with pytest.raises(ConfigError, match=rf"metrics\.{word}: "):
            metrics(task, word)


@pytest.mark.parametrize(
    ("task", "word", "score"),
    [
        *((task, "auroc", "auroc") for task in (BINARY, MULTILABEL, MULTICLASS)),
        *((task, "average_precision", "auprc") for task in (BINARY, MULTILABEL, MULTICLASS)),
        (MULTICLASS, "recall", "balanced_accuracy"),
        (REGRESSION, "mae", "mae"),
        (REGRESSION, "r2", "r2"),
    ],
    ids=lambda each: each if isinstance(each, str) else each.kind,
)
def test_where_both_measure_the_same_they_agree_up_to_single_precision(task, word, score):
    made, own = both(task, word)
    assert made[word] == pytest.approx(own[score], abs=2e-6, rel=2e-6)


def test_they_differ_where_torchmetrics_means_something_else():
    made, own = both(MULTICLASS, "accuracy")
    assert made["accuracy"] == pytest.approx(own["balanced_accuracy"], abs=1e-6)  # macro: the mean over classes
    made, own = both(MULTICLASS, accuracy={"_target_": "torchmetrics.Accuracy"})
    assert made["accuracy"] == pytest.approx(own["accuracy"], abs=1e-6)  # which without a word is the mean over answers
    node = {"_target_": "torchmetrics.CohenKappa", "weights": "quadratic"}
    made, own = both(ORDINAL, kappa=node)
    assert made["kappa"] != pytest.approx(own["kappa"], abs=1e-3)  # the likeliest grade, not the median one
    side(REGRESSION)
    made, own = both(REGRESSION, "mse")
    assert np.sqrt(made["mse"]) == pytest.approx(own["rmse"], rel=1e-5)


def test_a_label_of_one_outcome_is_left_out_of_the_mean_where_torchmetrics_counts_it_as_0():
    logits, target, weight = side(MULTILABEL)
    target[:, 2] = 0
    p, truth = MULTILABEL.probabilities_numpy(logits), MULTILABEL.truth(target, weight)
    made, own = metrics(MULTILABEL, "auroc").values(p, truth)["auroc"], MULTILABEL.scores(p, target, weight)["auroc"]
    assert made == pytest.approx(own, abs=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = torchmetrics.AUROC(task="multilabel", num_labels=3, ignore_index=-1)
        theirs = plain(torch.from_numpy(p), torch.from_numpy(np.nan_to_num(truth, nan=-1)).long())
    assert float(theirs) == pytest.approx(made * 2 / 3, abs=1e-6)
    each = metrics(MULTILABEL, auroc={"_target_": "torchmetrics.AUROC", "average": "none"}).values(p, truth)
    assert set(each) == {"auroc/a", "auroc/b"}


def test_a_class_that_does_not_occur_is_left_out_of_the_mean():
    logits, target, weight = side(MULTICLASS)
    target[target[:, 2] == 1] = [1, 0, 0]
    p = MULTICLASS.probabilities_numpy(logits)
    made = metrics(MULTICLASS, "auroc", "recall").values(p, MULTICLASS.truth(target, weight))
    own = MULTICLASS.scores(p, target, weight)
    assert made["auroc"] == pytest.approx(own["auroc"], abs=1e-6)
    assert made["recall"] == pytest.approx(own["balanced_accuracy"], abs=1e-6)


def test_large_logits_do_not_saturate_for_probabilities_are_what_is_measured():
    """Of logits far from 0 torchmetrics takes the sigmoid in single precision: 20 and 40 become one value."""
    logits = np.array([[20.0], [40.0], [30.0], [60.0], [-3.0]])
    truth = np.array([[0.0], [1.0], [0.0], [1.0], [0.0]])
    p = BINARY.probabilities_numpy(logits / 2)
    assert metrics(BINARY, "auroc").values(p, truth)["auroc"] == 1.0
    plain = torchmetrics.AUROC(task="binary")(torch.from_numpy(logits[:, 0]).float(), torch.tensor([0, 1, 0, 1, 0]))
    assert float(plain) < 1


def test_a_side_with_nothing_known_gives_no_number():
    p = np.array([[0.2], [0.7]])
    assert metrics(BINARY, "auroc", "f1").values(p, np.full((2, 1), np.nan)) == {}
    assert metrics(BINARY, "auroc").values(p, np.array([[1.0], [1.0]])) == {}


@pytest.mark.parametrize(
    ("task", "target", "said"),
    [
        (BINARY, "torchmetrics.classification.MulticlassAccuracy", "measures multiclass task, and this task is binary"),
        (BINARY, "torchmetrics.regression.MeanAbsoluteError", "measures a regression task, and this task is binary"),
        (REGRESSION, "torchmetrics.classification.BinaryAUROC", "measures binary task, and this task is regression"),
        (BINARY, "torchmetrics.retrieval.RetrievalMAP", "measures a retrieval task"),
        (BINARY, "torchmetrics.ROC", "gives no number"),
        (MULTICLASS, "torchmetrics.ConfusionMatrix", "gives no number"),
    ],
    ids=lambda each: each if isinstance(each, str) else each.kind,
)
def test_a_metric_of_another_task_or_no_number_is_refused_before_training(task, target, said):
    trust_only([f"trust=[{target}]"])
    with pytest.raises(ConfigError, match=said):
        metrics(task, mine={"_target_": target})


def test_what_is_wrong_with_several_is_told_at_once_and_what_nobody_trusts_is_not_imported():
    with pytest.raises(ConfigError, match=r"metrics\.mae: (?s:.)*metrics\.r2: "):
        metrics(BINARY, "mae", "r2")
    with pytest.raises(ConfigError, match="none of the classes that conf/ names"):
        metrics(BINARY, mine={"_target_": "antigravity.fly"})
