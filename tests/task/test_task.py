"""Every task of conf/task: labels to numbers, learning, probabilities, scores, and what it refuses."""

from __future__ import annotations

import json
import logging

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.config import build, conf_dir
from medvit.errors import ConfigError, DataError
from medvit.task import from_json
from medvit.task.binary import Binary
from medvit.task.loss import BINARY_LOSSES
from medvit.task.multiclass import Multiclass
from medvit.task.multilabel import Multilabel
from medvit.task.ordinal import Ordinal
from medvit.task.regression import Regression

CONFIGS = sorted(conf_dir().glob("task/*.yaml"))
ASKED = {  # what a config leaves to the data set
    "binary": {"label": "x", "values": None},
    "multilabel": {"labels": ["x", "y"]},
    "multiclass": {"label": "c", "classes": ["a", "b", "c"]},
    "ordinal": {"label": "g", "levels": [0, 1, 2, 3]},
    "regression": {"label": "r", "unit": "months"},
}


def frame(rows: int = 24) -> pd.DataFrame:
    k = np.arange(rows)
    return pd.DataFrame(
        {
            "uid": [f"{i:032x}" for i in k],
            "label.x": k % 2,
            "label.y": (k // 2) % 2,
            "label.c": np.array(["a", "b", "c"])[k % 3],
            "label.g": k % 4,
            "label.r": 10.0 + k,
        }
    )


def variants():
    """Every config of conf/task, with every loss it offers."""
    words = {"binary": list(BINARY_LOSSES), "multilabel": list(BINARY_LOSSES), "ordinal": ["corn", "cumulative"]}
    words |= {"regression": ["huber", "l1", "mse"]}
    for path in CONFIGS:
        for word in words.get(path.stem, [None]):
            yield pytest.param(path, word, id=f"{path.stem}-{word}")


def task_of(path, word=None):
    node = {**yaml.safe_load(path.read_text()), **ASKED[path.stem], **({"loss": word} if word else {})}
    return build(node)


@pytest.mark.parametrize(("path", "word"), variants())
def test_one_optimiser_step_lowers_the_loss_and_twenty_raise_the_score(path, word):
    task, rows = task_of(path, word), frame()
    task.fit(rows)
    target, weight = map(torch.from_numpy, task.encode(rows))
    torch.manual_seed(0)
    features = torch.cat([target, torch.randn(len(rows), 4)], dim=1)
    features = (features - features.mean(0)) / features.std(0)
    head = torch.nn.Linear(features.shape[1], task.outputs)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    values, scores = [], []
    for _ in range(21):
        logits = head(features)
        loss = task.loss(logits, target, weight)
        values.append(loss.item())
        found = task.probabilities_numpy(logits.detach().numpy())
        scores.append(task.scores(found, target.numpy(), weight.numpy())[task.monitor.removeprefix("val/")])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert values[1] < values[0]
    assert values[-1] < values[0]
    sign = 1 if task.mode == "max" else -1
    assert sign * scores[-1] > sign * scores[0]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_task_keeps_its_contract_of_shapes_and_types(path):
    task, rows = task_of(path), frame()
    task.fit(rows)
    target, weight = task.encode(rows)
    assert task.outputs == len(task.names) == target.shape[1] == weight.shape[1]
    assert len(set(task.names)) == task.outputs
    assert target.dtype == weight.dtype == np.float32
    logits = torch.randn(24, task.outputs)
    exact = task.probabilities_numpy(logits.double().numpy())
    assert exact.dtype == np.float64
    assert exact.shape == (24, task.outputs)
    np.testing.assert_allclose(task.probabilities(logits).numpy(), exact, rtol=1e-6)
    assert task.monitor.startswith("val/")
    assert task.mode in {"max", "min"}
    assert task.kind == path.stem


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_task_comes_back_from_json_with_all_it_learnt(path):
    task, rows = task_of(path), frame()
    task.fit(rows)
    again = from_json(json.loads(json.dumps(task.to_json())))
    assert again.to_json() == task.to_json()
    target, weight = map(torch.from_numpy, task.encode(rows))
    logits = torch.randn(24, task.outputs)
    assert torch.equal(again.loss(logits, target, weight), task.loss(logits, target, weight))
    assert np.array_equal(again.probabilities_numpy(logits.numpy()), task.probabilities_numpy(logits.numpy()))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_missing_labels_have_weight_zero_and_count_in_neither_loss_nor_score(path):
    task, rows = task_of(path), frame()
    task.fit(rows)
    gone = rows.astype(dict.fromkeys([c for c in rows if c.startswith("label.")], object))
    gone.loc[[1, 5], [c for c in rows if c.startswith("label.")]] = None
    gone.loc[7, [c for c in rows if c.startswith("label.")]] = " "
    target, weight = task.encode(gone)
    assert (weight[[1, 5, 7]] == 0).all()
    assert weight.sum() == 21 * task.outputs
    kept = [i for i in range(24) if i not in {1, 5, 7}]
    logits = torch.randn(24, task.outputs)
    whole = task.loss(logits, torch.from_numpy(target), torch.from_numpy(weight))
    part = task.loss(logits[kept], *(torch.from_numpy(v[kept]) for v in (target, weight)))
    torch.testing.assert_close(whole, part)
    p = task.probabilities_numpy(logits.numpy())
    assert task.scores(p, target, weight) == pytest.approx(task.scores(p[kept], target[kept], weight[kept]))
    assert np.isnan(task.truth(target, weight)[[1, 5, 7]]).all()
    assert sum(numbers["missing"] for numbers in task.count(gone).values()) == 3 * len(task.count(gone))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_unknown_values_are_refused_with_what_was_found_and_what_is_allowed(path):
    task, rows = task_of(path), frame().astype(object)
    for column in [c for c in rows if c.startswith("label.")]:
        rows.loc[[2, 3], column] = "maybe"
    with pytest.raises(DataError, match=r"E-LABEL label \w: 2 rows hold 'maybe'; allowed: .+ or empty"):
        task.encode(rows)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_labels_of_one_value_only_cannot_be_fitted(path):
    with pytest.raises(DataError, match="label"):
        task_of(path).fit(frame().iloc[[0, 0, 0]])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_counts_per_label_go_to_the_log(path, caplog):
    with caplog.at_level(logging.INFO):
        task_of(path).log_count(frame(), "train")
    assert "train, label" in caplog.text
    assert "0 missing" in caplog.text


def test_problems_of_all_labels_come_in_one_message_with_the_nearest_name():
    rows = frame().rename(columns={"label.y": "label.effusion"})
    with pytest.raises(
        DataError, match=r"(?s)label efusion is not in the manifest.*did you mean 'effusion'.*labels.target=\[NAME\]"
    ):
        Multilabel(["x", "efusion"]).encode(rows)
    rows = frame().assign(**{"label.x": 7, "label.y": "?"})
    with pytest.raises(DataError) as error:
        Multilabel(["x", "y"]).encode(rows)
    assert "label x" in str(error.value)
    assert "label y" in str(error.value)


def test_long_values_are_cut_so_that_a_free_text_column_is_not_printed():
    rows = frame().assign(**{"label.x": [f"{i:02d} a sentence that runs on to the person's name" for i in range(24)]})
    with pytest.raises(DataError) as error:
        Binary("x").encode(rows)
    assert "name" not in str(error.value)
    assert "and 14 more" in str(error.value)


@pytest.mark.parametrize(
    "values", [[0, 1, -1, None], [0.0, 1.0, -1.0, np.nan], ["0", "1.0", "-1", ""], [False, True, -1, " "]]
)
def test_a_label_is_the_same_however_the_table_spells_it(values):
    target, weight = Binary("x").encode(pd.DataFrame({"label.x": pd.Series(values, dtype=object)}))
    assert target[:2, 0].tolist() == [0, 1]
    assert weight[:, 0].tolist() == [1, 1, 0, 0]


def test_other_spellings_can_be_named_and_nothing_else_passes():
    task = Binary("x", values={"NORMAL": 0, "PNEUMONIA": 1})
    target, _ = task.encode(pd.DataFrame({"label.x": ["PNEUMONIA", "NORMAL"]}))
    assert target[:, 0].tolist() == [1, 0]
    with pytest.raises(DataError, match="allowed: NORMAL, PNEUMONIA"):
        task.encode(pd.DataFrame({"label.x": ["pneumonia", "1"]}))
    with pytest.raises(ConfigError, match="a spelling for 0"):
        Binary("x", values={"yes": 1})


UNSURE = pd.DataFrame(
    {"uid": [f"{i:032x}" for i in range(4)], "label.x": [1, 0, -1, None], "label.y": [0, 1, -1, None]}
)


@pytest.mark.parametrize(("policy", "target", "weight"), [("ignore", 0, 0), ("ones", 1, 1), ("zeros", 0, 1)])
def test_uncertain_and_missing_labels_follow_their_policy(policy, target, weight):
    for which, row in (("uncertain", 2), ("missing", 3)):
        got = Multilabel(["x", "y"], **{which: {"y": policy, "default": "ignore"}}).encode(UNSURE)
        assert (got[0][row, 1], got[1][row, 1]) == (target, weight)
        assert got[1][:, 0].tolist() == [1, 1, 0, 0]


def test_a_smooth_label_is_drawn_per_sample_and_epoch_within_its_range_and_never_scored():
    n = 4000
    rows = pd.DataFrame({"uid": [f"{i:032x}" for i in range(n)], "label.x": -1, "label.y": [None] * n})
    task = Multilabel(["x", "y"], uncertain="smooth", missing=[0.1, 0.3])
    target, weight = task.encode(rows)
    assert (weight == 1).all()
    assert np.isnan(task.truth(target, weight)).all()
    draws = np.stack([task.draw(torch.from_numpy(target), epoch).numpy() for epoch in range(6)])
    assert 0.55 <= draws[..., 0].min() < 0.56 < 0.84 < draws[..., 0].max() <= 0.85
    assert 0.1 <= draws[..., 1].min() < 0.11 < 0.29 < draws[..., 1].max() <= 0.3
    np.testing.assert_allclose(draws.mean(1), [[0.7, 0.2]] * 6, atol=0.01)
    assert (np.abs(np.diff(draws, axis=0)) > 0.01).all()  # another draw in every epoch
    assert len(np.unique(draws[0, :, 0])) > 0.99 * n  # another draw for every sample
    assert abs(np.corrcoef(draws[0, :, 0], draws[0, :, 1])[0, 1]) < 0.05
    again = task.draw(torch.from_numpy(task.encode(rows)[0]), 3).numpy()
    assert np.array_equal(again, draws[3])
    other = Multilabel(["x", "y"], uncertain="smooth", missing=[0.1, 0.3], seed=1).encode(rows)[0]
    assert not np.array_equal(other, target)


def test_a_range_without_width_is_its_value_even_0():
    """A range [0, 0] was once not drawn at all: the loss then met targets of -1 and below."""
    rows = pd.DataFrame({"uid": ["a", "b"], "label.x": [-1, None]})
    for low in (0.0, 0.25):
        task = Multilabel(["x"], uncertain=[low, low], missing=[low, low])
        target, _ = task.encode(rows)
        assert task.draw(torch.from_numpy(target), 3).ravel().tolist() == [low, low]


def test_a_draw_does_not_depend_on_the_rows_beside_it():
    rows = UNSURE.assign(**{"label.x": -1})
    task = Multilabel(["x"], uncertain="smooth")
    whole, part = task.encode(rows)[0], task.encode(rows.iloc[[2]])[0]
    assert whole[2] == part[0]


def test_hard_labels_are_never_touched_by_a_draw():
    task = Multilabel(["x", "y"], uncertain="smooth")
    target = torch.from_numpy(task.encode(UNSURE)[0])
    assert torch.equal(task.draw(target, 5)[:2], target[:2])


def test_a_smooth_policy_needs_uids():
    with pytest.raises(DataError, match="uid"):
        Multilabel(["x"], uncertain="smooth").encode(UNSURE.drop(columns="uid"))


@pytest.mark.parametrize("wrong", ["one", {"z": "ones"}, [0.9, 0.1], {"x": [0.5, 2.0]}, [0.5]])
def test_policies_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"task\.uncertain"):
        Multilabel(["x", "y"], uncertain=wrong)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=4, max_size=4), st.sampled_from(["corn", "cumulative"]))
def test_ordinal_probabilities_never_rise_with_the_level(logits, word):
    p = Ordinal("g", [0, 1, 2, 3, 4], word).probabilities_numpy(np.array([logits]))[0]
    assert ((p >= 0) & (p <= 1)).all()
    assert (np.diff(p) <= 0).all()


def test_ordinal_targets_are_the_steps_reached_and_the_level_is_their_number():
    task = Ordinal("g", ["none", "mild", "severe"])
    target, _ = task.encode(pd.DataFrame({"label.g": ["mild", "severe", "none"]}))
    assert target.tolist() == [[1, 0], [1, 1], [0, 0]]
    assert task.names == ("g>=mild", "g>=severe")
    assert task.levels(np.array([[0.9, 0.6], [0.9, 0.4], [0.3, 0.1]])).tolist() == [2, 1, 0]


def test_ordinal_kappa_agrees_with_scikit_learn():
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 60)
    said = np.clip(truth + rng.integers(-1, 2, 60), 0, 3)
    task = Ordinal("g", [0, 1, 2, 3])
    target, weight = task.encode(pd.DataFrame({"label.g": truth}))
    p = (said[:, None] > np.arange(3)) * 0.8 + 0.1
    found = task.scores(p, target, weight)
    assert found["kappa"] == pytest.approx(cohen_kappa_score(truth, said, weights="quadratic"))
    assert found["mae_levels"] == pytest.approx(np.abs(truth - said).mean())


def test_kappa_of_many_units_needs_no_table_of_all_pairs():
    import tracemalloc

    steps = np.tile([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]], (4000, 1))
    tracemalloc.start()
    assert Ordinal("g", [0, 1, 2]).scores(steps, steps, np.ones_like(steps))["kappa"] == 1.0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6  # bytes; all pairs of 12,000 units take 1.1e9


def test_multiclass_probabilities_sum_to_one_for_huge_logits():
    p = Multiclass("c", ["a", "b"]).probabilities_numpy(np.array([[1e4, -1e4], [0.0, 0.0]]))
    assert p.tolist() == [[1.0, 0.0], [0.5, 0.5]]


def test_regression_speaks_the_unit_of_the_labels():
    task = Regression("r", unit="months", low=0.0, high=240.0)
    rows = pd.DataFrame({"label.r": [100.0, 140.0, None]})
    task.fit(rows)
    target, weight = task.encode(rows)
    values = task.probabilities_numpy(np.array([[0.0], [1.0], [0.0]]))
    assert values[:, 0].tolist() == [120.0, 140.0, 120.0]
    assert task.scores(values, target, weight) == pytest.approx(
        {"n/r": 2.0, "mae": 10.0, "rmse": np.sqrt(200.0), "r2": 0.5}
    )
    with pytest.raises(DataError, match=r"'-3'.*numbers from 0 to 240 months"):
        task.encode(pd.DataFrame({"label.r": [-3]}))


def test_an_unfitted_regression_refuses_to_guess_a_scale():
    with pytest.raises(ConfigError, match=r"call task\.fit first"):
        Regression("r").probabilities_numpy(np.zeros((1, 1)))


def test_a_finding_without_both_outcomes_is_left_out_of_the_mean_and_counted():
    task = Multilabel(["x", "y"])
    target = np.array([[0, 1], [1, 1], [1, 1], [0, 1.0]])
    p = np.array([[0.1, 0.5], [0.9, 0.5], [0.2, 0.5], [0.3, 0.5]])
    found = task.scores(p, target, np.ones((4, 2)))
    assert found["auroc"] == found["auroc/x"] == 0.75
    assert "auroc/y" not in found
    assert (found["scored"], found["n/y"], found["positives/y"]) == (1, 4, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Multilabel([]), "at least one label"),
        (lambda: Multilabel(["x", "x"]), "each once"),
        (lambda: Binary("x", {"1": 1, "1.0": 0}), "the same value of a table"),
        (lambda: Multiclass("c", ["a"]), "at least 2 classes"),
        (lambda: Multiclass("c", ["a", "b"], smoothing=1.0), "smoothing"),
        (lambda: Ordinal("g", [0, 1]), "at least 3 levels"),
        (lambda: Ordinal("g", [0, 1, 2], "korn"), "did you mean 'corn'"),
        (lambda: Regression("r", loss="l3"), "huber"),
        (lambda: Regression("r", low=2.0, high=1.0), "below"),
        (lambda: from_json({"kind": "binry"}), "did you mean 'binary'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
