"""DICOM objects to pixels and geometry, and the phantoms: the only package that imports pydicom and highdicom."""
