"""The DICOM results of a study: they belong to its patient alone, have the same names twice, and others read them."""

from __future__ import annotations

import csv
import logging
import shutil
import subprocess
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from clinical.conftest import errors_of, volume_bundle

from medvit.bundle.runtime import Runtime
from medvit.clinical.study_results import Wanted, results
from medvit.clinical.units import predictions_of, units_in
from medvit.errors import ConfigError
from medvit.predict import ExtraOutputs, predict

ALL = Wanted(sr=True, maps=True, seg=True, parametric=True, pdf=True, per="study")
CLOCK = {  # what may differ between two runs
    *("ContentDate", "ContentTime", "InstanceCreationDate", "InstanceCreationTime", "ContributionDateTime"),
    *("DateOfSecondaryCapture", "TimeOfSecondaryCapture", "ObservationDateTime"),
}
WHO = {
    "one": {"PatientName": "CANARY^ÄNNCHEN", "PatientID": "CANARY-0001", "PatientBirthDate": "19500102"},
    "two": {"PatientName": "SPARROW^OTTO", "PatientID": "SPARROW-0002", "PatientBirthDate": "19600304"},
}


@pytest.fixture(scope="module")
def folder(films, tmp_path_factory) -> Path:
    """Two films of one study of Ännchen, one film of Otto, with private and free text that no result may take."""
    place = tmp_path_factory.mktemp("input")
    for number, (who, film) in enumerate(zip(("one", "one", "two"), films, strict=False)):
        dataset = pydicom.dcmread(film)
        dataset.StudyInstanceUID = f"2.25.{1 + (who == 'two')}"
        dataset.SpecificCharacterSet = "ISO_IR 100"
        for keyword, value in WHO[who].items():
            setattr(dataset, keyword, value)
        dataset.PatientAddress = "SECRETSTREET 1"
        dataset.IssuerOfPatientID = "WARD"
        dataset.PatientWeight = 81.5
        dataset.PatientComments = "SECRETCOMMENT"
        dataset.Laterality = "L"
        dataset.save_as(place / f"{number}.dcm")
    return place


@pytest.fixture(scope="module")
def out(bundle, folder, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("predicted") / "out"
    assert predict(bundle, folder, place, ExtraOutputs(dicom=ALL), isolate=False) == 0
    return place


def objects(out: Path, kind: str = "*") -> list[Path]:
    return sorted(out.glob(f"{kind}/*.dcm"))


def test_each_kind_is_there_per_study_or_per_image(out: Path) -> None:
    found = {
        kind.name: len(list(kind.glob("*.dcm"))) for kind in out.iterdir() if kind.is_dir() and kind.name != "studies"
    }
    assert found == {"sr": 2, "sc": 3, "seg": 3, "pdf": 2}
    warnings = [row["warnings"] for row in csv.DictReader((out / "predictions.csv").open())]
    assert all("no parametric map: E-FOR" in each for each in warnings)
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in out.iterdir() if folder.name in found)


def test_results_name_their_patient_and_no_other_and_logs_and_names_none(
    bundle,
    folder,
    tmp_path,
    caplog,
    capfd,
) -> None:
    with caplog.at_level(logging.DEBUG, logger="medvit"):
        predict(bundle, folder, tmp_path / "out", ExtraOutputs(dicom=ALL), isolate=False)
    for file in objects(tmp_path / "out"):
        made = pydicom.dcmread(file)
        who = WHO["one" if made.StudyInstanceUID == "2.25.1" else "two"]
        assert {keyword: str(made[keyword].value) for keyword in who} == who
        assert made.IssuerOfPatientID == "WARD"
        assert "PatientWeight" not in made
        data = file.read_bytes()
        other = b"SPARROW" if who is WHO["one"] else b"CANARY"
        assert other not in data
        assert b"SECRET" not in data
    told = caplog.text + "".join(capfd.readouterr())
    told += "".join(str(path) for path in (tmp_path / "out").rglob("*"))
    told += "".join(path.read_text() for path in (tmp_path / "out").rglob("*") if path.suffix in {".csv", ".json"})
    assert not [word for word in ("CANARY", "SPARROW", "SECRET", "2.25.1") if word in told]


def test_a_second_run_over_renamed_files_gives_the_same_objects_but_for_the_clock(
    bundle,
    folder,
    out,
    tmp_path,
) -> None:
    place = tmp_path / "input"
    place.mkdir()
    for number, file in enumerate(sorted(folder.iterdir(), reverse=True)):
        shutil.copy(file, place / f"again{number}.dcm")
    predict(bundle, place, tmp_path / "out", ExtraOutputs(dicom=ALL), isolate=False)
    first, second = (
        {path.relative_to(at): pydicom.dcmread(path) for path in objects(at)} for at in (out, tmp_path / "out")
    )
    assert first.keys() == second.keys()
    for name, made in first.items():
        for one in (made, second[name]):
            one.walk(lambda dataset, element: dataset.pop(element.tag) if element.keyword in CLOCK else None)
        assert made == second[name], name
    instances = [(made.SeriesInstanceUID, made.InstanceNumber) for made in first.values()]
    assert len(set(instances)) == len(instances)
    assert len({made.SOPInstanceUID for made in first.values()}) == len(first)


def test_other_pixels_under_the_same_uid_or_another_setting_give_other_objects(bundle, folder) -> None:
    runtime = Runtime(bundle)

    def names(data: Path, wanted: Wanted) -> dict[str, str]:
        units = units_in(data, runtime.preprocess)
        made, notes = results(runtime, units, list(predictions_of(runtime, units, isolate=False)), wanted)
        assert notes == []
        return {each.kind: each.dataset.SOPInstanceUID for each in made}

    wanted = Wanted(sr=True, maps=True, seg=True, pdf=True)
    first = names(folder / "2.dcm", wanted)
    assert names(folder / "2.dcm", wanted) == first
    softer = names(folder / "2.dcm", Wanted(sr=True, maps=True, seg=True, pdf=True, hot=0.3))
    assert {kind for kind in first if softer[kind] != first[kind]} == {"seg"}
    dataset = pydicom.dcmread(folder / "2.dcm")
    dataset.PixelData = np.ascontiguousarray(dataset.pixel_array[:, ::-1]).tobytes()
    dataset.save_as(folder.parent / "mirrored.dcm")
    other = names(folder.parent / "mirrored.dcm", wanted)
    assert not set(other.values()) & set(first.values())


def test_a_study_uid_shared_by_two_patients_gets_no_result(bundle, folder, tmp_path) -> None:
    for number in (1, 2):
        dataset = pydicom.dcmread(folder / f"{number}.dcm")
        dataset.StudyInstanceUID = "2.25.9"
        dataset.save_as(tmp_path / f"{number}.dcm")
    runtime = Runtime(bundle)
    units = units_in(tmp_path, runtime.preprocess)
    made, notes = results(runtime, units, list(predictions_of(runtime, units, isolate=False)), ALL)
    assert made == []
    assert [place for place, _ in notes] == [0, 1]
    assert all("E-ID files of one study differ in PatientID" in note and "CANARY" not in note for _, note in notes)


def test_the_report_of_a_study_has_a_group_for_each_image(out, folder) -> None:
    (report,) = [made for made in map(highdicom.sr.srread, objects(out, "sr")) if made.StudyInstanceUID == "2.25.1"]
    groups = report.content.get_image_measurement_groups()
    images = {group.source_images[0].referenced_sop_instance_uid for group in groups}
    assert images == {pydicom.dcmread(folder / f"{number}.dcm").SOPInstanceUID for number in (0, 1)}


def test_the_capture_shows_the_film_the_map_and_the_notice_and_says_what_it_comes_from(out, folder) -> None:
    sources = {pydicom.dcmread(file).SOPInstanceUID: pydicom.dcmread(file) for file in folder.iterdir()}
    for file in objects(out, "sc"):
        made = pydicom.dcmread(file)
        source = sources[made.SourceImageSequence[0].ReferencedSOPInstanceUID]
        assert made.BurnedInAnnotation == "YES"
        assert "RESEARCH USE, NOT FOR DIAGNOSIS" in made.DerivationDescription
        assert "Occlusion map of opacity" in made.DerivationDescription
        assert made.ImageLaterality == source.ImageLaterality
        assert "Laterality" not in made  # one of the two
        assert made.PatientOrientation == source.PatientOrientation
        pixels = made.pixel_array.astype(int)
        yellow = (pixels[..., 0] > 200) & (pixels[..., 1] > 200) & (pixels[..., 2] < 60)
        rows = np.flatnonzero(yellow.any(axis=1))
        assert len(rows) > 8  # the notice
        assert (
            rows.min()
            > 0.9 * np.flatnonzero((np.ptp(pixels, axis=2) == 0).any(axis=1) & (pixels.max(axis=(1, 2)) > 0)).min()
        )
        plain = pixels[: rows.min() - 160, : pixels.shape[1] // 2]
        assert np.ptp(plain, axis=2).max() == 0  # grey: the film as it is


def test_the_page_is_a_pdf_that_names_nobody(out: Path) -> None:
    for file in objects(out, "pdf"):
        made = pydicom.dcmread(file)
        content = made.EncapsulatedDocument[: made.EncapsulatedDocumentLength]
        assert content.startswith(b"%PDF-")
        assert content.rstrip().endswith(b"%%EOF")
        assert content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") == 1
        assert {item.ReferencedSOPInstanceUID for item in made.SourceInstanceSequence}


def test_independent_tools_find_no_error_in_any_kind(out: Path) -> None:
    if not (shutil.which("dciodvfy") and shutil.which("dcmdump") and shutil.which("dsrdump")):
        pytest.skip("needs the Debian packages dicom3tools and dcmtk")
    assert {file.name: errors_of(file) for file in objects(out) if errors_of(file)} == {}
    for file in objects(out):
        command = ["dsrdump" if file.parent.name == "sr" else "dcmdump", "-q", str(file)]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_highdicom_reads_the_segmentation_back(out: Path) -> None:
    for file in objects(out, "seg"):
        read = highdicom.seg.segread(file)
        description = read.get_segment_description(1)
        assert description.segment_label == "hot region: opacity"
        assert description.segmented_property_type.meaning == "Saliency"
        assert read.get_tracking_ids()[0][0] == "hot region: opacity"


@pytest.mark.parametrize(("words", "told"), [
    ({"dicom": {"per": "series"}}, "expected image or study"),
    ({"dicom": {"per": "study"}}, "give sr=true"),
    ({"dicom": {"hot": 0.3}}, "give dicom.seg=true"),
    ({"dicom": {"hot": 0.0, "seg": True}}, "above 0 and at most 1"),
    ({"dicom": {"findings": "all"}}, "give dicom.maps=true"),
])  # fmt: skip
def test_settings_that_would_do_nothing_are_refused(bundle, folder, tmp_path, words: Any, told: str) -> None:
    import medvit

    with pytest.raises(ConfigError, match=told):
        medvit.predict(bundle, folder, tmp_path / "out", **words)


def test_the_command_writes_them_without_torch(bundle, folder, tmp_path) -> None:
    import sys

    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['monai'] = None\n"
        "from medvit.predict import main; sys.argv = ['predict', *sys.argv[1:]]; main()"
    )
    words = [
        f"bundle={bundle}",
        f"input={folder}",
        f"out={tmp_path / 'out'}",
        "sr=true",
        "dicom.maps=true",
        "dicom.pdf=true",
    ]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [len(objects(tmp_path / "out", kind)) for kind in ("sr", "sc", "pdf", "seg")] == [3, 3, 2, 0]


@pytest.mark.parametrize("bag", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["volume", "bag of slices"])
def test_a_series_has_every_kind_of_result_on_its_own_slices(contents, tmp_path, bag: bool) -> None:
    from medvit.bundle import golden

    _, bundle_of_volumes = volume_bundle(contents, tmp_path / "bundle", bag)
    (tmp_path / "input").mkdir()
    files = golden.generated_series()[0]
    for number, data in enumerate(files):
        (tmp_path / "input" / f"{number}").write_bytes(data)
    assert predict(bundle_of_volumes, tmp_path / "input", tmp_path / "out", ExtraOutputs(dicom=ALL), isolate=False) == 0
    made = {file.parent.name: file for file in objects(tmp_path / "out")}
    assert sorted(made) == ["pdf", "pm", "sc", "seg", "sr"]
    assert {kind: errors_of(file) for kind, file in made.items()} == {kind: [] for kind in made}
    sources = {data.SOPInstanceUID: data for data in map(pydicom.dcmread, (tmp_path / "input").iterdir())}
    pm, seg = highdicom.imread(made["pm"]), highdicom.imread(made["seg"])
    values, mask = np.squeeze(pm.get_volume().array), np.squeeze(seg.get_volume().array)
    assert values.shape == mask.shape == (len(files), *pydicom.dcmread(tmp_path / "input" / "0").pixel_array.shape)
    np.testing.assert_array_equal(mask.astype(bool), values >= 0.5 * values.max())
    shown = pydicom.dcmread(made["sc"])
    source = sources[shown.SourceImageSequence[0].ReferencedSOPInstanceUID]
    corner = np.linalg.inv(pm.get_volume().affine) @ [*map(float, source.ImagePositionPatient), 1.0]
    np.testing.assert_allclose(corner[1:3], 0, atol=1e-3)
    assert corner[0] == pytest.approx(slot := round(corner[0]), abs=1e-3)
    assert values[slot].max() == pytest.approx(
        values.max(), rel=1e-5
    )  # the slice that is shown holds the highest value
    assert "Slice " in shown.DerivationDescription
    report = highdicom.sr.srread(made["sr"])
    (group,) = report.content.get_image_measurement_groups()
    assert {each.referenced_sop_instance_uid for each in group.source_images} == set(sources)


def test_python_gives_the_maps_on_the_originals_pixels(bundle, folder) -> None:
    import medvit

    (one,) = medvit.load_bundle(bundle).maps(folder / "2.dcm")
    source = pydicom.dcmread(folder / "2.dcm")
    assert one["maps"]["opacity"].shape == (source.Rows, source.Columns)
    assert np.ptp(one["maps"]["opacity"]) > 1e-3
