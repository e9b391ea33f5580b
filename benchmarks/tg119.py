"""The TG-119 phantom and a proton plan on it, as doseeng's data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from doseeng.grid import Grid, Volume
from doseeng.machines.importers import import_matrad
from doseeng.machines.model import ProtonMachine
from doseeng.materials import MaterialMaps, read_hu_table
from doseeng.plan import ProtonBeam

# matRad's default conversion of HU to stopping power, which pyRadPlan uses for every machine.
MATRAD_HU = (-1024.0, -999.0, -90.0, -45.0, 0.0, 100.0, 350.0, 3000.0)
MATRAD_RSP = (0.001, 0.001, 0.95, 0.99, 1.0, 1.095, 1.199, 2.505)


@dataclass(frozen=True, slots=True)
class PeerPlan:
    """A plan that a peer computed: the peer's dose (Gy, one fraction) and what doseeng needs to compute the same."""

    maps: MaterialMaps
    machine: ProtonMachine
    beams: tuple[ProtonBeam, ...]
    spots: int
    peer_dose_gy: Volume


def read_peer_plan(phantom_path: Path, peer_path: Path, machine_file: Path) -> PeerPlan:
    """Phantom, machine and spots of a dose written by `benchmarks/peers/run_pyradplan.py`.

    Stopping powers are the peer's, so that only the dose engines differ; outside the structures is air, as there.
    """
    phantom, peer = np.load(phantom_path), np.load(peer_path)
    hu = phantom["hu"].astype(np.float64)
    grid = Grid(hu.shape, tuple(phantom["spacing_mm"]), tuple(phantom["origin_mm"]))
    bits = len(json.loads(str(phantom["meta"]))["structures"])
    hu[(phantom["mask_bits"] & ((1 << bits) - 1)) == 0] = MATRAD_HU[0]
    table = read_hu_table()
    scattering = table.scattering[np.clip(np.rint(hu), -1000, 3000).astype(int) + 1000]
    maps = MaterialMaps(Volume(grid, np.interp(hu, MATRAD_HU, MATRAD_RSP).astype(np.float32)), Volume(grid, scattering))
    machine, _ = import_matrad(machine_file)
    protons_per_mu = float(machine.protons_per_mu[0])
    x, y, z = map(float, peer["isocenter_mm"])
    beams = []
    for number, gantry in enumerate(peer["gantry_deg"]):
        mine = peer["spot_beam"] == number
        beams.append(
            ProtonBeam(
                number=number + 1,
                name=f"G{gantry:.0f}",
                machine=machine.name,
                isocenter_mm=(x, y, z),
                gantry_deg=float(gantry),
                couch_deg=0.0,
                spot_uv_mm=peer["spot_uv_mm"][mine],
                spot_energy_mev=peer["spot_energy_mev"][mine],
                spot_mu=peer["spot_protons"][mine] / protons_per_mu,
            )
        )
    return PeerPlan(maps, machine, tuple(beams), len(peer["spot_beam"]), Volume(grid, peer["dose_gy"]))
