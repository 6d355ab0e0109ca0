"""Stored pixels of one DICOM file: codestreams, decoders, bit depth; for every transfer syntax medvit reads."""
