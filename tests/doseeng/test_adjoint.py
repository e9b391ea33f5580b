"""The dose operator and its transpose, whole: <A x, y> = <x, A^T y>, and spot by spot."""

from dataclasses import replace

import numpy as np
import pytest

from doseeng._kernels.scalar import LANES
from doseeng.grid import Grid, Volume
from doseeng.layers import Kind
from doseeng.machines.library import find_machine
from doseeng.materials import MaterialMaps
from doseeng.plan import ProtonBeam, RangeShifter
from doseeng.proton import BeamModel, ProtonSettings, prepare_beam
from doseeng.scenario import NOMINAL, Scenario

ENERGIES = np.linspace(88.0, 112.0, LANES + 3)
"""Two groups, the second one padded."""
ERROR = Scenario("error", (4.5, -3.0, 2.5), 1.035)


def phantom() -> MaterialMaps:
    """Air, then water with a rib, a piece of lung with an edge along the beam, and a skin that is not flat."""
    grid = Grid((30, 44, 32), (4.0, 4.0, 4.0), (-62.0, -78.0, -58.0))
    k, j, i = np.indices(grid.shape)
    x, y, z = np.moveaxis(grid.to_patient(np.stack([i, j, k], axis=-1)), -1, 0)
    rsp = np.where(y > -50.0 + 0.004 * x**2, 1.0, 0.001)
    rsp[(y > -40.0) & (y < -30.0) & (np.abs(z) < 10.0)] = 1.6
    rsp[(y > -20.0) & (y < 20.0) & (x > 4.0)] = 0.25
    volume = Volume(grid, rsp)
    return MaterialMaps(volume, volume)


def beam(shifter: RangeShifter | None = None, gantry: float = 12.0) -> ProtonBeam:
    """Three spots in each of eleven layers."""
    rng = np.random.default_rng(1)
    energy = np.repeat(ENERGIES, 3) + (25.0 if shifter else 0.0)
    uv = rng.uniform(-15.0, 15.0, (len(energy), 2))
    return ProtonBeam(1, "B", "generic", (0.0, 0.0, 0.0), gantry, 0.0, uv, energy, rng.uniform(0.5, 2.0, len(energy)),
                      range_shifter=shifter)  # fmt: skip


GRID = Grid((21, 30, 25), (3.0, 4.0, 3.5), (-35.0, -62.0, -36.0))


@pytest.fixture(scope="module")
def model() -> BeamModel:
    return prepare_beam(beam(), find_machine("generic-pbs"), phantom(), GRID, "HFS")


@pytest.fixture(scope="module")
def shifted() -> BeamModel:
    return prepare_beam(beam(RangeShifter("RS", 40.0, 90.0)), find_machine("generic-pbs"), phantom(), GRID, "HFS")


def test_the_case_has_what_makes_it_hard(model: BeamModel, shifted: BeamModel) -> None:
    assert model.layers.groups == 2
    assert len(model.layers.energy_mev) % LANES
    assert {c.kind for c in shifted.components} == set(Kind)
    # Depths mix, so that fluence moves from ray to ray on its way.
    straight = prepare_beam(
        beam(), find_machine("generic-pbs"), phantom(), GRID, "HFS", ProtonSettings(mixing_mm=1e9)
    ).dose()
    assert np.abs(model.dose() - straight).max() > 0.01 * straight.max()


@pytest.mark.parametrize("scenario", [NOMINAL, ERROR], ids=lambda s: s.name)
@pytest.mark.parametrize("signed", [False, True], ids=["positive", "signed"])
@pytest.mark.parametrize("name", ["model", "shifted"])
def test_adjoint_is_the_transpose_of_forward(
    request: pytest.FixtureRequest, name: str, scenario: Scenario, signed: bool
) -> None:
    operator: BeamModel = request.getfixturevalue(name)
    rng = np.random.default_rng(7)
    n = len(operator.beam.spot_mu)
    low = -1.0 if signed else 0.0
    x, y = rng.uniform(low, 1.0, n), rng.uniform(low, 1.0, GRID.shape).astype(np.float32)
    dose = operator.forward(x, scenario).astype(float)
    back = operator.adjoint(y, scenario)
    assert back.shape == (n,)
    # Signed sums cancel: measured against the sum without signs.
    scale = (np.abs(dose) * np.abs(y)).sum()
    assert (dose * y).sum() == pytest.approx(x @ back, abs=1e-4 * scale)
    assert scale > 0


def test_adjoint_is_linear(model: BeamModel) -> None:
    rng = np.random.default_rng(8)
    a, b = rng.random((2, *GRID.shape)).astype(np.float32)
    both = model.adjoint(a - np.float32(2.0) * b)
    expected = model.adjoint(a) - 2.0 * model.adjoint(b)
    np.testing.assert_allclose(both, expected, atol=1e-4 * np.abs(model.adjoint(a)).max())


@pytest.mark.parametrize("scenario", [NOMINAL, ERROR], ids=lambda s: s.name)
def test_a_voxel_gets_from_each_spot_what_the_adjoint_says(model: BeamModel, scenario: Scenario) -> None:
    n = len(model.beam.spot_mu)
    spots = (0, 1, n // 2, n - 2)
    columns = {s: model.forward(np.eye(n)[s], scenario) for s in spots}
    hottest = np.unravel_index(np.argmax(columns[n // 2]), GRID.shape)
    # The hottest voxel of a spot, one on the other side of the lung's edge, and one before the skin.
    for voxel in (hottest, (hottest[0] + 2, hottest[1] - 6, hottest[2] + 3), (10, 0, 12)):
        unit = np.zeros(GRID.shape, dtype=np.float32)
        unit[voxel] = 1.0
        row = model.adjoint(unit, scenario)
        for s, column in columns.items():
            assert row[s] == pytest.approx(column[voxel], rel=2e-3, abs=1e-5 * float(column.max()))


def test_dose_is_forward_of_the_beams_own_meterset(model: BeamModel, shifted: BeamModel) -> None:
    for operator in (model, shifted):
        for scenario in (NOMINAL, ERROR):
            own = operator.forward(operator.beam.spot_mu, scenario)
            np.testing.assert_allclose(operator.dose(scenario), own, atol=1e-6 * own.max())


def test_forward_does_not_depend_on_the_meterset_of_the_beam(model: BeamModel) -> None:
    # Spots without meterset in the plan are part of the operator.
    some = model.beam.spot_mu.copy()
    some[::2] = 0.0
    other = prepare_beam(replace(model.beam, spot_mu=some), find_machine("generic-pbs"), phantom(), GRID, "HFS")
    x = np.random.default_rng(9).random(len(some))
    expected = model.forward(x)
    np.testing.assert_allclose(other.forward(x), expected, atol=1e-6 * expected.max())
    np.testing.assert_allclose(other.adjoint(expected), model.adjoint(expected), rtol=1e-5)
