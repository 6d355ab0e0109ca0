"""Results for the hospital: predictions as tables, JSON per study and DICOM structured reports."""
