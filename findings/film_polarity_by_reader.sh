#!/usr/bin/env bash
# MONAI's LoadImage chooses its reader by which packages are installed. A MONOCHROME1 radiograph comes as a negative (white is air) from
# its PydicomReader and as a positive from its ITKReader, without a warning. The header handed along with the positive still says
# MONOCHROME1, so that code which inverts by it makes a negative again. Installing itk for another reason flips every such film.
# Output (2026-11-29, Python 3.11, Linux x86-64):
#   monai 1.6.1 pydicom 3.0.2
#   itk installed: False; bone 500, surroundings 4000; header: None
#   itk installed: True; bone 3595, surroundings 95; header: MONOCHROME1
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q monai==1.6.1 torch==2.13.0 numpy==2.4.6 pydicom==3.0.2
cat > film.py <<'EOF'
import importlib.util, sys
import monai, numpy
from monai.transforms import LoadImage
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

d = Dataset()
d.file_meta = FileMetaDataset()
d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = generate_uid()
d.StudyInstanceUID, d.SeriesInstanceUID, d.Modality = generate_uid(), generate_uid(), "DX"
d.Rows = d.Columns = 64
d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation, d.SamplesPerPixel = 16, 12, 11, 0, 1
d.PhotometricInterpretation = "MONOCHROME1"     # stored 0 is shown white
stored = numpy.full((64, 64), 4000, "<u2")      # dark surroundings
stored[16:48, 16:48] = 500                      # bright bone
d.PixelData = stored.tobytes()
d.save_as("film.dcm", enforce_file_format=True)
image = LoadImage(image_only=True)("film.dcm")
bone, surroundings = float(image[32, 32]), float(image[2, 2])
tag = image.meta.get("0028|0004") or image.meta.get("00280004", {}).get("Value")
print(f"itk installed: {importlib.util.find_spec('itk') is not None}; bone {bone:.0f}, surroundings {surroundings:.0f}; header: {tag}")
sys.exit((bone > surroundings) != (sys.argv[1] == "positive"))
EOF
env/bin/python -c "import monai, pydicom; print('monai', monai.__version__, 'pydicom', pydicom.__version__)" 2> /dev/null
env/bin/python -W ignore film.py negative
env/bin/pip install -q itk==5.4.7
env/bin/python -W ignore film.py positive
