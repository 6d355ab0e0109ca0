import cv2
import numpy as np
import pandas as pd
import pytest

from medvit.dataset import manifest
from medvit.dicom.read import read_film
from medvit.index import index
from medvit.phantom import films
from medvit.quality import findings
from medvit.quality import measures as quality_measure
from medvit.quality import page as quality


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Display values of films of 30 phantom patients, uint8; other seeds draw chests too alike or ribs like text."""
    folder = tmp_path_factory.mktemp("films") / "set"
    first = films.write_films(folder, patients=30, seed=25).drop_duplicates("PatientID")
    return [np.round(read_film(folder / path).display() * 255).astype(np.uint8) for path in first["path"]]


@pytest.fixture
def judged(pictures, tmp_path):
    """Return what judges the pictures after `plant` has changed some of them."""

    def judge(plant=lambda images: None, labels=None, patients=None, sites=None):
        images = [image.copy() for image in pictures]
        plant(images)
        (tmp_path / "root").mkdir()
        for number, image in enumerate(images):
            assert cv2.imwrite(str(tmp_path / "root" / f"{number:03d}.png"), image)
        table = pd.DataFrame({"path": [f"{number:03d}.png" for number in range(len(images))]})
        table["y"] = labels or [number % 2 for number in range(len(images))]
        table["patient"] = patients or list(range(len(images)))
        table["site"] = sites or [("a", "b", "c")[number % 3] for number in range(len(images))]
        table.to_csv(tmp_path / "t.csv", index=False)
        spec = {"csv": tmp_path / "t.csv", "on": "path", "target": ["y"], "patient": "patient", "keep": ["site"]}
        made = index(tmp_path / "root", tmp_path / "out", spec)
        found = quality.write(made, tmp_path / "out", pd.DataFrame(columns=["code", "found"]), {})
        names = made.table["files"].map(lambda files: int(files[0][:3]))
        return {one.name: (one, {int(names.iloc[row]) for row in one.rows}) for one in found}

    return judge


def test_a_clean_set_passes_everywhere_but_in_what_pictures_cannot_know(judged):
    found = judged()
    assert {name for name, (one, _) in found.items() if one.level != "pass"} == {"Header facts"}


def test_negatives_and_turned_films_are_found_and_no_others(judged):
    def plant(images):
        images[3] = 255 - images[3]
        images[7] = np.ascontiguousarray(np.rot90(images[7]))
        images[9] = np.ascontiguousarray(images[9][::-1, ::-1])

    found = judged(plant)
    assert found["Polarity"][1] == {3}
    assert found["Orientation"][1] == {7, 9}


def test_black_and_saturated_images_are_found(judged):
    def plant(images):
        images[2][:, 12:] = 0
        images[5][40:] = 255

    assert {2, 5} <= judged(plant)["Exposure"][1]


def test_a_line_of_text_is_found_and_a_side_marker_is_not(judged):
    def plant(images):
        cv2.putText(images[4], "SMITH 1950", (8, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 255, 2)
        cv2.putText(images[8], "L", (200, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 255, 2)

    assert judged(plant)["Text in the pixels"][1] == {4}


def test_copies_across_patients_fail_and_within_one_patient_warn(judged, pictures):
    def plant(images):
        images[1] = images[0].copy()
        images[3] = np.clip(images[2].astype(float) * 0.9 + 5, 0, 255).astype(np.uint8)

    patients = list(range(30))
    found = judged(plant, patients=patients, labels=[0, 0, 1, 1] + [0, 1] * 13)
    assert found["Exact duplicates"][0].level == "fail"
    assert found["Exact duplicates"][1] == {0, 1}
    assert found["Near duplicates"][0].level == "warn"
    assert found["Near duplicates"][1] == {2, 3}


def test_too_many_images_for_near_duplicates_are_said(judged, monkeypatch):
    monkeypatch.setattr(findings, "NEAR_UP_TO", 29)
    found = judged()["Near duplicates"][0]
    assert found.level == "warn"
    assert "not sought: 30 images" in found.text


def test_a_film_cut_short_is_named_by_the_report_and_its_file_is_found(tmp_path, caplog):
    films.write_films(tmp_path / "set", patients=6, seed=1)
    torn = min((tmp_path / "set").rglob("IM*"))
    torn.write_bytes(torn.read_bytes()[:-3000])
    caplog.set_level("INFO")
    made = index(tmp_path / "set" / "dicom", tmp_path / "out", on_bad="skip", report=True).table
    listed = pd.read_csv(tmp_path / "out" / "undecodable.csv")
    assert list(listed["code"].str[:2]) == ["E-"]
    row = made.set_index("uid").loc[listed["uid"][0]]
    assert tmp_path / "set" / "dicom" / str(row["files"][0]) == torn
    assert f"1 of {len(made)} images do not decode ({listed['code'][0]} 1): {listed['uid'][0][:12]}" in caplog.text
    assert "undecodable.csv lists them, column files of manifest.parquet names their files" in caplog.text
    torn.unlink()
    index(tmp_path / "set" / "dicom", tmp_path / "out", report=True)
    assert not (tmp_path / "out" / "undecodable.csv").exists()


def test_films_left_out_as_asked_are_no_failure_of_reading(judged, tmp_path):
    judged()
    made = manifest.read(tmp_path / "out")
    left_out = pd.DataFrame({"code": ["I-LABEL"] * 30, "found": ["no row of the label table"] * 30})
    found = quality.write(made, tmp_path / "out", left_out, {})
    assert next(one.level for one in found if one.name == "Readable") == "pass"


def test_a_label_that_the_site_gives_away_fails(judged):
    found = judged(sites=["north" if number % 2 else "south" for number in range(30)])
    assert found["Mix of y"][0].level == "fail"
    assert "site" in found["Mix of y"][0].text


def test_the_page_is_self_contained_and_hides_text_that_could_be_a_name(judged, tmp_path):
    def plant(images):
        cv2.putText(images[4], "SMITH 1950", (8, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 255, 2)

    judged(plant)
    page = (tmp_path / "out" / "quality.html").read_text()
    assert "http" not in page
    assert "<script" not in page
    assert ".png" not in page
    assert page.count("data:image/jpeg;base64,") >= 30


def test_coarse_thumbnails_hold_no_letter():
    image = np.zeros((256, 256), np.uint8)
    cv2.putText(image, "SMITH 1950", (8, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 255, 2)
    assert quality_measure.text_suspected(image)
    assert quality_measure.letters(quality._fit(image, quality._COARSE)) == 0


def test_small_white_text_on_bright_ground_is_suspected_and_the_ground_is_not():
    ground = np.full((200, 300), 215, np.uint8)
    image = cv2.putText(ground.copy(), "LI WEI 2001", (20, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.45, 255, 1, cv2.LINE_AA)
    assert quality_measure.text_suspected(image)
    assert quality_measure.text_suspected(255 - image)
    assert not quality_measure.text_suspected(ground)


def test_an_undecodable_image_is_a_failed_finding_not_a_crash(pictures, tmp_path):
    (tmp_path / "root").mkdir()
    for number, image in enumerate(pictures[:3]):
        cv2.imwrite(str(tmp_path / "root" / f"{number}.png"), image)
    torn = tmp_path / "root" / "2.png"
    whole = torn.read_bytes()
    torn.write_bytes(whole[:300] + b"\0" * 100 + whole[400:])
    made = index(tmp_path / "root", tmp_path / "out", options={"patient_fallback": "file"}, report=True)
    measures = quality_measure.measure(made).table
    assert sorted(measures["code"]) == ["", "", "E-IMAGE"]
    assert "1 of 3 images do not decode" in (tmp_path / "out" / "quality.html").read_text()


def test_cramers_v_is_zero_for_independent_and_one_for_equal_columns():
    rng = np.random.default_rng(1)
    one = pd.Series(rng.integers(0, 3, 3000))
    assert findings.cramers_v(one, pd.Series(rng.integers(0, 4, 3000))) < 0.05
    assert findings.cramers_v(one, one.map({0: "x", 1: "y", 2: "z"})) == pytest.approx(1.0, abs=1e-6)
