"""The proton engine against closed forms in water: energy, position, width, range, and what may not change the dose."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtr

from doseeng.errors import GeometryError, MachineError
from doseeng.grid import PATIENT_POSITIONS, Grid, Volume, beam_frame, patient_to_fixed
from doseeng.layers import RECOIL_RANGE_MM, RECOIL_SHARE, SECONDARY_ANGLE_RAD, TAIL_SHARE, TAIL_WIDTH, Deposit
from doseeng.let import let_parts
from doseeng.machines import lookup
from doseeng.machines.depthdose import distal_range_mm
from doseeng.machines.library import find_machine
from doseeng.machines.model import ProtonMachine
from doseeng.materials import MaterialMaps
from doseeng.plan import ProtonBeam, RangeShifter
from doseeng.proton import ProtonSettings, beam_dose, prepare_beam
from doseeng.scenario import NOMINAL, Scenario

ENERGY_MEV = 100.0
RANGE_MM = 77.388
"""R80 of the shipped machine at 100 MeV."""


@pytest.fixture(scope="module")
def machine() -> ProtonMachine:
    return find_machine("generic-pbs")


@pytest.fixture(scope="module")
def core(machine: ProtonMachine) -> ProtonMachine:
    """The shipped machine without halo and wide Gaussian, whose width has a formula."""
    halo = replace(machine.halo, fraction=np.zeros_like(machine.halo.fraction))
    optics = replace(machine.optics, weight=np.zeros_like(machine.optics.weight))
    return replace(machine, halo=halo, optics=optics)


def one_beam(
    uv: tuple = ((0.0, 0.0),),
    mu: tuple | None = None,
    energy: tuple | None = None,
    gantry: float = 0.0,
    couch: float = 0.0,
    isocenter: tuple = (0.0, 0.0, 0.0),
    shifter: RangeShifter | None = None,
) -> ProtonBeam:
    n = len(uv)
    return ProtonBeam(
        3, "AP", "generic", isocenter, gantry, couch, np.array(uv), np.array(energy or (ENERGY_MEV,) * n),
        np.array(mu or (1.0,) * n), range_shifter=shifter,
    )  # fmt: skip


def water(y: tuple[float, float], half_mm: float = 60.0) -> MaterialMaps:
    """Water between two heights; a beam at gantry 0 enters at y[0] (HFS: y points down)."""
    n = round(2 * half_mm / 4)
    grid = Grid((n, round((y[1] - y[0]) / 4), n), (4.0, 4.0, 4.0), (2 - half_mm, y[0] + 2, 2 - half_mm))
    ones = Volume(grid, np.ones(grid.shape))
    return MaterialMaps(ones, ones)


DEEP_WATER = water((0.0, 120.0))


def protons(machine: ProtonMachine, mu: float = 1.0, energy: float = ENERGY_MEV) -> float:
    """1e9 protons of a meterset at one nominal energy of the table."""
    return mu * float(machine.protons_per_mu[np.searchsorted(machine.energy_mev, energy)]) / 1e9


def depth_grid(half_mm: float = 30.0, lateral_mm: float = 2.0, depth_mm: float = 90.0, step_mm: float = 1.0) -> Grid:
    """Planes of equal depth below y = 0, with a voxel on the axis."""
    n = round(half_mm / lateral_mm)
    shape = (2 * n + 1, round(depth_mm / step_mm), 2 * n + 1)
    return Grid(shape, (lateral_mm, step_mm, lateral_mm), (-n * lateral_mm, 0.5 * step_mm, -n * lateral_mm))


def depth_dose(dose: np.ndarray, grid: Grid) -> np.ndarray:
    """(n_y,) dose integrated over planes of equal y, Gy mm2."""
    return dose.sum(axis=(0, 2), dtype=float) * grid.spacing_mm[0] * grid.spacing_mm[2]


def depths(grid: Grid) -> np.ndarray:
    return grid.origin_mm[1] + grid.spacing_mm[1] * np.arange(grid.shape[1])


def r80(dose: np.ndarray, grid: Grid) -> float:
    return distal_range_mm(depths(grid), depth_dose(dose, grid))


def lateral(plane: np.ndarray, first_mm: tuple[float, float], spacing: float) -> np.ndarray:
    """Mean and variance along the last axis and along the first axis of a plane, [[mean, var], [mean, var]] in mm."""
    out = []
    for axis, start in ((0, first_mm[0]), (1, first_mm[1])):
        profile = plane.sum(axis=axis, dtype=float)
        x = start + spacing * np.arange(len(profile))
        mean = (profile * x).sum() / profile.sum()
        out.append((mean, (profile * (x - mean) ** 2).sum() / profile.sum()))
    return np.array(out)


def test_integrated_dose_is_the_machines_depth_dose(core: ProtonMachine, machine: ProtonMachine) -> None:
    for model, grid in ((core, depth_grid()), (machine, depth_grid(160.0, step_mm=3.0))):
        maps = DEEP_WATER if model is core else water((0.0, 120.0), 180.0)
        dose = beam_dose(one_beam(), model, maps, grid, "HFS")
        assert dose.shape == grid.shape
        assert dose.dtype == np.float32
        depth = depths(grid)
        expected = lookup.depth_dose_at(model, ENERGY_MEV, depth) * protons(model)
        # The image ends at the skin; the cubic between slices swings over there.
        before = (depth > 2.0) & (depth < 0.85 * RANGE_MM)
        # The wide rays end at three standard deviations, the grid at 160 mm: 0.1 %.
        np.testing.assert_allclose(depth_dose(dose, grid)[before], expected[before], rtol=2.5e-3)
        behind = depth > 1.1 * RANGE_MM
        assert depth_dose(dose, grid)[behind].max() < 0.01 * expected.max()


def test_dose_is_the_mean_over_each_voxel(core: ProtonMachine) -> None:
    # A Bragg peak of 100 MeV in voxels 5 mm deep: their mean, not the value at their centre. Slices of 2 mm and the
    # cubic between them are right to a percent of the peak.
    grid = depth_grid(half_mm=36.0, lateral_mm=3.0, step_mm=5.0)
    found = depth_dose(beam_dose(one_beam(), core, DEEP_WATER, grid, "HFS"), grid)
    fine = depths(grid)[:, None] + 5.0 * ((np.arange(100) + 0.5) / 100 - 0.5)
    expected = lookup.depth_dose_at(core, ENERGY_MEV, fine).mean(axis=1) * protons(core)
    np.testing.assert_allclose(found[1:], expected[1:], atol=0.015 * expected.max())
    centre = lookup.depth_dose_at(core, ENERGY_MEV, depths(grid)) * protons(core)
    assert np.abs(centre - expected).max() > 0.05 * expected.max()


def test_energies_between_the_table_and_several_layers(core: ProtonMachine) -> None:
    grid = depth_grid(step_mm=2.0)
    dose = beam_dose(one_beam(((0, 0), (3, 0)), (2.0, 1.0), (97.3, 81.0)), core, DEEP_WATER, grid, "HFS")
    depth = depths(grid)
    per_mu = np.interp([97.3, 81.0], core.energy_mev, core.protons_per_mu) / 1e9
    expected = 2.0 * per_mu[0] * lookup.depth_dose_at(core, 97.3, depth)
    expected += per_mu[1] * lookup.depth_dose_at(core, 81.0, depth)
    before = depth < 45.0
    np.testing.assert_allclose(depth_dose(dose, grid)[before], expected[before], rtol=3e-3)


def test_range_in_water(machine: ProtonMachine, core: ProtonMachine) -> None:
    assert lookup.range_at(machine, np.array([ENERGY_MEV]))[0] == pytest.approx(RANGE_MM, abs=1e-3)
    grid = depth_grid(step_mm=0.5, lateral_mm=3.0)
    assert r80(beam_dose(one_beam(), core, DEEP_WATER, grid, "HFS"), grid) == pytest.approx(RANGE_MM, abs=0.15)


@pytest.mark.parametrize("uv", [(0.0, 0.0), (20.0, -16.0)])
def test_spots_diverge_from_two_sources(core: ProtonMachine, uv: tuple[float, float]) -> None:
    # Isocentre 50 mm deep; a spot passes height z at u (1 - z / SAD_x), v (1 - z / SAD_y).
    grid = Grid((31, 35, 31), (2.0, 2.0, 2.0), (uv[0] - 30, 1.0, uv[1] - 30))
    dose = beam_dose(one_beam((uv,), isocenter=(0.0, 50.0, 0.0)), core, DEEP_WATER, grid, "HFS")
    for j in (0, 10, 25, 34):
        z = 50.0 - depths(grid)[j]
        mean = lateral(dose[:, j], (uv[0] - 30, uv[1] - 30), 2.0)[:, 0]
        expected = (uv[0] * (1 - z / 2234.8), uv[1] * (1 - z / 1859.1))
        np.testing.assert_allclose(mean, expected, atol=0.02)


@pytest.mark.parametrize(("energy", "depth_mm"), [(160.0, 160.0), (100.0, 72.0)])
@pytest.mark.parametrize(("voxel_mm", "half_mm"), [(1.1, 33.0), (2.0, 34.0), (3.0, 36.0)])
def test_width_is_optics_and_scattering(
    core: ProtonMachine, energy: float, depth_mm: float, voxel_mm: float, half_mm: float
) -> None:
    # 160 MeV: a width of the beam that the scatter of 80 % of the range adds to visibly.
    grid = depth_grid(half_mm, voxel_mm, depth_mm, step_mm=4.0)
    dose = beam_dose(one_beam(energy=(energy,)), core, water((0.0, 200.0)), grid, "HFS")
    row = np.searchsorted(core.energy_mev, energy)
    sigma, divergence = core.optics.sigma_mm[row, 0], core.optics.divergence_rad[row, 0]
    correlation = core.optics.correlation[row, 0]
    depth = depths(grid)
    # Multiple scattering is a mixture: most of it as Fermi and Eyges say, a tail so many times as wide.
    scatter = lookup.water_scatter_variance(core, energy, depth) * (1.0 - TAIL_SHARE + TAIL_SHARE * TAIL_WIDTH**2)
    for j in range(0, len(depth), 6):
        # 410 mm from the nozzle to the isocentre, here at the surface.
        drift = 410.0 + depth[j]
        optics = sigma**2 + 2 * correlation * sigma * divergence * drift + (divergence * drift) ** 2
        # Means over voxels are as wide as the voxel adds, w^2 / 12; rays cannot be finer than 1 mm here.
        expected = optics + scatter[j] + voxel_mm**2 / 12.0
        found = lateral(dose[:, j], (-half_mm, -half_mm), voxel_mm)[:, 1]
        np.testing.assert_allclose(np.sqrt(found), np.sqrt(expected), rtol=8e-3)


def test_coarse_voxels_hold_means_on_the_average_over_places(core: ProtonMachine) -> None:
    # Voxels of 5 mm, spots of 3.3 mm. A voxel's mean is the value at its centre of dose that is as much wider; a spot
    # on the centre of a voxel gets 4 % too much then, one between two less, all places together about what they should.
    grid = depth_grid(half_mm=40.0, lateral_mm=5.0, depth_mm=64.0, step_mm=8.0)
    depth = depths(grid)
    sums, variances = [], []
    for at in (0.5, 1.5, 2.5, 3.5, 4.5):
        dose = beam_dose(one_beam(((at, at),), energy=(160.0,)), core, water((0.0, 200.0)), grid, "HFS")
        sums.append(depth_dose(dose, grid)[4] / (lookup.depth_dose_at(core, 160.0, depth[4:5]) * protons(core, 1, 160)))
        variances.append(lateral(dose[:, 4], (-40.0, -40.0), 5.0)[:, 1])
    assert max(sums) < 1.05
    assert np.mean(sums) == pytest.approx(1.0, abs=0.02)
    optics = lookup.optics_variance(core, np.array([160.0]), 0, -depth[4:5])[0, 0]
    scatter = lookup.water_scatter_variance(core, 160.0, depth[4:5]) * (1.0 - TAIL_SHARE + TAIL_SHARE * TAIL_WIDTH**2)
    np.testing.assert_allclose(np.mean(variances, axis=0), optics + scatter + 25.0 / 12.0, rtol=0.02)


def test_a_beam_may_diverge_more_along_one_axis(core: ProtonMachine) -> None:
    # 1 mrad across x and 8 across y from a waist of 3 mm at the isocentre's height, here 200 mm above the water.
    optics = core.optics
    shape = np.ones_like(optics.sigma_mm)
    uneven = replace(
        core,
        optics=replace(
            optics, plane_mm=0.0, sigma_mm=3.0 * shape, correlation=0.0 * shape, divergence_rad=shape * [1e-3, 8e-3]
        ),
    )
    image = water((0.0, 120.0))
    dose = beam_dose(one_beam(isocenter=(0.0, -200.0, 0.0)), uneven, image, depth_grid(step_mm=4.0), "HFS")
    depth = depths(depth_grid(step_mm=4.0))
    scatter = lookup.water_scatter_variance(core, ENERGY_MEV, depth) * (1.0 - TAIL_SHARE + TAIL_SHARE * TAIL_WIDTH**2)
    for j in (1, 8, 17):
        found = lateral(dose[:, j], (-30.0, -30.0), 2.0)[:, 1]
        expected = 9.0 + np.array([1e-6, 64e-6]) * (200.0 + depth[j]) ** 2 + scatter[j] + 4.0 / 12.0
        np.testing.assert_allclose(np.sqrt(found), np.sqrt(expected), rtol=0.01)


def test_the_tail_lies_beside_the_core(core: ProtonMachine) -> None:
    # At 95 % of the range of 160 MeV, along x: two Gaussians of one optics and of scatter 1 and 3 times as wide.
    # Without the tail the profile at 14 mm from the axis would be ten times too low.
    grid = depth_grid(40.0, 2.0, 172.0, step_mm=4.0)
    dose = beam_dose(one_beam(energy=(160.0,)), core, water((0.0, 200.0)), grid, "HFS")
    profile = dose[:, -1].sum(axis=0)
    optics = lookup.optics_variance(core, np.array([160.0]), 0, -depths(grid)[-1:])[0, 0, 0]
    scatter = lookup.water_scatter_variance(core, 160.0, depths(grid)[-1:])[0]
    edges = np.arange(-41.0, 41.1, 2.0)
    expected = sum(
        share * np.diff(ndtr(edges / np.sqrt(optics + width**2 * scatter)))
        for share, width in ((1.0 - TAIL_SHARE, 1.0), (TAIL_SHARE, TAIL_WIDTH))
    )
    np.testing.assert_allclose(profile / profile.sum(), expected, atol=0.01 * expected.max())
    near = np.abs(edges[:-1] + 1.0 - 14.0) < 0.1
    assert profile[near] / profile.sum() == pytest.approx(expected[near], rel=0.1)


def test_uniform_fluence_spreads_with_the_two_distances(core: ProtonMachine) -> None:
    # Spots every 4 mm: 1 / 16 per mm2 at the isocentre. Water 300 mm upstream of it sees more of them per mm2.
    steps = np.arange(-24.0, 24.1, 4.0)
    uv = tuple((u, v) for u in steps for v in steps)
    grid = Grid((1, 10, 1), (1.0, 4.0, 1.0), (0.0, 2.0, 0.0))
    for height in (0.0, 300.0):
        dose = beam_dose(one_beam(uv, isocenter=(0.0, height, 0.0)), core, DEEP_WATER, grid, "HFS")[0, :, 0]
        z = height - depths(grid)
        crowding = 1.0 / ((1 - z / 2234.8) * (1 - z / 1859.1))
        expected = lookup.depth_dose_at(core, ENERGY_MEV, depths(grid)) * protons(core) / 16.0 * crowding
        np.testing.assert_allclose(dose, expected, rtol=5e-3)


def test_dose_is_linear_in_meterset(machine: ProtonMachine) -> None:
    grid = depth_grid(lateral_mm=3.0, step_mm=3.0)
    uv = ((0.0, 0.0), (10.0, 5.0))
    once = beam_dose(one_beam(uv, (1.0, 2.0)), machine, DEEP_WATER, grid, "HFS")
    twice = beam_dose(one_beam(uv, (2.5, 5.0)), machine, DEEP_WATER, grid, "HFS")
    # Voxels are differences of float32 sums along the beam.
    np.testing.assert_allclose(twice, 2.5 * once, rtol=1e-4, atol=5e-6 * once.max())


def test_spots_add_up(machine: ProtonMachine) -> None:
    # One operator: exact to float32, whatever the layers.
    grid = depth_grid(lateral_mm=3.0, step_mm=3.0)
    uv, mu, energy = ((-8.0, 3.0), (9.0, -4.0), (0.0, 6.0)), (1.0, 2.0, 0.5), (100.0, 90.0, 97.0)
    model = prepare_beam(one_beam(uv, mu, energy), machine, DEEP_WATER, grid, "HFS")
    both = model.forward(mu)
    alone = sum(model.forward(m * np.eye(3)[i]) for i, m in enumerate(mu))
    np.testing.assert_allclose(both, alone, atol=5e-6 * both.max())


@pytest.mark.parametrize(("energy", "tolerance"), [((100.0, 100.0), 2e-4), ((100.0, 90.0), 1e-2)])
def test_beams_of_single_spots_add_up_to_the_whole(
    machine: ProtonMachine, energy: tuple[float, float], tolerance: float
) -> None:
    # Layers of one group share their width at equal depth, that of the mean of what deposits there.
    grid = depth_grid(lateral_mm=3.0, step_mm=3.0)
    uv, mu = ((-8.0, 3.0), (9.0, -4.0)), (1.0, 2.0)
    both = beam_dose(one_beam(uv, mu, energy), machine, DEEP_WATER, grid, "HFS")
    alone = [beam_dose(one_beam(uv[i : i + 1], mu[i : i + 1], energy[i : i + 1]), machine, DEEP_WATER, grid, "HFS")
             for i in range(2)]  # fmt: skip
    np.testing.assert_allclose(both, alone[0] + alone[1], atol=tolerance * both.max())


def test_layers_of_one_group_are_about_as_wide_as_alone(core: ProtonMachine) -> None:
    # Eight layers 3 MeV apart share their width at equal depth: the deepest is 3 % too wide where others have their
    # peaks, and the shallowest 2 % too narrow at its own.
    energy = tuple(np.linspace(100.0, 121.0, 8))
    maps, grid = water((0.0, 140.0)), depth_grid(half_mm=40.0, depth_mm=112.0, step_mm=2.0)
    group = prepare_beam(one_beam(((0.0, 0.0),) * 8, energy=energy), core, maps, grid, "HFS")
    for n in (0, 4, 7):
        range_mm = float(lookup.range_at(core, np.array([energy[n]]))[0])
        together = group.forward(np.eye(8)[n])
        alone = beam_dose(one_beam(energy=(energy[n],)), core, maps, grid, "HFS")
        for fraction in (0.5, 0.8, 0.95):
            j = int(fraction * range_mm / 2.0)
            width = [lateral(d[:, j], (-40.0, -40.0), 2.0)[:, 1] ** 0.5 for d in (together, alone)]
            np.testing.assert_allclose(width[0], width[1], rtol=0.04)
            assert depth_dose(together, grid)[j] == pytest.approx(depth_dose(alone, grid)[j], rel=1e-3)


def test_no_meterset_is_no_dose(machine: ProtonMachine) -> None:
    grid = depth_grid(lateral_mm=10.0, step_mm=10.0)
    assert not beam_dose(one_beam(mu=(0.0,)), machine, DEEP_WATER, grid, "HFS").any()


def test_range_shifter_takes_its_thickness_off_the_range(core: ProtonMachine) -> None:
    grid = depth_grid(half_mm=45.0, step_mm=0.5, lateral_mm=3.0)
    plain = beam_dose(one_beam(), core, DEEP_WATER, grid, "HFS")
    shifter = RangeShifter("RS", 40.0, 60.0, 1.19)
    shifted = beam_dose(one_beam(shifter=shifter), core, DEEP_WATER, grid, "HFS")
    assert r80(plain, grid) - r80(shifted, grid) == pytest.approx(40.0, abs=0.15)
    # Dose at depth d behind it is that at depth d + 40 mm without it, but for a twentieth that leaves the shifter at
    # wide angles and builds up again over 8 mm: of that only what has not flown past this grid of +-46.5 mm.
    use = (depths(grid) > 2.0) & (depths(grid) < 28.0)
    depth = depths(grid)[use]
    expected = np.interp(depth + 40.0, depths(grid), depth_dose(plain, grid))
    ratio = depth_dose(shifted, grid)[use] / expected
    spread = lookup.optics_variance(core, np.array([ENERGY_MEV]), 0, -depth, shifter)[:, 0, 0]
    spread += (SECONDARY_ANGLE_RAD * (60.0 + depth)) ** 2
    kept = (2.0 * ndtr(46.5 / np.sqrt(spread)) - 1.0) ** 2
    recoil = RECOIL_SHARE * np.exp(-depth / RECOIL_RANGE_MM)
    np.testing.assert_allclose(ratio, 1.0 - recoil * (1.0 - kept), atol=4e-3)
    assert ratio[0] < 0.985
    # Its scatter drifts over the gap: a gap 100 mm longer widens the spot.
    far = beam_dose(one_beam(shifter=replace(shifter, downstream_face_mm=160.0)), core, DEEP_WATER, grid, "HFS")
    widths = [np.sqrt(lateral(d[:, 20], (-45, -45), 3.0)[0, 1]) for d in (plain, shifted, far)]
    assert widths[0] + 0.3 < widths[1] < widths[2] - 1.0


@pytest.mark.parametrize("scale", [0.965, 1.035])
def test_range_errors_scale_depth(core: ProtonMachine, scale: float) -> None:
    grid = depth_grid(step_mm=0.5, lateral_mm=3.0)
    dose = beam_dose(one_beam(), core, DEEP_WATER, grid, "HFS", Scenario("range", rsp_scale=scale))
    assert r80(dose, grid) == pytest.approx(RANGE_MM / scale, abs=0.15)


def test_a_slab_takes_its_excess_off_the_range(core: ProtonMachine) -> None:
    rsp = np.ones(DEEP_WATER.rsp.grid.shape)
    rsp[:, 5:10] = 1.5
    maps = MaterialMaps(Volume(DEEP_WATER.rsp.grid, rsp), DEEP_WATER.scattering)
    grid = depth_grid(step_mm=0.5, lateral_mm=3.0)
    assert r80(beam_dose(one_beam(), core, maps, grid, "HFS"), grid) == pytest.approx(RANGE_MM - 10.0, abs=0.2)


def test_setup_errors_move_the_dose_in_the_patient(core: ProtonMachine) -> None:
    grid = depth_grid(step_mm=2.0)
    nominal = beam_dose(one_beam(), core, DEEP_WATER, grid, "HFS")
    moved = beam_dose(one_beam(), core, DEEP_WATER, grid, "HFS", Scenario("setup", (4.5, 7.0, -3.0)))
    for j in (0, 20):
        before, after = (lateral(dose[:, j], (-30.0, -30.0), 2.0)[:, 0] for dose in (nominal, moved))
        np.testing.assert_allclose(after - before, (4.5, -3.0), atol=0.02)
    # Along the beam the patient alone decides where protons stop.
    assert r80(moved, grid) == pytest.approx(r80(nominal, grid), abs=0.1)
    # A beam planned there finds its narrowest place elsewhere, by which its fluence is drawn.
    planned_there = beam_dose(one_beam(isocenter=(4.5, 7.0, -3.0)), core, DEEP_WATER, grid, "HFS", NOMINAL)
    np.testing.assert_allclose(moved, planned_there, atol=2e-3 * planned_there.max())


def test_dose_times_let_over_dose_is_the_let_of_the_depth(machine: ProtonMachine) -> None:
    grid = depth_grid(160.0, 4.0, step_mm=3.0)
    model = prepare_beam(one_beam(), machine, water((0.0, 120.0), 180.0), grid, "HFS")
    dose, product = (depth_dose(model.dose(deposit=deposit), grid) for deposit in (Deposit.DOSE, Deposit.DOSE_LET))
    use = (depths(grid) > 2.0) & (depths(grid) < 0.9 * RANGE_MM)
    expected = let_parts(machine, ENERGY_MEV, depths(grid)[use]).total
    # Across a plane, as the tables hold it: means over slices of quantities that rise towards the end.
    np.testing.assert_allclose(product[use] / dose[use], expected, rtol=0.01)


def test_scenarios_of_one_model_are_those_of_new_ones(machine: ProtonMachine) -> None:
    # Rays of the last shift are kept; what comes in between must not show.
    grid = depth_grid(lateral_mm=3.0, step_mm=3.0)
    model = prepare_beam(one_beam(), machine, DEEP_WATER, grid, "HFS")
    scenarios = [NOMINAL, Scenario("far", rsp_scale=1.035), Scenario("x", (4.0, 0.0, 2.0)),
                 Scenario("both", (4.0, 0.0, 2.0), 0.965), NOMINAL]  # fmt: skip
    for scenario in scenarios:
        alone = prepare_beam(one_beam(), machine, DEEP_WATER, grid, "HFS").dose(scenario)
        np.testing.assert_array_equal(model.dose(scenario), alone)


def test_dose_is_added_to_what_is_there(machine: ProtonMachine) -> None:
    grid = depth_grid(lateral_mm=5.0, step_mm=5.0)
    model = prepare_beam(one_beam(), machine, DEEP_WATER, grid, "HFS")
    out = np.full(grid.shape, 3.0, dtype=np.float32)
    assert model.dose(out=out) is out
    np.testing.assert_allclose(out - 3.0, model.dose(), atol=1e-6)


def test_something_beside_the_beam_leaves_the_dose_alone(machine: ProtonMachine) -> None:
    # A shoulder 60 to 80 mm off the axis, 100 mm upstream: rays of the wide component meet it long before the others.
    grid = Grid((40, 60, 40), (4.0, 4.0, 4.0), (-78.0, -118.0, -78.0))
    alone = np.where(np.arange(60)[:, None] >= 30, 1.0, 0.001) * np.ones(grid.shape)
    shoulder = alone.copy()
    shoulder[:, 5:30, :5] = 1.0
    dose_grid = depth_grid(half_mm=20.0, step_mm=2.0)
    doses = [
        beam_dose(one_beam(), machine, MaterialMaps(Volume(grid, rsp), Volume(grid, rsp)), dose_grid, "HFS")
        for rsp in (alone, shoulder)
    ]
    np.testing.assert_allclose(doses[1], doses[0], atol=2e-3 * doses[0].max())
    totals = [depth_dose(dose, dose_grid)[2:36] for dose in doses]
    np.testing.assert_allclose(totals[1], totals[0], rtol=5e-3)


SIDE = tuple((u, v) for u in np.arange(-30.0, 30.1, 5.0) for v in np.arange(-30.0, 30.1, 5.0))
"""Spots of a broad field."""


def stepped(heights: tuple[float, float], left: float, right: float, depth_mm: float) -> MaterialMaps:
    """Water with a layer between two heights, of one material left of x = 0 and another right of it."""
    n, n_y = 60, round(depth_mm / 2.0)
    grid = Grid((30, n_y, n), (2.0, 2.0, 4.0), (-59.0, 1.0, -58.0))
    rsp = np.ones(grid.shape)
    y = 1.0 + 2.0 * np.arange(n_y)
    layer = (y > heights[0]) & (y < heights[1])
    rsp[:, layer, : n // 2], rsp[:, layer, n // 2 :] = left, right
    volume = Volume(grid, rsp)
    return MaterialMaps(volume, volume)


STRAIGHT = ProtonSettings(mixing_mm=1e9)
"""One interval: nothing is exchanged among rays."""


@pytest.mark.parametrize("rsp", [0.25, 1.6])
def test_a_layer_without_edges_is_no_reason_to_mix(machine: ProtonMachine, rsp: float) -> None:
    maps = stepped((10.0, 40.0), rsp, rsp, 120.0)
    grid = depth_grid(lateral_mm=3.0, step_mm=3.0)
    uv = ((-20.0, 0.0), (12.0, 9.0))
    doses = [beam_dose(one_beam(uv), machine, maps, grid, "HFS", settings=s) for s in (ProtonSettings(), STRAIGHT)]
    np.testing.assert_allclose(doses[0], doses[1], atol=1e-6 * doses[0].max())


@pytest.mark.parametrize(
    ("energy", "heights", "left", "right"),
    [(100.0, (10.0, 40.0), 0.25, 1.0), (80.0, (10.0, 30.0), 1.0, 1.6), (130.0, (10.0, 70.0), 1.0, 1.6)],
)
def test_energy_is_kept_behind_an_edge(
    core: ProtonMachine, energy: float, heights: tuple[float, float], left: float, right: float
) -> None:
    # Dose to water times relative stopping power is energy per volume. Not exact: depths that mix are a blurred depth
    # dose at their mean, but what it deposits does it in the ray's own material.
    grid = Grid((61, 70, 61), (2.0, 2.0, 2.0), (-60.0, 1.0, -60.0))
    maps = stepped(heights, left, right, 140.0)
    dose = beam_dose(one_beam(SIDE, energy=(energy,) * len(SIDE)), core, maps, grid, "HFS")
    y, x = 1.0 + 2.0 * np.arange(70), -60.0 + 2.0 * np.arange(61)
    layer = (y > heights[0]) & (y < heights[1])
    rsp = np.where(layer[:, None], np.where(x < 0, left, np.where(x > 0, right, 0.5 * (left + right))), 1.0)
    depth = np.arange(0.0, 200.0, 0.05)
    whole = np.trapezoid(lookup.depth_dose_at(core, energy, depth), depth) * protons(core, 1.0, energy) * len(SIDE)
    assert (dose * rsp).sum(dtype=float) * 8.0 == pytest.approx(whole, rel=0.01)


def blur_mm(core: ProtonMachine, depth_mm: float, before_mm: float, pitch_mm: float) -> float:
    """20 to 80 % over an edge of 160 MeV protons, when scatter up to `before_mm` does not count; edge in 2 mm voxels.

    Besides the core's scatter there is the tail's, which does not mix, what optics widen after their narrowest place,
    linear interpolation between rays, and the edge itself, one voxel wide.
    """
    total, before = lookup.water_scatter_variance(core, 160.0, np.array([before_mm, depth_mm]))[::-1]
    optics = lookup.optics_variance(core, np.array([160.0]), 0, -np.linspace(0.0, depth_mm, 50))[:, 0].mean(axis=1)
    fixed = optics[-1] - optics.min() + pitch_mm**2 / 6.0 + 2.0**2 / 12.0
    x = np.linspace(-30.0, 30.0, 6001)
    edge = (1.0 - TAIL_SHARE) * ndtr(x / np.sqrt(total - before + fixed))
    edge += TAIL_SHARE * ndtr(x / np.sqrt(TAIL_WIDTH**2 * total + fixed))
    low, high = np.interp([0.2, 0.8], edge, x)
    return float(high - low)


@pytest.mark.parametrize("heights", [(10.0, 30.0), (120.0, 140.0)])
def test_an_edge_blurs_by_what_scatters_behind_it(core: ProtonMachine, heights: tuple[float, float]) -> None:
    # 160 MeV, 20 mm of bone on the right: protons stop 12 mm earlier there. Between both ends of range dose goes from
    # all to nothing across the edge, over the variance that scattering has added since. On straight rays it would be
    # all of the scatter, as if the bone were at the entrance.
    maps = stepped(heights, 1.0, 1.6, 200.0)
    grid = Grid((5, 92, 81), (1.5, 2.0, 1.5), (-60.0, 1.0, -3.0))
    beam = one_beam(SIDE, energy=(160.0,) * len(SIDE))
    depth_mm, found = 173.0, {}
    for name, settings in (("mixing", ProtonSettings(mixing_mm=4.0)), ("straight", STRAIGHT)):
        profile = beam_dose(beam, core, maps, grid, "HFS", settings=settings)[2, round((depth_mm - 1.0) / 2.0)]
        x = -60.0 + 1.5 * np.arange(81)
        # Inside the field, where the protons that crossed water alone arrive.
        level = profile[(x > -22.0) & (x < -14.0)].mean()
        low, high = np.interp([-0.8 * level, -0.2 * level], -profile[20:61], x[20:61])
        found[name] = high - low
    assert found["straight"] == pytest.approx(blur_mm(core, depth_mm, 0.0, 1.06), rel=0.06)
    assert found["mixing"] == pytest.approx(blur_mm(core, depth_mm, heights[1], 1.06), rel=0.06)
    if heights[0] > 100.0:
        assert found["mixing"] < 0.85 * found["straight"]


def test_a_field_converges_with_finer_rays_and_slices(machine: ProtonMachine) -> None:
    # Three layers of a field into water with an edge of lung in it.
    maps = stepped((20.0, 44.0), 0.25, 1.0, 140.0)
    grid = depth_grid(half_mm=40.0, lateral_mm=2.5, depth_mm=120.0, step_mm=2.5)
    energy = tuple(e for e in (96.0, 103.0, 110.0) for _ in SIDE)
    beam = one_beam(SIDE * 3, energy=energy)
    coarse, fine = (
        beam_dose(beam, machine, maps, grid, "HFS", settings=ProtonSettings(pitch, pitch, 12.0)) for pitch in (2.0, 1.0)
    )
    difference = np.abs(coarse - fine) / fine.max()
    # At the edge of the lung itself ranges change by 18 mm from one ray to the next.
    assert difference.max() < 0.08
    assert np.mean(difference[fine > 0.1 * fine.max()] > 0.02) < 0.03
    assert np.sqrt(np.mean(difference[fine > 0.1 * fine.max()] ** 2)) < 0.01


def test_matter_before_the_patient_counts(core: ProtonMachine) -> None:
    # 20 mm of foam that is worth 0.8 mm of water, and 60 mm of vacuum behind it.
    grid = depth_grid(step_mm=0.5, lateral_mm=3.0)
    image = Grid((30, 50, 30), (4.0, 4.0, 4.0), (-58.0, -78.0, -58.0))
    y = -78.0 + 4.0 * np.arange(50)
    found = []
    for foam in (0.0, 0.04):
        rsp = np.where(y > 0, 1.0, np.where(y < -60.0, foam, 0.0))[:, None] * np.ones(image.shape)
        volume = Volume(image, rsp)
        maps, fine = MaterialMaps(volume, volume), ProtonSettings(slice_mm=0.5)
        found.append(r80(beam_dose(one_beam(), core, maps, grid, "HFS", settings=fine), grid))
    assert found[0] - found[1] == pytest.approx(0.8, abs=0.1)


@pytest.mark.parametrize("offset_mm", [0.0, 0.6, 1.2])
def test_dose_is_never_negative(machine: ProtonMachine, offset_mm: float) -> None:
    # Voxels of 2.5 mm that the slices of 2 mm do not fit; air before the water.
    image = Grid((30, 50, 30), (4.0, 4.0, 4.0), (-58.0, -78.0, -58.0))
    y = -78.0 + 4.0 * np.arange(50)
    volume = Volume(image, np.where(y > 0, 1.0, 0.001)[:, None] * np.ones(image.shape))
    grid = Grid((21, 60, 21), (2.5, 2.5, 2.5), (-25.0, -51.0 - offset_mm, -25.0))
    dose = beam_dose(one_beam(), machine, MaterialMaps(volume, volume), grid, "HFS")
    assert dose.min() >= -1e-5 * dose.max()


# A cube about the isocentre with a dense block that is up, on the viewer's right and towards the gantry when the
# patient lies in the position; spots that no rotation maps onto each other.
CUBE = Grid((26, 26, 26), (4.0, 4.0, 4.0), (-50.0, -50.0, -50.0))
SPOTS = ((0.0, 0.0), (18.0, 0.0), (0.0, 12.0))
METERSET = (1.0, 2.0, 3.0)


def cube_maps(position: str, couch: float = 0.0, uniform: bool = False) -> MaterialMaps:
    k, j, i = np.indices(CUBE.shape)
    fixed = CUBE.to_patient(np.stack([i, j, k], axis=-1)) @ patient_to_fixed(position, couch).T
    block = np.all((fixed > (1, 1, 1)) & (fixed < (25, 40, 35)), axis=-1)
    rsp = Volume(CUBE, np.where(block & (not uniform), 1.4, 1.0))
    return MaterialMaps(rsp, rsp)


def dose_seen_by_the_beam(
    machine: ProtonMachine, maps: MaterialMaps, position: str, beam: ProtonBeam, spacing_mm: float = 4.0
) -> np.ndarray:
    """Dose on a grid of +-40 mm along gantry X, -Y and -Z, so that the last axis is u and the first is depth."""
    frame = beam_frame(beam.isocenter_mm, beam.gantry_deg, beam.couch_deg, position)
    axes = np.column_stack([frame.axes[0], -frame.axes[1], -frame.axes[2]])
    n, corner = round(80.0 / spacing_mm), 40.0 - spacing_mm / 2
    grid = Grid((n, n, n), (spacing_mm,) * 3, tuple(frame.to_patient((-corner, corner, corner))), axes)
    return beam_dose(beam, machine, maps, grid, position)


@pytest.mark.parametrize(("gantry", "couch"), [(90, 0), (180, 0), (270, 0), (0, 90), (90, 270)])
def test_a_cube_looks_the_same_from_all_sides(core: ProtonMachine, gantry: float, couch: float) -> None:
    maps = cube_maps("HFS", uniform=True)
    from_above, turned = (
        dose_seen_by_the_beam(core, maps, "HFS", one_beam(SPOTS, METERSET, gantry=g, couch=c))
        for g, c in ((0.0, 0.0), (gantry, couch))
    )
    np.testing.assert_allclose(turned, from_above, atol=1e-4 * from_above.max())


@pytest.mark.parametrize("position", [p for p in PATIENT_POSITIONS if p != "HFS"])
def test_a_phantom_that_turns_with_the_patient_position_gets_the_same_dose(core: ProtonMachine, position: str) -> None:
    beam = one_beam(SPOTS, METERSET, gantry=90.0)
    reference = dose_seen_by_the_beam(core, cube_maps("HFS"), "HFS", beam)
    turned = dose_seen_by_the_beam(core, cube_maps(position), position, beam)
    np.testing.assert_allclose(turned, reference, atol=1e-4 * reference.max())
    # The block matters: had it not turned with the patient, the dose would be another.
    wrong = dose_seen_by_the_beam(core, cube_maps("HFS"), position, beam)
    assert np.abs(wrong - reference).max() > 0.1 * reference.max()


@pytest.mark.parametrize(("gantry", "couch", "position"), [(33.0, 0.0, "HFS"), (250.0, 20.0, "FFP")])
def test_oblique_beams_put_spots_where_the_plan_says(
    core: ProtonMachine, gantry: float, couch: float, position: str
) -> None:
    # 160 MeV passes the cube on a plateau, so that a slanted entrance does not move the centre of a spot.
    beam = one_beam(((15.0, -12.0),), energy=(160.0,), gantry=gantry, couch=couch)
    dose = dose_seen_by_the_beam(core, cube_maps("HFS", uniform=True), position, beam, 2.0)
    # Planes 19 and 20 lie 1 mm above and below the isocentre; rows run along -v.
    mean = lateral(dose[19] + dose[20], (-39.0, -39.0), 2.0)[:, 0]
    np.testing.assert_allclose(mean, (15.0, 12.0), atol=0.1)


@pytest.mark.parametrize("energy", [60.0, 230.0])
def test_energies_outside_the_machine_name_the_beam(machine: ProtonMachine, energy: float) -> None:
    beam = one_beam(((0, 0), (0, 0)), energy=(100.0, energy))
    with pytest.raises(MachineError, match=rf"beam 3 'AP': energy {energy:g} MeV is outside machine 'generic-pbs'"):
        beam_dose(beam, machine, DEEP_WATER, depth_grid(), "HFS")


def test_a_beam_that_misses_the_patient_is_refused(machine: ProtonMachine) -> None:
    with pytest.raises(GeometryError, match=r"beam 3 'AP': no ray meets the patient; check isocentre"):
        beam_dose(one_beam(isocenter=(600.0, 0.0, 0.0)), machine, DEEP_WATER, depth_grid(), "HFS")
