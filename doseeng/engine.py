"""From a case to its dose: choose machines and grid once, then compute any scenario.

    prepared = prepare(case)
    nominal = scenario_dose(prepared, NOMINAL)

`compute_dose(case)` does both. Dose is RBE-weighted with the constant 1.1 (ICRU Report 78) unless physical is asked
for; `let_volume` and `variable_rbe_dose` tell what LET makes of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

import doseeng
from doseeng.backend import Backend, Materials, choose
from doseeng.case import Case
from doseeng.dose import Dose, Quantity
from doseeng.errors import Notice, PlanError
from doseeng.grid import Grid, Volume, beam_frame, crop_grid, resampled_grid
from doseeng.layers import Deposit
from doseeng.machines.file import machine_hash
from doseeng.machines.library import find_machine
from doseeng.machines.model import ProtonMachine
from doseeng.masks import coverage
from doseeng.materials import HuTable, MaterialMaps, material_maps, read_hu_table
from doseeng.plan import ProtonBeam
from doseeng.proton import BeamModel, ProtonSettings, prepare_beam
from doseeng.rbe import CONSTANT_RBE, RbeModel, rbe_weighted_course
from doseeng.scenario import NOMINAL, Scenario

RBE: Final = CONSTANT_RBE
DEFAULT_SPACING_MM: Final = 3.0
"""Dose grid where the case brings none."""
GRID_MARGIN_MM: Final = 10.0
"""Dose is computed this far around the body outline."""
FULLY_COVERED: Final = 0.999
"""Share of a target that must lie in the dose grid; the rest is rounding of contours against voxels."""

LET_THRESHOLD: Final = 1e-3
"""LET is not told where there is less than this share of the largest dose."""

LARGEST_SPOT_MM: Final = 500.0
"""Scanned fields reach some 200 mm from the axis; positions beyond this are in another unit or broken."""
RAY_STEP_MM: Final = 4.0
TISSUE_RSP: Final = 0.1
"""Spots are looked for in steps of this length; anything that stops protons more than this is no air (lung: 0.2)."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """spacing_mm: dose grid where the case brings no dose of its own. quantity: what kind of dose comes out."""

    spacing_mm: float = DEFAULT_SPACING_MM
    quantity: Quantity = Quantity.RBE_WEIGHTED
    proton: ProtonSettings = field(default_factory=ProtonSettings)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A case ready for any number of scenarios. machines: one per beam, in plan order. materials: `maps` where the
    backend computes."""

    case: Case
    beams: tuple[ProtonBeam, ...]
    machines: tuple[ProtonMachine, ...]
    maps: MaterialMaps
    grid: Grid
    settings: EngineSettings
    notices: tuple[Notice, ...]
    provenance: Mapping[str, object]
    backend: Backend
    materials: Materials
    _models: dict[tuple[ProtonBeam, ProtonSettings], BeamModel] = field(default_factory=dict)


def prepare(
    case: Case,
    *,
    machine: str | None = None,
    machine_folders: Sequence[Path] = (),
    hu_table: HuTable | None = None,
    grid: Grid | None = None,
    settings: EngineSettings = EngineSettings(),
    backend: Backend | None = None,
) -> Prepared:
    """Choose machines, materials and dose grid of a case.

    machine: a machine name for all beams instead of those the plan names. grid: dose grid; by default that of the
    case's plan dose, or settings.spacing_mm around the body. backend: the CPU unless another is given. Notices name a
    target that the grid clips and spots that miss the patient. PlanError for photon plans and spots that no machine
    reaches; MachineError for an unknown machine; StructureError when the ROI of a prescription is missing;
    MaterialError for an image or override that has no material meaning.
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
    for beam in beams:
        _require_reachable(beam)
        notices += _missed(beam, models[beam.machine], maps, case.plan.patient_position)
    backend = backend or choose("cpu")
    return Prepared(
        case,
        beams,
        tuple(models[beam.machine] for beam in beams),
        maps,
        dose_grid,
        settings,
        tuple(notices),
        _provenance(case, beams, tuple(models.values()), table, dose_grid, settings, backend),
        backend,
        Materials(backend.put(maps.rsp.values), backend.put(maps.scattering.values)),
    )


def scenario_dose(prepared: Prepared, scenario: Scenario = NOMINAL) -> Dose:
    """Dose of the whole course in one scenario."""
    return _as_dose(prepared, prepared.backend.get(scenario_values(prepared, scenario)), "PLAN")


def scenario_values(prepared: Prepared, scenario: Scenario = NOMINAL) -> Any:
    """The values of `scenario_dose` as an array of the backend, for statistics that stay where it computes."""
    first, *others = prepared.backend.together(
        [partial(_course_values, prepared, index, scenario) for index in range(len(prepared.beams))]
    )
    for values in others:
        first += values
    return first


def single_beam_dose(prepared: Prepared, index: int, scenario: Scenario = NOMINAL) -> Dose:
    """Dose of one beam over the whole course."""
    values = prepared.backend.get(_course_values(prepared, index, scenario))
    return _as_dose(prepared, values, "BEAM", (prepared.beams[index].number,))


def let_volume(prepared: Prepared, scenario: Scenario = NOMINAL) -> Volume:
    """Dose-averaged LET of protons in water over all beams of the course, keV/um; 0 where there is no dose."""
    dose, product = (prepared.backend.zeros(prepared.grid.shape) for _ in range(2))
    for index, beam in enumerate(prepared.beams):
        model = _model(prepared, index)
        dose += model.dose(scenario).clip(0.0, None) * np.float32(beam.fractions)
        product += model.dose(scenario, Deposit.DOSE_LET).clip(0.0, None) * np.float32(beam.fractions)
    dose, product = prepared.backend.get(dose), prepared.backend.get(product)
    least = LET_THRESHOLD * float(dose.max())
    return Volume(prepared.grid, np.divide(product, dose, out=np.zeros_like(dose), where=dose > least))


def variable_rbe_dose(prepared: Prepared, model: RbeModel, alpha_beta_gy: float, scenario: Scenario = NOMINAL) -> Dose:
    """Dose of the course weighted with a variable RBE; alpha_beta_gy: of the tissue, the same everywhere.

    PlanError when beams have different numbers of fractions: such a course is no repetition of one fraction.
    """
    fractions = {beam.fractions for beam in prepared.beams}
    if len(fractions) != 1:
        raise PlanError(f"beams have {sorted(fractions)} fractions; variable RBE needs one fractionation for all beams")
    n = fractions.pop()
    physical = replace(prepared, settings=replace(prepared.settings, quantity=Quantity.PHYSICAL))
    dose = prepared.backend.get(scenario_values(physical, scenario)) / np.float32(n)
    weighted = rbe_weighted_course(model, dose, let_volume(prepared, scenario).values, alpha_beta_gy, n)
    comment = f"doseeng {doseeng.__version__}: RBE {model.value}, alpha/beta {alpha_beta_gy:g} Gy"
    return replace(_as_dose(prepared, weighted, "PLAN"), quantity=Quantity.RBE_WEIGHTED, comment=comment)


def compute_dose(
    case: Case,
    scenario: Scenario = NOMINAL,
    *,
    machine: str | None = None,
    settings: EngineSettings = EngineSettings(),
) -> Dose:
    """Dose of a case in one scenario with everything else at its default."""
    return scenario_dose(prepare(case, machine=machine, settings=settings), scenario)


def _course_values(prepared: Prepared, index: int, scenario: Scenario) -> Any:
    weight = RBE if prepared.settings.quantity is Quantity.RBE_WEIGHTED else 1.0
    values = _model(prepared, index).dose(scenario)
    values *= np.float32(prepared.beams[index].fractions * weight)
    # The cubic between slices undershoots zero where dose begins or ends within one.
    return values.clip(0.0, None)


def _model(prepared: Prepared, index: int) -> BeamModel:
    """The beam ready for scenarios; prepared once."""
    key = (prepared.beams[index], prepared.settings.proton)
    if key not in prepared._models:
        prepared._models[key] = prepare_beam(
            prepared.beams[index], prepared.machines[index], prepared.maps, prepared.grid,
            prepared.case.plan.patient_position, prepared.settings.proton, prepared.backend, prepared.materials,
        )  # fmt: skip
    return prepared._models[key]


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


def _require_reachable(beam: ProtonBeam) -> None:
    farthest = int(np.abs(beam.spot_uv_mm).max(axis=1).argmax())
    u, v = beam.spot_uv_mm[farthest]
    if max(abs(u), abs(v)) > LARGEST_SPOT_MM:
        raise PlanError(
            f"beam {beam.number} '{beam.name}': spot {farthest} is at ({u:g}, {v:g}) mm in the isocentre plane; "
            f"scanned fields reach no farther than {LARGEST_SPOT_MM:g} mm: check the units and export the plan again"
        )


def _missed(beam: ProtonBeam, machine: ProtonMachine, maps: MaterialMaps, patient_position: str) -> list[Notice]:
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
        return []
    text = (
        f"{np.count_nonzero(~meets)} of {len(meets)} spots, {beam.spot_mu[~meets].sum():.4g} of "
        f"{beam.spot_mu.sum():.4g} MU, are aimed past the patient; check isocentre, angles and the body outline"
    )
    return [Notice("spots-miss-patient", f"beam {beam.number} '{beam.name}'", text)]


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
    backend: Backend,
) -> dict[str, object]:
    plan_digest = hashlib.sha256()
    for beam in beams:
        geometry = (beam.number, beam.gantry_deg, beam.couch_deg, beam.isocenter_mm, beam.fractions, beam.range_shifter)
        plan_digest.update(repr((case.plan.patient_position, *geometry)).encode())
        for array in (beam.spot_uv_mm, beam.spot_energy_mev, beam.spot_mu):
            plan_digest.update(array.tobytes())
    structure_digest = hashlib.sha256()
    for structure in case.structures.structures:
        structure_digest.update(repr((structure.number, structure.name, structure.kind, structure.overrides)).encode())
        for contour in structure.contours:
            structure_digest.update(contour.tobytes())
    return {
        "code": f"doseeng {doseeng.__version__}",
        "case": case.key,
        "plan_uid": case.plan.uid,
        "image_sha256": hashlib.sha256(case.ct.values.tobytes()).hexdigest(),
        "plan_sha256": plan_digest.hexdigest(),
        "structures_sha256": structure_digest.hexdigest(),
        "machines": {m.name: {"version": m.version, "sha256": machine_hash(m)} for m in machines},
        "hu_table": {"name": table.name, "version": table.version, "sha256": table.digest},
        "dose_grid": {"shape": list(grid.shape), "spacing_mm": list(grid.spacing_mm)},
        "rbe": RBE if settings.quantity is Quantity.RBE_WEIGHTED else None,
        "settings": asdict(settings),
        "backend": backend.description,
    }
