"""What is asked of a proton beam before its dose is computed: spots that a machine reaches and that hit the patient."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from doseeng.errors import Notice, PlanError
from doseeng.grid import beam_frame
from doseeng.machines.model import ProtonMachine
from doseeng.materials import MaterialMaps
from doseeng.plan import ProtonBeam

LARGEST_SPOT_MM: Final = 500.0
"""Scanned fields reach some 200 mm from the axis; positions beyond this are in another unit or broken."""
RAY_STEP_MM: Final = 4.0
TISSUE_RSP: Final = 0.1
"""Spots are looked for in steps of this length; anything that stops protons more than this is no air (lung: 0.2)."""


def require_reachable(beam: ProtonBeam) -> None:
    """PlanError for a spot that no machine reaches."""
    farthest = int(np.abs(beam.spot_uv_mm).max(axis=1).argmax())
    u, v = beam.spot_uv_mm[farthest]
    if max(abs(u), abs(v)) > LARGEST_SPOT_MM:
        raise PlanError(
            f"beam {beam.number} '{beam.name}': spot {farthest} is at ({u:g}, {v:g}) mm in the isocentre plane; "
            f"scanned fields reach no farther than {LARGEST_SPOT_MM:g} mm: check the units and export the plan again"
        )


def missed_spots(
    beam: ProtonBeam, machine: ProtonMachine, maps: MaterialMaps, patient_position: str
) -> tuple[Notice, ...]:
    """A notice when the central rays of spots meet nothing but air."""
    grid = maps.rsp.grid
    frame = beam_frame(beam.isocenter_mm, beam.gantry_deg, beam.couch_deg, patient_position)
    heights_mm = frame.from_patient(grid.corners_mm())[:, 2]
    z_mm = np.arange(heights_mm.min(), heights_mm.max(), RAY_STEP_MM)
    unique_uv, spot_ray = np.unique(beam.spot_uv_mm, axis=0, return_inverse=True)
    away = 1.0 - z_mm[:, None] / np.asarray(machine.source_distance_mm)
    points = np.concatenate(
        [unique_uv[:, None] * away, np.broadcast_to(z_mm[:, None], (len(unique_uv), len(z_mm), 1))], axis=2
    )
    index = np.rint(grid.to_index(frame.to_patient(points))).astype(np.intp)
    inside = np.all((index >= 0) & (index < grid.shape[::-1]), axis=2)
    i, j, k = np.moveaxis(np.where(inside[..., None], index, 0), 2, 0)
    meets = np.any(inside & (maps.rsp.values[k, j, i] > TISSUE_RSP), axis=1)[spot_ray.ravel()]
    if meets.all():
        return ()
    text = (
        f"{np.count_nonzero(~meets)} of {len(meets)} spots, {beam.spot_mu[~meets].sum():.4g} of "
        f"{beam.spot_mu.sum():.4g} MU, are aimed past the patient; check isocentre, angles and the body outline"
    )
    return (Notice("spots-miss-patient", f"beam {beam.number} '{beam.name}'", text),)


def with_shifter_density(beam: ProtonBeam, machine: ProtonMachine) -> ProtonBeam:
    """The plan names a range shifter and its water-equivalent thickness; its density is the machine's to know."""
    if beam.range_shifter is None:
        return beam
    known = {s.id.casefold(): s for s in machine.range_shifters}
    model = known.get(beam.range_shifter.id.casefold())
    if model is None:
        return beam
    return replace(beam, range_shifter=replace(beam.range_shifter, density_gcm3=model.density_gcm3))
