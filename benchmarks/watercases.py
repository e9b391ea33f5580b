"""Small synthetic proton cases as DICOM: a target in a box of water, each a little different, for timing many."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.uid import generate_uid

from doseeng.case import Case
from doseeng.dicom.ct import write_ct
from doseeng.dicom.rtionplan_out import ion_plan_to_dataset
from doseeng.dicom.rtstruct import structure_set_to_dataset
from doseeng.dicom.writing import new_context, save
from doseeng.engine import prepare, scenario_dose
from doseeng.grid import Grid, Volume
from doseeng.machines.library import find_machine
from doseeng.plan import Plan, Prescription, ProtonBeam
from doseeng.structures import Structure, StructureSet

MACHINE: Final = "generic"
PRESCRIPTION_GY: Final = 60.0
FRACTIONS: Final = 30
HALF_TARGET_MM: Final = 15.0
LAYER_MM: Final = 6.0
SHORTEST_MM: Final = 42.0
"""Range of the lowest energy that the machine has."""
SPOT_MM: Final = 6.0
HALF_FIELD_MM: Final = 24.0
STEP_MM: Final = 4.0


@dataclass(frozen=True, slots=True)
class WrittenCase:
    """A case on disk. dose_shape: of the grid that the engine chooses for it."""

    folder: Path
    plan_uid: str
    dose_shape: tuple[int, ...]


def water_case(number: int = 0, voxels: int = 36, spot_mu: float = 1.0) -> Case:
    """Case `number`: a cube of water of voxels x 4 mm in air, a CTV of 24 mm, two fields on it, spot_mu per spot."""
    half = 0.5 * (voxels - 1) * STEP_MM
    grid = Grid((voxels,) * 3, (STEP_MM,) * 3, (-half,) * 3)
    hu = np.full(grid.shape, -1000.0, dtype=np.float32)
    hu[2:-2, 4:-4, 4:-4] = number % 40
    body_mm = half - 3.5 * STEP_MM
    structures = StructureSet(
        "water",
        _uid(number, "structures"),
        "",
        (
            Structure(1, "BODY", "EXTERNAL", _box((body_mm, body_mm, half - 1.5 * STEP_MM), 0.0)),
            Structure(2, "CTV", "CTV", _box((12.0, 12.0, 12.0), 0.0)),
            Structure(3, "Cord", "ORGAN", _box((6.0, 6.0, 24.0), 36.0)),
        ),
    )
    energies = _energies(body_mm)
    beams = tuple(_field(index, gantry, energies, spot_mu) for index, gantry in ((1, 0.0), (2, 90.0)))
    prescription = Prescription(2, PRESCRIPTION_GY)
    plan = Plan(f"water {number}", _uid(number, "plan"), "HFS", beams, (prescription,), structures.uid)
    return Case(f"water-{number}", Volume(grid, hu), structures, plan)


def write_water_cases(folder: Path, number: int, voxels: int = 36) -> list[WrittenCase]:
    """CT, RTSTRUCT and RT Ion Plan of so many cases, each in a folder of its own below `folder`.

    They differ in the water's HU, so that none is another's; all give about 60 Gy to the centre.
    """
    first = water_case(0, voxels)
    prepared = prepare(first)
    dose = scenario_dose(prepared).volume.values
    spot_mu = PRESCRIPTION_GY / float(dose[tuple(n // 2 for n in dose.shape)])
    written = []
    for index in range(number):
        case = water_case(index, voxels, spot_mu)
        written.append(WrittenCase(folder / f"{index:04d}", case.plan.uid, prepared.grid.shape))
        _write(case, folder / f"{index:04d}", f"water-{index}")
    return written


def _write(case: Case, folder: Path, patient_id: str) -> None:
    folder.mkdir(parents=True)
    context = write_ct(folder, case.ct, new_context("water^case", patient_id))
    structures = replace(
        case.structures,
        frame_of_reference_uid=context.frame_of_reference_uid,
        referenced_series_uid=context.series_uid,
    )
    save(structure_set_to_dataset(structures, context), folder / "RS.dcm")
    distance = find_machine(MACHINE).source_distance_mm
    save(ion_plan_to_dataset(case.plan, context, source_distance_mm=distance), folder / "RN.dcm")


def _energies(depth_mm: float) -> npt.NDArray[np.float64]:
    """Energies whose ranges cover the target: R = 0.022 E^1.77 mm (Bortfeld & Schlegel, PMB 41 (1996) 1331)."""
    wanted_mm = depth_mm + np.arange(-HALF_TARGET_MM, HALF_TARGET_MM + 1.0, LAYER_MM)
    ranges_mm = np.unique(np.maximum(wanted_mm, SHORTEST_MM))
    return np.asarray(np.round((ranges_mm / 0.022) ** (1.0 / 1.77), 1))


def _field(number: int, gantry_deg: float, energies: npt.NDArray[np.float64], spot_mu: float) -> ProtonBeam:
    side = np.arange(-HALF_FIELD_MM, HALF_FIELD_MM + 1.0, SPOT_MM)
    uv = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    spots, energy = np.tile(uv, (len(energies), 1)), np.repeat(energies, len(uv))
    # The deepest layer gives most; the others fill up before it.
    weight = np.repeat(np.linspace(0.3, 1.0, len(energies)), len(uv)) * spot_mu
    return ProtonBeam(number, f"F{number}", MACHINE, (0.0, 0.0, 0.0), gantry_deg, 0.0, spots, energy, weight, FRACTIONS)


def _box(half_mm: tuple[float, float, float], x_mm: float) -> tuple[npt.NDArray[np.float64], ...]:
    square = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]) * half_mm[:2] + (x_mm, 0.0)
    planes = np.arange(-half_mm[2] + 0.5 * STEP_MM, half_mm[2], STEP_MM)
    return tuple(np.column_stack([square, np.full(4, plane)]) for plane in planes)


def _uid(number: int, what: str) -> str:
    return str(generate_uid(entropy_srcs=["doseeng water case", str(number), what]))
