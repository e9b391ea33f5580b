"""How much of the target, and of the way of each beam to it, a day's field of view shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng.grid import Grid, beam_frame
from doseeng.plan import PhotonBeam, Plan, ProtonBeam

Array = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

MOST_RAYS: Final = 400
STEP_MM: Final = 4.0
PROTON_SOURCE_MM: Final = 2000.0
"""Virtual sources of scanning nozzles lie 1.8 to 2.5 m away; at the skin that moves a ray by a few millimetres."""
ARC_ANGLES: Final = 12
"""An arc is looked at from so many directions, each in the middle of an equal share of its meterset."""
NEAREST_SOURCE: Final = 0.9
"""Rays end before the source: no patient reaches so far."""


@dataclass(frozen=True, slots=True, eq=False)
class BeamPath:
    """seen: share (0..1) of the water-equivalent way from the skin to the target that is seen; NaN without one.
    region: the voxels on that way inside the body."""

    beam: str
    seen: float
    region: Mask


def beam_paths(plan: Plan, target: Mask, body: Mask, known: Mask, hu: Float32, grid: Grid) -> tuple[BeamPath, ...]:
    """One entry per beam: rays from voxels of the target towards the source, or sources along an arc.

    target, body, known, hu: (nz, ny, nx) on `grid`. Water is taken from HU by 1 + HU / 1000, which is all that a share
    needs.
    """
    k, j, i = np.nonzero(target)
    points = grid.to_patient(np.column_stack([i, j, k]).astype(np.float64))
    points = points[:: max(1, len(points) // MOST_RAYS)]
    water = np.where(body, np.maximum(1.0 + hu / 1000.0, 0.0), 0.0)
    return tuple(_path(beam, plan.patient_position, points, water, known, grid) for beam in plan.beams)


def _path(
    beam: ProtonBeam | PhotonBeam, position: str, points: Array, water: Float32, known: Mask, grid: Grid
) -> BeamPath:
    region = np.zeros(grid.shape, dtype=bool)
    total = shown = 0.0
    count = int(np.linalg.norm(np.ptp(grid.corners_mm(), axis=0)) / STEP_MM)
    for source in _sources(beam, position):
        way = source - points
        distance = np.linalg.norm(way, axis=1, keepdims=True)
        steps = np.minimum(STEP_MM * np.arange(count), NEAREST_SOURCE * distance)[..., None]
        along = points[:, None] + way[:, None] / distance[..., None] * steps
        inside = grid.contains(along) & (steps[..., 0] < NEAREST_SOURCE * distance)
        i, j, k = np.rint(grid.to_index(along[inside])).astype(int).T
        depth = water[k, j, i]
        total += float(depth.sum(dtype=np.float64))
        shown += float((depth * known[k, j, i]).sum(dtype=np.float64))
        region[k, j, i] |= depth > 0.0
    return BeamPath(f"beam {beam.number} '{beam.name}'", shown / total if total > 0.0 else np.nan, region)


def _sources(beam: ProtonBeam | PhotonBeam, position: str) -> list[Array]:
    """Where the rays of a beam come from, patient axes: one point, or several along an arc."""
    if isinstance(beam, ProtonBeam):
        frame = beam_frame(beam.isocenter_mm, beam.gantry_deg, beam.couch_deg, position)
        return [frame.to_patient((0.0, 0.0, PROTON_SOURCE_MM))]
    pose = np.column_stack([beam.isocenter_mm, beam.gantry_deg, beam.couch_deg])
    count = ARC_ANGLES if np.ptp(pose, axis=0).any() else 1
    given = (np.arange(count) + 0.5) / count
    rows = np.column_stack([np.interp(given, beam.meterset_fraction, column) for column in pose.T])
    return [beam_frame(r[:3], r[3], r[4], position).to_patient((0.0, 0.0, beam.source_axis_mm)) for r in rows]
