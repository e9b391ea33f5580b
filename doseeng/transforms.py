"""Spatial transforms: rigid ones and displacement fields, and what one does with them.

Every transform maps patient points (LPS, mm) to patient points. A *pullback* maps points of the image that is made to
points of the image it is made from: day(y) = planning(pullback(y)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng._kernels.warp import vectors_at, warp
from doseeng.errors import RegistrationError
from doseeng.grid import Grid, Volume

Array = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

ROTATION_TOLERANCE: Final = 1e-4
"""Rotation matrices from DICOM carry about six decimals; anything further off is no rigid transform."""
SAME_POSITION_MM: Final = 0.1
"""Two rigid transforms that place a patient this alike are the same one, as far as rounded matrices can tell."""
INVERSION_STEPS: Final = 30
INVERSION_TOLERANCE_MM: Final = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class RigidTransform:
    """p -> rotation @ (p - centre_mm) + centre_mm + translation_mm.

    rotation: (3, 3) float64, proper orthonormal. translation_mm, centre_mm: (3,) float64. RegistrationError for a
    matrix that is no rotation.
    """

    rotation: Array
    translation_mm: Array
    centre_mm: Array

    def __post_init__(self) -> None:
        for name, shape in (("rotation", (3, 3)), ("translation_mm", (3,)), ("centre_mm", (3,))):
            value = np.array(getattr(self, name), dtype=np.float64)
            if value.shape != shape or not np.isfinite(value).all():
                raise RegistrationError(f"rigid transform: {name} must be {shape} finite numbers, found {value}")
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        r = self.rotation
        if not np.allclose(r @ r.T, np.eye(3), atol=ROTATION_TOLERANCE) or np.linalg.det(r) < 0:
            raise RegistrationError(f"rigid transform: {r.tolist()} is no rotation (sheared, scaled or mirrored)")

    @property
    def matrix(self) -> Array:
        """(4, 4) homogeneous matrix."""
        out = np.eye(4)
        out[:3, :3] = self.rotation
        out[:3, 3] = self.centre_mm + self.translation_mm - self.rotation @ self.centre_mm
        return out

    @property
    def angle_deg(self) -> float:
        """The angle of the rotation about its axis, 0..180."""
        return float(np.degrees(np.arccos(np.clip((np.trace(self.rotation) - 1) / 2, -1.0, 1.0))))

    def apply(self, points_mm: npt.ArrayLike) -> Array:
        """Points (..., 3) where the transform takes points (..., 3)."""
        points = np.asarray(points_mm, dtype=np.float64)
        return np.asarray((points - self.centre_mm) @ self.rotation.T + self.centre_mm + self.translation_mm)

    def inverse(self) -> RigidTransform:
        """The way back, about the same centre."""
        return RigidTransform(self.rotation.T, -self.rotation.T @ self.translation_mm, self.centre_mm)


def identity_transform(centre_mm: npt.ArrayLike = (0.0, 0.0, 0.0)) -> RigidTransform:
    """The rigid transform that moves nothing."""
    return RigidTransform(np.eye(3), np.zeros(3), np.asarray(centre_mm, dtype=np.float64))


def rigid_from_matrix(matrix: npt.ArrayLike, centre_mm: npt.ArrayLike = (0.0, 0.0, 0.0)) -> RigidTransform:
    """The rigid transform of a (4, 4) homogeneous matrix, written about a centre; RegistrationError for another."""
    m, centre = np.asarray(matrix, dtype=np.float64), np.asarray(centre_mm, dtype=np.float64)
    if m.shape != (4, 4) or not np.allclose(m[3], (0.0, 0.0, 0.0, 1.0), atol=ROTATION_TOLERANCE):
        raise RegistrationError(f"rigid transform: expected a (4, 4) homogeneous matrix, found {m.tolist()}")
    return RigidTransform(m[:3, :3], m[:3, 3] - centre + m[:3, :3] @ centre, centre)


def is_near(one: RigidTransform, other: RigidTransform) -> bool:
    """Whether two transforms agree within SAME_POSITION_MM over a cube of 60 cm round the origin: a patient."""
    corners = np.array([(x, y, z) for x in (-300.0, 300.0) for y in (-300.0, 300.0) for z in (-300.0, 300.0)])
    return bool(np.linalg.norm(one.apply(corners) - other.apply(corners), axis=1).max() <= SAME_POSITION_MM)


@dataclass(frozen=True, slots=True, eq=False)
class DisplacementField:
    """p -> p + vector(p), the vectors trilinear between the voxel centres of a grid and constant beyond its edge.

    vectors_mm: (nz, ny, nx, 3) float32, C-order, read-only, components along patient x, y, z. RegistrationError when
    they do not fit the grid or are not finite.
    """

    grid: Grid
    vectors_mm: Float32

    def __post_init__(self) -> None:
        vectors = np.ascontiguousarray(self.vectors_mm, dtype=np.float32).view()
        if vectors.shape != (*self.grid.shape, 3):
            raise RegistrationError(f"vectors of shape {vectors.shape} do not fit a grid of shape {self.grid.shape}")
        if not np.isfinite(vectors).all():
            raise RegistrationError("a displacement field holds NaN or infinity")
        vectors.setflags(write=False)
        object.__setattr__(self, "vectors_mm", vectors)

    def at(self, points_mm: npt.ArrayLike) -> Float32:
        """Displacements (..., 3) float32 at patient points (..., 3)."""
        index = self.grid.to_index(points_mm)
        flat = np.ascontiguousarray(index.reshape(-1, 3))
        out = np.empty(flat.shape, dtype=np.float32)
        vectors_at(self.vectors_mm, flat, out)
        return out.reshape(index.shape)

    def apply(self, points_mm: npt.ArrayLike) -> Array:
        """Points (..., 3) where the field takes points (..., 3)."""
        points = np.asarray(points_mm, dtype=np.float64)
        return points + self.at(points)


Transform = RigidTransform | DisplacementField


def voxel_centres(grid: Grid) -> Array:
    """(nz, ny, nx, 3) patient points of all voxel centres."""
    k, j, i = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    return grid.to_patient(np.stack([i, j, k], axis=-1))


def as_field(grid: Grid, *transforms: Transform) -> DisplacementField:
    """Transforms one after the other, the first first, as one displacement field on a grid."""
    start = voxel_centres(grid)
    points = start
    for transform in transforms:
        points = transform.apply(points)
    return DisplacementField(grid, (points - start).astype(np.float32))


def inverse_field(field: DisplacementField, grid: Grid) -> DisplacementField:
    """The way back on another grid, by fixed-point iteration v(x) = -u(x + v(x)) (Chen et al., Med Phys 35 (2008) 81).

    Where the field folds there is none; the last iterate is given, and inverse consistency shows how wrong it is.
    """
    points = voxel_centres(grid)
    back = -field.at(points)
    for step in range(INVERSION_STEPS):
        new = -field.at(points + back)
        # Full steps converge where the field contracts; half steps also where it stretches up to threefold.
        change = (new - back) * np.float32(1.0 if step < INVERSION_STEPS // 2 else 0.5)
        back = back + change
        if float(np.abs(change).max(initial=0.0)) < INVERSION_TOLERANCE_MM:
            break
    return DisplacementField(grid, back)


def jacobian_determinant(field: DisplacementField) -> Volume:
    """Local volume ratio: det of the gradient of p + u(p), by central differences; <= 0 where the field folds.

    For a pullback, a value of 0.8 says that 1 cm3 of the image that is made comes from 0.8 cm3: the tissue has grown.
    """
    axes = field.grid.direction / np.asarray(field.grid.spacing_mm)
    shape = field.grid.shape
    # gradient[..., c, a]: component c per mm along patient axis a.
    along_index = np.zeros((*shape, 3, 3), dtype=np.float32)
    for index_axis, array_axis in enumerate((2, 1, 0)):
        if shape[array_axis] > 1:
            along_index[..., index_axis] = np.gradient(field.vectors_mm, axis=array_axis)
    gradient = along_index @ axes.T.astype(np.float32)
    gradient += np.eye(3, dtype=np.float32)
    return Volume(field.grid, np.linalg.det(gradient))


def warped(volume: Volume, pullback: DisplacementField, outside: float) -> Volume:
    """On the grid of the pullback, the trilinear value of `volume` where each voxel is taken to."""
    image, grid = volume.grid.patient_to_index_matrix, pullback.grid.index_to_patient_matrix
    to_index = np.column_stack([image[:, :3] @ grid[:, :3], image[:, :3] @ grid[:, 3] + image[:, 3]])
    out = np.empty(pullback.grid.shape, dtype=np.float32)
    along = np.ascontiguousarray(image[:, :3])
    warp(volume.values, pullback.vectors_mm, to_index, along, out, np.float32(outside))
    return Volume(pullback.grid, out)
