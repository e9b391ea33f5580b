"""The beam's-eye frustum: a divergent grid around one beam axis on which the engine traces, deposits and spreads.

Rays are named by (u, v), their gantry X and Y where they cross the isocentre plane. Protons scan from two virtual
sources on the axis, so a ray passes gantry z at x = u (1 - z / SAD_x), y = v (1 - z / SAD_y). Slices are planes of
constant gantry z, numbered downstream.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from doseeng.errors import GeometryError
from doseeng.grid import BeamFrame, Grid

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Frustum:
    """first_uv_mm: (u, v) of ray (0, 0). shape: (n_slice, n_v, n_u). top_mm: gantry z of the upstream face of slice 0.

    source_mm: (x, y) virtual source to isocentre distances.
    """

    first_uv_mm: tuple[float, float]
    pitch_mm: float
    shape: tuple[int, int, int]
    top_mm: float
    slice_mm: float
    source_mm: tuple[float, float]

    @property
    def u_mm(self) -> Array:
        """(n_u,) gantry X of the rays in the isocentre plane."""
        return self.first_uv_mm[0] + self.pitch_mm * np.arange(self.shape[2], dtype=np.float64)

    @property
    def v_mm(self) -> Array:
        """(n_v,) gantry Y of the rays in the isocentre plane."""
        return self.first_uv_mm[1] + self.pitch_mm * np.arange(self.shape[1], dtype=np.float64)

    @property
    def slice_center_mm(self) -> Array:
        """(n_slice,) gantry z of the slice centres."""
        return self.top_mm - self.slice_mm * (np.arange(self.shape[0], dtype=np.float64) + 0.5)

    @property
    def step_mm(self) -> npt.NDArray[np.float32]:
        """(n_v, n_u) length of each ray in one slice."""
        slope = (self.u_mm / self.source_mm[0]) ** 2 + (self.v_mm[:, None] / self.source_mm[1]) ** 2
        return (self.slice_mm * np.sqrt(1.0 + slope)).astype(np.float32)

    @property
    def magnification(self) -> Array:
        """(n_slice, 2): lateral millimetres at a slice centre per millimetre in the isocentre plane, x and y."""
        return 1.0 - self.slice_center_mm[:, None] / np.asarray(self.source_mm)

    @property
    def description(self) -> tuple[float, ...]:
        """What kernels need: first u and v, pitch, top, slice thickness, source distances x and y."""
        return (*self.first_uv_mm, self.pitch_mm, self.top_mm, self.slice_mm, *self.source_mm)


def frustum_around(
    frame: BeamFrame,
    image: Grid,
    uv_box_mm: tuple[float, float, float, float],
    source_mm: tuple[float, float],
    pitch_mm: float,
    slice_mm: float,
) -> Frustum:
    """The frustum that spans `image` along the beam axis and (u min, u max, v min, v max) across it.

    The ray nearest the axis passes through the isocentre, so that symmetric beams stay symmetric.
    """
    return spanning(rays_across(uv_box_mm, source_mm, pitch_mm, slice_mm), frame, image)


def rays_across(
    uv_box_mm: tuple[float, float, float, float], source_mm: tuple[float, float], pitch_mm: float, slice_mm: float
) -> Frustum:
    """Rays over (u min, u max, v min, v max) with one through the isocentre; slices are for `spanning` to give."""
    u0, u1, v0, v1 = (np.floor(uv_box_mm[0] / pitch_mm), np.ceil(uv_box_mm[1] / pitch_mm),
                      np.floor(uv_box_mm[2] / pitch_mm), np.ceil(uv_box_mm[3] / pitch_mm))  # fmt: skip
    shape = (1, int(v1 - v0) + 1, int(u1 - u0) + 1)
    return Frustum((u0 * pitch_mm, v0 * pitch_mm), pitch_mm, shape, 0.0, slice_mm, source_mm)


def spanning(frustum: Frustum, frame: BeamFrame, image: Grid) -> Frustum:
    """The same rays with slices that span `image`; GeometryError when it reaches beyond the source."""
    z = frame.from_patient(image.corners_mm())[:, 2]
    if z.max() >= min(frustum.source_mm):
        raise GeometryError(f"the image reaches {z.max():.0f} mm upstream of the isocentre, beyond the beam's source")
    n_slice = int(np.ceil((z.max() - z.min()) / frustum.slice_mm))
    return replace(frustum, shape=(n_slice, *frustum.shape[1:]), top_mm=float(z.max()))


def gantry_to_index(frame: BeamFrame, grid: Grid) -> Array:
    """(3, 4) affine from gantry millimetres to the fractional index (i, j, k) of a grid."""
    m = grid.patient_to_index_matrix
    return np.column_stack([m[:, :3] @ frame.axes.T, m[:, :3] @ frame.isocenter_mm + m[:, 3]])


def index_to_gantry(frame: BeamFrame, grid: Grid) -> Array:
    """(3, 4) affine from the index (i, j, k) of a grid to gantry millimetres."""
    m = grid.index_to_patient_matrix
    return np.column_stack([frame.axes @ m[:, :3], frame.axes @ (m[:, 3] - frame.isocenter_mm)])


def voxel_extent_mm(frame: BeamFrame, grid: Grid) -> Array:
    """(3,) sides along gantry X, Y, Z of the box whose variance is that of a voxel; the voxel's own if it is a cube."""
    sides = frame.axes @ grid.direction * np.asarray(grid.spacing_mm)
    extent: Array = np.sqrt((sides**2).sum(axis=1))
    return extent


def grid_box(
    frustum: Frustum, frame: BeamFrame, grid: Grid, first: int = 0, last: int | None = None
) -> tuple[int, int, int, int, int, int]:
    """First and one past the last i, j and k of the voxels that slices first..last-1 (all) of the frustum can reach."""
    m = gantry_to_index(frame, grid)
    # A cubic between faces reaches one slice further.
    top = frustum.top_mm - frustum.slice_mm * max(first - 1, 0)
    end = frustum.shape[0] if last is None else min(last + 1, frustum.shape[0])
    bottom = frustum.top_mm - frustum.slice_mm * end
    corners = [
        (u * (1.0 - z / frustum.source_mm[0]), v * (1.0 - z / frustum.source_mm[1]), z)
        for u in frustum.u_mm[[0, -1]]
        for v in frustum.v_mm[[0, -1]]
        for z in (top, bottom)
    ]
    index = np.array(corners) @ m[:, :3].T + m[:, 3]
    limit = np.array(grid.shape[::-1])
    low = np.clip(np.floor(index.min(axis=0)).astype(int) - 1, 0, limit)
    high = np.clip(np.ceil(index.max(axis=0)).astype(int) + 2, 0, limit)
    return low[0], high[0], low[1], high[1], low[2], high[2]
