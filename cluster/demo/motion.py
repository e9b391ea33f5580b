"""What may happen inside the demo thorax from one day to the next, as displacements known at every point.

A `Motion` is a handful of numbers; `pullback` is its displacement field on a grid: today's tissue at y was at
y + u(y) on the planning CT. Bones stay where they are; what moves is the tumour with the lung around it, the lung
with the breath, the flanks with the weight, and soft parts a little at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from cluster.demo.anatomy import BODY_CENTRE_Y, GTV_CENTRE
from cluster.demo.shapes import Space, space_of, superellipse
from doseeng.grid import Grid
from doseeng.transforms import DisplacementField

Array = npt.NDArray[np.float64]

TUMOUR_RIGID_MM: Final = 24.0
"""So far from its centre the tumour and what clings to it move as one; the CTV is inside."""
TUMOUR_REACH_MM: Final = 52.0
"""Lung farther away than this does not follow; the chest wall and the mediastinum begin about there."""
BREATH_FROM_Z_MM: Final = 60.0
BREATH_FULL_Z_MM: Final = -100.0
"""The breath moves the base of the lungs most and the tips not at all."""
FLANK_MM: Final = 13.0
"""Depth over which the loss or gain of the flanks fades: fat and muscle outside the ribs (level of the body)."""
BONE_REACH_MM: Final = 15.0
"""Soft parts move freely so far from spine and ribs."""
WAVE_MM: Final = 18.0
"""Correlation length (standard deviation of the smoothing) of random motion."""
SPINE: Final = (0.0, 82.0, 38.0)
"""x and y of the spine, and the radius that holds it, in mm."""


@dataclass(frozen=True, slots=True)
class Motion:
    """Changes against the planning CT; lengths in mm, patient axes (x left, y posterior, z superior).

    tumour_mm: shift of the tumour, which nothing else moves or deforms. tumour_growth: of its diameter. breath_mm:
    shift of the base of the lungs along z. flank_mm: tissue lost at the flanks (negative: gained), about this much at
    the sides, nothing in front and behind. wave_mm: standard deviation of random motion of soft parts, drawn with
    `seed`.
    """

    tumour_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tumour_growth: float = 1.0
    breath_mm: float = 0.0
    flank_mm: float = 0.0
    wave_mm: float = 0.0
    seed: int = 0


def pullback(motion: Motion, grid: Grid) -> DisplacementField:
    """Today's points -> planning points on a grid along the patient axes: vectors u with planning point y + u(y)."""
    space = space_of(grid)
    offset = [
        np.asarray(axis - (centre + shift), dtype=np.float64)
        for axis, centre, shift in zip((space.x, space.y, space.z), GTV_CENTRE, motion.tumour_mm, strict=True)
    ]
    near = _ramp(np.sqrt(offset[0] ** 2 + offset[1] ** 2 + offset[2] ** 2), TUMOUR_REACH_MM, TUMOUR_RIGID_MM)
    free = _free_of_bone(space) * (1.0 - near)
    vectors = np.empty((*grid.shape, 3), dtype=np.float32)
    for c in range(3):
        vectors[..., c] = near * ((1.0 / motion.tumour_growth - 1.0) * offset[c] - motion.tumour_mm[c])
    vectors[..., 2] -= motion.breath_mm * _ramp(space.z, BREATH_FROM_Z_MM, BREATH_FULL_Z_MM) * free
    if motion.flank_mm:
        vectors[..., :2] += _flanks(space, motion.flank_mm)
    if motion.wave_mm:
        vectors += _waves(grid, motion) * free[..., None]
    return DisplacementField(grid, vectors)


def _flanks(space: Space, loss_mm: float) -> Any:
    """Outward displacement along rays from the body's axis; the outer contour comes in by loss_mm at the sides."""
    x, y = space.x.astype(np.float64), space.y.astype(np.float64) - BODY_CENTRE_Y
    half_x, half_y = 178.0 - 0.05 * space.z, 116.0 - 0.04 * space.z
    radius = np.maximum((np.abs(x / half_x) ** 2.5 + np.abs(y / half_y) ** 2.5) ** 0.4, 0.2)
    # At the sides, depths in units of the level are longer than a millimetre by half_x / half_y.
    level = (1.0 - radius) * half_y
    loss = loss_mm * half_y / half_x
    sideways = _ramp(np.abs(x) / (half_x * radius), 0.25, 0.75)
    outwards = loss / half_y / radius * sideways * _ramp(level, np.abs(loss) + FLANK_MM, np.maximum(loss, 0.0))
    return np.stack([x * outwards, y * outwards], axis=-1)


def _waves(grid: Grid, motion: Motion) -> npt.NDArray[np.float32]:
    """Smooth random vectors whose components have the standard deviation of the motion."""
    rng = np.random.default_rng(motion.seed)
    coarse = np.array(grid.spacing_mm[::-1])
    out = np.empty((*grid.shape, 3), dtype=np.float32)
    for c in range(3):
        wave = gaussian_filter(rng.standard_normal(grid.shape, dtype=np.float32), WAVE_MM / coarse, truncate=3.0)
        out[..., c] = motion.wave_mm / wave.std() * wave
    return out


def _free_of_bone(space: Space) -> Any:
    """1 in soft parts inside the ribs and away from the spine, falling to 0 at bone."""
    taper = np.sqrt(1.0 - (np.clip(space.z + 25.0, 0.0, 149.0) / 150.0) ** 2)
    cavity = superellipse(space.x, space.y - BODY_CENTRE_Y, 134.0 * taper, 88.0 * taper**0.6, 2.4)
    spine = np.hypot(space.x - SPINE[0], space.y - SPINE[1]) - SPINE[2]
    return _ramp(np.minimum(cavity, spine), 0.0, BONE_REACH_MM)


def _ramp(value: Any, start: Any, full: Any) -> Any:
    """Smoothly from 0 where value is `start` to 1 where it is `full`; either may be the larger."""
    share = np.clip((value - start) / (full - start), 0.0, 1.0)
    return share * share * (3.0 - 2.0 * share)
