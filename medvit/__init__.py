"""medvit fine-tunes Vision Transformers on radiology images: from DICOM files to a tested, exportable model."""

from medvit.renamed import answer_earlier_imports

__version__ = "0.1.0"

answer_earlier_imports()
