from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medvit.bundle.build import draft_contents, export
from medvit.bundle.contents import read
from medvit.bundle.ood import OutOfDistribution, distance_limits, fit_statistics
from medvit.bundle.runtime import Runtime
from medvit.errors import DicomRefusal
from medvit.metric.ood import pixel_statistics


def planes(count: int, seed: int) -> np.ndarray:
    """Bright ellipses on black, with grain."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[-1:1:48j, -1:1:48j]
    body = rows**2 + random.uniform(0.8, 1.4, (count, 1, 1)) * columns**2 < 0.8
    return np.clip(body * 150 + random.normal(8, 3, (count, 48, 48)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def part() -> dict:
    return fit_statistics(pixel_statistics(planes(300, 1)), pixel_statistics(planes(150, 2)))


def test_a_proper_image_passes_and_a_negative_is_refused_with_what_to_look_at(part):
    guard = OutOfDistribution(json.loads(json.dumps(part)), {"unlike": distance_limits(part)})
    told = [guard.check(image[None, None]) for image in planes(60, 3)]
    assert sum(map(bool, told)) <= 3
    with pytest.raises(DicomRefusal, match=r"E-UNLIKE a distance of .* negative"):
        guard.check(255 - planes(1, 4)[None])


def test_between_the_limits_a_result_carries_a_warning(part):
    guard = OutOfDistribution(part, {"unlike": {"warn": -10.0, "refuse": 50.0}})
    (said,) = guard.check(planes(1, 3)[None])
    assert said.startswith("unlike the training images (distance ")


def test_few_images_are_never_a_reason_to_refuse(part):
    assert distance_limits({**part, "images": 199}) == distance_limits({**part, "limits_from": 99}) == {"warn": 1.0}
    assert OutOfDistribution(part, {"unlike": {"warn": 1.0}}).check(255 - planes(1, 4)[None])


@pytest.mark.parametrize("acceptance", [{}, {"unlike": None}])
def test_a_site_that_takes_the_limit_out_is_not_checked(part, acceptance):
    assert OutOfDistribution(part, acceptance).check(255 - planes(1, 4)[None]) == ()
    assert OutOfDistribution(None, {"unlike": {"warn": 1.0}}).check(255 - planes(1, 4)[None]) == ()


def test_the_middle_slice_of_a_volume_is_what_is_looked_at(part):
    guard = OutOfDistribution(part, {"unlike": distance_limits(part)})
    volume = np.repeat(planes(1, 3)[None, None], 5, axis=2)
    volume[0, 0, [0, 4]] = 255
    assert guard.check(volume) == guard.check(planes(1, 3)[None])


def test_a_bundle_carries_the_part_and_refuses_a_negative_film(trained, films, facts, tmp_path: Path):
    pixels = np.concatenate([trained.preprocess.integers(film) for film in films])
    part = fit_statistics(pixel_statistics(pixels), pixel_statistics(pixels))
    contents = draft_contents("d", trained.preprocess.to_json(), TASK, facts, {"run_id": ""}, unlike=part)
    contents = replace(contents, acceptance={**contents.acceptance, "unlike": {"warn": 1.0, "refuse": 2.0}})
    out = export(trained, contents, films, tmp_path / "b", draft=True).folder
    assert read(out).unlike["images"] == len(films)
    runtime = Runtime(out, workers=1)
    assert {result.status for result in runtime.predict(films[:3])} == {"OK"}
    negative = tmp_path / "negative.dcm"
    negative.write_bytes(turned(films[0]))
    assert runtime.predict([negative])[0].code == "E-UNLIKE"
    assert runtime.predict([negative], accept=False)[0].status == "OK"


TASK = {"kind": "binary", "names": ["opacity"], "settings": {}, "fitted": {}}


def turned(film: Path) -> bytes:
    """Return the film with the other photometric interpretation and no look-up table: a negative by its header."""
    from io import BytesIO

    from pydicom import dcmread

    dataset = dcmread(film)
    mono = {"MONOCHROME1": "MONOCHROME2", "MONOCHROME2": "MONOCHROME1"}
    dataset.PhotometricInterpretation = mono[dataset.PhotometricInterpretation]
    dataset.PresentationLUTShape = "INVERSE" if dataset.PhotometricInterpretation == "MONOCHROME1" else "IDENTITY"
    stream = BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()
