"""Taking a photon machine to one point of one plan: the leaf gap as stated, then the output by the dose there.

One point decides one number. It says nothing about spectrum, profile or penumbra: those come from water scans.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng.aperture import collimators
from doseeng.case import Case
from doseeng.engine import Prepared, scenario_dose
from doseeng.errors import ConfigError, MachineError, Notice, PlanError
from doseeng.grid import Grid, Volume, crop_grid, resample
from doseeng.machines.library import beam_quality
from doseeng.machines.photoncommission import adjusted
from doseeng.machines.photonmodel import PhotonMachine

Point = tuple[float, float, float]

RATIO: Final = (0.5, 2.0)
"""Outputs of machines differ by less: calibrations are 1 cGy/MU at the depth of the maximum or at 10 cm."""
NEAR_MM: Final = 2.0
"""Where the dose changes by more than STEEP within this distance of the point, a small shift decides the output."""
STEEP: Final = 0.03


@dataclass(frozen=True, slots=True)
class Adjustment:
    """start, machine: before and after. leaves: models whose gap was set. Dose of the course at the point: before_gy as
    the machine was, gap_gy with the new leaf gap, wanted_gy with the new output too. notices: what makes it
    uncertain."""

    start: PhotonMachine
    machine: PhotonMachine
    leaves: tuple[str, ...]
    before_gy: float
    gap_gy: float
    wanted_gy: float
    notices: tuple[Notice, ...]

    @property
    def ratio(self) -> float:
        """Output over that of the machine as it was."""
        return self.wanted_gy / self.gap_gy


def adjust_to_point(
    prepared: Prepared, point_mm: Point, wanted_gy: float, leaf_gap_mm: float | None = None
) -> Adjustment:
    """The machine of a photon plan, with the full gap between opposed closed leaf ends where one is given and then the
    output that makes the plan's dose at a patient point `wanted_gy` (whole course).

    ConfigError for a point outside the dose grid or without dose, and for a gap when the plan has no leaves; PlanError
    for a proton plan and for beams of several qualities; MachineError for a ratio of outputs beyond RATIO.
    """
    machine = _only_machine(prepared)
    require_inside(prepared.grid, point_mm, "the dose grid")
    leaves = _leaves(prepared, machine) if leaf_gap_mm is not None else ()
    before = _dose_near(prepared, machine, point_mm)
    near = _dose_near(prepared, adjusted(machine, 1.0, leaf_gap_mm, leaves), point_mm) if leaves else before
    gap_gy = float(near[1, 1, 1])
    if not gap_gy > 0:
        raise ConfigError(f"the plan gives no dose at {in_words(point_mm)}; choose a point inside its beams")
    ratio = wanted_gy / gap_gy
    if not RATIO[0] <= ratio <= RATIO[1]:
        raise MachineError(
            f"machine '{machine.name}' gives {gap_gy:.3f} Gy at {in_words(point_mm)}, where {wanted_gy:.3f} Gy are "
            f"wanted: a factor of {ratio:.3g}, expected {RATIO[0]:g} to {RATIO[1]:g}. Output does not explain that: "
            "check point, plan, energy, number of fractions and machine"
        )
    steepest = float(np.nanmax(np.abs(near / gap_gy - 1.0)))
    notices = []
    if steepest > STEEP:
        text = (
            f"the dose changes by {100 * steepest:.0f} % within {NEAR_MM:g} mm of it along the patient's axes; "
            "a point in homogeneous dose tells the output better"
        )
        notices.append(Notice("point-in-gradient", in_words(point_mm), text))
    made = adjusted(machine, ratio, leaf_gap_mm, leaves)
    return Adjustment(machine, made, leaves, float(before[1, 1, 1]), gap_gy, wanted_gy, tuple(notices))


def planned_dose_gy(case: Case, point_mm: Point) -> float:
    """The planning system's dose of the plan at a patient point; ConfigError when there is none."""
    dose = next((dose for dose in case.doses if dose.summation == "PLAN"), None)
    if dose is None:
        raise ConfigError("the case holds no plan dose of the planning system; state the dose with --dose")
    require_inside(dose.volume.grid, point_mm, "the planning system's dose")
    value = float(_around(dose.volume, point_mm)[1, 1, 1])
    if not value > 0:
        raise ConfigError(
            f"the planning system's dose is zero at {in_words(point_mm)}; choose a point inside the beams"
        )
    return value


def require_inside(grid: Grid, point_mm: Point, what: str) -> None:
    """ConfigError for a point outside a grid."""
    if grid.contains(point_mm):
        return
    corners = grid.corners_mm()
    box = ", ".join(
        f"{axis} {low:.0f} to {high:.0f}"
        for axis, low, high in zip("xyz", corners.min(axis=0), corners.max(axis=0), strict=True)
    )
    raise ConfigError(
        f"the {in_words(point_mm)} lies outside {what}, which spans {box} mm; expected DICOM patient coordinates in mm"
    )


def in_words(point_mm: Point) -> str:
    """As "point (1.5, 0, -20) mm"."""
    return f"point ({', '.join(f'{x:g}' for x in point_mm)}) mm"


def _only_machine(prepared: Prepared) -> PhotonMachine:
    machines = [machine for machine in prepared.machines if isinstance(machine, PhotonMachine)]
    found = dict.fromkeys(f"'{machine.name}' {beam_quality(machine)}" for machine in machines)
    if len(found) != 1:
        raise PlanError(
            f"plan '{prepared.case.plan.label}': is given by {', '.join(found) or 'protons'}; one point tells one "
            "output: expected photon beams of one energy and fluence mode"
        )
    return machines[0]


def _leaves(prepared: Prepared, machine: PhotonMachine) -> tuple[str, ...]:
    """Which of the machine's leaf models the plan uses."""
    beams = prepared.case.plan.photon_beams
    used = dict.fromkeys(model.id for beam in beams for model in collimators(beam, machine).models)
    if not used:
        raise ConfigError(
            f"plan '{prepared.case.plan.label}': has no multileaf collimator, so that a leaf gap changes nothing"
        )
    return tuple(used)


def _dose_near(prepared: Prepared, machine: PhotonMachine, point_mm: Point) -> npt.NDArray[np.float32]:
    """Dose at a point and NEAR_MM around it, on the voxels of the dose grid that decide it."""
    grid = crop_grid(prepared.grid, point_mm, 2.0 * NEAR_MM)
    machines = (machine,) * len(prepared.beams)
    return _around(scenario_dose(replace(prepared, machines=machines, grid=grid, _models={})).volume, point_mm)


def _around(volume: Volume, point_mm: Point) -> npt.NDArray[np.float32]:
    """(3, 3, 3) values at a point and NEAR_MM to all sides of it, NaN outside the volume."""
    x, y, z = point_mm
    grid = Grid((3, 3, 3), (NEAR_MM, NEAR_MM, NEAR_MM), (x - NEAR_MM, y - NEAR_MM, z - NEAR_MM))
    return resample(volume, grid, np.nan).values
