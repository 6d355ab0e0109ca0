"""Maps without torch: an exported network's occlusion is that of `medvit.explain`, in films, volumes and bags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clinical.conftest import volume_bundle

from medvit.bundle import golden
from medvit.bundle.runtime import Runtime
from medvit.clinical.occlusion import hot, occlusion, upsample
from medvit.errors import BundleError
from medvit.metric.occlusion_windows import windows


def test_a_films_map_is_that_of_explain(bundle: Path, trained: Any, films: list[Path]) -> None:
    import torch

    from medvit.explain.attribution import occlusion as in_torch

    runtime = Runtime(bundle)
    for film in films[:2]:
        prepared = runtime.preprocess.prepare(film)
        image = torch.from_numpy(runtime.preprocess.normalise(prepared.pixels))
        found = occlusion(runtime, prepared)
        expected = in_torch(trained.network, image, 0).numpy()
        assert found.values.shape == (1, 3, 3)
        assert np.abs(expected).max() > 1e-2
        np.testing.assert_allclose(found.values, expected, atol=1e-5)


def test_a_volumes_map_is_that_of_explain(contents: Any, tmp_path: Path) -> None:
    import torch

    from medvit.explain.attribution import occlusion as in_torch

    made, folder = volume_bundle(contents, tmp_path / "bundle", bag=False)
    runtime = Runtime(folder)
    prepared = runtime.preprocess.prepare(golden.generated_series()[0])
    image = torch.from_numpy(runtime.preprocess.normalise(prepared.pixels))
    expected = in_torch(made.network, image, 0).numpy()
    np.testing.assert_allclose(occlusion(runtime, prepared).values, expected, atol=1e-5)
    assert np.abs(expected).max() > 1e-3


@pytest.mark.slow
def test_a_bag_of_slices_loses_what_a_window_over_slices_hides(contents: Any, tmp_path: Path) -> None:
    """Against the network in torch with every window painted by hand."""
    import torch

    from medvit.types import Bag

    made, folder = volume_bundle(contents, tmp_path / "bundle", bag=True)
    runtime = Runtime(folder)
    prepared = runtime.preprocess.prepare(golden.generated_series()[0])
    image = torch.from_numpy(runtime.preprocess.normalise(prepared.pixels))[None]
    count = image.shape[1]
    bag = Bag(torch.ones(1, count, dtype=torch.bool), torch.from_numpy(prepared.position_mm)[None],
              torch.zeros(1, count, dtype=torch.long))  # fmt: skip
    total, seen = np.zeros((count, 2, 3)), np.zeros((count, 2, 3))
    with torch.no_grad():
        whole = float(made.network(image, bag)[0, 0])
        for slot in range(-1, count):
            for row in range(-1, 2):
                for column in range(-1, 3):
                    part = image.clone()
                    for each in range(max(slot, 0), min(slot + 2, count)):
                        rows, columns = (
                            slice(max(row, 0) * 8, (row + 2) * 8),
                            slice(max(column, 0) * 8, (column + 2) * 8),
                        )
                        part[0, each, 0, rows, columns] = image[0, each].mean()
                    box = (
                        slice(max(slot, 0), slot + 2),
                        slice(max(row, 0), row + 2),
                        slice(max(column, 0), column + 2),
                    )
                    total[box] += whole - float(made.network(part, bag)[0, 0])
                    seen[box] += 1
    found = occlusion(runtime, prepared)
    np.testing.assert_allclose(found.values[0], total / seen, atol=1e-5)
    assert np.abs(total).max() > 1e-3
    assert found.on_original("opacity").shape == prepared.placement.original


def test_every_cell_of_a_grid_is_hidden_by_a_window_as_often_as_its_neighbours() -> None:
    for grid in ((3, 3), (14, 14), (37, 37), (4, 7, 9)):
        count = np.zeros(grid)
        for box in windows(grid):
            count[box] += 1
        assert set(count.ravel()) == {2 ** len(grid)}


def test_upsampling_is_torchs_and_nothing_is_hot_where_nothing_falls() -> None:
    import torch
    from torch.nn import functional

    small = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    expected = functional.interpolate(torch.from_numpy(small)[None, None], (9, 8, 20), mode="trilinear")[0, 0]
    np.testing.assert_allclose(upsample(small, (9, 8, 20)), expected, atol=1e-5)
    assert not hot(-np.abs(small), 0.5).any()
    assert hot(small, 1.0).sum() == 1


def test_a_bundle_of_before_says_that_it_has_no_grid(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(bundle)

    monkeypatch.delitem(runtime.bundle.manifest, "grid")
    with pytest.raises(BundleError, match="Export the run again"):
        occlusion(runtime, runtime.preprocess.prepare(golden.generated_cases(runtime.preprocess)[0][0]))
