"""Positions: resizing against a cubic convolution written out in numpy, and what rotary positions promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.errors import ConfigError
from medvit.model import positions


def cubic(distance: np.ndarray) -> np.ndarray:
    """Return Keys' cubic convolution kernel, a = -0.75 (IEEE TASSP 1981)."""
    x, a = np.abs(distance), -0.75
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def weights(old: int, new: int, scale: float, kernel: str) -> np.ndarray:
    """Return [new old] weights for sampling at (i + 0.5) / scale - 0.5, edges repeated."""
    matrix = np.zeros((new, old))
    for i in range(new):
        place = (i + 0.5) / scale - 0.5
        place = max(place, 0.0) if kernel == "linear" else place
        for tap in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            weight = cubic(np.array(place - tap)) if kernel == "cubic" else max(0.0, 1 - abs(place - tap))
            matrix[i, min(max(tap, 0), old - 1)] += weight
    return matrix


@pytest.mark.parametrize("offset", [0.0, 0.1])
@pytest.mark.parametrize("new", [(9, 5), (3, 4)])
def test_films_are_resized_by_cubic_convolution_at_the_scale_of_the_family(new: tuple[int, int], offset: float) -> None:
    table = torch.randn(7 * 6, 4)
    rows, columns = (weights(o, n, (n + offset) / o, "cubic") for o, n in zip((7, 6), new, strict=True))
    expected = np.einsum("ir,jc,rcw->ijw", rows, columns, table.reshape(7, 6, 4).numpy()).reshape(-1, 4)
    found = positions.resize(table, (7, 6), new, "bicubic", offset)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_volumes_are_resized_linearly_over_three_axes(offset: float) -> None:
    table = torch.randn(4 * 3 * 2, 3)
    old, new = (4, 3, 2), (6, 4, 5)
    matrices = [weights(o, n, (n + offset) / o, "linear") for o, n in zip(old, new, strict=True)]
    expected = np.einsum("ia,jb,kc,abcw->ijkw", *matrices, table.reshape(*old, 3).numpy()).reshape(-1, 3)
    found = positions.resize(table, old, new, "bicubic", offset)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(["centred", "index"]),
    grid=st.sampled_from([(4, 6), (3, 3, 4)]),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_a_rotated_product_depends_only_on_the_offset_of_the_two_patches(
    kind: str, grid: tuple[int, ...], seed: int, data: st.DataObject
) -> None:
    torch.manual_seed(seed)
    cos, sin = positions.rope(grid, 24, kind, 100.0, None)
    q, k = torch.randn(2, 1, 1, 1, 24)
    shift = [data.draw(st.integers(0, n - 1)) for n in grid]
    starts = [[data.draw(st.integers(0, n - 1 - s)) for n, s in zip(grid, shift, strict=True)] for _ in range(2)]
    products = []
    for start in starts:
        ends = [a + s for a, s in zip(start, shift, strict=True)]
        i, j = (int(np.ravel_multi_index(place, grid)) for place in (start, ends))
        turned = [positions.rotate(x, cos[n : n + 1], sin[n : n + 1], kind) for x, n in ((q, i), (k, j))]
        products.append((turned[0] * turned[1]).sum())
    torch.testing.assert_close(products[0], products[1], rtol=1e-4, atol=1e-4)


def test_a_head_that_the_axes_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="head width 16 is no multiple of 6"):
        positions.rope((2, 2, 2), 16, "index", 100.0, None)


def test_sines_give_every_patch_another_place() -> None:
    table = positions.sincos((5, 7), 50)
    assert table.shape == (35, 50)
    distances = torch.cdist(table, table) + 10 * torch.eye(35)
    assert distances.min() > 0.1


def test_a_relative_bias_is_one_number_per_offset_and_three_for_the_class_token() -> None:
    grid = (3, 4)
    table = torch.arange(positions.relative_rows(grid), dtype=torch.float32).unsqueeze(1)
    bias = positions.relative_bias(table, grid, grid, 1)[0, 0]
    rows = len(table)
    assert bias[0, 0] == rows - 1
    assert (bias[0, 1:] == rows - 3).all()
    assert (bias[1:, 0] == rows - 2).all()
    places = [(r, c) for r in range(3) for c in range(4)]
    seen: dict[tuple[int, int], float] = {}
    for i, a in enumerate(places):
        for j, b in enumerate(places):
            assert seen.setdefault((a[0] - b[0], a[1] - b[1]), bias[1 + i, 1 + j].item()) == bias[1 + i, 1 + j].item()
    assert len(set(seen.values())) == len(seen) == 5 * 7
