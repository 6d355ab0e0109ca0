"""Objects of a maker's own class that hold no image stand in every PACS export: they are counted, and stop nothing."""

from __future__ import annotations

import logging

import bent
import kit
import pytest

from medvit.index import index

VENDORS = {  # SOP class UID, who writes it, its modality
    "1.3.12.2.1107.5.9.1": ("Siemens", "MR"),  # CSA non-image: spectroscopy, reports
    "1.3.46.670589.11.0.0.12.2": ("Philips", "MR"),  # MR series data
    "1.3.46.670589.11.0.0.12.4": ("Philips", "MR"),  # MR exam cards
    "1.2.840.113619.4.30": ("GE", "MR"),  # protocol
    "1.2.276.0.7230010.9": ("a maker", "OT"),
}


def test_private_objects_without_pixels_are_skipped_and_counted(tmp_path, monkeypatch, caplog) -> None:
    root = tmp_path / "export"
    root.mkdir()
    (root / "film.dcm").write_bytes(kit.film())
    for number, (uid, (_, modality)) in enumerate(VENDORS.items()):
        (root / f"{number}.dcm").write_bytes(bent.without_pixels(uid, modality))
    with caplog.at_level(logging.INFO):
        assert len(index(root, tmp_path / "out").table) == 1  # E-NOPIXELS stopped it before
    for maker, count in (("Siemens", 1), ("Philips", 2), ("GE", 1), ("a maker", 1)):
        assert f"skipped: {count} x private SOP class of {maker}, it holds no image" in caplog.text


@pytest.mark.parametrize("uid", ["1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.4"])
def test_an_object_of_an_image_class_without_pixels_still_stops_the_index(uid, tmp_path, monkeypatch) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "film.dcm").write_bytes(kit.film())
    (tmp_path / "export" / "torn.dcm").write_bytes(bent.without_pixels(uid, "MR"))
    with pytest.raises(ValueError, match="E-NOPIXELS"):
        index(tmp_path / "export", tmp_path / "out")
