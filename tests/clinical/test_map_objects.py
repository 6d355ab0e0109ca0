"""Where a map lies in the patient: a planted point comes back out of SEG and Parametric Map within half a pixel.

What is read back is compared with positions that the generator of the series knows, not with medvit's affine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import series_phantom
from clinical.conftest import errors_of
from series_phantom import Plane

from medvit.clinical.identity import Algorithm, headers_of, identity
from medvit.clinical.map_objects import parametric_map, segmentation
from medvit.clinical.picture import plane_of
from medvit.clinical.secondary_capture import orientation_of, orientation_of_plane
from medvit.clinical.structured_report import Finding, Judged, structured_report
from medvit.errors import DicomRefusal
from medvit.preprocess import FilmPreprocess, VolumePreprocess

ALGORITHM = Algorithm("head vit", "0.1.0", "ab" * 32)
OBLIQUE = Plane(tuple(np.array([0.8, 0.36, -0.48])), tuple(np.array([0.0, 0.8, 0.6])), shape=(20, 26), count=9)  # type: ignore[arg-type]
SPOT = (5.0, 12.0, 8.0)  # slice, row, column


def saved(made: Any, file: Path) -> Any:
    made.save_as(file, enforce_file_format=True)
    assert errors_of(file) == []
    return highdicom.imread(file)


def centre_mm(read: Any) -> np.ndarray:
    """Return the centre of mass of a read object in LPS mm."""
    volume = read.get_volume()
    values = np.asarray(volume.array, float)
    values = values[..., 0] if values.ndim == 4 else values
    index = np.array([(axis * values).sum() for axis in np.indices(values.shape)]) / values.sum()
    return (volume.affine @ [*index, 1.0])[:3]


def true_mm(plane: Plane) -> np.ndarray:
    slot, row, column = SPOT
    along = (
        np.array(plane.along_column) * plane.spacing[0] * row + np.array(plane.along_row) * plane.spacing[1] * column
    )
    return plane.position(slot) + along


def planted(files: list[bytes]) -> tuple[Any, np.ndarray]:
    """Return the volume of a series and a blob round `SPOT`, drawn at the model's size and brought to the original."""
    preprocess = VolumePreprocess(size=(18, 40, 48), orientation="acquired")
    volume = preprocess.read(files)
    placement = preprocess.prepare(volume).placement
    assert np.allclose(placement.to_original(placement.to_model(np.array(SPOT))), SPOT)
    at = placement.to_model(np.array(SPOT))
    away = np.stack(np.indices(placement.size), -1) - at
    blob = np.exp(-((away / [1.5, 2.5, 2.5]) ** 2).sum(-1)).astype(np.float32)
    return volume, placement.map_to_original(blob)


SERIES = {
    "classic axial": (series_phantom.stack(), series_phantom.AXIAL),
    "classic oblique, files in disorder": (series_phantom.stack(OBLIQUE)[::-1], OBLIQUE),
    "enhanced oblique": ([series_phantom.enhanced(OBLIQUE)], OBLIQUE),
    "enhanced oblique, frames in disorder": ([series_phantom.enhanced(OBLIQUE, [4, 0, 8, 2, 6, 1, 3, 5, 7])], OBLIQUE),
}


@pytest.mark.parametrize("name", SERIES)
def test_a_point_planted_in_a_series_lies_where_it_was_in_the_patient(name: str, tmp_path: Path) -> None:
    files, plane = SERIES[name]
    volume, values = planted(files)
    headers = headers_of(files)
    assert values.shape == volume.values.shape
    ordered = [headers[index] for index in dict.fromkeys(volume.files)]
    study = headers[0].StudyInstanceUID
    made = parametric_map(ordered, values, volume.affine, "opacity", ALGORITHM, identity("pm", ALGORITHM, study, 1))
    pm = saved(made, tmp_path / "pm.dcm")
    seg = saved(
        segmentation(ordered, values > 0.5 * values.max(), volume.affine, "opacity", ALGORITHM,
                     identity("seg", ALGORITHM, study, 1)), tmp_path / "seg.dcm",
    )  # fmt: skip
    off = np.linalg.norm(centre_mm(pm) - true_mm(plane))
    assert off < 0.5 * min(plane.spacing)
    assert np.linalg.norm(centre_mm(seg) - true_mm(plane)) < 0.5 * plane.spacing[1] + 0.25 * plane.step
    for read in (pm, seg):
        measures = read.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert [float(each) for each in measures.PixelSpacing] == pytest.approx(plane.spacing)
        assert float(measures.SpacingBetweenSlices) == pytest.approx(plane.step)
        assert read.FrameOfReferenceUID == headers[0].FrameOfReferenceUID
        assert len(read.PerFrameFunctionalGroupsSequence) == plane.count  # empty ones too
    np.testing.assert_allclose(np.asarray(pm.get_volume().array).max(), values.max(), rtol=1e-6)


def film(folder: Path, **changes: Any) -> Path:
    from medvit.phantom.films import write_films

    write_films(folder / "films", patients=1)
    dataset = pydicom.dcmread(min((folder / "films" / "dicom").rglob("IM*")))
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(folder / "film.dcm")
    return folder / "film.dcm"


@pytest.mark.parametrize("changes", [
    {}, {"FrameOfReferenceUID": "2.25.77"}, {"PatientOrientation": None}, {"PatientOrientation": ["R", "F"]},
    {"PatientOrientation": ["R", "H"], "PixelSpacing": [1.4, 1.4]},
], ids=str)  # fmt: skip
def test_a_point_planted_in_a_film_lies_on_its_stored_pixel(changes: dict[str, Any], tmp_path: Path) -> None:
    file = film(tmp_path, **changes)
    preprocess = FilmPreprocess(size=(96, 128))
    image = preprocess.read(file)
    placement = preprocess.prepare(image).placement
    spot = np.array([60.0, 171.0])
    away = np.stack(np.indices(placement.size), -1) - placement.to_model(spot)
    values = placement.map_to_original(np.exp(-((away / 4) ** 2).sum(-1)).astype(np.float32))
    headers = headers_of([file])
    names = identity("seg", ALGORITHM, headers[0].StudyInstanceUID, 1)
    seg = saved(segmentation(headers, values > 0.5, None, "opacity", ALGORITHM, names), tmp_path / "seg.dcm")
    frame = np.asarray(seg.get_frames())[0]
    assert frame.shape == (headers[0].Rows, headers[0].Columns)
    np.testing.assert_allclose(np.argwhere(frame).mean(axis=0), spot, atol=0.5)
    plane = plane_of(image, preprocess, values)
    shown = np.array(np.unravel_index(plane.heat.argmax(), plane.heat.shape))
    rows, columns = plane.flip
    expected = [
        values.shape[0] - 1 - spot[0] if rows else spot[0],
        values.shape[1] - 1 - spot[1] if columns else spot[1],
    ]
    assert np.abs(shown - expected).max() <= 1
    if changes.get("PatientOrientation", "") is None:
        assert orientation_of(headers[0], plane.flip) == []
    else:
        assert orientation_of(headers[0], plane.flip) == ["L", "F"]


def test_a_film_has_no_parametric_map_and_is_told_what_shows_it(tmp_path: Path) -> None:
    headers = headers_of([film(tmp_path)])
    with pytest.raises(DicomRefusal, match=r"E-FOR a film has no place.*dicom.maps=true"):
        parametric_map(headers, np.ones((4, 4), np.float32), None, "opacity", ALGORITHM, {})


def test_a_slice_says_where_its_columns_and_rows_run() -> None:
    for plane, words in ((series_phantom.AXIAL, ["L", "P"]), (series_phantom.SAGITTAL, ["P", "F"])):
        volume = VolumePreprocess().read(series_phantom.stack(plane))
        assert orientation_of_plane(volume.affine) == words


def test_names_keep_their_letters_whatever_the_character_set_of_the_source(tmp_path: Path) -> None:
    """They were written as question marks where the source's character set lacks them."""
    headers = headers_of([film(tmp_path, SpecificCharacterSet="ISO_IR 100", PatientName="MÜLLER^JÖRG")])
    mask = np.ones((headers[0].Rows, headers[0].Columns), bool)
    study, finding = headers[0].StudyInstanceUID, "气胸 Ł"
    seg = segmentation(headers, mask, None, finding, ALGORITHM, identity("seg", ALGORITHM, study, 1))
    judged = [Judged(headers, [Finding(finding, 0.3)])]
    report = structured_report(judged, ALGORITHM, identity("sr", ALGORITHM, study, 1))
    for made in (seg, report):
        saved(made, tmp_path / "made.dcm") if made is seg else made.save_as(tmp_path / "made.dcm")
        back = pydicom.dcmread(tmp_path / "made.dcm")
        assert back.PatientName == "MÜLLER^JÖRG"
        assert finding in str(back)
