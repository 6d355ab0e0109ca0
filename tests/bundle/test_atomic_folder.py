"""Two commands that write to one place, and what is left when one of them fails."""

from __future__ import annotations

import pytest

from medvit.bundle.atomic_folder import atomic_folder
from medvit.errors import BundleError


def test_of_two_exports_to_one_place_at_once_the_first_to_end_stands_whole_and_the_other_is_refused(tmp_path) -> None:
    out = tmp_path / "bundle"

    def write() -> None:
        with atomic_folder(out, BundleError) as slow:
            (slow / "a").write_text("slow")
            with atomic_folder(out, BundleError) as quick:
                (quick / "a").write_text("quick")
            assert (slow / "a").read_text() == "slow"

    with pytest.raises(BundleError, match="there already and not empty"):
        write()
    assert (out / "a").read_text() == "quick"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_an_empty_folder_is_filled_and_a_disk_that_cannot_be_written_is_told(tmp_path) -> None:
    (tmp_path / "there").mkdir()
    with atomic_folder(tmp_path / "there", BundleError) as part:
        (part / "a").write_text("x")
    assert (tmp_path / "there" / "a").read_text() == "x"
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot be written"), atomic_folder(tmp_path / "file" / "out", BundleError):
        pass
