"""Every row B065 to B105 of the bad-input table does what the table says."""

from __future__ import annotations

import numpy as np
import pytest
from series_cases import CASES
from series_phantom import ROOT, world

from medvit.errors import DicomRefusal
from medvit.series.read import plan_series, read_series
from medvit.types import Volume

READ = [name for name, case in CASES.items() if case.action != "REFUSE"]
REFUSED = [name for name, case in CASES.items() if case.action == "REFUSE"]


def world_error(volume: Volume, scale: float = 1.0) -> float:
    """The largest distance between a volume and the world phantom at the places its affine says."""
    index = np.moveaxis(np.indices(volume.values.shape), 0, -1)
    points = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return float(np.abs(volume.values - scale * world(points)).max())


@pytest.mark.parametrize("name", READ)
def test_a_series_that_can_be_read_shows_the_world_where_its_affine_says(name: str) -> None:
    case = CASES[name]
    volumes = read_series(case.build())
    assert len(volumes) == case.volumes
    assert [world_error(volume, scale) < 1 for volume, scale in zip(volumes, case.scales, strict=True)] == [True] * len(
        volumes
    )
    assert len({volume.key for volume in volumes}) == len(volumes) or name == "B075"
    for volume in volumes:
        normal = np.cross(volume.affine[:3, 2], volume.affine[:3, 1])
        assert normal @ volume.affine[:3, 0] > 0, "slices ascend along row direction x column direction"


@pytest.mark.parametrize("name", REFUSED)
def test_a_series_that_cannot_be_read_is_refused_by_name_without_an_identifier(name: str) -> None:
    case = CASES[name]
    with pytest.raises(DicomRefusal) as caught:
        read_series(case.build())
    assert caught.value.code == case.code
    assert "CANARY" not in str(caught.value)
    assert ROOT not in str(caught.value)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.action == "WARN"])
def test_a_warning_carries_its_code(name: str) -> None:
    case = CASES[name]
    (volume,) = read_series(case.build())
    assert any(warning.startswith(case.code) for warning in volume.warnings)


@pytest.mark.parametrize("name", ["B073", "B074", "B097", "B098"])
def test_what_is_skipped_is_counted(name: str) -> None:
    (volume,) = read_series(CASES[name].build())
    assert any(step.startswith("skip ") for step in volume.steps)


@pytest.mark.parametrize("name", READ)
def test_the_plan_from_headers_names_the_same_volumes(name: str) -> None:
    files = CASES[name].build()
    plans, volumes = plan_series(files), read_series(files)
    assert [plan.key for plan in plans] == [volume.key for volume in volumes]
    assert [plan.files for plan in plans] == [volume.files for volume in volumes]


def test_the_table_is_complete() -> None:
    assert {f"B{number:03d}" for number in range(65, 106)} <= set(CASES)
