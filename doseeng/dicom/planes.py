"""The image plane tags that CT slices and dose grids share (DICOM PS3.3 C.7.6.2)."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from doseeng.dicom.tags import numbers
from doseeng.errors import DicomError, GeometryError
from doseeng.grid import ORTHONORMAL_TOLERANCE

Array = npt.NDArray[np.float64]

POSITION_TOLERANCE_MM: Final = 0.1
"""Exporters round positions to between 0.1 and 0.0001 mm; planes this close to where they belong are there."""


def position(dataset: Dataset, where: str) -> Array:
    """(3,) patient position in mm of the centre of the first pixel."""
    return _exactly(dataset, "ImagePositionPatient", 3, where)


def orientation(dataset: Dataset, where: str) -> Array:
    """(3, 3) with the unit vectors of increasing column, row and plane index as columns; right-handed.

    GeometryError when the direction cosines are not two perpendicular unit vectors.
    """
    cosines = _exactly(dataset, "ImageOrientationPatient", 6, where)
    row, column = cosines[:3], cosines[3:]
    length = float(np.linalg.norm(row))
    errors = length - 1, float(np.linalg.norm(column)) - 1, float(row @ column)
    if max(abs(e) for e in errors) > ORTHONORMAL_TOLERANCE:
        raise GeometryError(
            f"{where}: ImageOrientationPatient {cosines.tolist()} is not two perpendicular unit vectors; "
            "export the image without shear or scaling"
        )
    # The cosines carry about six decimals; make them exact so that far corners stay in place.
    row = row / length
    column = column - (column @ row) * row
    column /= np.linalg.norm(column)
    return np.column_stack([row, column, np.cross(row, column)])


def pixel_spacing_mm(dataset: Dataset, where: str) -> tuple[float, float]:
    """(x, y) distance between neighbouring columns and neighbouring rows; the tag stores them the other way round."""
    between_rows, between_columns = _exactly(dataset, "PixelSpacing", 2, where)
    if min(between_rows, between_columns) <= 0:
        raise DicomError(f"{where}: PixelSpacing must be positive, found {[between_rows, between_columns]}")
    return float(between_columns), float(between_rows)


def _exactly(dataset: Dataset, keyword: str, count: int, where: str) -> Array:
    values = numbers(dataset, keyword, where)
    if len(values) != count or not np.all(np.isfinite(values)):
        found = values.tolist() if len(values) else "nothing"
        raise DicomError(f"{where}: {keyword} must hold {count} finite numbers, found {found}; export the image again")
    return values
