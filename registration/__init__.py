"""Today's anatomy: rigid and deformable registration, images for dose, contour and dose transfer, quality gates.

Works on `doseeng` volumes and transforms; no DICOM, no dose engine, no goals, no reports.
"""
