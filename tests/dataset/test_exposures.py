"""Films of one exposure under several objects: one is taken, the others are listed with the reason and stop nothing."""

from __future__ import annotations

import kit
import numpy as np
import pandas as pd
import pytest
from kit import PHANTOM
from pydicom.dataset import Dataset

from medvit.dicom.read import read_film
from medvit.errors import DataError
from medvit.index import index

PROCESSING, CAPTURE = "1.2.840.10008.5.1.4.1.1.1.1.1", "1.2.840.10008.5.1.4.1.1.7"
RAW = 4095 - PHANTOM  # as detectors give it: dark where the film for presentation is bright


def source(uid: str) -> list[Dataset]:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = kit.DX, uid
    return [item]


def write(tmp_path, **films: dict) -> None:
    (tmp_path / "export").mkdir()
    for number, (name, elements) in enumerate(films.items(), 1):
        stored = elements.pop("stored", PHANTOM)
        elements.setdefault("SOPInstanceUID", f"1.2.3.{number}")
        (tmp_path / "export" / f"{name}.dcm").write_bytes(kit.film(stored, **elements))


def taken(tmp_path, **accept: object) -> tuple[list[str], dict[str, str]]:
    made = index(tmp_path / "export", tmp_path / "out", options={"accept": accept})
    listed = pd.read_csv(tmp_path / "out" / "exclusions.csv")
    return sorted(names[0] for names in made.table["files"]), dict(zip(listed["found"], listed["code"], strict=True))


def presentation(**more: object) -> dict:
    return {"PresentationIntentType": "FOR PRESENTATION", "ImageType": ["DERIVED", "PRIMARY"], **more}


def processing(**more: object) -> dict:
    return {"PresentationIntentType": "FOR PROCESSING", "SOPClassUID": PROCESSING, "stored": RAW, **more}


def test_of_an_exposure_the_film_for_presentation_is_taken_and_that_for_processing_listed(tmp_path) -> None:
    write(tmp_path, raw=processing(), shown=presentation(SourceImageSequence=source("1.2.3.1")))
    films = [read_film(path).display() for path in sorted((tmp_path / "export").iterdir())]
    assert np.corrcoef(films[0].ravel(), films[1].ravel())[0, 1] < -0.99  # why both under one label would be wrong
    names, listed = taken(tmp_path)
    assert names == ["shown.dcm"]  # both were films before
    assert listed == {"for processing, of the same exposure as a film that is taken": "I-EXPOSURE"}


def test_view_and_study_tie_two_intents_where_nothing_refers_to_the_other(tmp_path) -> None:
    write(tmp_path, raw=processing(SeriesInstanceUID="1.2.9"), shown=presentation())
    assert taken(tmp_path)[0] == ["shown.dcm"]


def test_the_sop_class_says_the_intent_where_the_element_is_missing(tmp_path) -> None:
    write(tmp_path, raw=processing(PresentationIntentType=""), shown=presentation())
    assert taken(tmp_path)[0] == ["shown.dcm"]


def test_the_policy_takes_that_for_processing_or_both(tmp_path) -> None:
    write(tmp_path, raw=processing(), shown=presentation())
    assert taken(tmp_path, exposure="processing")[0] == ["raw.dcm"]
    assert taken(tmp_path, exposure="all") == (["raw.dcm", "shown.dcm"], {})


def test_a_set_of_one_intent_alone_is_taken_whole(tmp_path) -> None:
    write(tmp_path, one=processing(), two=processing(ViewPosition="LL"))
    assert taken(tmp_path) == (["one.dcm", "two.dcm"], {})


def test_a_film_for_processing_without_its_counterpart_stops_the_index_by_name(tmp_path) -> None:
    write(tmp_path, shown=presentation(), raw=processing(StudyInstanceUID="1.2.7"))
    with pytest.raises(DataError, match="E-INTENT"):
        taken(tmp_path)


def test_copies_that_were_made_from_a_film_are_listed_and_another_view_is_kept(tmp_path) -> None:
    write(
        tmp_path,
        film=presentation(),
        enhanced=presentation(SourceImageSequence=source("1.2.3.1")),
        screenshot={"SOPClassUID": CAPTURE, "ImageType": ["DERIVED", "SECONDARY"]},
        localizer={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        lateral=presentation(ViewPosition="LL"),
    )
    names, listed = taken(tmp_path)
    assert names == ["film.dcm", "lateral.dcm"]
    assert listed == {
        f"{what} a film that is taken": "I-EXPOSURE"
        for what in ("derived from", "a secondary capture of", "a localizer of")
    }


def test_one_irradiation_event_is_one_exposure(tmp_path) -> None:
    event = {"IrradiationEventUID": "1.2.55"}
    write(tmp_path, one=presentation(**event), two=presentation(SourceImageSequence=source("1.2.99"), **event))
    assert taken(tmp_path)[0] == ["one.dcm"]


def test_a_set_of_secondary_captures_alone_is_taken_whole(tmp_path) -> None:
    captures = {"SOPClassUID": CAPTURE, "ImageType": ["DERIVED", "SECONDARY"]}
    write(tmp_path, one=dict(captures), two=dict(captures))
    assert taken(tmp_path) == (["one.dcm", "two.dcm"], {})
