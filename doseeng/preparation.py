"""From a case to what its dose needs: machines, materials, dose grid, beams; chosen once for any number of scenarios.

Protons and photons differ in what is chosen, not in what comes out: `Prepared`, whose beams are each a `DoseModel`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from doseeng.backend import Backend, Materials, choose
from doseeng.case import Case
from doseeng.dose import Quantity
from doseeng.dosegrid import default_grid, grid_notices
from doseeng.errors import Notice, PlanError
from doseeng.grid import Grid
from doseeng.machines.file import machine_hash
from doseeng.machines.library import beam_quality, find_machine, find_photon_machine
from doseeng.machines.model import ProtonMachine
from doseeng.machines.photonfile import photon_machine_hash
from doseeng.machines.photonmodel import PhotonMachine
from doseeng.materials import HuTable, MaterialMaps, PhotonMaps, material_maps, photon_maps, read_hu_table
from doseeng.photon import PhotonSettings, prepare_photon_beam
from doseeng.photonchecks import beam_checks, couch_check, image_end_checks
from doseeng.photonphysics import effective_energy_mev
from doseeng.plan import PhotonBeam, Plan, ProtonBeam
from doseeng.proton import ProtonSettings, prepare_beam
from doseeng.protonchecks import missed_spots, require_reachable, with_shifter_density
from doseeng.provenance import provenance
from doseeng.rbe import CONSTANT_RBE
from doseeng.scenario import NOMINAL, Scenario

RBE: Final = CONSTANT_RBE
DEFAULT_SPACING_MM: Final = 3.0
"""Dose grid where the case brings none."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """spacing_mm: dose grid where the case brings no dose of its own. quantity: what kind of dose comes out; None: what
    is prescribed, RBE-weighted for protons and physical for photons."""

    spacing_mm: float = DEFAULT_SPACING_MM
    quantity: Quantity | None = None
    proton: ProtonSettings = field(default_factory=ProtonSettings)
    photon: PhotonSettings = field(default_factory=PhotonSettings)


class DoseModel(Protocol):
    """A beam ready for any number of scenarios."""

    def dose(self, scenario: Scenario = NOMINAL) -> Any:
        """Physical dose of one fraction, Gy: a new array of the backend on the dose grid."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A case ready for any number of scenarios.

    beams, machines, maps, materials: one entry per beam, in plan order; beams that see the same patient share the
    maps of it. materials: `maps` where the backend computes. settings: with the quantity that comes out.
    """

    case: Case
    beams: tuple[ProtonBeam | PhotonBeam, ...]
    machines: tuple[ProtonMachine | PhotonMachine, ...]
    maps: tuple[MaterialMaps | PhotonMaps, ...]
    grid: Grid
    settings: EngineSettings
    notices: tuple[Notice, ...]
    provenance: Mapping[str, object]
    backend: Backend
    materials: tuple[Materials, ...]
    _models: dict[tuple[object, ...], DoseModel] = field(default_factory=dict)

    @property
    def quantity(self) -> Quantity:
        """What kind of dose comes out."""
        return _quantity(self.settings, self.case.plan)


@dataclass(frozen=True, slots=True, eq=False)
class _Chosen:
    """What differs between protons and photons. machine_records: as `doseeng.provenance.provenance` wants them."""

    beams: tuple[ProtonBeam | PhotonBeam, ...]
    machines: tuple[ProtonMachine | PhotonMachine, ...]
    maps: tuple[MaterialMaps | PhotonMaps, ...]
    materials: tuple[Materials, ...]
    machine_records: Mapping[str, Mapping[str, str]]
    notices: tuple[Notice, ...]


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
    target that the grid clips, a grid that leaves the image, spots that miss the patient and what photon beams lack.
    PlanError for spots that no machine reaches, devices that no machine has, and RBE-weighted photon dose; MachineError
    for an unknown machine; StructureError when the ROI of a prescription is missing; MaterialError for an image or
    override that has no material meaning.
    """
    table = hu_table or read_hu_table()
    backend = backend or choose("cpu")
    used = _settings_record(settings, case.plan)
    dose_grid = grid or default_grid(case, settings.spacing_mm)
    choose_for = _choose_protons if case.plan.modality == "proton" else _choose_photons
    chosen = choose_for(case, table, machine, machine_folders, backend)
    return Prepared(
        case,
        chosen.beams,
        chosen.machines,
        chosen.maps,
        dose_grid,
        settings,
        (*case.notices, *grid_notices(case, dose_grid), *chosen.notices),
        provenance(case, chosen.beams, chosen.machine_records, table, dose_grid, used, backend),
        backend,
        chosen.materials,
    )


def beam_model(prepared: Prepared, index: int) -> DoseModel:
    """The beam ready for scenarios; prepared once."""
    beam, settings = prepared.beams[index], prepared.settings
    key = (beam, settings.proton if isinstance(beam, ProtonBeam) else settings.photon)
    if key not in prepared._models:
        prepared._models[key] = _new_model(prepared, index)
    return prepared._models[key]


def _new_model(prepared: Prepared, index: int) -> DoseModel:
    beam, machine, maps = prepared.beams[index], prepared.machines[index], prepared.maps[index]
    settings, grid, backend = prepared.settings, prepared.grid, prepared.backend
    position, materials = prepared.case.plan.patient_position, prepared.materials[index]
    match beam, machine, maps:
        case ProtonBeam(), ProtonMachine(), MaterialMaps():
            return prepare_beam(beam, machine, maps, grid, position, settings.proton, backend, materials)
        case PhotonBeam(), PhotonMachine(), PhotonMaps():
            return prepare_photon_beam(beam, machine, maps, grid, position, settings.photon, backend, materials)
    raise PlanError(f"beam {beam.number} '{beam.name}': a {type(machine).__name__} cannot deliver it")


def _quantity(settings: EngineSettings, plan: Plan) -> Quantity:
    if plan.modality == "proton":
        return settings.quantity or Quantity.RBE_WEIGHTED
    if settings.quantity is Quantity.RBE_WEIGHTED:
        raise PlanError(f"plan '{plan.label}': photon dose is physical; RBE-weighted dose exists for proton plans only")
    return Quantity.PHYSICAL


def _settings_record(settings: EngineSettings, plan: Plan) -> dict[str, object]:
    """What `doseeng.provenance.provenance` tells of settings: those of the plan's modality."""
    quantity = _quantity(settings, plan)
    common = {"spacing_mm": settings.spacing_mm, "quantity": quantity}
    if plan.modality == "photon":
        return {"settings": {**common, "photon": asdict(settings.photon)}}
    rbe = RBE if quantity is Quantity.RBE_WEIGHTED else None
    return {"rbe": rbe, "settings": {**common, "proton": asdict(settings.proton)}}


def _choose_protons(
    case: Case, table: HuTable, machine: str | None, folders: Sequence[Path], backend: Backend
) -> _Chosen:
    plan = case.plan
    models = {name: find_machine(machine or name, folders) for name in {b.machine for b in plan.proton_beams}}
    maps = material_maps(case.ct, table, case.structures)
    beams = tuple(with_shifter_density(beam, models[beam.machine]) for beam in plan.proton_beams)
    for beam in beams:
        require_reachable(beam)
    missed = [n for beam in beams for n in missed_spots(beam, models[beam.machine], maps, plan.patient_position)]
    materials = Materials(backend.put(maps.rsp.values), backend.put(maps.scattering.values))
    return _Chosen(
        beams,
        tuple(models[beam.machine] for beam in beams),
        (maps,) * len(beams),
        (materials,) * len(beams),
        {m.name: {"version": m.version, "sha256": machine_hash(m)} for m in models.values()},
        (*_replaced(machine, models), *maps.notices, *missed),
    )


def _choose_photons(
    case: Case, table: HuTable, machine: str | None, folders: Sequence[Path], backend: Backend
) -> _Chosen:
    beams = case.plan.photon_beams
    found = {
        quality: find_photon_machine(machine or quality[0], *quality[1:], folders)
        for quality in dict.fromkeys((b.machine, b.energy_mv, b.fluence_mode) for b in beams)
    }
    machines = tuple(found[b.machine, b.energy_mv, b.fluence_mode] for b in beams)
    # Beams of one spectrum with the same boluses see one patient.
    keys = [
        (effective_energy_mev(model.spectrum_mev, model.spectrum_weight), beam.bolus_rois)
        for beam, model in zip(beams, machines, strict=True)
    ]
    maps = {
        (energy, rois): photon_maps(case.ct, table, case.structures, mean_energy_mev=energy, bolus_rois=rois)
        for energy, rois in dict.fromkeys(keys)
    }
    materials = {
        key: Materials(backend.put(m.attenuation.values), backend.put(m.electron_density.values))
        for key, m in maps.items()
    }
    notices = [*_replaced(machine, {b.machine: m for b, m in zip(beams, machines, strict=True)})]
    notices += [notice for m in maps.values() for notice in m.notices]
    notices.append(couch_check(case.structures))
    for beam, model, key in zip(beams, machines, keys, strict=True):
        notices += beam_checks(beam, model)
        notices += image_end_checks(beam, maps[key].density_gcm3, case.plan.patient_position)
    return _Chosen(
        beams,
        machines,
        tuple(maps[key] for key in keys),
        tuple(materials[key] for key in keys),
        {f"{m.name} {beam_quality(m)}": {"version": m.version, "sha256": photon_machine_hash(m)} for m in machines},
        tuple(dict.fromkeys(notices)),
    )


def _replaced(machine: str | None, models: Mapping[str, ProtonMachine | PhotonMachine]) -> tuple[Notice, ...]:
    """A notice for every machine of the plan that another takes the place of."""
    return tuple(
        Notice("machine-replaced", name, f"computed with '{model.name}' {model.version} instead of '{name}'")
        for name, model in sorted(models.items())
        if machine and name.casefold() not in {n.casefold() for n in (model.name, *model.aliases)}
    )
