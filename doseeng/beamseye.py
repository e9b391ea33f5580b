"""The beam's-eye frustum: a divergent grid around one beam axis on which the engine traces, deposits and spreads.

Rays are named by (u, v), their gantry X and Y where they cross the isocentre plane. Protons scan from two virtual
sources on the axis, so a ray passes gantry z at x = u (1 - z / SAD_x), y = v (1 - z / SAD_y). Slices are planes of
constant gantry z, numbered downstream.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from doseeng._kernels.frustum import accumulate_from_frustum, trace
from doseeng.errors import GeometryError
from doseeng.grid import BeamFrame, Grid, Volume

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


@dataclass(frozen=True, slots=True, eq=False)
class TracedRays:
    """What every ray meets. wet_mm: (n_slice + 1, n_v, n_u) water-equivalent depth at the slice faces, 0 at the top.

    scattering: (n_slice, n_v, n_u) relative scattering power in each slice. Both float32.
    """

    wet_mm: npt.NDArray[np.float32]
    scattering: npt.NDArray[np.float32]


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
    z = frame.from_patient(image.corners_mm())[:, 2]
    if z.max() >= min(source_mm):
        raise GeometryError(f"the image reaches {z.max():.0f} mm upstream of the isocentre, beyond the beam's source")
    u0, u1, v0, v1 = (np.floor(uv_box_mm[0] / pitch_mm), np.ceil(uv_box_mm[1] / pitch_mm),
                      np.floor(uv_box_mm[2] / pitch_mm), np.ceil(uv_box_mm[3] / pitch_mm))  # fmt: skip
    n_slice = int(np.ceil((z.max() - z.min()) / slice_mm))
    shape = (n_slice, int(v1 - v0) + 1, int(u1 - u0) + 1)
    return Frustum((u0 * pitch_mm, v0 * pitch_mm), pitch_mm, shape, float(z.max()), slice_mm, source_mm)


def trace_rays(frustum: Frustum, frame: BeamFrame, rsp: Volume, scattering: Volume, rsp_scale: float) -> TracedRays:
    """Sample stopping and scattering power along every ray; outside the image there is vacuum."""
    wet = np.empty((frustum.shape[0] + 1, *frustum.shape[1:]), dtype=np.float32)
    scatter = np.empty(frustum.shape, dtype=np.float32)
    trace(
        rsp.values,
        scattering.values,
        _gantry_to_index(frame, rsp.grid),
        *_description(frustum),
        np.float32(rsp_scale),
        wet,
        scatter,
    )
    return TracedRays(wet, scatter)


def add_to_grid(
    values: npt.NDArray[np.float32], frustum: Frustum, frame: BeamFrame, grid: Grid, out: npt.NDArray[np.float32]
) -> None:
    """Add frustum values (n_slice, n_v, n_u) to `out` (grid shape), trilinear; zero outside the frustum."""
    m = grid.index_to_patient_matrix
    to_gantry = np.column_stack([frame.axes @ m[:, :3], frame.axes @ (m[:, 3] - frame.isocenter_mm)])
    accumulate_from_frustum(values, to_gantry, *_description(frustum), out)


def _gantry_to_index(frame: BeamFrame, grid: Grid) -> Array:
    m = grid.patient_to_index_matrix
    return np.column_stack([m[:, :3] @ frame.axes.T, m[:, :3] @ frame.isocenter_mm + m[:, 3]])


def _description(f: Frustum) -> tuple[float, ...]:
    return (*f.first_uv_mm, f.pitch_mm, f.top_mm, f.slice_mm, *f.source_mm)
