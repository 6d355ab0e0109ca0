from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medvit.bundle import runtime as runtime_module
from medvit.bundle.runtime import Runtime, read_and_prepare
from medvit.errors import BundleError, DataError
from medvit.predict import ExtraOutputs, predict

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(films, tmp_path) -> Path:
    """Four good films, a text file by name, one by content alone, a cut-off film, and a CT."""
    place = tmp_path / "input"
    place.mkdir()
    for number, film in enumerate(films[:4]):
        shutil.copy(film, place / f"good{number}")
    (place / "note.txt").write_text("no image")
    (place / "readme").write_text("no image")
    (place / "cut").write_bytes(films[0].read_bytes()[:-5000])
    other = pydicom.dcmread(films[1])
    other.Modality = "CT"
    other.save_as(place / "modality")
    return place


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_good_films_are_predicted_and_bad_ones_listed_with_their_reason(bundle, folder, tmp_path) -> None:
    assert predict(bundle, folder, tmp_path / "out", ExtraOutputs(crosswalk=True, reports=True)) == 10
    table = {row["path"]: row["file"] for row in csv.DictReader((tmp_path / "out" / "crosswalk.csv").open())}
    found = {row["file"]: row for row in rows(tmp_path / "out")}
    of = {path: found[place] for path, place in table.items()}
    assert [of[f"good{n}"]["status"] for n in range(4)] == ["OK"] * 4
    assert 0 < float(of["good0"]["probability.opacity"]) < 1
    assert of["good0"]["decision.opacity"] in {"present", "absent"}
    assert "note.txt" not in of
    assert (of["readme"]["status"], of["readme"]["code"]) == ("SKIPPED", "I-SKIP")
    assert of["cut"]["code"] == "E-TRUNC"
    assert of["modality"]["code"] == "E-ACCEPT"
    assert "CT" in of["modality"]["reason"]
    assert of["modality"]["probability.opacity"] == ""
    reports = {path.stem for path in (tmp_path / "out" / "sr").iterdir()}
    assert reports == {of[f"good{n}"]["uid"] for n in range(4)}
    assert (tmp_path / "out" / "crosswalk.csv").stat().st_mode & 0o077 == 0


def test_each_study_has_its_json(bundle, folder, tmp_path) -> None:
    predict(bundle, folder, tmp_path / "out")
    table = rows(tmp_path / "out")
    for study in {row["study"] for row in table} - {""}:
        content = json.loads((tmp_path / "out" / "studies" / f"{study}.json").read_text())
        assert content["not_for_diagnostic_use"] is True
        assert len(content["model"]["bundle"]) == 12
        told = {image["uid"]: image for image in content["images"] if image["status"] == "OK"}
        for row in table:
            if row["study"] == study and row["status"] == "OK":
                opacity = told[row["uid"]]["findings"]["opacity"]
                assert opacity["probability"] == float(row["probability.opacity"])
                assert opacity["threshold"] == 0.5


def test_a_header_that_no_report_may_copy_costs_its_report_alone_and_an_anonymous_one_has_its_report(
    bundle, films, tmp_path
) -> None:
    place = tmp_path / "input"
    place.mkdir()
    changes = {"a_date": {"StudyDate": "99999999"}, "b_study": {"StudyInstanceUID": None}, "d_good": {}}
    changes["c_nobody"] = dict.fromkeys(("PatientID", "PatientName", "PatientSex", "AccessionNumber"))
    for number, (name, change) in enumerate(changes.items()):
        with pydicom.config.disable_value_validation():
            film = pydicom.dcmread(films[number])
            for keyword, value in change.items():
                delattr(film, keyword) if value is None else setattr(film, keyword, value)
            film.save_as(place / name)
    assert predict(bundle, place, tmp_path / "out", ExtraOutputs(reports=True)) == 0
    told = ["no report: E-TAG" in row["warnings"] for row in rows(tmp_path / "out")]
    assert told == [True, True, False, False]
    assert "99999999" not in (tmp_path / "out" / "predictions.csv").read_text()
    assert {path.stem for path in (tmp_path / "out" / "sr").iterdir()} == {
        row["uid"] for row in rows(tmp_path / "out")[2:]
    }


def test_pictures_are_named_as_the_index_names_them_and_a_model_of_pictures_refuses_dicom(
    trained, contents, films, tmp_path
) -> None:
    """They had no uid and no study, and DICOM was refused with "not given; not given; not given; not given"."""
    import cv2

    from medvit.bundle.acceptance import envelope
    from medvit.bundle.build import write_draft
    from medvit.index import index

    root = tmp_path / "pictures"
    (root / "ward").mkdir(parents=True)
    for number, film in enumerate(films[:3]):
        grey = (pydicom.dcmread(film).pixel_array >> 4).astype(np.uint8)
        cv2.imwrite(str(root / "ward" / f"{number}.png"), grey)
    known = index(root, tmp_path / "data", options={"patient_fallback": "file"}).table
    pictures = replace(contents, acceptance=envelope(known), thresholds={}, calibration={})
    bundle = write_draft(trained, pictures, tmp_path / "bundle")
    assert predict(bundle, root, tmp_path / "out", isolate=False) == 0
    assert {row["uid"] for row in rows(tmp_path / "out")} == set(known["uid"])
    told = {json.loads(file.read_text())["study"] for file in (tmp_path / "out" / "studies").iterdir()}
    assert told == set(known["study"])
    assert predict(bundle, films[0], tmp_path / "dicom", isolate=False) == 10
    (row,) = rows(tmp_path / "dicom")
    assert "a DICOM object (DX), trained on PNG, JPEG or NIfTI files, never on DICOM" in row["reason"]


def test_only_good_films_give_exit_code_0(bundle, films, tmp_path) -> None:
    assert predict(bundle, films[0], tmp_path / "out") == 0
    assert len(rows(tmp_path / "out")) == 1


def test_the_same_input_twice_gives_the_same_bytes(bundle, folder, tmp_path) -> None:
    predict(bundle, folder, tmp_path / "one", workers=1)
    predict(bundle, folder, tmp_path / "two", workers=4)
    first = {path.name: path.read_bytes() for path in (tmp_path / "one").rglob("*") if path.is_file()}
    second = {path.name: path.read_bytes() for path in (tmp_path / "two").rglob("*") if path.is_file()}
    assert first == second


def crash_on_the_second(definition, envelope, source):
    """Stands for a decoder that a crafted file kills, with its process."""
    if Path(source).name == "good1":
        os.abort()
    return read_and_prepare(definition, envelope, source)


@pytest.mark.slow
def test_a_file_that_kills_its_decoder_is_rejected_alone_and_the_others_say_what_they_say_without_a_child(
    bundle, folder, tmp_path, monkeypatch
) -> None:
    assert predict(bundle, folder, tmp_path / "plain", isolate=False) == 10
    monkeypatch.setattr(runtime_module, "read_and_prepare", crash_on_the_second)
    assert predict(bundle, folder, tmp_path / "isolated") == 10
    plain, isolated = rows(tmp_path / "plain"), rows(tmp_path / "isolated")
    assert [row["code"] for row in isolated if row["code"] == "E-CRASH"] == ["E-CRASH"]
    assert [one for one, two in zip(plain, isolated, strict=True) if two["code"] != "E-CRASH"] == [
        row for row in isolated if row["code"] != "E-CRASH"
    ]


def test_a_film_says_the_same_whatever_lies_beside_it(bundle, films) -> None:
    runtime = Runtime(bundle)
    together = runtime.predict(films)
    alone = [runtime.one(film) for film in reversed(films)]
    assert [one.logit for one in together] == [one.logit for one in reversed(alone)]


def test_polarity_twins_get_the_same_probability(bundle, films, tmp_path) -> None:
    runtime = Runtime(bundle)
    seen = set()
    for film in films:
        twin = pydicom.dcmread(film)
        other = {"MONOCHROME1": "MONOCHROME2", "MONOCHROME2": "MONOCHROME1"}[twin.PhotometricInterpretation]
        flipped = (2**twin.BitsStored - 1) - twin.pixel_array
        twin.PhotometricInterpretation = other
        twin.PresentationLUTShape = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}[other]
        twin.PixelData = flipped.astype(np.uint16).tobytes()
        if "WindowCenter" in twin:
            twin.WindowCenter = 2**twin.BitsStored - float(twin.WindowCenter)  # PS3.3 C.11.2.1.2 is not symmetric
        twin.save_as(tmp_path / "twin")
        seen.add(other)
        # Rounding to 8 bits may fall the other way in a pixel or two; a wrong polarity moves it by 1e-2 and more here.
        assert runtime.one(tmp_path / "twin").probability == pytest.approx(runtime.one(film).probability, abs=1e-4)
    assert seen == {"MONOCHROME1", "MONOCHROME2"}


def test_no_name_identifier_date_uid_or_path_reaches_the_output(bundle, films, tmp_path) -> None:
    place = tmp_path / "CANARY^PATH"
    place.mkdir()
    planted = ["CANARY^PATH"]
    for number, film in enumerate(films[:3]):
        dataset = pydicom.dcmread(film)
        dataset.PatientName, dataset.PatientID, dataset.AccessionNumber = "CANARY^ANNA", f"CANARY{number}", "CANARYACC"
        dataset.PatientBirthDate, dataset.InstitutionName = "19010203", "CANARY CLINIC"
        dataset.ViewPosition = "CANARYVIEW" if number == 2 else dataset.ViewPosition
        planted += [dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.StudyDate, "19010203"]
        dataset.save_as(place / f"CANARY{number}.dcm")
    (place / "CANARY.txt").write_text("CANARY")
    predict(bundle, place, tmp_path / "out")
    for file in (path for path in (tmp_path / "out").rglob("*") if path.is_file()):
        text = file.read_text() + file.name
        assert not [word for word in planted if word in text], file.name


@pytest.mark.real
def test_no_canary_of_real_films_reaches_the_output_and_all_header_variants_are_read(
    real_data, trained, contents, tmp_path
) -> None:
    from medvit.bundle.build import export

    found = sorted((real_data / "labelled" / "cxr_pneumonia_dicom" / "dicom").rglob("IM*"))
    chosen = [found[n] for n in np.linspace(0, len(found) - 1, 20).astype(int)]
    assert b"CANARY" in chosen[0].read_bytes()
    loose = replace(contents, acceptance={"modality": ["CR", "DX"]})
    export(trained, loose, chosen[:2], tmp_path / "bundle")
    place = tmp_path / "input"
    place.mkdir()
    for number, film in enumerate(chosen):
        shutil.copy(film, place / f"{number:02d}")
    assert predict(tmp_path / "bundle", place, tmp_path / "out") == 0
    assert len(rows(tmp_path / "out")) == 20
    written = [path for folder in ("out", "bundle") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert not [path.name for path in written if b"CANARY" in path.read_bytes()]


def test_an_altered_bundle_an_empty_input_and_a_taken_output_are_refused(bundle, films, folder, tmp_path) -> None:
    broken = shutil.copytree(bundle, tmp_path / "broken")
    (broken / "medvit" / "thresholds.json").write_text("{}")
    with pytest.raises(BundleError, match="altered"):
        predict(broken, films[0], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no file"):
        predict(bundle, tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DataError, match="not empty"):
        predict(bundle, films[0], folder)
    assert not (tmp_path / "out").exists()


def test_a_machine_that_reads_images_differently_is_refused(bundle, films, tmp_path, monkeypatch) -> None:
    from medvit.preprocess import FilmPreprocess

    original = FilmPreprocess.normalise
    monkeypatch.setattr(FilmPreprocess, "normalise", lambda self, integers: original(self, integers) * 1.01)
    with pytest.raises(BundleError, match="does not reproduce the model"):
        predict(bundle, films[0], tmp_path / "out")


COMMAND = """
import sys
for name in ("torch", "monai", "mlflow", "pytorch_lightning", "torchmetrics", "transformers"):
    sys.modules[name] = None
from medvit.predict import main
main()
"""


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_the_command_runs_without_torch_monai_or_mlflow(bundle, folder, tmp_path) -> None:
    done = command(f"bundle={bundle}", f"input={folder}", f"out={tmp_path / 'out'}")
    assert done.returncode == 10, done.stderr
    why = "1 neither DICOM, a picture nor NIfTI; 1 not an image file"
    assert f"4 predicted, 2 rejected, 2 skipped ({why})" in done.stderr
    assert done.stderr.count("skipped") == 1
    assert len(rows(tmp_path / "out")) == 7


def test_the_command_refuses_a_bad_bundle_with_20_and_names_all_mistakes_at_once(bundle, films, tmp_path) -> None:
    broken = shutil.copytree(bundle, tmp_path / "broken")
    (broken / "LICENSE").write_text("mine now")
    assert command(f"bundle={broken}", "verify=true").returncode == 20
    done = command(f"bundle={tmp_path / 'no'}", f"input={tmp_path / 'nor'}", "out=x")
    assert done.returncode == 2
    assert "bundle: no such folder" in done.stderr
    assert "input: no such file" in done.stderr
