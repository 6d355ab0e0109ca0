from __future__ import annotations

import json
import pickletools
import shutil
import subprocess
from dataclasses import replace

import pytest

from medvit.bundle import contents as bundles
from medvit.bundle.build import export
from medvit.errors import BundleError


@pytest.fixture
def copy(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "copy")


def test_a_bundle_reads_back_as_it_was_written(bundle, contents) -> None:
    opened = bundles.read(bundle)
    assert opened.thresholds == contents.thresholds
    assert opened.preprocess == contents.preprocess
    assert opened.manifest["provenance"]["run_id"] == "0" * 32
    assert not opened.draft


def test_the_sums_are_those_of_sha256sum(bundle) -> None:
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=bundle, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_one_flipped_bit_in_any_file_is_found(copy) -> None:
    for file in sorted(path for path in copy.rglob("*") if path.is_file()):
        good = file.read_bytes()
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 1
        file.write_bytes(bytes(bad))
        with pytest.raises(BundleError, match="not what was exported"):
            bundles.verify(copy)
        file.write_bytes(good)
    bundles.verify(copy)


def test_missing_added_and_linked_files_are_all_named_at_once(copy, tmp_path) -> None:
    (copy / "LICENSE").unlink()
    (copy / "models" / "extra.pt").write_bytes(b"x")
    (copy / "docs" / "link.md").symlink_to(tmp_path)
    with pytest.raises(BundleError) as told:
        bundles.verify(copy)
    for part in (
        "LICENSE is missing",
        "models/extra.pt was added",
        "of a kind no bundle has",
        "docs/link.md is a link",
    ):
        assert part in str(told.value)
    assert told.value.exit_code == 20


def test_sums_that_are_no_text_and_a_second_file_of_that_name_are_refused(copy) -> None:
    (copy / "models" / bundles.SUMS).write_text("")
    with pytest.raises(BundleError, match=f"models/{bundles.SUMS} was added"):
        bundles.verify(copy)
    (copy / bundles.SUMS).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match="cannot be read"):
        bundles.verify(copy)


def test_a_folder_that_is_no_bundle_says_so(tmp_path) -> None:
    with pytest.raises(BundleError, match="no bundle"):
        bundles.read(tmp_path)


def test_another_format_is_refused(copy) -> None:
    file = copy / "medvit" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99}))
    bundles.seal(copy)
    with pytest.raises(BundleError, match="format 99"):
        bundles.read(copy)


def test_no_file_is_a_pickle(bundle) -> None:
    for file in (path for path in bundle.rglob("*") if path.is_file()):
        data = file.read_bytes()
        assert not data.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")), file.name
        with pytest.raises(Exception):  # noqa: B017, PT011 (any failure to read it as a pickle)
            list(pickletools.genops(data))


def test_the_builders_folders_stand_in_no_file(bundle) -> None:
    everything = b"".join(path.read_bytes() for path in bundle.rglob("*") if path.is_file())
    for place in (bundles.__file__.rsplit("/medvit/", 1)[0], "site-packages", str(bundle.parent)):
        assert place.encode() not in everything, place


def test_the_metadata_has_every_key_monai_asks_for(bundle) -> None:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    asked = "schema version monai_version pytorch_version numpy_version required_packages_version task description"
    assert {*asked.split(), "authors", "copyright", "network_data_format"} <= metadata.keys()
    tensor = {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data", "channel_def"}
    assert tensor <= metadata["network_data_format"]["inputs"]["image"].keys()
    assert "$" not in json.dumps({k: v for k, v in metadata.items() if k != "schema"})


def test_without_thresholds_or_calibration_only_a_draft_leaves(trained, contents, films, tmp_path) -> None:
    bare = replace(contents, thresholds={}, calibration={}, acceptance={})
    with pytest.raises(BundleError) as told:
        export(trained, bare, films, tmp_path / "out")
    for part in ("calibration: none for 'opacity'", "thresholds: none for 'opacity'", "acceptance", "draft=true"):
        assert part in str(told.value)
    assert list(tmp_path.iterdir()) == []
    export(trained, bare, films[:2], tmp_path / "out", draft=True)
    assert bundles.read(tmp_path / "out").draft


def test_a_taken_folder_is_left_alone(trained, contents, films, tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(BundleError, match="not empty"):
        export(trained, contents, films, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
