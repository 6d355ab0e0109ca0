import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from medvit.errors import ConfigError, DataError
from medvit.phantom import films as phantom
from medvit.phantom import head, mr_series
from medvit.phantom.ray_tracing import Ellipsoid, add_rod, intersection, length_without


def digest(folder):
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            state.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return state.hexdigest()


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films") / "set"
    return folder, phantom.write_films(folder, patients=6, seed=3)


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads") / "set"
    return folder, mr_series.write_volumes(folder, patients=1, seed=1, prevalence=1.0)


def test_a_turned_ellipsoid_has_the_volume_that_geometry_says():
    body = Ellipsoid((5.0, -3.0, 2.0), (40.0, 20.0, 30.0), turn=0.7).turned(0.4)
    x, z = np.meshgrid(np.arange(-60, 60, 0.5), np.arange(60, -60, -0.5))
    volume = body.span(x, z).length().sum() * 0.25
    assert volume == pytest.approx(4 / 3 * np.pi * 40 * 20 * 30, rel=2e-3)


def test_lung_without_heart_and_dome_equals_counting_points():
    lung, heart, dome = (
        Ellipsoid((0, 0, 0), (20, 30, 40), 0.2),
        Ellipsoid((10, 5, 0), (15, 12, 20), 0.5),
        Ellipsoid((0, 0, -30), (30, 25, 20)),
    )
    x, z = np.meshgrid(np.linspace(-19, 19, 9), np.linspace(38, -38, 9))
    y = np.linspace(-40, 40, 8001)[:, None, None]
    spans = [body.span(x, z) for body in (lung, heart, dome)]
    inside = [(y >= span.near) & (y <= span.far) for span in spans]
    counted = (inside[0] & ~inside[1] & ~inside[2]).sum(0) * 0.01
    np.testing.assert_allclose(length_without(*spans), counted, atol=0.05)
    assert intersection(*spans).length().max() > 0


def test_a_rod_adds_its_diameter_on_its_axis_and_nothing_beside_it():
    x, z = np.meshgrid(np.arange(-20.0, 21), np.arange(20.0, -21, -1))
    line = np.zeros_like(x)
    add_rod(line, x, z, ((-10.0, 0.0), (10.0, 0.0)), 3.0, 0.5)
    assert line[20, 20] == pytest.approx(3.0)
    assert line[24, 20] == 0
    assert line.min() == 0


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(films, tmp_path):
    folder, _ = films
    phantom.write_films(tmp_path / "again", patients=6, seed=3)
    phantom.write_films(tmp_path / "other", patients=6, seed=4)
    assert digest(tmp_path / "again") == digest(folder) != digest(tmp_path / "other")


def test_a_finished_set_is_reused_and_another_one_is_never_overwritten(films):
    folder, labels = films
    before = digest(folder)
    again = phantom.write_films(folder, patients=6, seed=3)
    assert list(again["finding"]) == list(labels["finding"])
    assert digest(folder) == before
    with pytest.raises(DataError, match="choose another folder"):
        phantom.write_films(folder, patients=7, seed=3)


def test_films_are_valid_12_bit_objects_of_two_makers_and_both_polarities(tmp_path):
    labels = phantom.write_films(tmp_path / "set", patients=14, seed=0)
    objects = [pydicom.dcmread(tmp_path / "set" / path) for path in labels["path"]]
    assert {o.Manufacturer for o in objects} == {"PHANTOMRAY", "SYNTHETICA"}
    assert {o.PhotometricInterpretation for o in objects} == {"MONOCHROME1", "MONOCHROME2"}
    assert {o.SOPClassUID.name for o in objects} == {"Digital X-Ray Image Storage - For Presentation"}
    assert len({o.SOPInstanceUID for o in objects}) == len(objects)
    assert all(o.SOPInstanceUID.is_valid for o in objects)
    for o in objects:
        assert o.BitsStored == 12
        assert 0 < o.pixel_array.max() <= 4095
        assert (o.PresentationLUTShape == "INVERSE") == (o.PhotometricInterpretation == "MONOCHROME1")


def test_bone_is_brighter_than_lung_in_both_polarities_after_reading(films):
    from medvit.dicom.read import read_film

    folder, labels = films
    for path in labels["path"]:
        shown = read_film(folder / path).display()
        rows, columns = shown.shape
        spine = shown[rows // 3 : rows // 2, columns // 2 - 4 : columns // 2 + 4].mean()
        assert spine > shown[rows // 3 : rows // 2, columns // 4 : columns // 4 + 20].mean()


def test_the_opacity_lies_in_its_box_and_nowhere_else():
    who = phantom.Patient(0, 1.0, 1.0, 1.0, "F", 50, 0.5)
    sick, box = phantom.expose(who, phantom.DETECTORS[0], "PA", opacity=True, rng=np.random.default_rng(5))
    # the same draws up to the opacity: the healthy twin differs by the opacity and by the marker in a corner
    well, none = phantom.expose(who, phantom.DETECTORS[0], "PA", opacity=False, rng=np.random.default_rng(5))
    difference = sick - well
    difference[:50, :60] = difference[:50, -60:] = 0
    x0, y0, x1, y1 = box
    inside = difference[y0 : y1 + 1, x0 : x1 + 1].copy()
    difference[y0 : y1 + 1, x0 : x1 + 1] = 0
    assert none is None
    assert inside.max() > 0.5
    assert difference.max() <= 0.1 * inside.max()
    assert difference.min() == 0


def test_a_lung_is_as_dense_as_the_breath_left_it_and_both_lungs_alike():
    who = phantom.Patient(0, 1.0, 1.0, 1.0, "F", 50, 0.5)
    right, left = [], []
    for draw in range(16):
        line, _ = phantom.expose(who, phantom.DETECTORS[0], "PA", opacity=False, rng=np.random.default_rng(draw))
        right.append(line[110:140, 75:95].mean())
        left.append(line[110:140, -95:-75].mean())
    assert min(np.std(right), np.std(left)) > 0.18  # line integral; an opacity adds 0.6 to 1.8 where it is densest
    assert np.corrcoef(right, left)[0, 1] > 0.6


def test_labels_stand_beside_boxes_inside_the_image(films):
    folder, labels = films
    for row in labels.itertuples():
        image = pydicom.dcmread(folder / row.path, stop_before_pixels=True)
        assert (row.finding == "opacity") == (not pd.isna(row.box_x0))
        if row.finding == "opacity":
            assert 0 <= row.box_x0 <= row.box_x1 < image.Columns
            assert 0 <= row.box_y0 <= row.box_y1 < image.Rows


def test_impossible_numbers_are_refused():
    with pytest.raises(ConfigError, match="patients=0"):
        phantom.write_films(Path("unused"), patients=0)
    with pytest.raises(ConfigError, match="prevalence=2"):
        mr_series.write_volumes(Path("unused"), prevalence=2)
    with pytest.raises(ConfigError, match=r"PD.*expected one or more of T1, T2, FLAIR"):
        mr_series.write_volumes(Path("unused"), contrasts=["T1", "PD"])


def test_chosen_contrasts_alone_are_written_and_no_other_heads(tmp_path, heads):
    chosen = mr_series.write_volumes(tmp_path / "set", patients=1, seed=1, prevalence=1.0, contrasts=["FLAIR"])
    every = heads[1]
    assert list(chosen["contrast"]) == ["FLAIR"]
    same = ["PatientID", "SeriesInstanceUID", "finding", "lesion_x", "lesion_y", "lesion_z"]
    assert chosen[same].iloc[0].to_list() == every.loc[every["contrast"] == "FLAIR", same].iloc[0].to_list()


def test_series_are_classic_mr_of_one_study_and_frame(heads):
    folder, labels = heads
    objects = [pydicom.dcmread(path, stop_before_pixels=True) for path in (folder / "dicom").rglob("IM*")]
    assert {o.SOPClassUID.name for o in objects} == {"MR Image Storage"}
    assert len({o.StudyInstanceUID for o in objects}) == len({o.FrameOfReferenceUID for o in objects}) == 1
    assert {o.SeriesInstanceUID for o in objects} == set(labels["SeriesInstanceUID"])


def test_contrasts_order_the_tissues_as_radiologists_know_them():
    t1, t2, flair = ([s.signal(t) for t in head.TISSUES] for s in head.SEQUENCES)
    csf, grey, white, lesion = head.CSF, head.GREY, head.WHITE, head.LESION
    assert t1[white] > t1[grey] > t1[lesion] > t1[csf]
    assert t2[csf] > t2[lesion] > t2[grey] > t2[white]
    assert flair[lesion] > flair[grey] > flair[white] > flair[csf]


def test_flair_nulls_fluid_near_its_inversion_time():
    flair = head.SEQUENCES[2]
    assert flair.signal(head.TISSUES[head.CSF]) < 0.15 * flair.signal(head.TISSUES[head.GREY])


def test_series_read_back_with_the_affine_they_were_made_with(heads):
    from medvit.series.read import read_series

    folder, labels = heads
    for row in labels.itertuples():
        volume = read_series(sorted((folder / row.path).iterdir()))[0]
        truth = np.load(folder / row.truth)
        np.testing.assert_allclose(volume.affine, truth["affine"], atol=1e-6)
        assert volume.values.shape == truth["mask"].shape
        assert truth["mask"].any()


def test_the_lesion_lies_at_the_same_millimetres_in_every_series(heads):
    folder, labels = heads
    centres = []
    for row in labels.itertuples():
        truth = np.load(folder / row.truth)
        centres.append(truth["affine"][:3, :3] @ np.argwhere(truth["mask"]).mean(0) + truth["affine"][:3, 3])
    assert np.ptp(centres, axis=0).max() < 3.5
    assert np.ptp(labels["lesion_ml"]) < 0.2 * labels["lesion_ml"].mean()


def test_decimal_strings_fit_sixteen_characters():
    from medvit.phantom.dicom_objects import decimal

    for value in (-0.000123456789123, 123456.789123456, -1e-17, 1 / 3):
        assert len(decimal(value)) <= 16
        assert float(decimal(value)) == pytest.approx(value, rel=1e-6)
