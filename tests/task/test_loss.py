"""Losses against closed forms and torch, and the one property they all share: weight 0 counts nothing."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from medvit.errors import ConfigError
from medvit.task.loss import (
    BINARY_LOSSES,
    REGRESSION_LOSSES,
    Asymmetric,
    Bce,
    Focal,
    LdamDrw,
    LossContext,
    PosWeight,
    binary_loss,
    corn,
    cross_entropy,
    cumulative,
    masked_mean,
    ordered,
)

COUNTS = torch.tensor([[900.0, 500.0, 20.0], [100.0, 500.0, 980.0]])


def batch(seed: int = 0, rows: int = 7):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, 3, generator=generator) * 3
    target = (torch.rand(rows, 3, generator=generator) < 0.4).float()
    weight = (torch.rand(rows, 3, generator=generator) < 0.7).float()
    weight[0] = 1
    return logits, target, weight


def losses():
    """Return every loss of yes-or-no entries as (logits, target, weight) -> scalar."""
    made = {word: lambda *a, w=word: binary_loss(w, None)(*a, LossContext(COUNTS, 12)) for word in BINARY_LOSSES}
    made |= {"corn": corn, "cumulative": cumulative}
    return made


@pytest.mark.parametrize("word", losses())
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), value=st.sampled_from([math.nan, math.inf, -5.0, 1e30, 1.0]))
def test_a_masked_target_changes_neither_loss_nor_gradient(word, seed, value):
    logits, target, weight = batch(seed)
    results = []
    for wanted in (target, torch.where(weight == 0, torch.tensor(value), target)):
        leaf = logits.clone().requires_grad_()
        loss = losses()[word](leaf, wanted, weight)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert (results[0][1][weight == 0] == 0).all() or word == "cumulative"


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), value=st.sampled_from([math.nan, math.inf, -5.0, 1.0]))
def test_masked_rows_change_nothing_in_losses_over_whole_rows(seed, value):
    logits, _, weight = batch(seed)
    row = weight[:, :1].expand(-1, 3)
    level = torch.randint(0, 4, (7,), generator=torch.Generator().manual_seed(seed))
    steps = (level[:, None] > torch.arange(3)).float()
    classes = F.one_hot(level.clamp(max=2), 3).float()
    for loss, target in ((corn, steps), (cumulative, steps), (cross_entropy, classes)):
        results = []
        for wanted in (target, torch.where(row == 0, torch.tensor(value), target)):
            leaf = logits.clone().requires_grad_()
            loss(leaf, wanted, row).backward()
            results.append((loss(logits, wanted, row), leaf.grad))
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])
        assert (results[0][1][row[:, 0] == 0] == 0).all()


@pytest.mark.parametrize("word", losses())
def test_a_batch_without_any_label_gives_zero_loss_and_zero_gradient(word):
    logits, target, weight = batch()
    leaf = logits.clone().requires_grad_()
    loss = losses()[word](leaf, target * math.nan, weight * 0)
    loss.backward()
    assert loss.item() == 0
    assert (leaf.grad == 0).all()


@pytest.mark.parametrize("word", losses())
def test_losses_are_finite_and_their_gradients_too_for_extreme_logits(word):
    _, target, weight = batch()
    for size in (30.0, 200.0):
        leaf = (torch.tensor([[size, -size, 0.0]]).repeat(7, 1)).requires_grad_()
        loss = losses()[word](leaf, target, weight)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("word", losses())
def test_bf16_logits_are_worked_on_in_fp32(word):
    logits, target, weight = batch()
    low = losses()[word](logits.bfloat16(), target, weight)
    assert low.dtype == torch.float32
    assert torch.equal(low, losses()[word](logits.bfloat16().float(), target, weight))


def test_bce_is_torchs_over_the_entries_that_count():
    logits, target, weight = batch()
    known = weight > 0
    expected = F.binary_cross_entropy_with_logits(logits[known], target[known])
    torch.testing.assert_close(Bce()(logits, target, weight), expected)
    torch.testing.assert_close(Bce()(torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1)), torch.tensor(math.log(2)))


def test_pos_weight_is_torchs_with_negatives_over_positives():
    logits, target, weight = batch()
    ones = torch.ones_like(weight)
    expected = F.binary_cross_entropy_with_logits(logits, target, pos_weight=COUNTS[0] / COUNTS[1])
    torch.testing.assert_close(PosWeight()(logits, target, ones, LossContext(COUNTS)), expected)
    capped = F.binary_cross_entropy_with_logits(logits, target, pos_weight=torch.tensor([2.0, 1.0, 20 / 980]))
    torch.testing.assert_close(PosWeight(limit=2.0)(logits, target, ones, LossContext(COUNTS)), capped)


def test_focal_loss_has_its_closed_form():
    """p = 0.9 for a positive: -(0.1)^2 ln 0.9; for a negative: -(0.9)^2 ln 0.1 (Lin et al. 2017, eq. 4)."""
    logits = torch.tensor([[math.log(9.0)]])
    one = torch.ones(1, 1)
    assert Focal()(logits, one, one).item() == pytest.approx(-0.01 * math.log(0.9), rel=1e-5)
    assert Focal()(logits, one * 0, one).item() == pytest.approx(-0.81 * math.log(0.1), rel=1e-5)
    assert Focal(alpha=0.25)(logits, one, one).item() == pytest.approx(-0.25 * 0.01 * math.log(0.9), rel=1e-5)
    assert Focal(gamma=0.0)(logits, one * 0.3, one).item() == pytest.approx(Bce()(logits, one * 0.3, one).item())


def test_asymmetric_loss_has_its_closed_form():
    """p = 0.9: positive -(0.1)^1 ln 0.9; negative with clip 0.05: -(0.85)^4 ln 0.15 (Ridnik et al. 2021, eq. 7)."""
    logits, one = torch.tensor([[math.log(9.0)]]), torch.ones(1, 1)
    assert Asymmetric()(logits, one, one).item() == pytest.approx(-0.1 * math.log(0.9), rel=1e-5)
    assert Asymmetric()(logits, one * 0, one).item() == pytest.approx(-(0.85**4) * math.log(0.15), rel=1e-4)
    assert Asymmetric()(torch.tensor([[-4.0]]), one * 0, one).item() == 0  # p = 0.018 is below the clip


def test_ldam_margins_and_deferred_weights_have_their_closed_forms():
    """Counts 81 and 16: margins 81^-1/4 : 16^-1/4 = 1/3 : 1/2, scaled so that the larger is 0.5 (Cao et al. 2019)."""
    state, one, logit = LossContext(torch.tensor([[81.0], [16.0]]), 0), torch.ones(1, 1), torch.tensor([[0.7]])
    softplus = lambda x: math.log1p(math.exp(x))  # noqa: E731
    positive, negative = softplus(-(0.7 - 0.5)), softplus(0.7 + 1 / 3)
    assert LdamDrw()(logit, one, one, state).item() == pytest.approx(positive, rel=1e-6)
    assert LdamDrw()(logit, one * 0, one, state).item() == pytest.approx(negative, rel=1e-6)
    rare, common = (0.1 / (1 - 0.9**n) for n in (16, 81))
    scale = (rare + common) / 2
    late = LossContext(state.counts, 10)
    assert LdamDrw(beta=0.9)(logit, one, one, late).item() == pytest.approx(positive * rare / scale, rel=1e-5)
    assert LdamDrw(beta=0.9)(logit, one * 0, one, late).item() == pytest.approx(negative * common / scale, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("balanced", [False, True])
def test_cross_entropy_is_torchs_with_class_weights_and_smoothing(smoothing, balanced):
    logits, _, _ = batch()
    index = torch.tensor([0, 1, 2, 2, 1, 0, 0])
    row = torch.tensor([1, 1, 0, 1, 1, 0, 1.0])[:, None].expand(-1, 3)
    balance = torch.tensor([0.5, 1.0, 4.0]) if balanced else None
    known = row[:, 0] > 0
    expected = F.cross_entropy(logits[known], index[known], weight=balance, label_smoothing=smoothing)
    found = cross_entropy(logits, F.one_hot(index, 3).float(), row, smoothing, balance)
    torch.testing.assert_close(found, expected)


def test_corn_is_the_mean_of_conditional_cross_entropies():
    """Levels 0, 1 and 3 of 4: output k is asked only where the level is at least k (Shi et al. 2023, eq. 5)."""
    logits = torch.tensor([[0.2, -1.0, 3.0], [1.5, 0.3, -2.0], [-0.4, 0.9, 0.1]])
    target = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 1.0]])
    log = F.logsigmoid
    asked = [log(-logits[0, 0]), log(logits[1, 0]), log(-logits[1, 1]), *(log(logits[2, k]) for k in range(3))]
    torch.testing.assert_close(corn(logits, target, torch.ones(3, 3)), -torch.stack(asked).mean())


def test_cumulative_logits_fall_and_equal_bce_of_the_ordered_logits():
    logits, _, _ = batch()
    falling = ordered(logits)
    torch.testing.assert_close(falling[:, 1], logits[:, 0] - F.softplus(logits[:, 1]))
    assert (falling.diff(dim=1) <= 0).all()
    target = torch.tensor([[1, 1, 0.0]]).repeat(7, 1)
    expected = F.binary_cross_entropy_with_logits(falling, target)
    torch.testing.assert_close(cumulative(logits, target, torch.ones(7, 3)), expected)


def test_fractional_weights_weigh():
    values, weight = torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 0.5]])
    assert masked_mean(values, weight).item() == pytest.approx(2.5 / 1.5)


def test_regression_words_are_torchs_functions():
    x, y = torch.tensor([3.0]), torch.tensor([1.0])
    assert [REGRESSION_LOSSES[word](x, y).item() for word in ("huber", "l1", "mse")] == [1.5, 2.0, 4.0]


def test_unknown_losses_and_options_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean 'focal'\?"):
        binary_loss("fokal", None)
    with pytest.raises(ConfigError, match=r"\['gama'\] are not options of loss focal; it has \['gamma', 'alpha'\]"):
        binary_loss("focal", {"gama": 2})


@pytest.mark.parametrize("word", ["pos_weight", "ldam_drw"])
def test_balancing_losses_refuse_to_work_without_counts(word):
    with pytest.raises(ConfigError, match=f"loss {word} balances classes"):
        binary_loss(word, None)(*batch())
