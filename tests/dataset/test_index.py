import os
import shutil
import stat
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pydicom
import pytest

from medvit.dataset import indexing, manifest, pseudonym
from medvit.errors import ConfigError, DataError
from medvit.index import index
from medvit.phantom import dicom_objects, mr_series
from medvit.phantom import films as phantom


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films") / "set"
    phantom.write_films(folder, patients=8, seed=1)
    return folder


@pytest.fixture
def copy(films, tmp_path):
    return Path(shutil.copytree(films, tmp_path / "set"))


def labels(folder, **more):
    return {"csv": folder / "labels.csv", "target": ["finding"], **more}


def change(path, **values):
    dataset = pydicom.dcmread(path)
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def exclusions(folder):
    return pd.read_csv(folder / "exclusions.csv", dtype=str).fillna("")


def test_every_film_becomes_one_row_with_its_label(films, tmp_path):
    made = index(films / "dicom", tmp_path / "out", labels(films, keep=["site"]))
    truth = pd.read_csv(films / "labels.csv")
    assert len(made.table) == len(truth)
    assert (made.table["label.finding"] == "opacity").sum() == (truth["finding"] == "opacity").sum()
    by_path = truth.set_index(truth["path"].str.removeprefix("dicom/"))["finding"]
    assert all(by_path[row["files"][0]] == row["label.finding"] for _, row in made.table.iterrows())
    assert set(made.table["table.site"]) == set(truth["site"])


def test_a_manifest_reads_back_equal_and_a_changed_one_is_refused(films, tmp_path):
    made = index(films / "dicom", tmp_path / "out", labels(films))
    again = manifest.read(tmp_path / "out")
    pd.testing.assert_frame_equal(again.table, made.table)
    assert again.digest == made.digest
    assert again.facts(0).view in {"PA", "AP"}
    assert all(path.is_file() for path in again.paths(0))
    table = again.table.assign(**{"label.finding": again.table["label.finding"].iloc[::-1].tolist()})
    import pyarrow as pa
    from pyarrow import parquet

    stored = parquet.read_table(tmp_path / "out" / "manifest.parquet")
    changed = stored.set_column(
        stored.schema.get_field_index("label.finding"), "label.finding", pa.array(table["label.finding"])
    )
    parquet.write_table(changed.replace_schema_metadata(stored.schema.metadata), tmp_path / "out" / "manifest.parquet")
    with pytest.raises(DataError, match="digest"):
        manifest.read(tmp_path / "out")


def test_no_identifier_stands_in_anything_that_index_writes(films, tmp_path):
    index(films / "dicom", tmp_path / "out", labels(films))
    frame = manifest.read(tmp_path / "out").table.drop(columns=["files"])
    written = frame.to_csv().encode() + (tmp_path / "out" / "exclusions.csv").read_bytes()
    parts = pd.concat([pd.read_parquet(p) for p in (tmp_path / "out" / ".scan").glob("*.parquet")])
    written += parts.drop(columns=["name"]).to_csv().encode()
    for path in films.rglob("IM*"):
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        for value in (dataset.PatientID, dataset.AccessionNumber, dataset.SOPInstanceUID, dataset.StudyInstanceUID):
            assert str(value).encode() not in written
        assert str(dataset.StudyDate).encode() not in written


def test_pseudonyms_depend_on_the_key_and_the_key_file_is_private(films, tmp_path, monkeypatch):
    first = index(films / "dicom", tmp_path / "a")
    assert stat.S_IMODE(pseudonym.key_path().stat().st_mode) == 0o600
    again = index(films / "dicom", tmp_path / "b")
    assert list(first.table["uid"]) == list(again.table["uid"])
    monkeypatch.setenv("MEDVIT_PSEUDO_KEY_FILE", str(tmp_path / "other.key"))
    other = index(films / "dicom", tmp_path / "c")
    assert not set(other.table["patient"]) & set(first.table["patient"])
    pseudonym.key_path().chmod(0o644)
    with pytest.raises(DataError, match="0600"):
        pseudonym.load()


def test_films_of_one_patient_share_one_pseudonym(films, tmp_path):
    made = index(films / "dicom", tmp_path / "out")
    folders = made.table["files"].map(lambda names: names[0].split("/")[0])
    assert (made.table.groupby(folders.to_numpy())["patient"].nunique() == 1).all()
    assert made.table["patient"].nunique() == folders.nunique()


@pytest.mark.parametrize("spelt", ["{0}-", " {1}", "00{0}", "{1}."])
def test_a_patient_under_two_spellings_is_told_as_two_that_may_be_one(copy, tmp_path, caplog, spelt):
    caplog.set_level("INFO")
    first = min(copy.rglob("IM*"))
    for path in copy.rglob("IM*"):
        change(path, PatientID="P" + path.parent.parent.name)
    index(copy / "dicom", tmp_path / "a")
    assert "hardly" not in caplog.text
    assert "WARN" not in caplog.text
    name = "P" + first.parent.parent.name
    other = pydicom.dcmread(first)
    other.PatientID = spelt.format(name, name.lower())
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = f"{other.SOPInstanceUID}.1"
    other.save_as(first.with_name("IM9999"))
    made = index(copy / "dicom", tmp_path / "b")
    assert "WARN 2 patients have an identifier that differs from another's only by capitals" in caplog.text
    assert other.PatientID not in caplog.text
    assert "alike" not in made.table


def test_patients_of_a_label_table_under_two_spellings_are_told(films, tmp_path, caplog):
    caplog.set_level("INFO")
    table = pd.read_csv(films / "labels.csv", dtype=str)
    table["who"] = [f"p{n // 2}" if n % 2 else f"P{n // 2}" for n in range(len(table))]
    table.to_csv(tmp_path / "labels.csv", index=False)
    index(films / "dicom", tmp_path / "out", {"csv": tmp_path / "labels.csv", "target": ["finding"], "patient": "who"})
    assert f"WARN {len(table) // 2 * 2} patients have an identifier" in caplog.text


def test_the_same_patient_id_of_two_issuers_is_two_patients(copy, tmp_path):
    one = next(iter(sorted(copy.rglob("IM*"))))
    before = index(copy / "dicom", tmp_path / "a").table["patient"].nunique()
    change(one, IssuerOfPatientID="ELSEWHERE")
    siblings = len(list(one.parent.parent.rglob("IM*")))
    assert index(copy / "dicom", tmp_path / "b").table["patient"].nunique() == before + (siblings > 1)


def test_a_missing_patient_is_refused_unless_a_fallback_is_chosen(copy, tmp_path):
    for path in copy.rglob("IM*"):
        change(path, PatientID="")
    with pytest.raises(DataError, match="E-ID"):
        index(copy / "dicom", tmp_path / "a")
    assert not (tmp_path / "a" / "manifest.parquet").exists()
    made = index(copy / "dicom", tmp_path / "b", options={"patient_fallback": "study"})
    assert (made.table["patient"] == made.table["study"]).all()


def test_a_corrupt_file_stops_or_is_listed_as_the_user_says(copy, tmp_path):
    victim = min(copy.rglob("IM*"))
    victim.rename(victim.with_suffix(".dcm"))
    victim.with_suffix(".dcm").write_bytes(b"\0" * 400)
    with pytest.raises(DataError, match=r"1 x E-NOTDICOM[\s\S]*on_bad=skip"):
        index(copy / "dicom", tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    made = index(copy / "dicom", tmp_path / "out", on_bad="skip")
    assert len(made.table) == len(list(copy.rglob("IM*"))) - 1
    assert list(exclusions(tmp_path / "out")["code"]) == ["E-NOTDICOM"]


def test_refused_files_nameless_patients_and_an_unfit_table_are_told_in_one_message(copy, tmp_path):
    change(min(copy.rglob("IM*")), PatientID="")
    (copy / "dicom" / "broken.dcm").write_bytes(b"\0" * 400)
    table = pd.read_csv(copy / "labels.csv", dtype=str)
    table.iloc[:-1].to_csv(copy / "labels.csv", index=False)
    with pytest.raises(DataError) as caught:
        index(copy / "dicom", tmp_path / "out", labels(copy))
    told = str(caught.value)
    assert all(word in told for word in ("1 images have no label row", "1 x E-NOTDICOM", "1 x E-ID"))
    assert set(exclusions(tmp_path / "out")["code"]) == {"E-NOTDICOM", "E-ID"}
    with pytest.raises(DataError, match="1 images have no label row") as caught:
        index(copy / "dicom", tmp_path / "out", labels(copy), on_bad="skip")
    assert "E-NOTDICOM" not in str(caught.value)
    assert not (tmp_path / "out" / "manifest.parquet").exists()


def test_images_without_a_label_row_are_listed_when_they_are_dropped_and_can_be_found_when_refused(copy, tmp_path):
    table = pd.read_csv(copy / "labels.csv", dtype=str)
    table.iloc[:-2].to_csv(copy / "labels.csv", index=False)
    made = index(copy / "dicom", tmp_path / "drop", labels(copy, unmatched="drop"))
    left_out = exclusions(tmp_path / "drop")
    assert list(left_out["code"]) == ["I-LABEL"] * 2
    kept = index(copy / "dicom", tmp_path / "keep", labels(copy, unmatched="keep")).table
    assert set(left_out["uid"]) == set(kept["uid"]) - set(made.table["uid"])
    with pytest.raises(DataError, match=r"2 images have no label row.*with keep.*column files names the file of a uid"):
        index(copy / "dicom", tmp_path / "refuse", labels(copy))


def test_junk_is_skipped_and_links_never_lead_out(copy, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    films = sorted(copy.rglob("IM*"))
    shutil.copy(films[0], outside / "IM9")
    root = copy / "dicom"
    for name in ("Thumbs.db", "._IM0001", "DICOMDIR", "notes.txt"):
        (root / name).write_bytes(b"x")
    (root / "out").symlink_to(outside)
    (root / "file").symlink_to(outside / "IM9")
    (root / "loop").symlink_to(root)
    (root / "nothing").symlink_to(root / "gone")
    assert len(index(root, tmp_path / "out").table) == len(films)


def test_a_copy_counts_once_and_a_differing_twin_is_refused(copy, tmp_path):
    films = sorted(copy.rglob("IM*"))
    shutil.copy(films[0], films[0].with_name("IM0002"))
    assert len(index(copy / "dicom", tmp_path / "a").table) == len(films)
    change(films[0].with_name("IM0002"), SeriesDescription="other")
    with pytest.raises(DataError, match="E-DUPUID"):
        index(copy / "dicom", tmp_path / "b")


def test_file_names_of_any_bytes_are_read(copy, tmp_path):
    film = min(copy.rglob("IM*"))
    odd = os.fsencode(film.parent) + b"/\xff\xfe " + b"x" * 200
    film.rename(os.fsdecode(odd))
    made = index(copy / "dicom", tmp_path / "out")
    assert all(path.is_file() for row in range(len(made.table)) for path in manifest.read(tmp_path / "out").paths(row))


def test_a_second_index_reads_only_what_changed(copy, tmp_path, monkeypatch):
    from medvit.dataset import scan

    index(copy / "dicom", tmp_path / "out")
    read = []
    original = scan.read_header
    monkeypatch.setattr(scan, "read_header", lambda path: read.append(path) or original(path))
    first = index(copy / "dicom", tmp_path / "out")
    assert not read
    change(min(copy.rglob("IM*")), ViewPosition="LL")
    second = index(copy / "dicom", tmp_path / "out")
    assert read
    assert first.digest != second.digest
    assert "LL" in set(second.table["view"])


def test_a_stopped_scan_goes_on_where_it_was(films, tmp_path, monkeypatch):
    from medvit.dataset import scan

    mask, original, read = pseudonym.load(), scan.read_chunk, []

    def stop(root, items, mask, accept):
        if len(read) == 6:
            raise KeyboardInterrupt
        read.extend(items)
        return original(root, items, mask, accept)

    monkeypatch.setattr(scan, "read_chunk", stop)
    monkeypatch.setattr(scan, "_WAVE", 1)
    with pytest.raises(KeyboardInterrupt):
        scan.scan(films / "dicom", tmp_path / "parts", mask, chunk=3)
    assert len(list((tmp_path / "parts").iterdir())) == 2
    torn = next((tmp_path / "parts").iterdir())
    torn.write_bytes(torn.read_bytes()[:100])
    read.append("more")
    table, _ = scan.scan(films / "dicom", tmp_path / "parts", mask, chunk=3)
    assert len(read) == 7 + len(table) - 3
    whole, _ = scan.scan(films / "dicom", tmp_path / "other", mask)
    pd.testing.assert_frame_equal(table, whole)


def test_a_full_disk_is_said_and_leaves_no_half_part(films, tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(DataError, match="E-DISK"):
            index(films / "dicom", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_workers_started_in_another_folder_find_relative_files(films, tmp_path, monkeypatch):
    from medvit.dataset.scan import scan

    first, second = (Path(shutil.copytree(films, tmp_path / name / "set")).parent for name in ("first", "second"))
    mask = pseudonym.load()
    for folder in (first, second):
        monkeypatch.chdir(folder)
        table, _ = scan(Path("set/dicom"), Path("parts"), mask, workers=2, chunk=4)
        assert not table["code"].any()
        shutil.rmtree(folder / "set")


def test_the_callers_workers_and_small_chunks_give_the_same_manifest(films, tmp_path):
    from medvit.dataset.scan import scan

    mask = pseudonym.load()
    one, _ = scan(films, tmp_path / "a", mask, chunk=1000)
    with joblib.parallel_config(backend="threading"):  # the caller's backend is used, as on a cluster
        two, _ = scan(films, tmp_path / "b", mask, workers=2, chunk=3)
    pd.testing.assert_frame_equal(one, two)


@pytest.mark.parametrize("name", ["empty", "no_dicom", "missing"])
def test_a_folder_without_images_is_an_error_with_counts(name, tmp_path):
    root = tmp_path / name
    if name != "missing":
        root.mkdir()
    if name == "no_dicom":
        (root / "readme.txt").write_text("x")
        (root / "README").write_text("no image")
    with pytest.raises(DataError, match="data.root is not a folder" if name == "missing" else "E-EMPTY"):
        index(root, tmp_path / "out")
    assert name != "empty" or not (tmp_path / "out").exists()
    assert not (tmp_path / "out" / "manifest.parquet").exists()


def test_an_output_inside_the_images_is_refused(copy):
    with pytest.raises(ConfigError, match=r"inside data\.root"):
        index(copy, copy / "work")


def test_an_output_that_is_no_folder_is_a_disk_error(films, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="E-DISK"):
        index(films / "dicom", tmp_path / "file" / "out")


def test_a_full_disk_leaves_no_half_file(tmp_path):
    def fail(draft):
        draft.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"E-DISK manifest\.parquet cannot be written: No space left"):
        manifest.replace_file(tmp_path / "manifest.parquet", fail)
    assert not list(tmp_path.iterdir())


def test_unknown_options_are_all_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"data.accept.vews .*views[\s\S]*data.kin .*kind"):
        indexing.Options.of({"kin": "film", "accept": {"vews": ["PA"]}}, 1)


def test_accepted_views_are_kept_and_others_listed(films, tmp_path):
    made = index(films / "dicom", tmp_path / "out", options={"accept": {"views": ["PA"]}}, on_bad="skip")
    assert set(made.table["view"]) == {"PA"}
    assert set(exclusions(tmp_path / "out")["code"]) == {"E-ACCEPT"}


def test_age_is_capped_and_the_study_keeps_its_year_only(copy, tmp_path):
    for path in copy.rglob("IM*"):
        change(path, PatientAge="097Y", StudyDate="20190731")
    table = index(copy / "dicom", tmp_path / "out").table
    assert set(table["age_years"]) == {90.0}
    assert set(table["table.study_year"]) == {2019}


def test_series_become_one_row_each_in_slice_order(tmp_path):
    truth = mr_series.write_volumes(tmp_path / "set", patients=1, seed=2)
    made = index(tmp_path / "set" / "dicom", tmp_path / "out")
    assert len(made.table) == len(truth)
    assert set(made.table["kind"]) == {"volume"}
    for row in range(3):
        positions = [pydicom.dcmread(path, stop_before_pixels=True).InstanceNumber for path in made.paths(row)]
        assert positions == list(range(1, len(positions) + 1))
    shutil.rmtree(tmp_path / "out")
    first = min((tmp_path / "set" / "dicom").rglob("IM0003"))
    change(first, Rows=0)
    made = index(tmp_path / "set" / "dicom", tmp_path / "out", on_bad="skip")
    assert len(made.table) == len(truth) - 1


def test_pictures_take_their_patient_from_the_table(tmp_path):
    import cv2

    root = tmp_path / "images" / "001"
    root.mkdir(parents=True)
    names = [f"{number:08d}_000.png" for number in range(6)]
    for number, name in enumerate(names):
        cv2.imwrite(str(root / name), np.random.default_rng(number).integers(0, 255, (40, 50), np.uint8))
    table = pd.DataFrame(
        {
            "Image Index": names,
            "Finding Labels": ["Mass|Nodule", "No Finding", "Mass", "No Finding", "Nodule", "Mass"],
            "Patient ID": [1, 1, 2, 2, 3, 3],
        }
    )
    table.to_csv(tmp_path / "nih.csv", index=False)
    spec = {"csv": tmp_path / "nih.csv", "on": "path", "column": "Image Index", "target": ["Finding Labels"]}
    with pytest.raises(DataError, match="E-ID"):
        index(root.parent, tmp_path / "a", spec)
    made = index(root.parent, tmp_path / "out", {**spec, "separator": "|", "patient": "Patient ID"})
    assert made.table["patient"].nunique() == 3
    by_name = made.table.set_index(made.table["files"].map(lambda names: Path(names[0]).name))
    assert list(by_name.loc[names, "label.Mass"]) == [1, 0, 1, 0, 0, 1]
    assert set(made.table["rows"]) == {40}
    assert set(made.table["columns"]) == {50}


def test_nifti_files_are_volumes(tmp_path):
    import nibabel

    (tmp_path / "root").mkdir()
    for name in ("a.nii.gz", "b.nii"):
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4)), tmp_path / "root" / name)
    made = index(tmp_path / "root", tmp_path / "out", options={"patient_fallback": "file"})
    assert list(made.table["kind"]) == ["volume"] * 2
    assert set(zip(made.table["columns"], made.table["rows"], made.table["frames"], strict=True)) == {(4, 5, 6)}


def test_jpeg_sizes_are_read_past_a_long_first_segment(tmp_path):
    import cv2

    from medvit.dataset import image_headers

    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), np.zeros((33, 77), np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1\xff\xff" + b"\0" * 65533 + data[2:])
    facts = image_headers.read_facts(path, path.read_bytes()[: image_headers.HEAD])
    assert (facts.rows, facts.columns) == (33, 77)


def test_uids_of_the_phantom_are_stable_and_short():
    assert dicom_objects.uid(1, "a") == dicom_objects.uid(1, "a") != dicom_objects.uid(2, "a")
    assert len(dicom_objects.uid(1, "a")) <= 64


@pytest.mark.real
def test_the_real_chest_set_joins_completely(real_data, tmp_path):
    folder = real_data / "labelled" / "cxr_pneumonia_dicom"
    made = index(folder / "dicom", tmp_path / "out", labels(folder, keep=["cause"]))
    assert len(made.table) == 2296
    assert made.table["patient"].nunique() == 1219
    assert made.table["label.finding"].value_counts().to_dict() == {"pneumonia": 1675, "normal": 621}
    names = {"manifest.parquet", "exclusions.csv"}
    assert b"CANARY" not in b"".join((tmp_path / "out" / name).read_bytes() for name in names)


def test_colour_nifti_is_refused(tmp_path):
    import nibabel

    (tmp_path / "root").mkdir()
    colour = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colour, np.eye(4)), tmp_path / "root" / "a.nii.gz")
    with pytest.raises(DataError, match=r"E-COLOUR\s+NIfTI with RGB"):
        index(tmp_path / "root", tmp_path / "out", options={"patient_fallback": "file"})


def test_a_set_of_which_everything_is_left_out_is_refused_and_says_where_the_reasons_are(tmp_path: Path) -> None:
    """It was an internal error: a table without a row has no columns."""
    phantom.write_films(tmp_path / "raw", 1, 1)
    with pytest.raises(DataError, match=r"no image is left: 3 objects are refused, see exclusions.csv"):
        index(tmp_path / "raw" / "dicom", tmp_path / "out", options={"accept": {"min_side": 4000}}, on_bad="skip")
    assert (tmp_path / "out" / "exclusions.csv").read_text().count(",E-") == 3


def test_every_volume_of_a_series_reads_by_its_row_alone(tmp_path):
    from medvit.preprocess.volume import VolumePreprocess

    root = tmp_path / "set" / "dicom"
    mr_series.write_volumes(tmp_path / "set", patients=1, seed=4)
    for sequence in ("T2", "FLAIR"):
        shutil.rmtree(root / "BRAIN-00000" / sequence)
    series = sorted((root / "BRAIN-00000" / "T1").iterdir())
    for path in series:
        second = pydicom.dcmread(path)
        second.EchoTime, second.EchoNumbers = "40", "2"
        second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = f"{second.SOPInstanceUID[:-2]}.7"
        second.PixelData = (second.pixel_array // 2).tobytes()
        second.save_as(path.with_name(path.name + "b"))
        change(path, EchoNumbers="1")
    made = index(root, tmp_path / "out")
    assert len(made.table) == 2
    assert made.table["uid"].nunique() == 2
    assert made.table["table.volume"].nunique() == 2
    reader = VolumePreprocess(size=(8, 16, 16))
    means = [reader.read(made.paths(row), made.table["volume_key"].iloc[row]).values.mean() for row in range(2)]
    assert max(means) / min(means) == pytest.approx(2.0, rel=0.05)
    assert {len(files) for files in made.table["files"]} == {len(series)}


def test_a_four_dimensional_nifti_is_one_row_per_step(tmp_path):
    import nibabel

    (tmp_path / "root").mkdir()
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6, 3), np.float32), np.eye(4)), tmp_path / "root" / "a.nii.gz")
    made = index(tmp_path / "root", tmp_path / "out", options={"patient_fallback": "file"})
    assert sorted(made.table["volume_key"]) == ["t=0", "t=1", "t=2"]
    assert made.table["patient"].nunique() == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["data.root=gone", "data.folder=out"], "data.root is not a folder"),
        (["data.root=.", "data.folder=out", "labels.cvs=x.csv"], "labels.csv"),
        (["data.root=.", "data.folder=out", "labels.csv=gone.csv"], "labels.csv is not a file"),
    ],
)
def test_mistakes_on_the_command_line_end_with_a_message_and_a_code(arguments, expected, tmp_path):
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "medvit.index", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
