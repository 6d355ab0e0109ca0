#!/usr/bin/env bash
# A DICOM segmentation of two lesions, written by highdicom (with or without the frames that hold no pixel) and read by SimpleITK: one
# stack of the frames of all segments, the distance of slices 1.0 mm instead of 5.0, lesions up to 40 mm from their place, no warning.
# A mask read this way has another number of slices, another slice distance and another place than the series it was drawn on.
# Output (2026-11-29, Python 3.11, Linux x86-64):
#   highdicom 0.28.2 SimpleITK 2.5.7 - series: 8 slices 5.0 mm apart, from 0 to 35 mm
#   omit_empty_frames=True: 3 slices 1.0 mm apart, lesions at [25.0, 26.0, 27.0] mm (truth: 5 and 25)
#   omit_empty_frames=False: 16 slices 1.0 mm apart, lesions at [37.0, 41.0, 45.0] mm (truth: 5 and 25)
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q highdicom==0.28.2 SimpleITK==2.5.7 pydicom==3.0.2 numpy==2.4.6
env/bin/python -W ignore - <<'EOF'
import highdicom, numpy, SimpleITK
from highdicom.seg import Segmentation, SegmentationTypeValues, SegmentAlgorithmTypeValues, SegmentDescription
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

study, series, frame, slices = generate_uid(), generate_uid(), generate_uid(), []
for i in range(8):
    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = MRImageStorage
    d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID, d.Modality = study, series, frame, "MR"
    d.PatientID = d.PatientName = d.StudyID = d.AccessionNumber = d.StudyDate = d.StudyTime = d.PatientBirthDate = d.PatientSex = ""
    d.SeriesNumber, d.InstanceNumber, d.SliceThickness, d.PixelSpacing = 1, i + 1, 5, [1, 1]
    d.ReferringPhysicianName = d.PositionReferenceIndicator = d.Manufacturer = ""
    d.ImagePositionPatient, d.ImageOrientationPatient = [0, 0, 5.0 * i], [1, 0, 0, 0, 1, 0]
    d.Rows = d.Columns = 32
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation, d.SamplesPerPixel = 16, 12, 11, 0, 1
    d.PhotometricInterpretation, d.PixelData = "MONOCHROME2", bytes(32 * 32 * 2)
    slices.append(d)

mask = numpy.zeros((8, 32, 32, 2), "uint8")
mask[[1, 5], 4:8, 4:8, 0] = 1      # the first lesion is seen in slices 1 and 5
mask[5, 20:24, 20:24, 1] = 1       # the second in slice 5
describe = lambda n: SegmentDescription(n, f"lesion {n}", codes.SCT.Organ, codes.SCT.Mass, SegmentAlgorithmTypeValues.MANUAL)
found = {}
print("highdicom", highdicom.__version__, "SimpleITK", SimpleITK.Version().VersionString(), "- series: 8 slices 5.0 mm apart, from 0 to 35 mm")
for omit in (True, False):
    Segmentation(slices, mask, SegmentationTypeValues.BINARY, [describe(1), describe(2)], generate_uid(), 1, generate_uid(), 1,
                 "maker", "model", "1", "1", omit_empty_frames=omit).save_as("lesions.dcm")
    image = SimpleITK.ReadImage("lesions.dcm")
    values = SimpleITK.GetArrayFromImage(image)
    heights = sorted({round(image.TransformIndexToPhysicalPoint((0, 0, int(k)))[2], 1) for k in numpy.nonzero(values.any((1, 2)))[0]})
    found[omit] = image.GetSize()[2], image.GetSpacing()[2], heights
    print(f"omit_empty_frames={omit}: {found[omit][0]} slices {found[omit][1]:.1f} mm apart, lesions at {heights} mm (truth: 5 and 25)")
assert found == {True: (3, 1.0, [25.0, 26.0, 27.0]), False: (16, 1.0, [37.0, 41.0, 45.0])}, "the behaviour has changed"
EOF
