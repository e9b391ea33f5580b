"""The CUDA backend against the CPU's, step by step and as a whole, and each linear step against its transpose.

On a GPU: `pytest -m gpu`. `test_cuda_simulator` runs the same tests without one, on tiny shapes, in numba's simulator.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from doseeng._kernels.cuda.device import Kernel
from doseeng._kernels.scalar import LANES
from doseeng.backend import Cones, Float32, March, Materials, Rays
from doseeng.beamseye import Frustum, gantry_to_index, grid_box, index_to_gantry, voxel_extent_mm
from doseeng.cpu import cpu
from doseeng.cuda import cuda
from doseeng.cuda_backend import CudaBackend
from doseeng.cuda_device import Launch, SimulatorDevice
from doseeng.cuda_statistics import DeviceStatistics
from doseeng.dvh import SamplePoints, cumulative_percent, sample_dose
from doseeng.errors import BackendUnavailable
from doseeng.grid import BeamFrame, Grid, Volume, beam_frame
from doseeng.layers import MIXING_LEVELS_MM, TABLE_STEP_MM, Tables
from doseeng.machines.library import find_machine
from doseeng.machines.photonmodel import Cones as PointKernel
from doseeng.machines.photonmodel import Electrons, Modes, PhotonMachine
from doseeng.materials import MaterialMaps, PhotonMaps
from doseeng.photon import Algorithm, PhotonSettings, prepare_photon_beam
from doseeng.plan import PhotonBeam, ProtonBeam
from doseeng.proton import ProtonSettings, prepare_beam
from doseeng.scenario import NOMINAL, Scenario

pytestmark = pytest.mark.gpu

SIMULATED = bool(numba.config.ENABLE_CUDASIM)
SAME = 2e-5
"""Largest difference as a share of the largest value: rounding, and positions in float32."""


@dataclass(frozen=True)
class Size:
    """n rays across, and so on; a dose grid of `voxels` per side."""

    n_v: int
    n_u: int
    n_slice: int
    groups: int
    voxels: int
    pitch_mm: float
    slice_mm: float
    spread_bytes: int


SIZE = Size(5, 6, 8, 2, 5, 6.0, 4.5, 3 * 24 * 30 * 4) if SIMULATED else Size(97, 110, 120, 3, 90, 1.5, 1.5, 1 << 26)
LENGTH_MM = SIZE.n_slice * SIZE.slice_mm
HALF_MM = 0.5 * SIZE.n_u * SIZE.pitch_mm
FRAME = beam_frame((3.0, -4.0, 5.0), 35.0, 10.0, "HFS")
EVERYWHERE = np.ones((SIZE.n_v, SIZE.n_u), dtype=np.bool_)


class Overhanging(SimulatorDevice):
    """The simulator with threads beyond the array along both axes along which a GPU's blocks have some."""

    def bind(self, kernel: Kernel, shape: Sequence[int], *arguments: Any) -> Launch:
        z, y, x = (1, 1, *shape)[-3:]
        return super().bind(kernel, (z, y + 1, x + 1), *arguments)


@pytest.fixture(scope="module")
def gpu() -> CudaBackend:
    """The backend under test; width bins of a few slices at a time."""
    if SIMULATED:
        return CudaBackend(Overhanging(), SIZE.spread_bytes)
    try:
        return CudaBackend(cuda().device, SIZE.spread_bytes)
    except BackendUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def grid_around(n: int, length_mm: float) -> Grid:
    spacing = length_mm / n
    first = -0.5 * length_mm + 0.5 * spacing
    return Grid((n, n, n), (spacing,) * 3, (first + 3.0, first - 4.0, first + 5.0))


def frustum() -> Frustum:
    corner = (-SIZE.pitch_mm * (SIZE.n_u // 2), -SIZE.pitch_mm * (SIZE.n_v // 2))
    shape = (SIZE.n_slice, SIZE.n_v, SIZE.n_u)
    return Frustum(corner, SIZE.pitch_mm, shape, 0.5 * LENGTH_MM, SIZE.slice_mm, (2200.0, 1800.0))


def smooth(rng: np.random.Generator, shape: tuple[int, ...], low: float, high: float, sigma: float) -> Float32:
    field = gaussian_filter(rng.random(shape), sigma, mode="nearest")
    field = (field - field.min()) / np.ptp(field)
    return (low + (high - low) * field).astype(np.float32)


def rays(rng: np.random.Generator) -> Rays:
    """Rays through tissue from lung to bone, uneven across the beam, so that depths mix."""
    shape = (SIZE.n_slice, SIZE.n_v, SIZE.n_u)
    across = smooth(rng, shape[1:], 0.3, 1.7, 0.1 * SIZE.n_u)
    return Rays(frustum(), across * smooth(rng, shape, 0.8, 1.2, 1.0), across * smooth(rng, shape, 0.6, 1.5, 1.0))


def tables(rng: np.random.Generator, scatters: bool, levels: int) -> Tables:
    """Tables of the shape of real ones, with enough scattering for short rays; the last group hardly scatters."""
    n_wet = int(1.1 * LENGTH_MM / TABLE_STEP_MM)
    n = (SIZE.groups, n_wet)
    depth = np.arange(n_wet) / n_wet
    sharp = (0.2 + rng.random((SIZE.groups, 1, LANES))) * (1.0 + 4.0 * depth[:, None] ** 8)
    sigma = np.array(MIXING_LEVELS_MM[:levels]) / TABLE_STEP_MM
    released = np.stack([gaussian_filter1d(sharp, s, axis=1, mode="nearest") if s else sharp for s in sigma], axis=1)
    lanes = np.sort(rng.random((SIZE.groups, LANES)), axis=1)
    power = 40.0 / LENGTH_MM**3 * (1.0 + 3.0 * depth) * np.ones(n)
    power[-1] *= 1e-6
    zeros = np.zeros(n, dtype=np.float32)
    return Tables(
        dose=np.cumsum(released, axis=2).astype(np.float32),
        lanes=lanes.astype(np.float32),
        lane_mean=(lanes.mean(axis=1)[:, None] * (1.0 - 0.5 * depth)).astype(np.float32),
        power_p=power.astype(np.float32) if scatters else zeros,
        power_q=(0.4 * power).astype(np.float32) if scatters else zeros,
        renewal=np.full(n, 0.03, dtype=np.float32),
        start=np.full((SIZE.groups, 2), 2.0, dtype=np.float32),
        angle_square=0.36,
    )


def march_of(rng: np.random.Generator, scatters: bool, mixes: bool) -> March:
    made = tables(rng, scatters, len(MIXING_LEVELS_MM) if mixes else 2)
    first, last, step = 1, SIZE.n_slice - 1, max(2, SIZE.n_slice // 4)
    active = np.zeros((SIZE.groups, SIZE.n_v, SIZE.n_u), dtype=np.bool_)
    active[:, 1:-1, 2:-1] = True
    return March(
        tables=made,
        rays=rays(rng),
        scatters=scatters,
        mixes=mixes,
        scale=1.03,
        bounds=(*range(first, last, step), last),
        residual_mm2=smooth(rng, (SIZE.n_slice, SIZE.groups), 4.0, 30.0, 0.0),
        excess_mm2=smooth(rng, (SIZE.n_slice,), -2.0, 3.0, 0.0),
        start=made.start,
        start_wet_mm=4.0,
        active=active,
    )


def on(backend: CudaBackend, march: March) -> March:
    """The same march with arrays of the backend."""
    of = march.rays
    return replace(march, rays=Rays(of.frustum, backend.put(of.stopping), backend.put(of.spreading)))


def fluence_of(rng: np.random.Generator, march: March) -> Float32:
    values = rng.random((*march.active.shape, LANES)) * march.active[..., None]
    values[..., LANES - 2 :] = 0.0
    return values.astype(np.float32)


def same(found: Float32, expected: Float32, share: float = SAME) -> None:
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=share * np.abs(expected).max())


def dot(a: Float32, b: Float32) -> float:
    return float(np.vdot(a.astype(np.float64), b.astype(np.float64)))


KINDS = pytest.mark.parametrize(
    ("scatters", "mixes"), [(True, True), (True, False), (False, False)], ids=["core", "wide", "secondaries"]
)


def test_trace(gpu: CudaBackend, rng: np.random.Generator) -> None:
    image = grid_around(SIZE.voxels, 0.8 * LENGTH_MM)
    rsp, scattering = (smooth(rng, image.shape, 0.0, 2.0, 2.0) for _ in range(2))
    wanted = EVERYWHERE.copy()
    wanted[1, 2] = False
    arguments = (gantry_to_index(FRAME, image), frustum(), 2, wanted)
    expected = cpu().trace(Materials(rsp, scattering), *arguments)
    found = gpu.trace(Materials(gpu.put(rsp), gpu.put(scattering)), *arguments)
    assert (expected.stopping == 0.0).any()
    # A sample at the very edge of the image may fall on its other side.
    for a, b in ((found.stopping, expected.stopping), (found.spreading, expected.spreading)):
        apart = np.abs(gpu.get(a) - b)
        assert np.quantile(apart, 0.99) < 1e-4
        assert not gpu.get(a)[:, 1, 2].any()


def test_water_equivalent_depths(gpu: CudaBackend, rng: np.random.Generator) -> None:
    of = rays(rng)
    wanted = rng.random((SIZE.n_v, SIZE.n_u)) > 0.5
    found = gpu.wet_mm(Rays(of.frustum, gpu.put(of.stopping), gpu.put(of.spreading)), wanted)
    np.testing.assert_allclose(found, cpu().wet_mm(of, wanted), rtol=1e-5)


@KINDS
def test_march(gpu: CudaBackend, rng: np.random.Generator, scatters: bool, mixes: bool) -> None:
    march = march_of(rng, scatters, mixes)
    fluence, before = fluence_of(rng, march), smooth(rng, march.rays.frustum.shape, 0.0, 0.1, 1.0)
    expected, found = before.copy(), gpu.put(before.copy())
    cpu().march(march, fluence, march.tables.dose, expected)
    gpu.march(on(gpu, march), gpu.put(fluence), gpu.put(march.tables.dose), found)
    same(gpu.get(found), expected)


def test_fluence_moves_where_depths_differ(gpu: CudaBackend, rng: np.random.Generator) -> None:
    # Otherwise the comparison above would leave out most of the core's march.
    march = on(gpu, march_of(rng, True, True))
    moved = gpu.device.to_host(gpu.geometry(march).moved)[:-1]
    assert moved[:, 0].any()
    assert not moved[:, -1].any()


@KINDS
def test_march_and_its_transpose(gpu: CudaBackend, rng: np.random.Generator, scatters: bool, mixes: bool) -> None:
    march = march_of(rng, scatters, mixes)
    device = on(gpu, march)
    x, y = fluence_of(rng, march), rng.random(march.rays.frustum.shape).astype(np.float32)
    table = gpu.put(march.tables.dose)
    forward = gpu.zeros(y.shape)
    gpu.march(device, gpu.put(x), table, forward)
    back = gpu.get(gpu.march_back(device, gpu.put(y), table))
    assert dot(gpu.get(forward), y) == pytest.approx(dot(x, back), rel=1e-5)
    same(back, cpu().march_back(march, y, march.tables.dose))
    assert not back[~march.active].any()


def photon_rays(gpu: CudaBackend, rng: np.random.Generator) -> tuple[Rays, Rays, Float32]:
    """Tissue with a slice of vacuum, for the CPU and for the GPU, and energy set free in most of it."""
    of = rays(rng)
    of.spreading[2] = 0.0
    released = smooth(rng, of.frustum.shape, 0.0, 1.0, 1.0)
    released[: SIZE.n_slice // 3, 0] = 0.0
    released[2] = 0.0
    return of, Rays(of.frustum, gpu.put(of.stopping), gpu.put(of.spreading)), released


def test_release(gpu: CudaBackend, rng: np.random.Generator) -> None:
    on_cpu, on_gpu, _ = photon_rays(gpu, rng)
    fluence, scale = (smooth(rng, EVERYWHERE.shape, low, 1.1, 1.0) for low in (0.5, 0.9))
    fluence[:2] = 0.0
    # Some rays go deeper than the table.
    table = np.exp(-np.arange(0.0, 0.7 * LENGTH_MM) / LENGTH_MM).astype(np.float32)
    expected = cpu().release(on_cpu, fluence, scale, table, 1.0)
    same(gpu.get(gpu.release(on_gpu, gpu.put(fluence), gpu.put(scale), table, 1.0)), expected)
    assert not expected[:, :2].any()


def test_carry(gpu: CudaBackend, rng: np.random.Generator) -> None:
    on_cpu, on_gpu, released = photon_rays(gpu, rng)
    # The last mode spreads beyond the widest bin.
    modes = np.array([[0.3, 0.6, 0.001], [0.4, 0.1, 0.3], [0.3, 2.0 / LENGTH_MM, 900.0]], dtype=np.float32)
    expected, found = (np.full(released.shape, 0.1, dtype=np.float32) for _ in range(2))
    found = gpu.put(found)
    cpu().carry(on_cpu, released, modes, expected)
    gpu.carry(on_gpu, gpu.put(released), modes, found)
    same(gpu.get(found), expected)


def cones_of(rng: np.random.Generator, n: int, upstream: bool) -> Cones:
    """Straight on, across the whole field in a slice, and every way in between."""
    offsets = rng.integers(-2, 3, (n, SIZE.n_slice, 2))
    offsets[0] = 0
    offsets[1] = SIZE.n_v + 1, 0
    offsets[2] = -1, -SIZE.n_u
    directions = np.column_stack([rng.uniform(low, high, n) for low, high in ((0.1, 0.5), (0.01, 0.5), (1.0, 3.0))])
    return Cones(directions.astype(np.float32), offsets, upstream)


def test_cones(gpu: CudaBackend, rng: np.random.Generator) -> None:
    on_cpu, on_gpu, released = photon_rays(gpu, rng)
    sets = cones_of(rng, 7, False), cones_of(rng, 4, True)
    expected, found = np.zeros_like(released), gpu.zeros(released.shape)
    cpu().cones(on_cpu, released, sets, expected)
    gpu.cones(on_gpu, gpu.put(released), sets, found)
    same(gpu.get(found), expected)


def test_cones_pass_every_node_once(gpu: CudaBackend, rng: np.random.Generator) -> None:
    # Where nothing leaves its node, each direction deposits its share of what is set free there.
    shape = (SIZE.n_slice, SIZE.n_v, SIZE.n_u)
    everywhere = gpu.put(np.ones(shape))
    opaque = cones_of(rng, 7, False)
    opaque.directions[:, 1] = 1e6
    found = gpu.zeros(shape)
    gpu.cones(Rays(frustum(), everywhere, everywhere), everywhere, (opaque,), found)
    share = float(opaque.directions[:, 0].sum())
    np.testing.assert_allclose(gpu.get(found), share / SIZE.slice_mm, rtol=1e-5)


def test_settle(gpu: CudaBackend, rng: np.random.Generator) -> None:
    on_cpu, on_gpu, released = photon_rays(gpu, rng)
    expected, found = released.copy(), gpu.put(released.copy())
    cpu().settle(on_cpu, released, expected)
    gpu.settle(on_gpu, gpu.put(released), found)
    same(gpu.get(found), expected)


def placement(frame: BeamFrame, grid: Grid) -> tuple:
    f = frustum()
    return f, index_to_gantry(frame, grid), float(voxel_extent_mm(frame, grid)[2]), grid_box(f, frame, grid)


def test_dose_grid_and_its_transpose(gpu: CudaBackend, rng: np.random.Generator) -> None:
    grid = grid_around(SIZE.voxels, 1.3 * LENGTH_MM)
    where = placement(FRAME, grid)
    values, dose = smooth(rng, frustum().shape, 0.0, 2.0, 1.0), rng.random(grid.shape).astype(np.float32)
    expected, found = np.full(grid.shape, 0.5, dtype=np.float32), gpu.put(np.full(grid.shape, 0.5))
    cpu().add_to_grid(values, *where, expected)
    gpu.add_to_grid(gpu.put(values), *where, found)
    same(gpu.get(found), expected)
    back = gpu.get(gpu.from_grid(gpu.put(dose), *where))
    same(back, cpu().from_grid(dose, *where))
    assert dot(gpu.get(found) - 0.5, dose) == pytest.approx(dot(values, back), rel=1e-5)


def test_statistics_of_scenarios(gpu: CudaBackend, rng: np.random.Generator) -> None:
    grid = grid_around(SIZE.voxels, 30.0)
    doses = [smooth(rng, grid.shape, 0.0, 50.0, 1.0) for _ in range(3 if SIMULATED else 12)]
    n = 60 if SIMULATED else 50_000
    inside = [rng.uniform(-12.0, 12.0, (n, 3)), rng.uniform(-5.0, 25.0, (n, 3))]
    points = [
        SamplePoints(f"s{i}", (p + FRAME.isocenter_mm).astype(np.float32), np.full(n, 0.01, np.float32), 0.01 * n)
        for i, p in enumerate(inside)
    ]
    statistics = DeviceStatistics(gpu, grid, points, len(doses), step_gy=0.5, steps=120)
    for dose in doses:
        statistics.add(gpu.put(dose), 1.1)
    stack = np.stack(doses).astype(np.float64) * 1.1
    np.testing.assert_allclose(statistics.minimum(), stack.min(axis=0), rtol=1e-6)
    np.testing.assert_allclose(statistics.maximum(), stack.max(axis=0), rtol=1e-6)
    np.testing.assert_allclose(statistics.mean(), stack.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(statistics.std(), stack.std(axis=0), atol=1e-4)
    percent = statistics.dvh_percent()
    for scenario, dose in enumerate(doses):
        for number, of in enumerate(points):
            samples = sample_dose(of, Volume(grid, dose * np.float32(1.1)))
            expected = cumulative_percent(samples, 0.5 * np.arange(120))
            # A sample within rounding of a step may count on its other side.
            np.testing.assert_allclose(percent[scenario, number], expected, atol=110.0 / n)
            assert number == 0 or samples.covered < 1.0


@dataclass(frozen=True)
class Phantom:
    """A box of `shape` voxels, and a plan of a few layers of the same spots."""

    shape: tuple[int, int, int]
    voxel_mm: float
    energies_mev: tuple[float, ...]
    spots_mm: tuple[float, ...]
    settings: ProtonSettings


PHANTOM = (
    Phantom((6, 9, 6), 10.0, (71.0, 73.0), (-3.0, 4.0), ProtonSettings(pitch_mm=24.0, slice_mm=10.0, mixing_mm=20.0))
    if SIMULATED
    else Phantom((60, 80, 60), 2.0, tuple(range(70, 110, 2)), tuple(range(-20, 21, 5)), ProtonSettings())
)


def test_whole_beam(gpu: CudaBackend) -> None:
    # Water with lung in one half behind air: several components, depths that mix, a shift and a range error.
    p = PHANTOM
    grid = Grid(p.shape, (p.voxel_mm,) * 3, tuple(0.5 * p.voxel_mm * (1 - n) for n in p.shape[::-1]))
    rsp = np.ones(p.shape, dtype=np.float32)
    rsp[:, : p.shape[1] // 4] = 0.0
    rsp[: p.shape[0] // 2, p.shape[1] // 3 : 2 * p.shape[1] // 3] = 0.3
    maps = MaterialMaps(Volume(grid, rsp), Volume(grid, rsp))
    spots = np.stack(np.meshgrid(p.spots_mm, p.spots_mm), axis=-1).reshape(-1, 2)
    energies = np.repeat(p.energies_mev, len(spots))
    uv = np.tile(spots, (len(p.energies_mev), 1))
    beam = ProtonBeam(1, "AP", "generic-pbs", (0.0, 0.0, 0.0), 0.0, 0.0, uv, energies, np.linspace(1, 2, len(uv)))
    machine = find_machine("generic-pbs")
    on_cpu, on_gpu = (prepare_beam(beam, machine, maps, grid, "HFS", p.settings, b) for b in (cpu(), gpu))
    for scenario in (NOMINAL, Scenario("shifted", (2.0, -1.0, 3.0), 1.035))[SIMULATED:]:
        same(gpu.get(on_gpu.dose(scenario)), on_cpu.dose(scenario), 1e-4)


PHOTON_SETTINGS = PhotonSettings(pitch_mm=48.0, slice_mm=15.0) if SIMULATED else PhotonSettings()
KERNEL = PointKernel(
    np.array([0.0, 30.0, 60.0, 90.0, 180.0]),
    primary=np.array([[0.5, 4.0], [0.3, 5.0], [0.15, 7.0], [0.05, 9.0]]),
    scatter=np.array([[0.3, 0.1], [0.3, 0.15], [0.2, 0.2], [0.2, 0.3]]),
)
MODES = Modes(
    primary=np.array([[0.6, 4.0, 0.05], [0.4, 6.0, 0.5]]), scatter=np.array([[0.5, 0.1, 0.2], [0.5, 0.3, 2.0]])
)


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_whole_photon_beam(
    gpu: CudaBackend,
    linac: PhotonMachine,
    beam_of: Callable[..., PhotonBeam],
    algorithm: Algorithm,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Two angles of an arc through water with lung in one half behind air; contaminant electrons too.
    p = PHANTOM
    grid = Grid(p.shape, (p.voxel_mm,) * 3, tuple(0.5 * p.voxel_mm * (1 - n) for n in p.shape[::-1]))
    density = np.ones(p.shape, dtype=np.float32)
    density[:, : p.shape[1] // 4] = 0.0
    density[: p.shape[0] // 2, p.shape[1] // 3 : 2 * p.shape[1] // 3] = 0.3
    maps = PhotonMaps(*(Volume(grid, density) for _ in range(3)), Volume(grid, np.ones_like(density)))
    machine = replace(linac, cones=KERNEL, modes=MODES, electrons=Electrons(0.2, 10.0, 20.0))
    beam = beam_of((-20.0, 15.0), (-10.0, 20.0), fraction=(0.0, 0.4, 1.0), gantry_deg=np.array([0.0, 5.0, 10.0]))
    if SIMULATED:
        # The field that calibrates takes the simulator hours.
        monkeypatch.setattr("doseeng.photon.gy_per_fluence", lambda *_: 0.01)
    doses = []
    for backend in (cpu(), gpu):
        materials = Materials(*(backend.put(v.values) for v in (maps.attenuation, maps.electron_density)))
        settings = replace(PHOTON_SETTINGS, algorithm=algorithm)
        model = prepare_photon_beam(beam, machine, maps, grid, "HFS", settings, backend, materials)
        doses.append(backend.get(model.dose(Scenario("shifted", (2.0, -1.0, 3.0), 1.035, gantry_deg=1.0))))
    same(doses[1], doses[0], 1e-4)
