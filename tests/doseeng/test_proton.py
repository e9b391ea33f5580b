"""The proton engine against closed forms in water: energy, position, width, range, and what may not change the dose."""

from dataclasses import replace

import numpy as np
import pytest

from doseeng.errors import GeometryError, MachineError
from doseeng.grid import PATIENT_POSITIONS, Grid, Volume, beam_frame, patient_to_fixed
from doseeng.machines import lookup
from doseeng.machines.depthdose import distal_range_mm
from doseeng.machines.library import find_machine
from doseeng.machines.model import ProtonMachine
from doseeng.materials import MaterialMaps
from doseeng.plan import ProtonBeam, RangeShifter
from doseeng.proton import ProtonSettings, beam_dose
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
    """Planes of equal depth below y = 0, with a voxel on the axis.

    Sums over steps of 2 mm do not alias with interpolation between rays 1.5 mm apart.
    """
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
        before = (depth > 1.0) & (depth < 0.85 * RANGE_MM)
        # The wide rays end at three standard deviations, the grid at 160 mm: 0.1 %.
        np.testing.assert_allclose(depth_dose(dose, grid)[before], expected[before], rtol=2.5e-3)
        behind = depth > 1.1 * RANGE_MM
        assert depth_dose(dose, grid)[behind].max() < 0.01 * expected.max()


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


def test_width_is_optics_and_scattering(core: ProtonMachine) -> None:
    # 160 MeV: a width of the beam that the scatter of 80 % of the range adds to visibly.
    grid = depth_grid(half_mm=33.0, lateral_mm=1.1, depth_mm=160.0, step_mm=4.0)
    beam = one_beam(energy=(160.0,))
    settings = ProtonSettings(pitch_mm=1.0)
    dose = beam_dose(beam, core, water((0.0, 200.0)), grid, "HFS", settings=settings)
    row = np.searchsorted(core.energy_mev, 160.0)
    sigma, divergence = core.optics.sigma_mm[row, 0], core.optics.divergence_rad[row, 0]
    correlation = core.optics.correlation[row, 0]
    depth = depths(grid)
    scatter = lookup.water_scatter_variance(core, 160.0, depth)
    for j in (0, 12, 25, 37):
        # 410 mm from the nozzle to the isocentre, here at the surface.
        drift = 410.0 + depth[j]
        optics = sigma**2 + 2 * correlation * sigma * divergence * drift + (divergence * drift) ** 2
        # Linear interpolation between rays 1 mm apart adds a sixth of their distance squared.
        expected = optics + scatter[j] + 1.0 / 6.0
        found = lateral(dose[:, j], (-33.0, -33.0), 1.1)[:, 1]
        np.testing.assert_allclose(np.sqrt(found), np.sqrt(expected), rtol=5e-3)


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
    np.testing.assert_allclose(twice, 2.5 * once, rtol=1e-4, atol=1e-6 * once.max())


def test_spots_add_up(machine: ProtonMachine) -> None:
    grid = depth_grid(lateral_mm=3.0, step_mm=3.0)
    uv, mu, energy = ((-8.0, 3.0), (9.0, -4.0)), (1.0, 2.0), (100.0, 90.0)
    both = beam_dose(one_beam(uv, mu, energy), machine, DEEP_WATER, grid, "HFS")
    alone = [beam_dose(one_beam(uv[i : i + 1], mu[i : i + 1], energy[i : i + 1]), machine, DEEP_WATER, grid, "HFS")
             for i in range(2)]  # fmt: skip
    # Width bins are shared by what is computed together: half a percent of the maximum.
    np.testing.assert_allclose(both, alone[0] + alone[1], atol=5e-3 * both.max())


def test_no_meterset_is_no_dose(machine: ProtonMachine) -> None:
    grid = depth_grid(lateral_mm=10.0, step_mm=10.0)
    assert not beam_dose(one_beam(mu=(0.0,)), machine, DEEP_WATER, grid, "HFS").any()


def test_range_shifter_takes_its_thickness_off_the_range(core: ProtonMachine) -> None:
    grid = depth_grid(half_mm=45.0, step_mm=0.5, lateral_mm=3.0)
    plain = beam_dose(one_beam(), core, DEEP_WATER, grid, "HFS")
    shifter = RangeShifter("RS", 40.0, 60.0, 1.19)
    shifted = beam_dose(one_beam(shifter=shifter), core, DEEP_WATER, grid, "HFS")
    assert r80(plain, grid) - r80(shifted, grid) == pytest.approx(40.0, abs=0.15)
    # Dose at depth d behind it is that at depth d + 40 mm without it.
    expected = np.interp(depths(grid) + 40.0, depths(grid), depth_dose(plain, grid))
    use = (depths(grid) > 1.0) & (depths(grid) < 28.0)
    np.testing.assert_allclose(depth_dose(shifted, grid)[use], expected[use], rtol=5e-3)
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
    planned_there = beam_dose(one_beam(isocenter=(4.5, 7.0, -3.0)), core, DEEP_WATER, grid, "HFS", NOMINAL)
    np.testing.assert_array_equal(moved, planned_there)


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
