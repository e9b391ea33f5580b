"""The demo's treatment plan: three proton fields on a lung tumour, robustly optimised, and yet not robust enough.

The optimisation knows one error at a time; the evaluation combines setup and range errors. So the nominal plan is good
and some scenarios lose coverage: a case on which the verdict has something to say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csc_matrix, hstack

from doseeng.case import Case
from doseeng.cpu import cpu
from doseeng.dvh import sample_dose, sample_points
from doseeng.engine import RBE, prepare, scenario_dose
from doseeng.grid import Grid, Volume, beam_frame, crop_grid, resample, resampled_grid
from doseeng.influence import influence_matrix
from doseeng.machines.library import find_machine
from doseeng.machines.model import ProtonMachine
from doseeng.masks import mask
from doseeng.materials import MaterialMaps, material_maps, read_hu_table
from doseeng.metrics import evaluate_metric
from doseeng.plan import Plan, Prescription, ProtonBeam
from doseeng.proton import BeamModel, ProtonSettings, prepare_beam
from doseeng.structures import StructureSet
from planning.objectives import Kind, Objective
from planning.optimize import OptimizeSettings, optimize_weights
from planning.spots import INSIDE, SpotSettings, grown, place_spots
from robust.scenarios import scenario_set

Progress = Callable[[str, int, int], None]
Voxels = npt.NDArray[np.intp]

MACHINE: Final = "generic"
PATIENT_POSITION: Final = "HFS"
PRESCRIPTION_GY: Final = 60.0
FRACTIONS: Final = 30
FIELDS: Final = (("RL", 270.0), ("RPO", 225.0), ("PA", 180.0))
"""From the right and from behind: the shortest way in, past heart, cord and oesophagus."""
SPOT_MARGIN_MM: Final = 11.0
"""Spots reach so far beyond the CTV: for setup errors and for a sharp edge."""
SPOTS: Final = SpotSettings(spacing_mm=5.0, range_margin_percent=5.0, range_margin_mm=1.0)
SCENARIOS: Final = scenario_set("9-worst-case", setup_mm=6.0, range_percent=5.0)
"""What the optimisation prepares for. A usual lung evaluation takes 5 mm and 3.5 %, but both at once."""
POINT_SPACING_MM: Final = 4.0
POINT_MARGIN_MM: Final = 50.0
"""Planning points lie in a box so far around the target; beyond it the dose is low whatever the weights are."""
SPARSE: Final = 7
"""Of tissue far from the target every seventh voxel is enough: the dose varies slowly there."""
RING_MM: Final = (10.0, 22.0)
"""Inner and outer distance from the CTV of the shell where the dose must fall."""
RING_DOSE_GY: Final = 45.0
PLANNING: Final = ProtonSettings(pitch_mm=2.5, slice_mm=2.5)
CUTOFF: Final = 3e-3
SCENARIO_CUTOFF: Final = 5e-3
"""Coarse and quick; what that leaves out the engine puts back, once, between the two optimisations."""
MIN_SPOT_MU: Final = 0.02
SCALING_ROOM: Final = 1.05
"""The final scaling may lower spots by a few percent; they stay deliverable."""
ROUGH: Final = OptimizeSettings("worst", iterations=80)
FINAL: Final = OptimizeSettings("worst", iterations=120, min_spot_mu=MIN_SPOT_MU * SCALING_ROOM)
ENERGY_DECIMALS: Final = 1


@dataclass(frozen=True, slots=True, eq=False)
class _Points:
    """Where the optimisation looks at the dose.

    voxels: flat indices into `grid`, one per row of the matrices; the first `robust` of them count in every scenario.
    """

    grid: Grid
    voxels: Voxels
    robust: int
    objectives: tuple[Objective, ...]

    def rows(self, scenario: int) -> slice:
        """The rows that count in a scenario, 0 = nominal."""
        return slice(0, self.robust if scenario else len(self.voxels))


def plan_treatment(ct: Volume, structures: StructureSet, label: str, uid: str, progress: Progress) -> Plan:
    """A plan whose CTV receives the prescription in its median, by the dose engine. uid: its SOP Instance UID."""
    machine = find_machine(MACHINE)
    maps = material_maps(ct, read_hu_table(), structures)
    target = mask(structures.by_name("CTV"), ct.grid)
    beams = _fields(target, machine, maps)
    points = _points(structures, target)
    models = [prepare_beam(beam, machine, maps, points.grid, PATIENT_POSITION, PLANNING, cpu()) for beam in beams]
    matrices = _matrices(models, points, progress)
    start = np.full(matrices[0].shape[1], PRESCRIPTION_GY / float(matrices[0].sum(axis=1)[: points.robust].mean()))
    first = optimize_weights(matrices, points.objectives, start, ROUGH, progress).spot_mu
    missing = _missing(models, first, points, [m @ first for m in matrices], progress)
    weights = optimize_weights(matrices, points.objectives, first, FINAL, progress, missing).spot_mu
    plan = Plan(
        label,
        uid,
        PATIENT_POSITION,
        _weighted(beams, weights),
        (Prescription(structures.by_name("CTV").number, PRESCRIPTION_GY),),
        structures.uid,
        intent="RESEARCH",
    )
    return _scaled(plan, ct, structures, progress)


def _fields(target: Volume, machine: ProtonMachine, maps: MaterialMaps) -> tuple[ProtonBeam, ...]:
    """Geometry and spots of every field, each spot with 1 MU."""
    k, j, i = np.nonzero(target.values >= INSIDE)
    centre = target.grid.to_patient(np.column_stack([i, j, k])).mean(axis=0)
    x, y, z = (round(float(c), 1) for c in centre)
    wider = grown(target, SPOT_MARGIN_MM)
    beams = []
    for number, (name, gantry_deg) in enumerate(FIELDS, start=1):
        frame = beam_frame((x, y, z), gantry_deg, 0.0, PATIENT_POSITION)
        uv, energy = place_spots(wider, frame, machine, maps, SPOTS)
        energy = np.round(energy, ENERGY_DECIMALS)
        beams.append(
            ProtonBeam(
                number, name, machine.name, (x, y, z), gantry_deg, 0.0, uv, energy, np.ones(len(energy)), FRACTIONS
            )
        )
    return tuple(beams)


def _points(structures: StructureSet, target: Volume) -> _Points:
    """Full dose in the CTV in every scenario; steep fall around it and little dose in organs as planned."""
    k, j, i = np.nonzero(target.values >= INSIDE)
    box = crop_grid(target.grid, target.grid.to_patient(np.column_stack([i, j, k])), POINT_MARGIN_MM)
    grid = resampled_grid(box, (POINT_SPACING_MM,) * 3)
    inner, outer = (_voxels(resample(grown(target, mm), grid, 0.0)) for mm in RING_MM)
    in_structure = {n: _voxels(mask(structures.by_name(n), grid)) for n in ("CTV", "BODY", "Lungs-GTV", "Heart")}
    ctv, ring = in_structure["CTV"], np.setdiff1d(outer, inner)
    rest = np.setdiff1d(in_structure["BODY"], outer)[::SPARSE]
    others = np.setdiff1d(np.concatenate([ring, rest]), ctv)
    voxels = np.concatenate([ctv, others])
    row = np.full(np.prod(grid.shape), -1)
    row[voxels] = np.arange(len(voxels))

    def objective(name: str, kind: Kind, of: Voxels, dose_gy: float, weight: float) -> Objective:
        rows = row[of]
        return Objective(name, kind, rows[rows >= 0], dose_gy, weight, robust=name == "CTV")

    objectives = (
        objective("CTV", "uniform", ctv, PRESCRIPTION_GY, 100.0),
        objective("CTV", "minimum", ctv, 0.97 * PRESCRIPTION_GY, 200.0),
        objective("ring", "maximum", ring, RING_DOSE_GY, 10.0),
        objective("rest", "maximum", rest, 0.5 * PRESCRIPTION_GY, 10.0),
        objective("Lungs-GTV", "mean", in_structure["Lungs-GTV"], 0.1 * PRESCRIPTION_GY, 1.0),
        objective("Heart", "maximum", in_structure["Heart"], 0.1 * PRESCRIPTION_GY, 2.0),
    )
    return _Points(grid, voxels, len(ctv), objectives)


def _matrices(models: list[BeamModel], points: _Points, progress: Progress) -> list[csc_matrix]:
    """Per scenario the course dose in Gy (RBE) per MU, (points, spots of all beams); rows not asked for are empty."""
    k, j, i = np.unravel_index(points.voxels, points.grid.shape)
    points_mm = points.grid.to_patient(np.column_stack([i, j, k]))
    matrices = []
    for index, scenario in enumerate(SCENARIOS):
        progress("influence", index, len(SCENARIOS))
        at = points_mm[points.rows(index)]
        cutoff = SCENARIO_CUTOFF if index else CUTOFF
        parts = cpu().together([partial(influence_matrix, m, at, scenario, cutoff) for m in models])
        matrix = hstack(parts, format="csc") * np.float32(FRACTIONS * RBE)
        matrix.resize(len(points_mm), matrix.shape[1])
        matrices.append(matrix)
    progress("influence", len(SCENARIOS), len(SCENARIOS))
    return matrices


def _missing(
    models: list[BeamModel], spot_mu: npt.NDArray[np.float64], points: _Points,
    planned: list[npt.NDArray[np.float32]], progress: Progress,
) -> list[npt.NDArray[np.float64]]:  # fmt: skip
    """Per scenario, what the engine finds beyond the `planned` dose of the matrices at the points."""
    missing = []
    weights = _per_beam([model.beam for model in models], spot_mu)
    for index, (scenario, dose) in enumerate(zip(SCENARIOS, planned, strict=True)):
        progress("engine correction", index, len(SCENARIOS))
        exact = sum(cpu().together([partial(m.forward, mu, scenario) for m, mu in zip(models, weights, strict=True)]))
        difference = np.zeros(len(points.voxels))
        rows = points.rows(index)
        difference[rows] = FRACTIONS * RBE * np.ravel(exact)[points.voxels[rows]] - dose[rows]
        missing.append(difference)
    progress("engine correction", len(SCENARIOS), len(SCENARIOS))
    return missing


def _voxels(volume: Volume) -> Voxels:
    return np.flatnonzero(volume.values.ravel() >= INSIDE)


def _per_beam(beams: Sequence[ProtonBeam], spot_mu: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    return np.split(spot_mu, np.cumsum([len(beam.spot_mu) for beam in beams])[:-1])


def _weighted(beams: tuple[ProtonBeam, ...], spot_mu: npt.NDArray[np.float64]) -> tuple[ProtonBeam, ...]:
    """The beams with their part of the weights, without dropped spots; numbers as DICOM will hold them (float32)."""
    return tuple(
        replace(
            beam,
            spot_uv_mm=beam.spot_uv_mm[mu > 0].astype(np.float32),
            spot_energy_mev=beam.spot_energy_mev[mu > 0],
            spot_mu=mu[mu > 0].astype(np.float32),
        )
        for beam, mu in zip(beams, _per_beam(beams, spot_mu), strict=True)
    )


def _scaled(plan: Plan, ct: Volume, structures: StructureSet, progress: Progress) -> Plan:
    """The plan with its meterset scaled so that the CTV's median dose is the prescription."""
    progress("final dose", 0, 1)
    dose = scenario_dose(prepare(Case(plan.label, ct, structures, plan)))
    samples = sample_dose(sample_points(structures.by_name("CTV"), dose.volume.grid.spacing_mm), dose.volume)
    factor = PRESCRIPTION_GY / evaluate_metric(samples, "D50%")
    progress("final dose", 1, 1)
    return replace(
        plan, beams=tuple(replace(b, spot_mu=(b.spot_mu * factor).astype(np.float32)) for b in plan.proton_beams)
    )
