"""The fast pre-screen: how much deeper or shallower, in water, the far edge of the target lies today than on the plan.

Rays diverge from the source of each beam through the target. On the plan's image a ray ends where it leaves the planned
target, on today's image where it leaves today's target; both images lie in the frame of the plan's beams. What lies in
front counts as water: relative stopping power for protons, relative electron density for photons. A proton field whose
paths have grown by 3 mm stops 3 mm short of the target's far edge; no dose needs to be computed to see that.

    changes = path_changes(planned, today, planned_ctv, todays_ctv)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from doseeng.backend import Materials
from doseeng.beamseye import Frustum, frustum_around, gantry_to_index, spanning
from doseeng.errors import GeometryError, PlanError
from doseeng.grid import BeamFrame, Volume, beam_frame
from doseeng.machines.model import ProtonMachine
from doseeng.masks import mask
from doseeng.plan import PhotonBeam, ProtonBeam
from doseeng.preparation import Prepared
from doseeng.structures import Structure

Array = npt.NDArray[np.float64]

PITCH_MM: Final = 2.5
"""Distance of the rays in the isocentre plane: the voxels of a CT."""
SLICE_MM: Final = 1.0
"""Step along the axis; a trilinear image has no detail below half a voxel."""
EDGE: Final = 0.5
"""The target ends where half of a voxel is target."""
SHORTEST_CHORD_MM: Final = 5.0
"""A ray that meets less of the target only grazes it: where it leaves is a matter of voxels."""
ARC_ANGLES: Final = 12
"""An arc is looked at from so many directions, each in the middle of an equal share of its meterset."""


@dataclass(frozen=True, slots=True)
class PathChange:
    """Water-equivalent path of one field to the distal edge of the target: change against the plan in mm (+ = deeper).

    mean, p05, p95 over the rays through the target; worst: largest magnitude, signed. All are NaN when no ray passes
    through the target on both images.
    """

    beam_number: int
    beam_name: str
    mean_mm: float
    p05_mm: float
    p95_mm: float
    worst_mm: float


@dataclass(frozen=True, slots=True, eq=False)
class _Patient:
    """A patient as rays see it: what counts as water, and which share of each voxel is target, on one grid."""

    prepared: Prepared
    target: Volume

    def depths_mm(self, index: int, frustum: Frustum, frame: BeamFrame) -> Array:
        """(n_v, n_u) water-equivalent depth of the target's distal edge; NaN for rays that miss or graze the target."""
        spanned = spanning(frustum, frame, self.target.grid)
        backend, materials = self.prepared.backend, self.prepared.materials[index]
        # The rays of photons know attenuation as what stops and electron density as what spreads.
        water: Any = materials.stopping
        if isinstance(self.prepared.beams[index], PhotonBeam):
            water = materials.spreading
        rays = backend.trace(
            Materials(water, backend.put(self.target.values)),
            gantry_to_index(frame, self.target.grid),
            spanned,
            1,
            np.ones(spanned.shape[1:], dtype=np.bool_),
        )
        return _depth_of_last_edge(backend.get(rays.stopping), backend.get(rays.spreading), spanned.step_mm)


def path_changes(
    planned: Prepared, today: Prepared, planned_target: Structure, todays_target: Structure
) -> tuple[PathChange, ...]:
    """One entry per beam of the plan: distal edge of today's target on today's image minus that of the plan's.

    planned, today: the same plan prepared on the planning CT and on today's image, in the frame of the beams; the two
    grids may differ. planned_target: as contoured; todays_target: where it is today. Only rays that cross at least
    SHORTEST_CHORD_MM of both targets count. StructureError for a target without contours, GeometryError when a target
    lies outside its image or an image reaches beyond a beam's source.
    """
    patients = [
        _Patient(prepared, _target_mask(target, prepared))
        for prepared, target in ((planned, planned_target), (today, todays_target))
    ]
    points = np.concatenate([_inside_points(patient.target) for patient in patients])
    return tuple(_beam_change(index, patients[0], patients[1], points) for index in range(len(planned.beams)))


def _target_mask(target: Structure, prepared: Prepared) -> Volume:
    found = mask(target, prepared.case.ct.grid)
    if not np.any(found.values >= EDGE):
        raise GeometryError(
            f"target '{target.name}' lies outside the image (box from {_text(found.grid.corners_mm().min(axis=0))} to "
            f"{_text(found.grid.corners_mm().max(axis=0))} mm); no ray can be followed to it: check that contours and "
            "image are in one frame"
        )
    return found


def _inside_points(target: Volume) -> Array:
    """(n, 3) centres of the voxels that are target."""
    k, j, i = np.nonzero(target.values >= EDGE)
    return target.grid.to_patient(np.column_stack([i, j, k]))


def _beam_change(index: int, planned: _Patient, today: _Patient, points_mm: Array) -> PathChange:
    beam = planned.prepared.beams[index]
    changes = []
    for frame, source_mm in _views(planned.prepared, index):
        frustum = frustum_around(
            frame, planned.target.grid, _uv_box(frame.from_patient(points_mm), source_mm), source_mm, PITCH_MM, SLICE_MM
        )
        change = today.depths_mm(index, frustum, frame) - planned.depths_mm(index, frustum, frame)
        changes.append(change[np.isfinite(change)])
    found = np.concatenate(changes)
    if not len(found):
        return PathChange(beam.number, beam.name, *(float("nan"),) * 4)
    p05, p95 = np.percentile(found, (5.0, 95.0))
    worst = found[np.argmax(np.abs(found))]
    return PathChange(beam.number, beam.name, float(found.mean()), float(p05), float(p95), float(worst))


def _views(prepared: Prepared, index: int) -> list[tuple[BeamFrame, tuple[float, float]]]:
    """Frames a beam looks from, each with its source distances (x, y): one, or several along an arc."""
    beam, machine, position = prepared.beams[index], prepared.machines[index], prepared.case.plan.patient_position
    if isinstance(beam, ProtonBeam):
        if not isinstance(machine, ProtonMachine):
            raise PlanError(f"beam {beam.number} '{beam.name}': a {type(machine).__name__} cannot deliver it")
        return [(beam_frame(beam.isocenter_mm, beam.gantry_deg, beam.couch_deg, position), machine.source_distance_mm)]
    pose = np.column_stack([beam.isocenter_mm, beam.gantry_deg, beam.couch_deg])
    count = ARC_ANGLES if np.ptp(pose, axis=0).any() else 1
    given = (np.arange(count) + 0.5) / count
    at = np.column_stack([np.interp(given, beam.meterset_fraction, column) for column in pose.T])
    source = (beam.source_axis_mm, beam.source_axis_mm)
    return [(beam_frame(row[:3], row[3], row[4], position), source) for row in at]


def _uv_box(gantry_mm: Array, source_mm: tuple[float, float]) -> tuple[float, float, float, float]:
    """u min, u max, v min, v max of points projected from the source to the isocentre plane."""
    uv = gantry_mm[:, :2] / (1.0 - gantry_mm[:, 2:] / np.asarray(source_mm))
    (u0, v0), (u1, v1) = uv.min(axis=0), uv.max(axis=0)
    return float(u0), float(u1), float(v0), float(v1)


def _depth_of_last_edge(water: Any, target: Any, step_mm: npt.NDArray[np.float32]) -> Array:
    """(n_v, n_u) depth where `target` last falls below EDGE; NaN where its chord is short.

    water, target: (n_slice, n_v, n_u) means over each slice; step_mm: (n_v, n_u) length of a ray in a slice.
    """
    n_slice = len(target)
    inside = target >= EDGE
    last = n_slice - 1 - np.argmax(inside[::-1], axis=0)[None]
    beyond = np.minimum(last + 1, n_slice - 1)
    here, there = (np.take_along_axis(target, at, axis=0).astype(np.float64) for at in (last, beyond))
    # Centres of slices are half a slice behind their faces: the edge lies `share` of the way to the next centre.
    share = np.divide(here - EDGE, here - there, out=np.full(here.shape, 0.5), where=beyond > last)
    depth = np.cumsum(water, axis=0, dtype=np.float64)
    to_centre = np.take_along_axis(depth, last, axis=0) - 0.5 * np.take_along_axis(water, last, axis=0)
    between = 0.5 * (np.take_along_axis(water, last, axis=0) + np.take_along_axis(water, beyond, axis=0))
    edge: Array = ((to_centre + share * between) * step_mm)[0]
    edge[inside.sum(axis=0) * step_mm < SHORTEST_CHORD_MM] = np.nan
    return edge


def _text(point_mm: Array) -> str:
    return "(" + ", ".join(f"{c:.0f}" for c in point_mm) + ")"
