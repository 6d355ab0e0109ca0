"""Warm-up and cosine: known values, groups that start later, and resuming."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.errors import ConfigError
from medvit.optim.schedule import warmup_cosine


def course(warmup: int, steps: int, floor: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warmup_cosine(optimizer, warmup, steps, floor)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return [*rates, optimizer.param_groups[0]["lr"]]


def test_the_rate_rises_linearly_then_follows_half_a_cosine_to_the_floor():
    rates = course(4, 12, 0.1)
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[8] == pytest.approx(2.0 * (0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2))
    assert rates[12] == pytest.approx(0.2)


def test_without_warm_up_it_is_the_cosine_of_torch():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10, eta_min=0.2)
    expected = []
    for _ in range(11):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert course(0, 10, 0.1) == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(0, 30), st.floats(0, 1))
def test_the_rate_stays_in_range_and_never_rises_after_the_warm_up(steps, warmup, floor):
    warmup = min(warmup, steps)
    rates = course(warmup, steps, floor)
    assert all(0 < rate <= 2.0 + 1e-12 or floor == 0 for rate in rates)
    after = rates[warmup:]
    assert all(late <= early + 1e-12 for early, late in pairwise(after))


def two_groups():
    early, late = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([{"params": [early], "lr": 1.0}, {"params": [late], "lr": 1.0}])
    late.requires_grad_(False)
    return late, optimizer, warmup_cosine(optimizer, 4, 20)


def rates_of(late, optimizer, schedule, first: int, last: int) -> list[float]:
    rates = []
    for step in range(first, last):
        late.requires_grad_(step >= 8)
        optimizer.step()
        schedule.step()
        rates.append(optimizer.param_groups[1]["lr"])
    return rates


def test_a_group_set_free_later_has_a_warm_up_of_its_own():
    rates = rates_of(*two_groups(), 0, 20)
    assert rates[:8] == [0.0] * 8
    factor = [(1 + math.cos(math.pi * (step + 1 - 4) / 16)) / 2 for step in range(20)]
    assert rates[8:13] == pytest.approx([f * r for f, r in zip(factor[8:13], [0.25, 0.5, 0.75, 1, 1], strict=True)])


def test_a_resumed_schedule_continues_the_same_course(tmp_path):
    whole = rates_of(*two_groups(), 0, 20)
    late, optimizer, schedule = two_groups()
    part = rates_of(late, optimizer, schedule, 0, 10)
    torch.save({"schedule": schedule.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    late, optimizer, schedule = two_groups()
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    assert part + rates_of(late, optimizer, schedule, 10, 20) == whole


@pytest.mark.parametrize("wrong", [(5, 4, 0.0), (-1, 4, 0.0), (0, 0, 0.0), (0, 4, 1.5)])
def test_numbers_that_make_no_course_are_refused(wrong):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ConfigError, match="schedule"):
        warmup_cosine(optimizer, *wrong)
