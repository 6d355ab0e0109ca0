"""medvit fine-tunes Vision Transformers on radiology images: from DICOM files to a tested, exportable model."""

__version__ = "0.1.0"
