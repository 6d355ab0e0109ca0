#!/usr/bin/env bash
# The millimetres of a radiograph in SimpleITK: a film with a calibrated Pixel Spacing of 0.20 mm beside an Imager Pixel Spacing of
# 0.25 mm (at the detector) has 0.25; a film with Pixel Spacing alone has 1.00. No warning. A Pixel Spacing marked as calibrated is the
# one to measure with (DICOM PS3.3 10.7.1): a cardiac width or a 5 mm nodule is wrong by a quarter, or by five times.
# Output (2026-11-29, Python 3.11, Linux x86-64):
#   SimpleITK 2.5.7 pydicom 3.0.2
#   Digital X-Ray Image Storage - For Presentation: calibrated 0.20 beside detector 0.25 -> 0.25 mm; calibrated 0.20 alone -> 1.00 mm
#   Computed Radiography Image Storage: calibrated 0.20 beside detector 0.25 -> 0.25 mm; calibrated 0.20 alone -> 1.00 mm
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q SimpleITK==2.5.7 pydicom==3.0.2 numpy==2.4.6
env/bin/python - <<'EOF'
import pydicom, SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

def spacing(sop_class, **elements):
    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = sop_class
    d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    d.Modality = "CR" if sop_class == ComputedRadiographyImageStorage else "DX"
    d.Rows = d.Columns = 64
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation, d.SamplesPerPixel = 16, 12, 11, 0, 1
    d.PhotometricInterpretation, d.PixelData = "MONOCHROME2", bytes(64 * 64 * 2)
    for name, value in elements.items():
        setattr(d, name, value)
    d.save_as("film.dcm", enforce_file_format=True)
    return SimpleITK.ReadImage("film.dcm").GetSpacing()[0]

print("SimpleITK", SimpleITK.Version().VersionString(), "pydicom", pydicom.__version__)
for sop_class in (DigitalXRayImageStorageForPresentation, ComputedRadiographyImageStorage):
    both = spacing(sop_class, PixelSpacing=[0.2, 0.2], PixelSpacingCalibrationType="FIDUCIAL", ImagerPixelSpacing=[0.25, 0.25])
    alone = spacing(sop_class, PixelSpacing=[0.2, 0.2], PixelSpacingCalibrationType="FIDUCIAL")
    print(f"{sop_class.name}: calibrated 0.20 beside detector 0.25 -> {both:.2f} mm; calibrated 0.20 alone -> {alone:.2f} mm")
    assert (both, alone) == (0.25, 1.0), "the behaviour has changed"
EOF
