#!/usr/bin/env bash
# A lesion contour in RTSTRUCT, drawn along pixel edges around 8 x 8 pixels of 1 mm, comes back from rt-utils as 81 pixels (+27 %);
# the contour rt-utils writes for a mask of the same 64 pixels runs through pixel centres and encloses 49 mm2 (-23 %).
# Its own round trip hides both: volumes, Dice and pointing-game hits differ as soon as another program drew or reads the contour.
# Output (2026-11-29, Python 3.11, Linux x86-64):
#   rt-utils 1.2.7
#   mask of 64 pixels of 1 mm2 -> contour of 49 mm2 -> mask of 64 pixels
#   contour of 64 mm2 along the pixel edges -> mask of 81 pixels
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q rt-utils==1.2.7 pydicom==3.0.2 numpy==2.4.6
env/bin/python - 2>&1 <<'EOF'
import importlib.metadata, os
import numpy
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from rt_utils import RTStructBuilder

os.mkdir("series")
study, series, frame = generate_uid(), generate_uid(), generate_uid()
for i in range(3):
    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = MRImageStorage
    d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID, d.Modality = study, series, frame, "MR"
    d.PatientID = d.PatientName = d.StudyID = d.AccessionNumber = d.StudyDate = d.StudyTime = d.PatientBirthDate = d.PatientSex = ""
    d.SeriesNumber, d.InstanceNumber, d.SliceThickness, d.PixelSpacing = 1, i + 1, 5, [1, 1]
    d.ImagePositionPatient, d.ImageOrientationPatient = [0, 0, 5.0 * i], [1, 0, 0, 0, 1, 0]
    d.Rows = d.Columns = 64
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation, d.SamplesPerPixel = 16, 12, 11, 0, 1
    d.PhotometricInterpretation, d.PixelData = "MONOCHROME2", bytes(64 * 64 * 2)
    d.save_as(f"series/{i}.dcm", enforce_file_format=True)

mask = numpy.zeros((64, 64, 3), bool)
mask[20:28, 20:28, 1] = True
rtstruct = RTStructBuilder.create_new(dicom_series_path="series")
rtstruct.add_roi(mask=mask, name="lesion")
contour = rtstruct.ds.ROIContourSequence[0].ContourSequence[0]
x, y = numpy.array(contour.ContourData, float).reshape(-1, 3)[:, :2].T
written = abs(numpy.dot(x, numpy.roll(y, 1)) - numpy.dot(y, numpy.roll(x, 1))) / 2
round_trip = rtstruct.get_roi_mask_by_name("lesion").sum()
contour.ContourData = [19.5, 19.5, 5, 27.5, 19.5, 5, 27.5, 27.5, 5, 19.5, 27.5, 5]  # the edges of the same 64 pixels
edges = rtstruct.get_roi_mask_by_name("lesion").sum()
print("rt-utils", importlib.metadata.version("rt-utils"))
print(f"mask of {mask.sum()} pixels of 1 mm2 -> contour of {written:.0f} mm2 -> mask of {round_trip} pixels")
print(f"contour of 64 mm2 along the pixel edges -> mask of {edges} pixels")
assert (written, round_trip, edges) == (49, 64, 81), "the behaviour has changed"
EOF
