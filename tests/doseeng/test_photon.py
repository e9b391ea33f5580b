"""Dose of a photon beam in a patient: geometry, delivery, scenarios and density, against what must hold exactly.

How much dose there is in water is for `test_photonfield`, in other media for `test_photon_mc`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from doseeng.backend import Backend, Materials, Rays
from doseeng.beamseye import Frustum
from doseeng.cpu import CpuBackend, cpu
from doseeng.grid import Grid, Volume, resample
from doseeng.machines.library import find_photon_machine
from doseeng.machines.photonmodel import LeafModel, PhotonMachine
from doseeng.materials import PhotonMaps
from doseeng.photon import PhotonModel, PhotonSettings, prepare_photon_beam
from doseeng.photonfield import field_of_jaws, gy_per_fluence, open_field
from doseeng.photonkernels import transport_tables
from doseeng.photonlevels import Algorithm, Level, transport
from doseeng.plan import PhotonBeam
from doseeng.scenario import NOMINAL, Scenario

Array = np.ndarray
BeamOf = Callable[..., PhotonBeam]
AIR = 0.001
FELT = ("attenuation", "electron_density", "density_gcm3", "water_ratio")
each_algorithm = pytest.mark.parametrize("algorithm", Algorithm)
LEAVES = LeafModel("20 x 5 mm", ((20, 5.0),), 400.0, 0.01, 0.01, 0.5, 0.5)


@pytest.fixture(scope="module")
def machine() -> PhotonMachine:
    """The generic 6 MV machine with the leaves of `beam_of`, and jaws in one plane: nothing in it knows X from Y."""
    found = find_photon_machine("generic", 6.0, "STANDARD")
    jaws = replace(found.jaws, y_plane_mm=found.jaws.x_plane_mm)
    return replace(found, jaws=jaws, leaves=(LEAVES,))


def cube(half_mm: float, spacing_mm: float) -> Grid:
    """Voxels round the origin, an odd number each way."""
    n = round(half_mm / spacing_mm)
    return Grid((2 * n + 1,) * 3, (spacing_mm,) * 3, (-n * spacing_mm,) * 3)


def places(grid: Grid) -> tuple[Array, Array, Array]:
    """Patient x, y and z of the voxels, to be broadcast."""
    x, y, z = (o + s * np.arange(n) for o, s, n in zip(grid.origin_mm, grid.spacing_mm, grid.shape[::-1], strict=True))
    return x, y[:, None], z[:, None, None]


def matter(grid: Grid, density: Any, **others: Any) -> PhotonMaps:
    """Water of any density: attenuation, electrons and mass alike, unless told otherwise."""
    values = {**dict.fromkeys(FELT, density), "water_ratio": 1.0, **others}
    return PhotonMaps(*(Volume(grid, np.broadcast_to(np.float32(values[name]), grid.shape)) for name in FELT))


def cylinder() -> PhotonMaps:
    """20 cm of water, along z."""
    x, y, _ = places(grid := cube(112.0, 4.0))
    return matter(grid, np.where(np.hypot(x, y) < 100.0, 1.0, AIR))


def prepared(
    beam: PhotonBeam,
    machine: PhotonMachine,
    maps: PhotonMaps,
    grid: Grid,
    algorithm: Algorithm = Algorithm.PENCIL,
    to_water: bool = False,
    backend: Backend | None = None,
) -> PhotonModel:
    backend = backend or cpu()
    materials = Materials(backend.put(maps.attenuation.values), backend.put(maps.electron_density.values))
    settings = PhotonSettings(algorithm, to_water=to_water)
    return prepare_photon_beam(beam, machine, maps, grid, "HFS", settings, backend, materials)


def dose_of(
    beam: PhotonBeam,
    machine: PhotonMachine,
    maps: PhotonMaps,
    grid: Grid,
    algorithm: Algorithm = Algorithm.PENCIL,
    scenario: Scenario = NOMINAL,
    **others: Any,
) -> Array:
    return np.asarray(prepared(beam, machine, maps, grid, algorithm, **others).dose(scenario), dtype=np.float64)


def assert_same(found: Array, expected: Array, tolerance: float) -> None:
    """Within a share of the largest dose."""
    assert expected.max() > 0.0
    np.testing.assert_allclose(found, expected, atol=tolerance * expected.max())


WATER = cylinder()
GRID = cube(60.0, 4.0)


# --- water -----------------------------------------------------------------------------------------------------------


@each_algorithm
@pytest.mark.parametrize("side_mm", [50.0, 100.0])
def test_a_box_of_water_gets_the_dose_of_the_field(
    machine: PhotonMachine, algorithm: Algorithm, side_mm: float
) -> None:
    box = Grid((75, 88, 75), (4.0, 4.0, 4.0), (-148.0, -98.0, -148.0))
    beam = replace(field_of_jaws(machine, (side_mm, side_mm)), meterset_mu=100.0)
    grid = Grid((1, 60, 61), (3.0, 3.0, 3.0), (-90.0, -98.5, 0.0))
    found = dose_of(beam, machine, matter(box, 1.0), grid, algorithm)[0]
    field = open_field(machine, (side_mm, side_mm), 900.0, algorithm, cpu())
    x, y, _ = places(grid)
    expected = 100.0 * gy_per_fluence(machine, algorithm, cpu()) * field.at(100.0 + y, x)
    deep = y[:, 0] > -85.0
    off = (found - expected)[deep] / expected[deep, 30:31]
    away = (np.abs(x) - 0.5 * side_mm * (1.0 + 0.001 * y))[deep]
    assert np.abs(off[away < -15.0]).max() < 0.01
    # Penumbras are as wide as rays are apart, and how far fine rays reach beyond them depends on it, too.
    assert np.abs(off[away > 15.0]).max() < 0.03


@each_algorithm
def test_voxels_of_the_dose_grid_do_not_matter(machine: PhotonMachine, algorithm: Algorithm) -> None:
    beam = field_of_jaws(machine, (60.0, 60.0))
    model = [
        dose_of(beam, machine, WATER, Grid((1, n, 1), (mm, mm, mm), (0.0, -60.0, 0.0)), algorithm)[0, :, 0]
        for n, mm in ((31, 4.0), (41, 3.0), (61, 2.0), (121, 1.0))
    ]
    at = np.arange(-60.0, 60.1, 12.0)
    axes = [np.interp(at, -60.0 + 120.0 * np.linspace(0.0, 1.0, len(m)), m) for m in model]
    for other in axes[1:]:
        np.testing.assert_allclose(other, axes[0], rtol=0.01)
        assert (other / axes[0]).mean() == pytest.approx(1.0, abs=0.004)


# --- geometry --------------------------------------------------------------------------------------------------------


def turned_back(dose: Array, gantry_deg: float) -> Array:
    """Dose (z, y, x) of a beam from an angle as it would be from gantry 0, linear between voxels."""
    c, s = np.cos(np.radians(gantry_deg)), np.sin(np.radians(gantry_deg))
    half = (np.array(dose.shape) - 1) // 2
    z, y, x = np.meshgrid(*(np.arange(n) - h for n, h in zip(dose.shape, half, strict=True)), indexing="ij")
    at = np.stack([z, s * x + c * y, c * x - s * y]) + half[:, None, None, None]
    return np.asarray(map_coordinates(dose, at, order=1, mode="nearest"))


@each_algorithm
def test_a_cylinder_looks_the_same_from_everywhere(machine: PhotonMachine, algorithm: Algorithm) -> None:
    beam = field_of_jaws(machine, (60.0, 40.0))
    straight = dose_of(beam, machine, WATER, GRID, algorithm)
    x, y, z = places(GRID)
    inside = (np.abs(x) <= 16.0) & (np.abs(z) <= 8.0) & (np.abs(y) <= 40.0)
    for gantry_deg in (90.0, 180.0, 270.0, 30.0, 45.0):
        found = dose_of(replace(beam, gantry_deg=np.full(2, gantry_deg)), machine, WATER, GRID, algorithm)
        if gantry_deg % 90.0 == 0.0:
            assert_same(turned_back(found, gantry_deg), straight, 1e-4)
        # Voxels of 4 mm know the cylinder to a millimetre, half a percent of dose; cones add their ripples.
        assert_same(turned_back(found, gantry_deg)[inside], straight[inside], 0.015)


@each_algorithm
def test_collimator_and_couch_turn_the_field_against_each_other(machine: PhotonMachine, algorithm: Algorithm) -> None:
    """Seen from a vertical beam, the collimator turns counter-clockwise and the couch turns the patient so."""
    beam = field_of_jaws(machine, (80.0, 30.0))
    water = matter(cube(80.0, 4.0), 1.0)
    collimator = dose_of(replace(beam, collimator_deg=np.full(2, 30.0)), machine, water, GRID, algorithm)
    couch = dose_of(replace(beam, couch_deg=np.full(2, -30.0)), machine, water, GRID, algorithm)
    assert_same(couch, collimator, 1e-5)
    # IEC 61217: at gantry 0 and for a patient head first supine, counter-clockwise from above is from x to z.
    plane = Volume(replace(GRID, shape=(31, 1, 31)), collimator[:, 15:16])
    (along,), (mirrored,) = (
        resample(plane, Grid((1, 1, 1), GRID.spacing_mm, (28.0, -60.0, z)), 0.0).values.ravel() for z in (16.0, -16.0)
    )
    assert along > 5.0 * mirrored


@each_algorithm
def test_a_quarter_turn_of_the_collimator_swaps_the_jaws(machine: PhotonMachine, algorithm: Algorithm) -> None:
    water = matter(cube(80.0, 4.0), 1.0)
    turned = replace(field_of_jaws(machine, (80.0, 30.0)), collimator_deg=np.full(2, 90.0))
    found = dose_of(turned, machine, water, GRID, algorithm)
    swapped = dose_of(field_of_jaws(machine, (30.0, 80.0)), machine, water, GRID, algorithm)
    # The azimuths of cones turn with the collimator, by whole steps of a ring.
    assert_same(found, swapped, 1e-4)


# --- delivery --------------------------------------------------------------------------------------------------------


@each_algorithm
def test_fields_with_their_own_geometry_add_up(machine: PhotonMachine, beam_of: BeamOf, algorithm: Algorithm) -> None:
    jaws = [(-30, 30), (-30, 30), (-10, 20), (-10, 20)]
    step = beam_of(jaws, (-20, 20), fraction=(0.0, 0.3, 0.3, 1.0), gantry_deg=np.array([20.0, 20.0, 110.0, 110.0]))
    whole = dose_of(step, machine, WATER, GRID, algorithm)
    first = beam_of((-30, 30), (-20, 20), meterset_mu=30.0, gantry_deg=np.full(2, 20.0))
    second = beam_of((-10, 20), (-20, 20), meterset_mu=70.0, gantry_deg=np.full(2, 110.0))
    parts = [dose_of(beam, machine, WATER, GRID, algorithm) for beam in (first, second)]
    assert_same(whole, parts[0] + parts[1], 1e-5)


@each_algorithm
def test_steps_of_one_geometry_add_up(machine: PhotonMachine, beam_of: BeamOf, algorithm: Algorithm) -> None:
    """They share their rays, which reach round all of them."""
    steps = beam_of([(-30, 0), (-30, 0), (0, 20), (0, 20)], (-20, 20), fraction=(0.0, 0.4, 0.4, 1.0))
    whole = dose_of(steps, machine, WATER, GRID, algorithm)
    parts = [
        dose_of(beam_of(jaws, (-20, 20), meterset_mu=mu), machine, WATER, GRID, algorithm)
        for jaws, mu in (((-30, 0), 40.0), ((0, 20), 60.0))
    ]
    assert_same(whole, parts[0] + parts[1], 0.01)


@each_algorithm
def test_an_arc_is_given_from_the_middle_of_its_parts(
    machine: PhotonMachine, beam_of: BeamOf, algorithm: Algorithm
) -> None:
    arc = dose_of(beam_of((-20, 20), (-20, 20), gantry_deg=np.array([40.0, 50.0])), machine, WATER, GRID, algorithm)
    halves = [beam_of((-20, 20), (-20, 20), meterset_mu=50.0, gantry_deg=np.full(2, at)) for at in (42.5, 47.5)]
    first, second = (dose_of(half, machine, WATER, GRID, algorithm) for half in halves)
    assert_same(arc, first + second, 1e-5)


@each_algorithm
def test_jaws_that_move_spread_their_dose(machine: PhotonMachine, beam_of: BeamOf, algorithm: Algorithm) -> None:
    """A slit that sweeps evenly gives what standing slits give on the average of its ways."""
    water, grid = matter(cube(120.0, 4.0), 1.0), Grid((1, 1, 81), (2.0, 2.0, 2.0), (-80.0, 0.0, 0.0))
    swept = dose_of(beam_of([(-30, -10), (10, 30)], (-20, 20)), machine, water, grid, algorithm)[0, 0]
    still = dose_of(beam_of((-10, 10), (-20, 20)), machine, water, grid, algorithm)[0, 0]
    x = places(grid)[0]
    expected = np.mean([np.interp(x - way, x, still) for way in np.linspace(-20.0, 20.0, 81)], axis=0)
    near = np.abs(x) < 50.0
    assert_same(swept[near], expected[near], 0.02)


def test_closed_jaws_and_beams_that_miss_give_nothing(machine: PhotonMachine, beam_of: BeamOf) -> None:
    tight = replace(machine, jaws=replace(machine.jaws, transmission=0.0))
    closed = dose_of(beam_of((5.0, 5.0), (-20, 20)), tight, WATER, GRID)
    opened = dose_of(beam_of((-20, 20), (-20, 20)), tight, WATER, GRID)
    # What shines from the whole head through a slit of no width.
    assert closed.max() < 1e-3 * opened.max()
    for isocenter_mm in ((700.0, 0.0, 0.0), (0.0, 0.0, -900.0)):
        beam = beam_of((-20, 20), (-20, 20), isocenter_mm=np.tile(isocenter_mm, (2, 1)))
        assert not dose_of(beam, machine, WATER, GRID).any()


# --- scenarios -------------------------------------------------------------------------------------------------------


@each_algorithm
def test_an_isocentre_that_moves_is_a_patient_that_moves_back(
    machine: PhotonMachine, beam_of: BeamOf, algorithm: Algorithm
) -> None:
    shift = (6.0, -4.0, 3.0)
    beam = beam_of((-20, 20), (-30, 30), gantry_deg=np.full(2, 70.0))
    moved = dose_of(beam, machine, WATER, GRID, algorithm, Scenario("shift", shift))

    def back(grid: Grid) -> Grid:
        return replace(grid, origin_mm=tuple(np.subtract(grid.origin_mm, shift)))

    volumes = (replace(getattr(WATER, name), grid=back(WATER.attenuation.grid)) for name in FELT)
    patient = dose_of(beam, machine, PhotonMaps(*volumes), back(GRID), algorithm)
    assert_same(moved, patient, 1e-4)
    assert np.abs(moved - dose_of(beam, machine, WATER, GRID, algorithm)).max() > 0.3 * moved.max()


@each_algorithm
def test_a_density_error_is_that_of_denser_material(
    machine: PhotonMachine, beam_of: BeamOf, algorithm: Algorithm
) -> None:
    beam, x = beam_of((-20, 20), (-20, 20)), places(WATER.attenuation.grid)[0]
    patient = WATER.attenuation.values * np.where(x < 10.0, 1.0, 1.4)
    denser = dose_of(beam, machine, matter(WATER.attenuation.grid, 1.05 * patient), GRID, algorithm)
    error = Scenario("dense", rsp_scale=1.05)
    assert_same(dose_of(beam, machine, matter(WATER.attenuation.grid, patient), GRID, algorithm, error), denser, 1e-4)


def test_leaves_open_by_the_error_on_both_sides(machine: PhotonMachine, beam_of: BeamOf) -> None:
    ends = np.zeros((2, 2, 20))
    ends[:, 0, 4:16], ends[:, 1, 4:16] = -20.0, 20.0
    beam, grid = beam_of((-50, 50), (-30, 30), ends), Grid((1, 1, 61), (1.0, 1.0, 1.0), (-30.0, 0.0, 0.0))
    model = prepared(beam, machine, matter(cube(100.0, 4.0), 1.0), grid)

    def width_mm(dose: Array) -> float:
        half = 0.5 * dose[30]
        left, right = np.interp(half, dose[:31], np.arange(-30.0, 1.0)), np.interp(-half, -dose[30:], np.arange(31.0))
        return float(right - left)

    widths = [width_mm(model.dose(Scenario("leaves", leaf_opening_mm=mm))[0, 0]) for mm in (-1.0, 0.0, 1.5)]
    assert widths[1] == pytest.approx(40.0 + 2.0 * LEAVES.tip_offset_mm, abs=1.0)
    np.testing.assert_allclose(np.diff(widths), [2.0, 3.0], atol=0.25)


# --- matter ----------------------------------------------------------------------------------------------------------


@each_algorithm
@pytest.mark.parametrize("level", ["fine", "coarse"])
def test_lengths_and_densities_scale(machine: PhotonMachine, algorithm: Algorithm, level: str) -> None:
    """O'Connor, Phys Med Biol 1 (1957) 352: all lengths doubled in matter of half the density, and dose is the same."""
    rng = np.random.default_rng(8)
    density = rng.uniform(0.2, 1.6, (40, 31, 27)).astype(np.float32)
    fluence = np.zeros((31, 27), dtype=np.float32)
    fluence[8:22, 9:19] = rng.uniform(0.5, 1.0, (14, 10))
    tables, backend = transport_tables(machine), cpu()
    flat, outside = np.ones_like(fluence), fluence[::-1] if level == "coarse" else None

    def dose(scale: float) -> Array:
        frustum = Frustum((-39.0 * scale, -45.0 * scale), 3.0 * scale, density.shape, 60.0 * scale, 3.0 * scale,
                          (1000.0 * scale, 1000.0 * scale))  # fmt: skip
        rays = Rays(frustum, density / scale, density / scale)
        given = Level(frustum, flat, fluence, outside, outside)
        return np.asarray(transport(backend, rays, given, tables, algorithm))

    once, twice = dose(1.0), dose(2.0)
    assert once.max() > 0.0
    np.testing.assert_allclose(twice, once, rtol=1e-3, atol=1e-5 * once.max())


@each_algorithm
def test_dense_matter_casts_a_shadow(machine: PhotonMachine, beam_of: BeamOf, algorithm: Algorithm) -> None:
    """A slab that attenuates like 2 cm more water dims what lies far behind it like 2 cm more water."""
    grid = Grid((60, 75, 60), (4.0, 4.0, 4.0), (-118.0, -98.0, -118.0))
    y = places(grid)[1]
    slab = np.where((y > -80.0) & (y < -60.0), 2.0, 1.0) + np.zeros(grid.shape)
    beam = beam_of((-50, 50), (-50, 50))
    at = Grid((1, 4, 1), (4.0, 4.0, 4.0), (0.0, 40.0, 0.0))
    behind = dose_of(beam, machine, matter(grid, slab), at, algorithm)[0, :, 0]
    deeper = Grid((1, 4, 1), (4.0, 4.0, 4.0), (0.0, 60.0, 0.0))
    water = dose_of(beam, machine, matter(grid, 1.0), deeper, algorithm)[0, :, 0]
    # As deep in water, nearer to the source.
    nearer = ((1000.0 + np.arange(60.0, 75.0, 4.0)) / (1000.0 + np.arange(40.0, 55.0, 4.0))) ** 2
    np.testing.assert_allclose(behind, water * nearer, rtol=0.015)


@each_algorithm
def test_a_cavity_of_air_is_crossed(machine: PhotonMachine, beam_of: BeamOf, algorithm: Algorithm) -> None:
    grid = Grid((50, 75, 50), (4.0, 4.0, 4.0), (-98.0, -98.0, -98.0))
    y = places(grid)[1]
    gap = np.where((y > -40.0) & (y < 0.0), AIR, 1.0) + np.zeros(grid.shape)
    axis = Grid((1, 40, 1), (4.0, 4.0, 4.0), (0.0, -94.0, 0.0))
    beam = beam_of((-25, 25), (-25, 25))
    found = dose_of(beam, machine, matter(grid, gap), axis, algorithm)[0, :, 0]
    depth = places(axis)[1][:, 0]
    assert np.all(found > 0.0)
    # Behind it dose builds up again, then is that of 4 cm less water 4 cm farther away, but for scatter of the gap.
    assert found[depth > 0.0][0] < 0.9 * found[depth > 0.0].max()
    water = dose_of(beam, machine, matter(grid, 1.0), axis, algorithm)[0, :, 0]
    behind = depth > 30.0
    expected = np.interp(depth[behind] - 40.0, depth, water) * ((960.0 + depth[behind]) / (1000.0 + depth[behind])) ** 2
    np.testing.assert_allclose(found[behind], expected, rtol=0.05)


def test_air_around_the_patient_changes_nothing(machine: PhotonMachine, beam_of: BeamOf) -> None:
    """The image is marched where there is matter only."""
    grid = WATER.attenuation.grid
    wide = Grid(tuple(n + 20 for n in grid.shape), grid.spacing_mm, tuple(o - 40.0 for o in grid.origin_mm))
    padded = np.pad(WATER.attenuation.values, 10, constant_values=AIR)
    padded[:10], padded[-10:] = padded[10], padded[-11]
    x, y, z = places(GRID)
    middle = np.broadcast_to(np.abs(z) < 30.0, GRID.shape) & (np.hypot(x, y) < 90.0)
    beam = beam_of((-20, 20), (-20, 20), gantry_deg=np.full(2, 45.0))
    for algorithm in Algorithm:
        narrow = dose_of(beam, machine, WATER, GRID, algorithm)
        found = dose_of(beam, machine, matter(wide, padded), GRID, algorithm)
        assert_same(found[middle], narrow[middle], 0.002)


def test_dose_to_medium_and_to_water(machine: PhotonMachine, beam_of: BeamOf) -> None:
    """Electrons per gram and the ratio of stopping powers are all that differ."""
    grid, beam = WATER.attenuation.grid, beam_of((-20, 20), (-20, 20))
    bone = matter(grid, 1.0, attenuation=1.8, electron_density=1.7, density_gcm3=1.85, water_ratio=1.11)
    same = matter(grid, 1.0, attenuation=1.8, electron_density=1.7, density_gcm3=1.7)
    medium, water, per_electron = (
        dose_of(beam, machine, maps, GRID, to_water=to_water)
        for maps, to_water in ((bone, False), (bone, True), (same, False))
    )
    np.testing.assert_allclose(medium, per_electron * 1.7 / 1.85, rtol=1e-5)
    np.testing.assert_allclose(water, medium * 1.11, rtol=1e-5)


# --- computing -------------------------------------------------------------------------------------------------------


@each_algorithm
def test_threads_do_not_matter(machine: PhotonMachine, beam_of: BeamOf, algorithm: Algorithm) -> None:
    beam = beam_of((-20, 20), (-20, 20), gantry_deg=np.array([0.0, 22.0]))
    compute = partial(dose_of, beam, machine, WATER, GRID, algorithm)
    one, three = (compute(backend=CpuBackend(threads)) for threads in (1, 3))
    assert_same(three, one, 1e-6)
    np.testing.assert_array_equal(compute(), compute())
