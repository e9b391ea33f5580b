"""Small plans on a spherical target anywhere in an image: what daily images are judged with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.sparse import hstack

from doseeng.case import Case
from doseeng.dvh import sample_dose, sample_points
from doseeng.engine import RBE, prepare, scenario_dose
from doseeng.errors import PlanError
from doseeng.grid import Grid, Volume, beam_frame, crop_grid, resampled_grid
from doseeng.influence import influence_matrix
from doseeng.machines.library import find_machine
from doseeng.masks import mask
from doseeng.materials import material_maps, read_hu_table
from doseeng.metrics import evaluate_metric
from doseeng.plan import PhotonBeam, Plan, Prescription, ProtonBeam
from doseeng.proton import ProtonSettings, prepare_beam
from doseeng.structures import Structure, StructureSet
from planning.objectives import Objective
from planning.optimize import optimize_weights
from planning.spots import SpotSettings, grown, place_spots

TARGET = "CTV"
PRESCRIPTION_GY = 60.0
FRACTIONS = 30
PROTON_FIELDS = 3
COVERED_PERCENT = 99.0
"""Plans are scaled so that this much of the target gets 95 % of the prescription."""
PHOTON_GANTRIES_DEG = (0.0, 72.0, 144.0, 216.0, 288.0)
PROTON_MARGIN_MM = 6.0
PHOTON_MARGIN_MM = 11.0
"""What covers the target as planned but not much more, so that coverage feels what an image gets wrong."""
RING_MM = (8.0, 20.0)
PLANE_MM = 2.0


def spherical_target(centre_mm: npt.ArrayLike, radius_mm: float) -> StructureSet:
    """A structure set of one sphere, drawn on axial planes."""
    x, y, z = np.asarray(centre_mm, dtype=float)
    angle = np.linspace(0.0, 2 * np.pi, 48, endpoint=False)
    contours = []
    for offset in np.arange(-radius_mm + PLANE_MM / 2, radius_mm, PLANE_MM):
        r = np.sqrt(radius_mm**2 - offset**2)
        points = np.column_stack([x + r * np.cos(angle), y + r * np.sin(angle), np.full(48, z + offset)])
        contours.append(points)
    return StructureSet("target", "1.2.3", "1.2.3.4", (Structure(1, TARGET, "CTV", tuple(contours)),))


def proton_case(image: Volume, structures: StructureSet, grid: Grid, gantries_deg: Sequence[float]) -> Case:
    """A case with a proton plan of PROTON_FIELDS fields, from the first of the directions that the machine allows."""
    machine, maps = find_machine("generic"), material_maps(image, read_hu_table(), structures)
    inside = mask(structures.by_name(TARGET), image.grid)
    k, j, i = np.nonzero(inside.values >= 0.5)
    voxels = image.grid.to_patient(np.column_stack([i, j, k]))
    x, y, z = (float(c) for c in voxels.mean(axis=0))
    wider = grown(inside, PROTON_MARGIN_MM)
    beams: list[ProtonBeam] = []
    for gantry in gantries_deg:
        frame = beam_frame((x, y, z), gantry, 0.0, "HFS")
        try:
            uv, energy = place_spots(wider, frame, machine, maps, SpotSettings(5.0, 2.0, 1.0))
        except PlanError:
            continue
        mu, number = np.ones(len(energy)), len(beams) + 1
        beams.append(
            ProtonBeam(number, f"G{gantry:g}", machine.name, (x, y, z), gantry, 0.0, uv, energy, mu, FRACTIONS)
        )
        if len(beams) == PROTON_FIELDS:
            break
    box = resampled_grid(crop_grid(image.grid, voxels, 30.0), (4.0, 4.0, 4.0))
    models = [prepare_beam(b, machine, maps, box, "HFS", ProtonSettings(pitch_mm=2.5, slice_mm=2.5)) for b in beams]
    distance = [_where(mask(structures.by_name(TARGET), box), mm) for mm in (0.0, *RING_MM)]
    rows = np.concatenate([np.flatnonzero(distance[0]), np.flatnonzero(distance[2] & ~distance[1])])
    centres = box.to_patient(np.column_stack(np.unravel_index(rows, box.shape))[:, ::-1])
    matrix = hstack([influence_matrix(m, centres) for m in models], format="csc") * np.float32(FRACTIONS * RBE)
    inner = np.arange(np.count_nonzero(distance[0]))
    objectives = (
        Objective(TARGET, "uniform", inner, PRESCRIPTION_GY, 100.0),
        Objective("ring", "maximum", np.arange(len(inner), len(rows)), 0.6 * PRESCRIPTION_GY, 10.0),
    )
    start = np.full(matrix.shape[1], PRESCRIPTION_GY / float(matrix[: len(inner)].sum(axis=1).mean()))
    mu = optimize_weights([matrix], objectives, start).spot_mu
    parts = np.split(mu, np.cumsum([len(b.spot_mu) for b in beams])[:-1])
    kept = tuple(
        replace(b, spot_uv_mm=b.spot_uv_mm[w > 0], spot_energy_mev=b.spot_energy_mev[w > 0], spot_mu=w[w > 0])
        for b, w in zip(beams, parts, strict=True)
    )
    return _scaled(Case("day", image, structures, _plan(kept, structures)), grid)


def photon_case(image: Volume, structures: StructureSet, grid: Grid, radius_mm: float) -> Case:
    """A case with five square static photon fields of 6 MV, scaled likewise."""
    inside = mask(structures.by_name(TARGET), image.grid)
    k, j, i = np.nonzero(inside.values >= 0.5)
    isocenter = image.grid.to_patient(np.column_stack([i, j, k])).mean(axis=0)
    half, pair = radius_mm + PHOTON_MARGIN_MM, np.zeros(2)
    beams = tuple(
        PhotonBeam(
            number,
            f"G{gantry:g}",
            "generic-6mv",
            6.0,
            "STANDARD",
            "STATIC",
            1000.0,
            100.0,
            np.array([0.0, 1.0]),
            np.tile(isocenter, (2, 1)),
            pair + gantry,
            pair,
            pair,
            np.tile([-half, half], (2, 1)),
            np.tile([-half, half], (2, 1)),
            fractions=FRACTIONS,
        )
        for number, gantry in enumerate(PHOTON_GANTRIES_DEG, start=1)
    )
    return _scaled(Case("day", image, structures, _plan(beams, structures)), grid)


def dose_on(case: Case, image: Volume, structures: StructureSet, grid: Grid) -> Volume:
    """The plan of a case on another image, on a grid."""
    return scenario_dose(prepare(replace(case, ct=image, structures=structures), grid=grid)).volume


def coverage(dose: Volume, target: Structure) -> float:
    """V95% of a target."""
    samples = sample_dose(sample_points(target, dose.grid.spacing_mm), dose)
    return evaluate_metric(samples, "V95%", PRESCRIPTION_GY)


def _where(inside: Volume, margin_mm: float) -> npt.NDArray[np.bool_]:
    return (inside if margin_mm == 0.0 else grown(inside, margin_mm)).values >= 0.5


def _plan(beams: tuple[ProtonBeam, ...] | tuple[PhotonBeam, ...], structures: StructureSet) -> Plan:
    return Plan("day", "1.2.3.5", "HFS", beams, (Prescription(1, PRESCRIPTION_GY),), structures.uid)


def _scaled(case: Case, grid: Grid) -> Case:
    target = case.structures.by_name(TARGET)
    dose = dose_on(case, case.ct, case.structures, grid)
    samples = sample_dose(sample_points(target, grid.spacing_mm), dose)
    factor = 0.95 * PRESCRIPTION_GY / evaluate_metric(samples, f"D{COVERED_PERCENT:g}%")
    beams = tuple(
        replace(b, spot_mu=b.spot_mu * factor)
        if isinstance(b, ProtonBeam)
        else replace(b, meterset_mu=b.meterset_mu * factor)
        for b in case.plan.beams
    )
    return replace(case, plan=replace(case.plan, beams=beams))
