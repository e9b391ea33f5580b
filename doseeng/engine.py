"""From a case to its dose: choose machines and grid once, then compute any scenario.

    prepared = prepare(case)
    nominal = scenario_dose(prepared, NOMINAL)

`compute_dose(case)` does both. Dose is RBE-weighted with the constant 1.1 (ICRU Report 78) unless physical is asked
for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

import numba
import numpy as np
import numpy.typing as npt

import doseeng
from doseeng.case import Case
from doseeng.dose import Dose, Quantity
from doseeng.errors import Notice, PlanError
from doseeng.grid import Grid, Volume, crop_grid, resampled_grid
from doseeng.machines.file import machine_hash
from doseeng.machines.library import find_machine
from doseeng.machines.model import ProtonMachine
from doseeng.masks import coverage
from doseeng.materials import HuTable, MaterialMaps, material_maps, read_hu_table
from doseeng.plan import ProtonBeam
from doseeng.proton import ProtonSettings, beam_dose
from doseeng.scenario import NOMINAL, Scenario

RBE: Final = 1.1
"""Constant relative biological effectiveness of protons (ICRU Report 78, 2007)."""
DEFAULT_SPACING_MM: Final = 3.0
"""Dose grid where the case brings none."""
GRID_MARGIN_MM: Final = 10.0
"""Dose is computed this far around the body outline."""
FULLY_COVERED: Final = 0.999
"""Share of a target that must lie in the dose grid; the rest is rounding of contours against voxels."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """spacing_mm: dose grid where the case brings no dose of its own. quantity: what kind of dose comes out."""

    spacing_mm: float = DEFAULT_SPACING_MM
    quantity: Quantity = Quantity.RBE_WEIGHTED
    proton: ProtonSettings = field(default_factory=ProtonSettings)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A case ready for any number of scenarios. machines: one per beam, in plan order."""

    case: Case
    beams: tuple[ProtonBeam, ...]
    machines: tuple[ProtonMachine, ...]
    maps: MaterialMaps
    grid: Grid
    settings: EngineSettings
    notices: tuple[Notice, ...]
    provenance: Mapping[str, object]


def prepare(
    case: Case,
    *,
    machine: str | None = None,
    machine_folders: Sequence[Path] = (),
    hu_table: HuTable | None = None,
    grid: Grid | None = None,
    settings: EngineSettings = EngineSettings(),
) -> Prepared:
    """Choose machines, materials and dose grid of a case.

    machine: a machine name for all beams instead of those the plan names. grid: dose grid; by default that of the

    """
    if case.plan.modality != "proton":
        raise PlanError(f"plan '{case.plan.label}': photon dose is not available in this version; only scanned protons")
    table = hu_table or read_hu_table()
    models = {name: find_machine(machine or name, machine_folders) for name in {b.machine for b in case.plan.beams}}
    notices = list(case.notices)
    notices += [
        Notice("machine-replaced", name, f"computed with '{model.name}' {model.version} instead of '{name}'")
        for name, model in sorted(models.items())
        if machine and name.casefold() not in {n.casefold() for n in (model.name, *model.aliases)}
    ]
    maps = material_maps(case.ct, table, case.structures)
    notices += maps.notices
    dose_grid = grid or _default_grid(case, settings.spacing_mm)
    notices += _clipped_targets(case, dose_grid)
    beams = tuple(_with_shifter_density(beam, models[beam.machine]) for beam in case.plan.proton_beams)
    return Prepared(
        case,
        beams,
        tuple(models[beam.machine] for beam in beams),
        maps,
        dose_grid,
        settings,
        tuple(notices),
        _provenance(case, beams, tuple(models.values()), table, dose_grid, settings),
    )


def scenario_dose(prepared: Prepared, scenario: Scenario = NOMINAL) -> Dose:
    """Dose of the whole course in one scenario."""
    total = np.zeros(prepared.grid.shape, dtype=np.float32)
    for index in range(len(prepared.beams)):
        total += _course_values(prepared, index, scenario)
    return _as_dose(prepared, total, "PLAN")


def single_beam_dose(prepared: Prepared, index: int, scenario: Scenario = NOMINAL) -> Dose:
    """Dose of one beam over the whole course."""
    return _as_dose(prepared, _course_values(prepared, index, scenario), "BEAM", (prepared.beams[index].number,))


def compute_dose(
    case: Case,
    scenario: Scenario = NOMINAL,
    *,
    machine: str | None = None,
    settings: EngineSettings = EngineSettings(),
) -> Dose:
    """Dose of a case in one scenario with everything else at its default."""
    return scenario_dose(prepare(case, machine=machine, settings=settings), scenario)


def _course_values(prepared: Prepared, index: int, scenario: Scenario) -> npt.NDArray[np.float32]:
    beam = prepared.beams[index]
    settings = prepared.settings
    values = beam_dose(
        beam,
        prepared.machines[index],
        prepared.maps,
        prepared.grid,
        prepared.case.plan.patient_position,
        scenario,
        settings.proton,
    )
    weight = RBE if settings.quantity is Quantity.RBE_WEIGHTED else 1.0
    values *= np.float32(beam.fractions * weight)
    return values


def _as_dose(
    prepared: Prepared, values: npt.NDArray[np.float32], summation: str, beam_numbers: tuple[int, ...] = ()
) -> Dose:
    quantity = prepared.settings.quantity
    comment = f"RBE constant {RBE}" if quantity is Quantity.RBE_WEIGHTED else "dose to water"
    return Dose(
        Volume(prepared.grid, values),
        quantity,
        summation,
        beam_numbers,
        plan_uid=prepared.case.plan.uid,
        comment=f"doseeng {doseeng.__version__}: {comment}",
    )


def _default_grid(case: Case, spacing_mm: float) -> Grid:
    for dose in case.doses:
        if dose.summation == "PLAN":
            return dose.volume.grid
    body = case.structures.external()
    box = case.ct.grid
    if body is not None:
        box = crop_grid(box, np.concatenate(body.contours), GRID_MARGIN_MM)
    return resampled_grid(box, (spacing_mm, spacing_mm, spacing_mm))


def _clipped_targets(case: Case, grid: Grid) -> list[Notice]:
    notices = []
    for prescription in case.plan.prescriptions:
        target = case.structures.by_number(prescription.roi_number)
        if target.is_empty:
            continue
        inside = coverage(target, grid)
        if inside < FULLY_COVERED:
            text = f"only {100 * inside:.1f} % of the target lies in the dose grid; use a larger grid"
            notices.append(Notice("dose-grid-clips-target", target.name, text))
    return notices


def _with_shifter_density(beam: ProtonBeam, machine: ProtonMachine) -> ProtonBeam:
    """The plan names a range shifter and its water-equivalent thickness; its density is the machine's to know."""
    if beam.range_shifter is None:
        return beam
    known = {s.id.casefold(): s for s in machine.range_shifters}
    model = known.get(beam.range_shifter.id.casefold())
    if model is None:
        return beam
    return replace(beam, range_shifter=replace(beam.range_shifter, density_gcm3=model.density_gcm3))


def _provenance(
    case: Case,
    beams: tuple[ProtonBeam, ...],
    machines: tuple[ProtonMachine, ...],
    table: HuTable,
    grid: Grid,
    settings: EngineSettings,
) -> dict[str, object]:
    plan_digest = hashlib.sha256()
    for beam in beams:
        plan_digest.update(repr((beam.number, beam.gantry_deg, beam.couch_deg, beam.isocenter_mm)).encode())
        for array in (beam.spot_uv_mm, beam.spot_energy_mev, beam.spot_mu):
            plan_digest.update(array.tobytes())
    return {
        "code": f"doseeng {doseeng.__version__}",
        "case": case.key,
        "plan_uid": case.plan.uid,
        "image_sha256": hashlib.sha256(case.ct.values.tobytes()).hexdigest(),
        "plan_sha256": plan_digest.hexdigest(),
        "machines": {m.name: {"version": m.version, "sha256": machine_hash(m)} for m in machines},
        "hu_table": {"name": table.name, "version": table.version, "sha256": table.digest},
        "dose_grid": {"shape": list(grid.shape), "spacing_mm": list(grid.spacing_mm)},
        "rbe": RBE if settings.quantity is Quantity.RBE_WEIGHTED else None,
        "settings": asdict(settings),
        "backend": f"cpu (numba {numba.__version__}, {numba.get_num_threads()} threads)",
    }
