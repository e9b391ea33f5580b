"""The plan that the GPU benchmark computes: TG-119 with two fields, or a box of water where the reference data lack."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from doseeng.dvh import SamplePoints
from doseeng.grid import Grid, Volume, resample
from doseeng.machines.library import find_machine
from doseeng.machines.model import ProtonMachine
from doseeng.materials import MaterialMaps, read_hu_table
from doseeng.plan import ProtonBeam

PARTICLES_PER_WEIGHT = 1e6
AIR_HU = -1000.0


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """hu: the image that maps were made from. points: where its structures are sampled."""

    name: str
    hu: Volume
    maps: MaterialMaps
    machine: ProtonMachine
    beams: tuple[ProtonBeam, ...]
    points: tuple[SamplePoints, ...]

    @property
    def grid(self) -> Grid:
        """Dose is computed on the image's grid."""
        return self.hu.grid

    @property
    def spots(self) -> int:
        """Spots of all beams."""
        return sum(len(beam.spot_mu) for beam in self.beams)


def read_plan(data_dir: Path) -> GpuPlan:
    """TG-119 from the reference data, or the box of water."""
    return tg119(data_dir) if (data_dir / "phantoms" / "TG119.npz").is_file() else water()


def tg119(data_dir: Path) -> GpuPlan:
    """The AAPM TG-119 C-shape with the spots of a matRad plan, on the machine that doseeng ships.

    No other engine's machine data are needed, so the benchmark runs where only doseeng is installed.
    """
    phantom = np.load(data_dir / "phantoms" / "TG119.npz")
    plan = np.load(data_dir / "peers" / "tg119_protons_matRad_HongPB.npz")
    grid = Grid(phantom["hu"].shape, tuple(phantom["spacing_mm"]), tuple(phantom["origin_mm"]))
    structures = json.loads(str(phantom["meta"]))["structures"]
    masks = [(phantom["mask_bits"] >> bit) & 1 == 1 for bit in range(len(structures))]
    hu = np.where(np.any(masks, axis=0), phantom["hu"], AIR_HU).astype(np.float32)
    machine = find_machine("generic-pbs")
    isocenter = tuple(map(float, plan["isocenter_mm"]))
    beams = []
    for number, gantry in enumerate(plan["gantry_deg"]):
        mine = plan["spot_beam"] == number
        energy = plan["spot_energy_MeV"][mine].astype(np.float64)
        protons = plan["spot_weight"][mine] * PARTICLES_PER_WEIGHT
        mu = protons / np.interp(energy, machine.energy_mev, machine.protons_per_mu)
        # matRad's beam's-eye x and z are gantry X and Y of a head-first supine patient at couch 0.
        uv = plan["spot_rayPos_bev_mm"][mine][:, [0, 2]].astype(np.float64)
        name = f"G{gantry:.0f}"
        beams.append(ProtonBeam(number + 1, name, machine.name, isocenter, float(gantry), 0.0, uv, energy, mu))
    points = tuple(_points(s["name"], mask, grid) for s, mask in zip(structures, masks, strict=True))
    return _plan("TG-119", Volume(grid, hu), machine, tuple(beams), points)


def water() -> GpuPlan:
    """Three fields on a target of 60 mm in 30 cm of water, 3 mm voxels."""
    grid = Grid((100, 100, 100), (3.0, 3.0, 3.0), (-148.5, -148.5, -148.5))
    machine = find_machine("generic-pbs")
    side = np.arange(-30.0, 31.0, 5.0)
    spots = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    energies = np.arange(130.0, 175.0, 2.0)
    uv, energy = np.tile(spots, (len(energies), 1)), np.repeat(energies, len(spots))
    beams = tuple(
        ProtonBeam(n + 1, f"G{g}", machine.name, (0.0, 0.0, 0.0), float(g), 0.0, uv, energy, np.full(len(uv), 0.02))
        for n, g in enumerate((0, 120, 240))
    )
    target = np.zeros(grid.shape, dtype=np.bool_)
    target[40:60, 40:60, 40:60] = True
    hu = Volume(grid, np.zeros(grid.shape, dtype=np.float32))
    return _plan("water", hu, machine, beams, (_points("target", target, grid),))


def resampled(plan: GpuPlan, spacing_mm: float) -> GpuPlan:
    """The same plan on cubes of one size, for engines that need them."""
    old = plan.grid
    size = np.array(old.shape[::-1]) * np.array(old.spacing_mm)
    shape = tuple(int(n) for n in np.ceil(size / spacing_mm)[::-1])
    first = tuple(float(o + 0.5 * (spacing_mm - s)) for o, s in zip(old.origin_mm, old.spacing_mm, strict=True))
    grid = Grid(shape, (spacing_mm,) * 3, first)
    return _plan(plan.name, resample(plan.hu, grid, AIR_HU), plan.machine, plan.beams, plan.points)


def _plan(
    name: str, hu: Volume, machine: ProtonMachine, beams: tuple[ProtonBeam, ...], points: tuple[SamplePoints, ...]
) -> GpuPlan:
    table = read_hu_table()
    row = np.clip(np.rint(hu.values), -1000, 3000).astype(int) + 1000
    maps = MaterialMaps(Volume(hu.grid, table.rsp[row]), Volume(hu.grid, table.scattering[row]))
    return GpuPlan(name, hu, maps, machine, beams, points)


def _points(name: str, mask: np.ndarray, grid: Grid) -> SamplePoints:
    """The centres of a structure's voxels."""
    index = np.argwhere(mask)[:, ::-1].astype(np.float64)
    weight = np.full(len(index), np.prod(grid.spacing_mm) / 1000.0, dtype=np.float32)
    return SamplePoints(name, grid.to_patient(index).astype(np.float32), weight, float(weight.sum()))
