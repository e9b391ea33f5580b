"""Grids, volumes and the frames between them; the only module that converts coordinates.

Frames (all right-handed, millimetres):

* index      (i, j, k) along x, y, z of `Volume.values[k, j, i]`, fractional, 0 = centre of the first voxel
* patient    DICOM patient coordinates, LPS: +x left, +y posterior, +z superior, whatever the patient position
* fixed      IEC 61217 fixed system: origin at the isocentre, +X to the right of a viewer facing the gantry,
             +Y towards the gantry, +Z up
* gantry     IEC 61217 gantry system: +Z from the isocentre to the source, +Y = fixed +Y
* collimator IEC 61217 beam limiting device system: the gantry system turned about its +Z

The beam's-eye frustum on top of the gantry frame lives in `beamseye.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng._kernels.interp import trilinear_affine
from doseeng.errors import GeometryError

Array = npt.NDArray[np.float64]

ORTHONORMAL_TOLERANCE: Final = 1e-4
"""DICOM direction cosines carry about six decimals; anything further off is a sheared or scaled grid."""

SAME_GRID_TOLERANCE_MM: Final = 1e-3
"""Two grids whose voxel centres agree this well are the same grid; DICOM decimal strings round at about 1e-4 mm."""

# Rows: where the patient's left, posterior and superior directions point in the IEC 61217 fixed system (couch at 0).
# The letters read: Head/Feet First (towards the gantry), Supine / Prone / Decubitus Left / Decubitus Right, where the
# named side of a decubitus patient is down (DICOM PS3.3 C.7.3.1.1.2).
_PATIENT_AXES_IN_FIXED: Final[dict[str, tuple[tuple[int, int, int], ...]]] = {
    "HFS": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "HFP": ((-1, 0, 0), (0, 0, 1), (0, 1, 0)),
    "HFDL": ((0, 0, -1), (-1, 0, 0), (0, 1, 0)),
    "HFDR": ((0, 0, 1), (1, 0, 0), (0, 1, 0)),
    "FFS": ((-1, 0, 0), (0, 0, -1), (0, -1, 0)),
    "FFP": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
    "FFDL": ((0, 0, -1), (1, 0, 0), (0, -1, 0)),
    "FFDR": ((0, 0, 1), (-1, 0, 0), (0, -1, 0)),
}
PATIENT_POSITIONS: Final = tuple(_PATIENT_AXES_IN_FIXED)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A regular voxel grid in DICOM patient coordinates.

    shape: (nz, ny, nx), the shape of `Volume.values`. spacing_mm: (x, y, z) along the index axes. origin_mm: patient
    position of the centre of voxel (0, 0, 0). direction: 3x3 float64 whose columns are the unit vectors of the i, j
    and k axes in patient coordinates (identity for an axial, head-first-supine CT sorted by z).
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: Array

    def __init__(
        self,
        shape: tuple[int, int, int],
        spacing_mm: tuple[float, float, float],
        origin_mm: tuple[float, float, float],
        direction: npt.ArrayLike | None = None,
    ) -> None:
        shape_ = tuple(int(n) for n in shape)
        spacing = tuple(float(s) for s in spacing_mm)
        origin = tuple(float(o) for o in origin_mm)
        axes = np.eye(3) if direction is None else np.array(direction, dtype=np.float64)
        if len(shape_) != 3 or min(shape_) < 1:
            raise GeometryError(f"grid shape must be three positive numbers (nz, ny, nx), found {shape}")
        if len(spacing) != 3 or not all(np.isfinite(spacing)) or min(spacing) <= 0:
            raise GeometryError(f"grid spacing must be three positive millimetre values (x, y, z), found {spacing_mm}")
        if len(origin) != 3 or not all(np.isfinite(origin)):
            raise GeometryError(f"grid origin must be three finite millimetre values (x, y, z), found {origin_mm}")
        if axes.shape != (3, 3) or not np.allclose(axes.T @ axes, np.eye(3), atol=ORTHONORMAL_TOLERANCE):
            raise GeometryError(f"grid direction must be a 3x3 orthonormal matrix, found {axes.tolist()}")
        axes.setflags(write=False)
        object.__setattr__(self, "shape", shape_)
        object.__setattr__(self, "spacing_mm", spacing)
        object.__setattr__(self, "origin_mm", origin)
        object.__setattr__(self, "direction", axes)

    @property
    def voxel_volume_cm3(self) -> float:
        """Volume of one voxel in cm3."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    @property
    def index_to_patient_matrix(self) -> Array:
        """(3, 4) affine: patient = M[:, :3] @ (i, j, k) + M[:, 3]."""
        return np.column_stack([self.direction * np.asarray(self.spacing_mm), np.asarray(self.origin_mm)])

    @property
    def patient_to_index_matrix(self) -> Array:
        """(3, 4) affine: (i, j, k) = M[:, :3] @ patient + M[:, 3]."""
        inverse = self.direction.T / np.asarray(self.spacing_mm)[:, None]
        return np.column_stack([inverse, -inverse @ np.asarray(self.origin_mm)])

    def to_patient(self, index: npt.ArrayLike) -> Array:
        """Patient points (..., 3) in mm of fractional indices (..., 3) ordered (i, j, k)."""
        m = self.index_to_patient_matrix
        return np.asarray(index, dtype=np.float64) @ m[:, :3].T + m[:, 3]

    def to_index(self, points_mm: npt.ArrayLike) -> Array:
        """Fractional indices (..., 3) ordered (i, j, k) of patient points (..., 3) in mm."""
        m = self.patient_to_index_matrix
        return np.asarray(points_mm, dtype=np.float64) @ m[:, :3].T + m[:, 3]

    def corners_mm(self) -> Array:
        """(8, 3) patient points of the outer corners of the voxel box (half a voxel beyond the outer centres)."""
        nz, ny, nx = self.shape
        corners = [(i, j, k) for k in (-0.5, nz - 0.5) for j in (-0.5, ny - 0.5) for i in (-0.5, nx - 0.5)]
        return self.to_patient(corners)

    def contains(self, points_mm: npt.ArrayLike, margin_mm: float = 0.0) -> npt.NDArray[np.bool_]:
        """Which points (..., 3) lie in the voxel box, shrunk by margin_mm (grown when negative)."""
        index = self.to_index(points_mm)
        size = np.asarray(self.shape[::-1], dtype=np.float64)
        margin = margin_mm / np.asarray(self.spacing_mm)
        return np.all((index >= -0.5 + margin) & (index <= size - 0.5 - margin), axis=-1)

    def is_same(self, other: Grid) -> bool:
        """True when both grids have the same shape and the same voxel centres within SAME_GRID_TOLERANCE_MM."""
        return self.shape == other.shape and bool(
            np.allclose(self.corners_mm(), other.corners_mm(), atol=SAME_GRID_TOLERANCE_MM)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Values on a grid: `values[z, y, x]`, float32, C-order, read-only."""

    grid: Grid
    values: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        # A view is made read-only, so that the caller's own array stays as it was.
        values = np.ascontiguousarray(self.values, dtype=np.float32).view()
        if values.shape != self.grid.shape:
            raise GeometryError(f"values of shape {values.shape} do not fit a grid of shape {self.grid.shape}")
        values.setflags(write=False)
        object.__setattr__(self, "values", values)


def resample(volume: Volume, grid: Grid, outside: float) -> Volume:
    """Trilinear values of `volume` at the voxel centres of `grid`; `outside` beyond the outer voxel faces.

    Between the outermost voxel centres and their outer faces the edge value holds.
    """
    if volume.grid.is_same(grid):
        return Volume(grid, volume.values)
    to_index = _compose(volume.grid.patient_to_index_matrix, grid.index_to_patient_matrix)
    return Volume(grid, trilinear_affine(volume.values, to_index, grid.shape, np.float32(outside)))


def resampled_grid(grid: Grid, spacing_mm: tuple[float, float, float]) -> Grid:
    """The grid of other spacing that covers the same box (same outer corner, sizes rounded up)."""
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    size = np.asarray(grid.shape[::-1]) * np.asarray(grid.spacing_mm)
    count = np.maximum(np.ceil(size / spacing - 1e-6).astype(int), 1)
    first = grid.to_patient((-0.5, -0.5, -0.5)) + grid.direction @ (spacing / 2)
    return Grid((count[2], count[1], count[0]), spacing_mm, tuple(first), grid.direction)


def crop_grid(grid: Grid, points_mm: npt.ArrayLike, margin_mm: float) -> Grid:
    """The part of `grid` (same voxel centres) that covers `points_mm` (n, 3) with a margin, clipped to `grid`."""
    index = grid.to_index(points_mm).reshape(-1, 3)
    margin = margin_mm / np.asarray(grid.spacing_mm)
    size = np.asarray(grid.shape[::-1])
    low = np.clip(np.floor(index.min(axis=0) - margin).astype(int), 0, size - 1)
    high = np.clip(np.ceil(index.max(axis=0) + margin).astype(int), 0, size - 1)
    count = high - low + 1
    return Grid((count[2], count[1], count[0]), grid.spacing_mm, tuple(grid.to_patient(low)), grid.direction)


def patient_to_fixed(patient_position: str, couch_deg: float = 0.0) -> Array:
    """(3, 3) rotation from patient (LPS) to IEC 61217 fixed axes for a patient position and couch angle.

    The couch (patient support) turns the patient about fixed +Z, counter-clockwise seen from above (IEC 61217).
    """
    if patient_position not in _PATIENT_AXES_IN_FIXED:
        raise GeometryError(
            f"patient position '{patient_position}' is not supported; expected one of {', '.join(PATIENT_POSITIONS)}"
        )
    on_table = np.array(_PATIENT_AXES_IN_FIXED[patient_position], dtype=np.float64).T
    c, s = _cos_sin(couch_deg)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ on_table


def fixed_to_gantry(gantry_deg: float) -> Array:
    """(3, 3) rotation from IEC 61217 fixed to gantry axes; at 90 degrees the source is on fixed +X."""
    c, s = _cos_sin(gantry_deg)
    return np.array([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])


def gantry_to_collimator(collimator_deg: float) -> Array:
    """(3, 3) rotation from IEC 61217 gantry to beam limiting device axes (counter-clockwise seen from the source)."""
    c, s = _cos_sin(collimator_deg)
    return np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])


@dataclass(frozen=True, slots=True, eq=False)
class BeamFrame:
    """The gantry frame of one beam in patient coordinates.

    isocenter_mm: (3,) patient point. axes: (3, 3), rows are the gantry X, Y and Z unit vectors in patient coordinates;
    row 2 points from the isocentre to the source.
    """

    isocenter_mm: Array
    axes: Array

    def from_patient(self, points_mm: npt.ArrayLike) -> Array:
        """Gantry coordinates (..., 3) of patient points (..., 3)."""
        return (np.asarray(points_mm, dtype=np.float64) - self.isocenter_mm) @ self.axes.T

    def to_patient(self, points_mm: npt.ArrayLike) -> Array:
        """Patient coordinates (..., 3) of gantry points (..., 3)."""
        return np.asarray(points_mm, dtype=np.float64) @ self.axes + self.isocenter_mm


def beam_frame(
    isocenter_mm: npt.ArrayLike,
    gantry_deg: float,
    couch_deg: float = 0.0,
    patient_position: str = "HFS",
    collimator_deg: float = 0.0,
) -> BeamFrame:
    """The gantry frame of a beam with the given IEC 61217 angles for a patient in the given position.

    With a collimator angle it is the frame of the beam limiting devices, which turn about gantry Z.
    """
    axes = fixed_to_gantry(gantry_deg) @ patient_to_fixed(patient_position, couch_deg)
    if collimator_deg:
        axes = gantry_to_collimator(collimator_deg) @ axes
    return BeamFrame(np.asarray(isocenter_mm, dtype=np.float64), axes)


def _cos_sin(angle_deg: float) -> tuple[float, float]:
    # Multiples of 90 degrees are exact, so that axis-parallel beams stay axis-parallel.
    quarter, rest = divmod(float(angle_deg), 90.0)
    c, s = float(np.cos(np.radians(rest))), float(np.sin(np.radians(rest)))
    for _ in range(int(quarter) % 4):
        c, s = -s, c
    return c, s


def _compose(outer: Array, inner: Array) -> Array:
    """Affine (3, 4) of `outer` after `inner`."""
    return np.column_stack([outer[:, :3] @ inner[:, :3], outer[:, :3] @ inner[:, 3] + outer[:, 3]])
