"""Real MR series through the volume preprocessing: the same input as from the reference NIfTI of the series."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.errors import DicomRefusal
from medvit.preprocess import VolumePreprocess

PRE = VolumePreprocess(size=(24, 64, 64), orientation="axial")


@pytest.mark.real
def test_a_dicom_series_and_its_nifti_give_the_same_input(real_data):
    root = real_data / "mri_series"
    compared = 0
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        references = sorted([*folder.glob("reference/*.nii*"), *folder.glob("dcm2niix/*.nii*")])
        files = sorted(
            path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in {".dcm", ".ima", ""}
        )
        if len(references) != 1 or not files or len(files) > 120 or compared == 6:
            continue
        try:
            ours, theirs = PRE.prepare(files), PRE.prepare(references[0])
        except DicomRefusal:
            continue
        difference = np.abs(ours.pixels.astype(int) - theirs.pixels.astype(int))
        assert ours.placement.size == theirs.placement.size
        assert np.quantile(difference, 0.99) <= 0.02 * 65535, folder.name
        compared += 1
    assert compared >= 3
