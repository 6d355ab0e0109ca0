"""Losses of torch and MONAI in place of medvit's: equal to what they give, masked exactly, or refused by name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from medvit.errors import ConfigError, DataError
from medvit.task import from_json
from medvit.task.binary import Binary
from medvit.task.library_loss import LibraryLoss
from medvit.task.multiclass import Multiclass
from medvit.task.multilabel import Multilabel
from medvit.task.ordinal import Ordinal
from medvit.task.regression import Regression


def batch(outputs: int, rows: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(rows, outputs, generator=generator, requires_grad=True)
    return logits, (torch.rand(rows, outputs, generator=generator) > 0.5).float(), torch.ones(rows, outputs)


def test_a_loss_of_torch_is_torchs_own_mean_where_all_labels_are_known() -> None:
    logits, target, weight = batch(3)
    found = Multilabel(["a", "b", "c"], loss=nn.BCEWithLogitsLoss()).loss(logits, target, weight)
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(logits, target))


def test_the_focal_loss_of_monai_is_its_own_mean() -> None:
    from monai.losses import FocalLoss

    logits, target, weight = batch(2)
    found = Multilabel(["a", "b"], loss=FocalLoss(gamma=2.0)).loss(logits, target, weight)
    torch.testing.assert_close(found, FocalLoss(gamma=2.0)(logits, target))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=8, max_size=8), st.floats(-5, 5))
def test_a_missing_label_counts_exactly_nothing_whatever_its_target_and_logit(known: list[bool], away: float) -> None:
    mask = torch.tensor(known).reshape(4, 2)
    logits, target, _ = batch(2, 4)
    loss = LibraryLoss(nn.BCEWithLogitsLoss(), 2)
    disturbed = torch.where(mask, target, torch.nan)
    moved = torch.where(mask, logits, logits + away)
    one, other = loss(logits, target, mask.float()), loss(moved, disturbed, mask.float())
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(one, logits)
    assert torch.isfinite(gradient).all()
    assert not gradient[~mask].any()


def test_a_loss_of_class_numbers_gets_them_and_rows_without_a_class_are_left_out() -> None:
    logits, _, weight = batch(3, 4)
    number = torch.tensor([0, 2, 1, 0])
    target = F.one_hot(number, 3).float()
    weight[3], target[3] = 0, 0
    task = Multiclass("kind", ["a", "b", "c"], smoothing=0, loss=nn.MultiMarginLoss())
    torch.testing.assert_close(task.loss(logits, target, weight), F.multi_margin_loss(logits[:3], number[:3]))
    task = Multiclass("kind", ["a", "b", "c"], smoothing=0, loss=nn.CrossEntropyLoss(label_smoothing=0.2))
    expected = F.cross_entropy(logits[:3], number[:3], label_smoothing=0.2)
    torch.testing.assert_close(task.loss(logits, target, weight), expected)
    assert float(task.loss(logits, target, 0 * weight)) == 0


def test_a_loss_of_values_works_on_standardised_ones() -> None:
    task = Regression("age", "years", loss=nn.HuberLoss(delta=0.5))
    task.fitted = {"mean": 60.0, "std": 10.0}
    logits, target, weight = (
        torch.tensor([[0.0], [1.0], [9.0]]),
        torch.tensor([[50.0], [70.0], [0.0]]),
        torch.ones(3, 1),
    )
    weight[2] = 0
    expected = F.huber_loss(torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 1.0]), delta=0.5)
    torch.testing.assert_close(task.loss(logits, target, weight), expected)


def test_a_loss_of_one_number_for_all_labels_refuses_rows_that_lack_some() -> None:
    frame = pd.DataFrame({"label.a": [0, 1, 0, 1], "label.b": [1, 0, np.nan, 1]})
    task = Multilabel(["a", "b"], loss=nn.MultiLabelSoftMarginLoss())
    with pytest.raises(DataError, match=r"1 training rows lack some of the labels a, b.*MultiLabelSoftMarginLoss"):
        task.fit(frame)
    task.fit(frame.dropna())
    Multilabel(["a", "b"], loss=nn.BCEWithLogitsLoss()).fit(frame)


class Together(nn.Module):
    """A number per entry that depends on all labels of its row."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none") * (1 + target.sum(1, keepdim=True))


def test_numbers_per_entry_that_look_at_other_labels_are_one_number_per_image() -> None:
    assert (LibraryLoss(Together(), 2).per, LibraryLoss(nn.BCEWithLogitsLoss(), 2).per) == ("rows", "entries")


class Learnt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(4))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Binary("a", loss=nn.BCELoss()), r"BCELoss (does not take logits|is negative|is not finite)"),
        (lambda: Binary("a", loss=nn.MSELoss()), "MSELoss does not fall as logits go from surely wrong"),
        (lambda: Binary("a", loss=nn.CosineEmbeddingLoss()), "does not take logits and targets"),
        (lambda: Binary("a", loss=Learnt()), "has 4 weights of its own"),
        (lambda: Binary("a", loss=lambda *_: 0), "is a function: expected a word, or _target_"),
        (lambda: Binary("a", loss={"gamma": 2}), "expected a word, or _target_"),
        (lambda: Binary("a", loss=nn.BCEWithLogitsLoss(), options={"gamma": 2}), "are of medvit's own losses"),
        (lambda: Multiclass("k", [0, 1, 2], smoothing=0, loss=nn.NLLLoss()), "is negative: it expects probabilities"),
        (lambda: Multiclass("k", [0, 1, 2], loss=nn.MultiMarginLoss()), "give task.smoothing=0"),
        (lambda: Multiclass("k", [0, 1, 2], loss="focal"), "expected cross_entropy, or a loss of torch or MONAI"),
        (lambda: Regression("age", loss=nn.GaussianNLLLoss()), "does not take logits and targets"),
        (lambda: Regression("age", loss=nn.BCEWithLogitsLoss()), "no loss of a regression"),
        (lambda: Ordinal("kl", [0, 1, 2], loss=nn.BCEWithLogitsLoss()), "follows from the loss; expected corn"),
    ],
)
def test_what_is_no_loss_of_the_task_is_refused_by_name(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        make()


def test_a_stored_task_keeps_the_name_of_its_loss_and_predicts_without_it() -> None:
    task = Multiclass("kind", ["a", "b"], smoothing=0, loss=nn.MultiMarginLoss())
    again = from_json(json.loads(json.dumps(task.to_json())))
    assert again.to_json()["settings"]["loss"] == {"made_by": "torch.nn.modules.loss.MultiMarginLoss"}
    logits = np.array([[0.0, 1.0]])
    np.testing.assert_array_equal(again.probabilities_numpy(logits), task.probabilities_numpy(logits))
    with pytest.raises(ConfigError, match="not built again"):
        again.loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2))
