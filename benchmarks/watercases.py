"""Small synthetic proton cases as DICOM: a target in a box of water, each a little different, for timing many of them."""

from __future__ import annotations

from dataclasses import replace
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
ENERGIES_MEV: Final = (90.0, 95.0, 100.0, 105.0)
SPOT_MM: Final = 6.0
HALF_FIELD_MM: Final = 24.0
STEP_MM: Final = 4.0


def water_case(number: int, voxels: int = 36) -> Case:
    """Case `number`: a cube of water of voxels x 4 mm in air, a CTV of 24 mm, two fields that give it about 60 Gy."""
    half = 0.5 * (voxels - 1) * STEP_MM
    grid = Grid((voxels,) * 3, (STEP_MM,) * 3, (-half,) * 3)
    hu = np.full(grid.shape, -1000.0, dtype=np.float32)
    hu[2:-2, 4:-4, 4:-4] = 1.0 + number % 40
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
    beams = tuple(_field(index, gantry) for index, gantry in ((1, 0.0), (2, 90.0)))
    plan = Plan(
        f"water {number}", _uid(number, "plan"), "HFS", beams, (Prescription(2, PRESCRIPTION_GY),), structures.uid
    )
    case = Case(f"water-{number}", Volume(grid, hu), structures, plan)
    centre = float(scenario_dose(prepare(case)).volume.values[tuple(n // 2 for n in _dose_shape(case))])
    factor = PRESCRIPTION_GY / centre
    weighted = tuple(replace(b, spot_mu=(b.spot_mu * factor).astype(np.float32)) for b in beams)
    return replace(case, plan=replace(plan, beams=weighted))


def write_water_case(folder: Path, number: int = 0, voxels: int = 36) -> str:
    """Write CT, RTSTRUCT and RT Ion Plan of a case into a new folder; returns the UID of the plan."""
    case = water_case(number, voxels)
    folder.mkdir(parents=True)
    context = write_ct(folder, case.ct, new_context(f"water^{number}", f"water-{number}"))
    structures = replace(
        case.structures,
        frame_of_reference_uid=context.frame_of_reference_uid,
        referenced_series_uid=context.series_uid,
    )
    save(structure_set_to_dataset(structures, context), folder / "RS.dcm")
    distance = find_machine(MACHINE).source_distance_mm
    save(ion_plan_to_dataset(case.plan, context, source_distance_mm=distance), folder / "RN.dcm")
    return case.plan.uid


def _dose_shape(case: Case) -> tuple[int, ...]:
    return prepare(case).grid.shape


def _field(number: int, gantry_deg: float) -> ProtonBeam:
    side = np.arange(-HALF_FIELD_MM, HALF_FIELD_MM + 1.0, SPOT_MM)
    uv = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    energies = np.repeat(ENERGIES_MEV, len(uv))
    spots = np.tile(uv, (len(ENERGIES_MEV), 1))
    mu = np.ones(len(spots))
    return ProtonBeam(
        number, f"F{number}", MACHINE, (0.0, 0.0, 0.0), gantry_deg, 0.0, spots, energies, mu, FRACTIONS
    )


def _box(half_mm: tuple[float, float, float], x_mm: float) -> tuple[npt.NDArray[np.float64], ...]:
    square = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]) * half_mm[:2] + (x_mm, 0.0)
    planes = np.arange(-half_mm[2] + 0.5 * STEP_MM, half_mm[2], STEP_MM)
    return tuple(np.column_stack([square, np.full(4, plane)]) for plane in planes)


def _uid(number: int, what: str) -> str:
    return str(generate_uid(entropy_srcs=["doseeng water case", str(number), what]))
