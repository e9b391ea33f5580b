"""Proton pencil-beam dose of one beam: trace, march, resample.

Every pixel of the beam's-eye plane is its own sub-pencil with its own water-equivalent depth. A layer's fluence is the
sum of its spots at their narrowest; what the optics add elsewhere, and what the patient adds, is spread slice by slice.
Every `mixing_mm` the fluence moves on to the rays it has scattered to, and each ray learns which depths the protons
that arrive there came through. Components (primaries, secondaries, the wide optical Gaussian) march on rays of their
own pitch. Dose is the mean over each voxel.

    model = prepare_beam(beam, machine, maps, grid, "HFS", backend=backend)
    dose = model.dose(scenario)            # any number of scenarios
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from doseeng._kernels.scalar import LANES
from doseeng.backend import Backend, March, Materials, Rays
from doseeng.beamseye import (
    Frustum,
    frustum_around,
    gantry_to_index,
    grid_box,
    index_to_gantry,
    spanning,
    voxel_extent_mm,
)
from doseeng.cpu import cpu
from doseeng.errors import GeometryError
from doseeng.grid import BeamFrame, Grid, beam_frame
from doseeng.layers import (
    TABLE_STEP_MM,
    TAIL_WIDTH,
    Deposit,
    Kind,
    Layers,
    Tables,
    beam_layers,
    component_tables,
    kinds,
)
from doseeng.machines import lookup
from doseeng.machines.model import ProtonMachine
from doseeng.materials import MaterialMaps
from doseeng.plan import ProtonBeam
from doseeng.scenario import NOMINAL, Scenario
from doseeng.spotfluence import fluence_of, spots_of

Array = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

CORE_SIGMAS: Final = 3.5
WIDE_SIGMAS: Final = 3.0
"""Rays reach this many standard deviations beyond the outermost spots; all but the core hold a few percent of dose."""
PITCH_FACTOR: Final = {Kind.CORE: 1, Kind.TAIL: 2, Kind.HALO: 2, Kind.SHIFTER_HALO: 4, Kind.RECOIL: 4, Kind.WIDE: 4}
"""Rays of wider components can be farther apart. Those with one pitch share one set of rays."""
WATER_SPREAD: Final = 0.025
"""Multiple scattering in water ends at 2.2 % of the range (Gottschalk 2010); lung and gaps add to it."""
HALO_SIGMA_MM: Final = 25.0
"""The widest halo in water (230 MeV) is 25 mm."""
ENTERED_WET_MM: Final = 1.0
"""A ray has met the patient after this much water; the air before it bears no secondaries that could spread."""
SLICES_AHEAD: Final = 3
"""The march starts so many slices before the patient: voxels at the skin reach out of it."""
MEMORY_MM: Final = 60.0
"""Components that do not mix march in intervals of this length, which bounds what they remember."""


@dataclass(frozen=True, slots=True)
class ProtonSettings:
    """How finely the engine computes.

    pitch_mm: largest distance of core rays in the isocentre plane; slice_mm: largest step along the axis. Both shrink
    with the voxels of the dose grid: rays voxel / sqrt(2) apart make linear interpolation between them as wide as the
    mean over a voxel, slices as thick as a voxel make the mean along the axis exact. mixing_mm: distance along the axis
    after which fluence and depths may move on to neighbouring rays.
    """

    pitch_mm: float = 2.0
    slice_mm: float = 3.0
    mixing_mm: float = 12.0


@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """One component of a beam, without any scenario.

    frustum: its rays. narrowest_mm2: (n_layer, 2) variance in the isocentre plane of the spots as the fluence holds
    them. fluence: (group, n_v, n_u, LANES) 1e9 protons per mm2 of the isocentre plane, an array of the backend. active:
    (group, n_v, n_u) rays that any spot reaches.
    """

    kind: Kind
    frustum: Frustum
    tables: Tables
    narrowest_mm2: Array
    fluence: Any
    active: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class BeamModel:
    """A beam ready for any number of scenarios; made by `prepare_beam`.

    It remembers what the last isocentre shift and angles met, rays and the depths of their faces: range errors do not
    change it.
    """

    beam: ProtonBeam
    machine: ProtonMachine
    layers: Layers
    materials: Materials
    image: Grid
    grid: Grid
    patient_position: str
    components: tuple[Component, ...]
    settings: ProtonSettings
    backend: Backend
    _traced: dict[tuple[float, ...], dict[Frustum, Rays]] = field(default_factory=dict)
    _wet: dict[tuple[Kind, tuple[float, ...]], Float32] = field(default_factory=dict)

    def dose(self, scenario: Scenario = NOMINAL, deposit: Deposit = Deposit.DOSE, out: Any = None) -> Any:
        """Physical dose to water of one fraction, Gy, or dose times LET; added to `out`, an array of the backend."""
        out = self.backend.zeros(self.grid.shape) if out is None else out
        return self._add(scenario, lambda component: (component.fluence, self._table(component, deposit)), out)

    def forward(self, spot_mu: npt.ArrayLike, scenario: Scenario = NOMINAL) -> Any:
        """`dose` for other metersets (n_spot,) of the same spots; linear in them."""
        mu, uv_mm = np.asarray(spot_mu), self.beam.spot_uv_mm

        def of(c: Component) -> tuple[Any, Any]:
            fluence = fluence_of(c.kind, c.frustum, c.narrowest_mm2, self.layers, uv_mm, mu)
            return self.backend.put(fluence), c.tables.dose

        return self._add(scenario, of, self.backend.zeros(self.grid.shape))

    def adjoint(self, dose: Any, scenario: Scenario = NOMINAL) -> Array:
        """(n_spot,) the transpose of `forward` applied to a dose array (grid.shape) of the backend."""
        out = np.zeros(len(self.beam.spot_mu))
        for _, marches in self.marches(scenario):
            values = self.backend.from_grid(dose, *self._placement(marches, scenario))
            for component, march in marches:
                fluence = self.backend.get(self.backend.march_back(march, values, component.tables.dose))
                of = (component.kind, component.frustum, component.narrowest_mm2)
                out += spots_of(*of, self.layers, self.beam.spot_uv_mm, fluence)
        return out

    def _add(self, scenario: Scenario, of: Callable[[Component], tuple[Any, Any]], out: Any) -> Any:
        """out += the dose of all components; of: the fluence and the table of one."""
        for frustum, marches in self.marches(scenario):
            values = self.backend.zeros(frustum.shape)
            for component, march in marches:
                self.backend.march(march, *of(component), values)
            self.backend.add_to_grid(values, *self._placement(marches, scenario), out)
        return out

    def _table(self, component: Component, deposit: Deposit) -> Any:
        if deposit is Deposit.DOSE:
            return component.tables.dose
        arguments = (component.kind, self.layers, self.machine, self.beam.range_shifter, deposit)
        return self.backend.put(component_tables(*arguments).dose)

    def frame(self, scenario: Scenario) -> BeamFrame:
        """The beam's frame in the patient, moved and turned by the scenario's errors of setup, gantry and couch."""
        isocenter = np.asarray(self.beam.isocenter_mm) + np.asarray(scenario.isocenter_shift_mm)
        gantry_deg, couch_deg = self.beam.gantry_deg + scenario.gantry_deg, self.beam.couch_deg + scenario.couch_deg
        return beam_frame(isocenter, gantry_deg, couch_deg, self.patient_position)

    def _placement(
        self, marches: list[tuple[Component, March]], scenario: Scenario
    ) -> tuple[Frustum, Array, float, tuple[int, ...]]:
        frame, frustum = self.frame(scenario), marches[0][1].rays.frustum
        depth_mm = float(voxel_extent_mm(frame, self.grid)[2])
        bounds = [march.bounds for _, march in marches]
        box = grid_box(frustum, frame, self.grid, min(b[0] for b in bounds), max(b[-1] for b in bounds))
        return frustum, index_to_gantry(frame, self.grid), depth_mm, box

    def _rays(self, frustum: Frustum, scenario: Scenario, of: npt.NDArray[np.bool_]) -> Rays:
        """Traced rays, kept until isocentre or angles change again."""
        pose = _pose(scenario)
        if pose not in self._traced:
            self._traced.clear()
            self._wet.clear()
        kept = self._traced.setdefault(pose, {})
        if frustum not in kept:
            spanned = spanning(frustum, self.frame(scenario), self.image)
            samples = max(1, round(spanned.slice_mm / min(self.image.spacing_mm)))
            to_index = gantry_to_index(self.frame(scenario), self.image)
            kept[frustum] = self.backend.trace(self.materials, to_index, spanned, samples, of)
        return kept[frustum]

    def marches(self, scenario: Scenario) -> Iterator[tuple[Frustum, list[tuple[Component, March]]]]:
        """The marches of a scenario, those that share their rays together."""
        voxel = voxel_extent_mm(self.frame(scenario), self.grid)
        for frustum, group in groupby(self.components, key=lambda component: component.frustum):
            together = list(group)
            rays = self._rays(frustum, scenario, _met(together))
            marches = []
            for component in together:
                key = (component.kind, _pose(scenario))
                if key not in self._wet:
                    self._wet[key] = self.backend.wet_mm(rays, _any_group(component))
                wet = self._wet[key] * scenario.rsp_scale
                first, last = _span(wet, component.tables, self.beam)
                marches.append((component, _march(self, component, rays, scenario.rsp_scale, first, last, voxel)))
            yield rays.frustum, marches


def prepare_beam(
    beam: ProtonBeam,
    machine: ProtonMachine,
    maps: MaterialMaps,
    grid: Grid,
    patient_position: str,
    settings: ProtonSettings = ProtonSettings(),
    backend: Backend | None = None,
    materials: Materials | None = None,
) -> BeamModel:
    """Everything about a beam that no scenario changes. materials: `maps` where the backend holds them already.

    Errors: MachineError when an energy lies outside the model; GeometryError when no ray meets the patient.
    """
    backend = backend or cpu()
    materials = materials or Materials(backend.put(maps.rsp.values), backend.put(maps.scattering.values))
    layers = beam_layers(beam, machine)
    model = BeamModel(
        beam, machine, layers, materials, maps.rsp.grid, grid, patient_position, (), settings, backend
    )  # fmt: skip
    frame = model.frame(NOMINAL)
    voxel = voxel_extent_mm(frame, grid)
    pitch = float(np.clip(np.sqrt(voxel[0] * voxel[1]) / np.sqrt(2.0), 0.5 * settings.pitch_mm, settings.pitch_mm))
    slice_mm = float(np.clip(voxel[2], settings.slice_mm / 3.0, settings.slice_mm))
    present = kinds(layers, beam.range_shifter)
    components: list[Component] = []
    for kind in present:
        tables = component_tables(kind, layers, machine, beam.range_shifter)
        frustum = _frustum(kind, present, model, frame, pitch, slice_mm)
        if not components:
            everywhere = np.ones(frustum.shape[1:], dtype=np.bool_)
            rays = model._rays(frustum, NOMINAL, everywhere)
            first, last = _span(backend.wet_mm(rays, everywhere), tables, beam)
            reach_mm = rays.frustum.slice_center_mm[[first, last - 1]]
        narrowest = _narrowest(model, kind, frustum, reach_mm)
        fluence = fluence_of(kind, frustum, narrowest, layers, beam.spot_uv_mm, beam.spot_mu)
        reached = fluence
        if not np.all(beam.spot_mu):
            reached = fluence_of(kind, frustum, narrowest, layers, beam.spot_uv_mm, np.ones(len(beam.spot_mu)))
        names = ("dose", "lanes", "lane_mean", "power_p", "power_q", "renewal")
        resident: dict[str, Any] = {name: backend.put(getattr(tables, name)) for name in names}
        tables = replace(tables, **resident)
        active = np.asarray(reached.any(axis=3))
        components.append(Component(kind, frustum, tables, narrowest, backend.put(fluence), active))
    return replace(model, components=tuple(components))


def beam_dose(
    beam: ProtonBeam,
    machine: ProtonMachine,
    maps: MaterialMaps,
    grid: Grid,
    patient_position: str,
    scenario: Scenario = NOMINAL,
    settings: ProtonSettings = ProtonSettings(),
    backend: Backend | None = None,
) -> Float32:
    """Physical dose to water of one fraction of `beam`, Gy, float32 of grid.shape; errors as `prepare_beam`."""
    backend = backend or cpu()
    model = prepare_beam(beam, machine, maps, grid, patient_position, settings, backend)
    # The cubic between slices undershoots zero where dose begins or ends within one.
    return backend.get(model.dose(scenario)).clip(0.0, None)


def _pose(scenario: Scenario) -> tuple[float, ...]:
    """What decides which rays meet what: isocentre shift, gantry and couch error."""
    return (*map(float, scenario.isocenter_shift_mm), scenario.gantry_deg, scenario.couch_deg)


def _any_group(component: Component) -> npt.NDArray[np.bool_]:
    active: npt.NDArray[np.bool_] = np.any(component.active, axis=0)
    return active


def _met(components: list[Component]) -> npt.NDArray[np.bool_]:
    """(n_v, n_u) rays that protons of any of the components can come to: those of the core move to their neighbours."""
    if any(component.kind is Kind.CORE for component in components):
        return np.ones(components[0].frustum.shape[1:], dtype=np.bool_)
    met: npt.NDArray[np.bool_] = np.any([_any_group(component) for component in components], axis=0)
    return met


def optics_variance(model: BeamModel, kind: Kind, z_mm: Array) -> Array:
    """(n_z, n_layer, 2) optical variance of the Gaussian that a component belongs to."""
    energy, gaussian = model.layers.energy_mev, int(kind is Kind.WIDE)
    scatter = TAIL_WIDTH**2 if kind is Kind.TAIL else 1.0
    return lookup.optics_variance(model.machine, energy, gaussian, z_mm, model.beam.range_shifter, scatter)


def _frustum(
    kind: Kind, of: tuple[Kind, ...], model: BeamModel, frame: BeamFrame, pitch_mm: float, slice_mm: float
) -> Frustum:
    """The rays of a component, wide enough for all of the components `of` the beam that share them."""
    beam, machine = model.beam, model.machine
    factor = PITCH_FACTOR[kind]
    core = kind is Kind.CORE
    water = WATER_SPREAD * lookup.range_at(machine, model.layers.energy_mev).max()
    added = water if core else HALO_SIGMA_MM if factor == 2 else 2.0 * HALO_SIGMA_MM
    widest = max(optics_variance(model, k, np.zeros(1)).max() for k in Kind if PITCH_FACTOR[k] == factor and k in of)
    margin = (CORE_SIGMAS if core else WIDE_SIGMAS) * np.sqrt(widest + added**2)
    low, high = beam.spot_uv_mm.min(axis=0) - margin, beam.spot_uv_mm.max(axis=0) + margin
    box = (low[0], high[0], low[1], high[1])
    source = machine.source_distance_mm
    return frustum_around(frame, model.image, box, source, pitch_mm * factor, slice_mm)


def _span(wet_mm: Float32, tables: Tables, beam: ProtonBeam) -> tuple[int, int]:
    """First slice of the march, and one past the last where a ray has not gone through the whole table."""
    entered = np.flatnonzero(wet_mm[:, 1] > ENTERED_WET_MM)
    if not len(entered):
        raise GeometryError(
            f"beam {beam.number} '{beam.name}': no ray meets the patient; "
            "check isocentre, gantry and couch angle and patient position"
        )
    alive = np.flatnonzero(wet_mm[:-1, 0] < tables.dose.shape[2] * TABLE_STEP_MM)
    return max(int(entered[0]) - 1 - SLICES_AHEAD, 0), int(alive[-1]) + 1


def _narrowest(model: BeamModel, kind: Kind, frustum: Frustum, reach_mm: Array) -> Array:
    """(n_layer, 2) smallest optical variance between two heights, per isocentre-plane millimetre squared."""
    z = np.linspace(reach_mm[0], reach_mm[1], 50)
    square = (1.0 - z[:, None, None] / np.asarray(frustum.source_mm)) ** 2
    narrowest: Array = (optics_variance(model, kind, z) / square).min(axis=0)
    return np.maximum(narrowest, (0.5 * frustum.pitch_mm) ** 2)


def _march(
    model: BeamModel, component: Component, rays: Rays, scale: float, first: int, last: int, voxel_mm: Array
) -> March:
    frustum, tables, kind = rays.frustum, component.tables, component.kind
    square = frustum.magnification[:, None, :] ** 2
    residual = np.maximum(optics_variance(model, kind, frustum.slice_center_mm) - component.narrowest_mm2 * square, 0.0)
    # Linear interpolation between rays widens by a sixth of their distance squared, the mean over a voxel by a twelfth.
    residual += np.maximum(voxel_mm[:2] ** 2 / 12.0 - frustum.pitch_mm**2 / 6.0 * square, 0.0)
    groups = [residual[:, g * LANES : (g + 1) * LANES].mean(axis=(1, 2)) for g in range(model.layers.groups)]
    excess = 0.5 * (residual[..., 0] - residual[..., 1]).mean(axis=1)
    start, start_wet = tables.start, ENTERED_WET_MM
    shifter = model.beam.range_shifter
    if kind in (Kind.SHIFTER_HALO, Kind.RECOIL) and shifter is not None:
        gap = max(shifter.downstream_face_mm - (frustum.top_mm - first * frustum.slice_mm), 0.0)
        v, c, t = start[:, 0], start[:, 1], tables.angle_square
        start, start_wet = np.column_stack([v + 2.0 * c * gap + t * gap**2, c + t * gap]), -1.0
    interval_mm = model.settings.mixing_mm if kind is Kind.CORE else MEMORY_MM
    step = max(1, round(interval_mm / frustum.slice_mm))
    return March(
        tables=tables,
        rays=rays,
        scatters=kind.scatters,
        mixes=kind is Kind.CORE,
        scale=scale,
        bounds=(*range(first, last, step), last),
        residual_mm2=np.stack(groups, axis=1).astype(np.float32),
        excess_mm2=excess.astype(np.float32),
        start=start.astype(np.float32),
        start_wet_mm=start_wet,
        active=component.active,
    )
