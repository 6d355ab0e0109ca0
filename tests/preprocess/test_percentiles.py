"""Order statistics by leading bits are those of a sort, and percentiles those of numpy in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from medvit.preprocess.percentiles import Percentiles

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
GREY = st.integers(-20, 300).map(float)


@given(arrays.arrays(np.float32, st.integers(1, 60), elements=FINITE | GREY), st.data())
@settings(max_examples=150, deadline=None)
def test_every_rank_is_that_of_a_sort(values, data):
    rank = data.draw(st.integers(0, values.size - 1))
    ranks, ordered = Percentiles(values), np.sort(values)
    assert ranks.at(rank) == ordered[rank]
    assert ranks.equal(rank, values.size - 1) == (ordered[rank] == ordered[-1])


@given(arrays.arrays(np.float32, st.integers(1, 60), elements=GREY), st.floats(0, 100), st.data())
@settings(max_examples=100, deadline=None)
def test_percentiles_are_those_of_numpy_without_the_smallest(values, percent, data):
    least = data.draw(st.integers(0, values.size - 1))
    expected = np.percentile(np.sort(values)[least:].astype(np.float64), percent)
    assert Percentiles(values).percentile(percent, least) == pytest.approx(expected, abs=1e-9)


def test_both_zeros_are_one_value():
    assert Percentiles(np.array([-0.0, 0.0], np.float32)).equal(0, 1)


def test_more_values_than_one_chunk_are_counted_exactly():
    values = np.random.default_rng(0).normal(0, 100, (3, 700, 600)).astype(np.float32)
    ordered = np.sort(values, axis=None)
    ranks = Percentiles(values[::-1].transpose(2, 0, 1))
    assert [ranks.at(r) for r in (0, 5000, 1_259_999)] == [float(ordered[r]) for r in (0, 5000, 1_259_999)]
    with pytest.raises(IndexError, match="1260000"):
        ranks.at(1_260_000)
