"""A small machine made of analytic Bragg curves."""

import numpy as np
import pytest

from doseeng.machines.bortfeld import bragg_curve, bragg_range_mm, range_sigma_mm
from doseeng.machines.depthdose import DEPTH_FRACTION, distal_range_mm
from doseeng.machines.halo import analytic_halo
from doseeng.machines.model import Optics, ProtonMachine, RangeShifterModel


@pytest.fixture(scope="session")
def bragg_machine() -> ProtonMachine:
    """80 to 200 MeV in steps of 10, every depth dose a Bortfeld curve of 0.6 % energy spread."""
    energy = np.arange(80.0, 201.0, 10.0)
    spread = 0.006 * energy
    ranges, curves = [], []
    for e, s in zip(energy, spread, strict=True):
        r0 = float(bragg_range_mm(e))
        sigma = float(range_sigma_mm(r0, e, s))
        depth = np.linspace(0.0, 1.3 * r0, 8000)
        ranges.append(distal_range_mm(depth, bragg_curve(depth, r0, sigma)))
        curves.append(bragg_curve(DEPTH_FRACTION * ranges[-1], r0, sigma))
    n = len(energy)
    shape = np.ones((n, 2, 2))
    shape[:, 1] = 4.0
    return ProtonMachine(
        name="Bragg 1",
        version="1",
        description='Analytic "test" machine',
        source="Bortfeld 1997",
        energy_mev=energy,
        mean_energy_mev=energy.copy(),
        energy_spread_mev=spread,
        range_mm=np.array(ranges),
        protons_per_mu=1.0e6 * energy,
        depth_fraction=DEPTH_FRACTION,
        idd=np.stack(curves),
        halo=analytic_halo(np.array(ranges)),
        optics=Optics(410.0, np.full(n, 0.04), 3.0 * shape, 3e-3 * shape, -0.2 * np.ones((n, 2, 2))),
        source_distance_mm=(2234.8, 1859.1),
        range_shifters=(RangeShifterModel("RS=40", 40.0, 1.2),),
        aliases=("GTR1", "Gantry Ü"),
    )
