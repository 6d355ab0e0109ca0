"""NIfTI that is no grey volume is refused in words, by the index and by the reader alike."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medvit.dataset import image_headers
from medvit.errors import DicomRefusal
from medvit.preprocess import FilmPreprocess
from medvit.preprocess.nifti import is_nifti, read_nifti

VALUES = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


def volume(values: np.ndarray = VALUES, version: int = 1) -> bytes:
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    return kind(values, np.eye(4)).to_bytes()


def changed(at: int, layout: str, value: object, version: int = 1) -> bytes:
    data = bytearray(volume(version=version))
    struct.pack_into(layout, data, at, value)
    return bytes(data)


RGB = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
ANALYZE = nibabel.AnalyzeImage(VALUES, np.eye(4)).header.binaryblock
CASES = {
    "E-IMAGE NIfTI with the unknown data type 77": changed(70, "<h", 77),
    "E-IMAGE NIfTI with the unknown data type 0": changed(12, "<h", 0, version=2),
    "E-COLOUR NIfTI with RGB voxels": volume(RGB),
    "E-COLOUR NIfTI with complex voxels": volume(VALUES.astype(np.complex64)),
    "E-COLOUR NIfTI with 1-bit voxels": changed(70, "<h", 1),
    "E-COLOUR NIfTI with 128-bit voxels": changed(70, "<h", 1536),
    "E-IMAGE the header of a pair": changed(344, "4s", b"ni1\0"),
    "E-IMAGE a header of Analyze 7.5": ANALYZE + b"\0" * 8,
    "E-IMAGE CIFTI": changed(504, "<i", 3006, version=2),
    "E-IMAGE NIfTI with 0 dimensions": changed(40, "<h", 0),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("words", CASES)
def test_what_is_no_grey_volume_is_named_by_index_and_reader(words: str, zipped: bool, tmp_path: Path) -> None:
    data = gzip.compress(CASES[words]) if zipped else CASES[words]
    (tmp_path / "a").write_bytes(data)
    assert image_headers.kind_of(data[:4096]) == "nifti"
    for read in (lambda: read_nifti(data), lambda: image_headers.read_facts(tmp_path / "a", data[:4096])):
        with pytest.raises(DicomRefusal) as caught:
            read()
        assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    "kind", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64]
)
@pytest.mark.parametrize("version", [1, 2])
def test_every_grey_type_of_both_versions_is_read(kind: type, version: int) -> None:
    image = (nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image)(VALUES.astype(kind), np.eye(4), dtype=kind)
    (found,) = read_nifti(image.to_bytes())
    assert np.array_equal(found.values, VALUES.T.astype(np.float32))


def test_a_volume_given_to_the_film_preprocessing_is_told_the_word_for_volumes() -> None:
    for data in (volume(), gzip.compress(volume())):
        with pytest.raises(DicomRefusal, match=r"a NIfTI volume.*preprocess=volume or preprocess=slices"):
            FilmPreprocess().read(data)


def test_dicom_and_text_are_no_nifti() -> None:
    assert not is_nifti(b"\0" * 128 + b"DICM" + b"\0" * 400)
    assert not is_nifti(b"col1,col2\n" * 100)
    assert not is_nifti(b"\x1f\x8b" + b"broken" * 100)


def test_two_placements_that_disagree_are_told_and_the_sform_counts() -> None:
    image = nibabel.Nifti1Image(VALUES, np.diag([1.0, 1.0, 3.0, 1.0]))
    image.set_qform(np.diag([1.0, 1.0, 1.0, 1.0]), code=1)
    image.set_sform(np.diag([1.0, 1.0, 3.0, 1.0]), code=1)
    (found,) = read_nifti(image.to_bytes())
    assert found.warnings == (
        "W-AFFINE sform and qform disagree by 10 mm; the sform is used, ITK and SimpleITK take the qform",
    )
    assert np.linalg.norm(found.affine[:3, 0]) == 3.0
    image.set_qform(np.diag([1.0, 1.0, 3.0, 1.0]), code=1)
    assert read_nifti(image.to_bytes())[0].warnings == ()
