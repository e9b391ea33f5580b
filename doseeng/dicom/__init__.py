"""DICOM in and out. The only package that imports pydicom; what belongs together is decided by UIDs."""
