"""A small proton machine made of analytic Bragg curves and a photon machine."""

import numpy as np
import pytest

from doseeng.machines.bortfeld import bragg_curve, bragg_range_mm, range_sigma_mm
from doseeng.machines.depthdose import DEPTH_FRACTION, distal_range_mm
from doseeng.machines.halo import analytic_halo
from doseeng.machines.model import Optics, ProtonMachine, RangeShifterModel
from doseeng.machines.photonmodel import (
    Cones,
    Electrons,
    Jaws,
    LeafModel,
    Modes,
    PhotonMachine,
    Reference,
    Source,
    WedgeModel,
)


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


@pytest.fixture(scope="session")
def photon_machine() -> PhotonMachine:
    """A photon machine with made-up numbers, every part of it filled."""

    def falling(n: int) -> np.ndarray:
        return np.arange(n, 0.0, -1.0) / np.arange(n, 0.0, -1.0).sum()

    steps = np.arange(1.0, 5.0)
    return PhotonMachine(
        name="Linac A",
        version="1",
        description='Made-up "test" machine',
        source="nowhere",
        energy_mv=6.0,
        fluence_mode="STANDARD",
        source_axis_mm=1000.0,
        reference=Reference(900.0, 100.0, 100.0, 0.0067123456),
        spectrum_mev=np.array([0.5, 1.0, 2.0, 4.0]),
        spectrum_weight=falling(4),
        softening=1.0,
        profile_mm=np.array([0.0, 50.0, 200.0]),
        profile=np.array([1.0, 1.01, 1.05]),
        head=Source((0.5, 0.7), 0.08, 25.0, 120.0),
        electrons=Electrons(0.2, 8.0, 20.0),
        jaws=Jaws(0.005, 400.0, 320.0),
        leaves=(
            LeafModel("M120", ((10, 10.0), (40, 5.0), (10, 10.0)), 500.0, 0.015, 0.005, 0.9, 1.0),
            LeafModel("upper", ((29, 10.0),), 340.0, 0.005, 0.002, 0.1, 0.5),
        ),
        wedges=(WedgeModel("W30", 30.0, np.array([-100.0, 0.0, 100.0]), np.array([0.4, 0.6, 0.9])),),
        cones=Cones(
            np.linspace(0.0, 180.0, 5),
            np.column_stack([falling(4), steps]),
            np.column_stack([falling(4), steps / 20.0]),
        ),
        modes=Modes(np.array([[1.0, 0.5, 0.1]]), np.array([[0.6, 0.05, 0.2], [0.4, 0.01, 0.3]])),
        aliases=("TR1", "Linac Ä"),
    )
