"""One DICOM file: header, facts and pixels. With series, phantom and clinical the only packages that import pydicom."""
