"""Photon dose of one beam: trace, set free, carry, resample.

The fluence of every stretch of the delivery with one geometry (`fluence.Exposure`) meets the image along rays that
diverge from the target, in the frame of the collimator. Energy set free along a ray is split into what the electrons of
the first interaction carry, on fine rays near the field, and what scattered photons carry, on coarse rays far around
it. Two algorithms then share everything else: *pencil* moves energy along its ray as a few modes that spread across it,
*collapsed cone* follows it in discrete directions through the density it meets.

    model = prepare_photon_beam(beam, machine, maps, grid, "HFS", backend=backend)
    dose = model.dose(scenario)            # any number of scenarios
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from doseeng.backend import Backend, Materials, Rays
from doseeng.beamseye import (
    Frustum,
    gantry_to_index,
    grid_box,
    index_to_gantry,
    spanning,
    voxel_extent_mm,
)
from doseeng.fluence import Exposure, exposures, fluence_maps, opening_box
from doseeng.grid import BeamFrame, Grid, beam_frame, crop_grid
from doseeng.machines.photonmodel import PhotonMachine
from doseeng.materials import PhotonMaps
from doseeng.photonkernels import TransportTables, cone_sets, electron_fluence, softening_factor, transport_tables
from doseeng.plan import PhotonBeam
from doseeng.scenario import NOMINAL, Scenario

Float32 = npt.NDArray[np.float32]

PRIMARY_MARGIN_MM: Final = 25.0
"""Fine rays reach so far beyond the open field: electrons and penumbra end here, in lung too."""
SCATTER_MARGIN_MM: Final = 100.0
"""Coarse rays reach so far: less than 1 % of the dose of a 10 cm field is scattered farther."""
AIR_DENSITY: Final = 0.05
"""Slices are marched where anything is denser; the beam crosses air unchanged."""
COARSE_SLICES: Final = 2.0
"""Slices of coarse rays over those of the fine ones."""


class Algorithm(StrEnum):
    """How energy moves from where it is set free to where it is deposited."""

    PENCIL = "pencil"
    COLLAPSED_CONE = "collapsed-cone"


COARSE_PITCH_MM: Final = {Algorithm.PENCIL: 7.5, Algorithm.COLLAPSED_CONE: 5.0}
"""Coarse rays. Scattered photons reach 10 cm: Gaussians as wide as that must fit the taps of a convolution; of cones a
coarser pitch would cost 0.2 % of the dose of narrow fields."""


@dataclass(frozen=True, slots=True)
class PhotonSettings:
    """algorithm: which. pitch_mm: largest distance of fine rays in the isocentre plane; slice_mm: largest step along
    the axis; both shrink with the voxels of the dose grid. to_water: dose to water in the medium instead of to it."""

    algorithm: Algorithm = Algorithm.COLLAPSED_CONE
    pitch_mm: float = 2.5
    slice_mm: float = 3.0
    to_water: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One set of rays of an exposure and what they start with, arrays of the backend (n_v, n_u), MU times relative
    energy fluence.

    fluence: of photons. outside: of photons on coarse rays that no fine ray covers. electrons: contaminant ones. Fine
    rays have neither of the last two.
    """

    frustum: Frustum
    softening: Any
    fluence: Any
    outside: Any = None
    electrons: Any = None

    @property
    def is_fine(self) -> bool:
        return self.outside is None


@dataclass(frozen=True, slots=True, eq=False)
class PhotonModel:
    """A beam ready for any number of scenarios; made by `prepare_photon_beam`.

    matter: the part of the image that is not air. medium: dose to the medium over dose to water of the same electron
    density, on the dose grid. gy_per_fluence: calibration.
    """

    beam: PhotonBeam
    machine: PhotonMachine
    tables: TransportTables
    materials: Materials
    image: Grid
    matter: Grid
    grid: Grid
    patient_position: str
    settings: PhotonSettings
    backend: Backend
    medium: Any
    gy_per_fluence: float
    _levels: dict[float, list[tuple[Exposure, tuple[Level, ...]]]] = field(default_factory=dict)

    def dose(self, scenario: Scenario = NOMINAL) -> Any:
        """Dose of one fraction, Gy, an array (grid.shape) of the backend."""
        parts = np.array_split(np.arange(len(self._exposed(scenario))), self.backend.workers)
        tasks = [partial(self._part, scenario, part) for part in parts if len(part)]
        first, *others = self.backend.together(tasks)
        for values in others:
            first += values
        first *= np.float32(self.gy_per_fluence)
        first *= self.medium
        return first

    def frame(self, exposure: Exposure, scenario: Scenario) -> BeamFrame:
        """The frame of the beam limiting devices in the patient, with the scenario's errors."""
        return beam_frame(
            np.asarray(exposure.isocenter_mm) + np.asarray(scenario.isocenter_shift_mm),
            exposure.gantry_deg + scenario.gantry_deg,
            exposure.couch_deg + scenario.couch_deg,
            self.patient_position,
            exposure.collimator_deg + scenario.collimator_deg,
        )

    def _part(self, scenario: Scenario, which: npt.NDArray[np.int64]) -> Any:
        """Dose over calibration of some exposures."""
        out = self.backend.zeros(self.grid.shape)
        exposed = self._exposed(scenario)
        for exposure, levels in [exposed[i] for i in which]:
            frame = self.frame(exposure, scenario)
            for level in levels:
                rays = self._trace(level.frustum, frame, scenario)
                values = transport(self.backend, rays, level, self.tables, self.settings.algorithm)
                frustum = rays.frustum
                depth_mm = float(voxel_extent_mm(frame, self.grid)[2])
                box = grid_box(frustum, frame, self.grid)
                self.backend.add_to_grid(values, frustum, index_to_gantry(frame, self.grid), depth_mm, box, out)
        return out

    def _trace(self, frustum: Frustum, frame: BeamFrame, scenario: Scenario) -> Rays:
        spanned = spanning(frustum, frame, self.matter)
        samples = max(1, round(spanned.slice_mm / min(self.image.spacing_mm)))
        everywhere = np.ones(spanned.shape[1:], dtype=np.bool_)
        to_index = gantry_to_index(frame, self.image)
        rays = self.backend.trace(self.materials, to_index, spanned, samples, everywhere)
        if scenario.rsp_scale != 1.0:
            scale = np.float32(scenario.rsp_scale)
            rays = Rays(spanned, rays.stopping * scale, rays.spreading * scale)
        return rays

    def _exposed(self, scenario: Scenario) -> list[tuple[Exposure, tuple[Level, ...]]]:
        """Exposures and their rays, made once per error of the leaves."""
        opening = scenario.leaf_opening_mm
        if opening not in self._levels:
            leaves = tuple(replace(m, tip_offset_mm=m.tip_offset_mm + opening) for m in self.machine.leaves)
            machine, settings = replace(self.machine, leaves=leaves), self.settings
            voxel = float(np.min(self.grid.spacing_mm))
            pitch = float(np.clip(voxel / np.sqrt(2.0), 0.5 * settings.pitch_mm, settings.pitch_mm))
            slice_mm = float(np.clip(voxel, 0.5 * settings.slice_mm, settings.slice_mm))
            of = (machine, settings.algorithm, self.backend, pitch, slice_mm)
            self._levels[opening] = [(e, exposure_levels(self.beam, e, *of)) for e in exposures(self.beam)]
        return self._levels[opening]


def prepare_photon_beam(
    beam: PhotonBeam,
    machine: PhotonMachine,
    maps: PhotonMaps,
    grid: Grid,
    patient_position: str,
    settings: PhotonSettings,
    backend: Backend,
    materials: Materials,
) -> PhotonModel:
    """Everything about a beam that no scenario changes. materials: attenuation and electron density of `maps`.

    Errors: PlanError and MachineError for what the fluence cannot be computed for.
    """
    from doseeng.photonfield import gy_per_fluence

    return PhotonModel(
        beam, machine, transport_tables(machine), materials, maps.attenuation.grid, _matter(maps), grid,
        patient_position, settings, backend, backend.put(maps.dose_factor(grid, settings.to_water)),
        gy_per_fluence(machine, settings.algorithm, backend),
    )  # fmt: skip


def _matter(maps: PhotonMaps) -> Grid:
    """The part of the image outside which there is only air."""
    image = maps.electron_density.grid
    dense = maps.electron_density.values > AIR_DENSITY
    if not dense.any():
        return image
    found = [np.flatnonzero(dense.any(axis=axes))[[0, -1]] for axes in ((0, 1), (0, 2), (1, 2))]
    corners = np.array([[i, j, k] for i in found[0] for j in found[1] for k in found[2]])
    return crop_grid(image, image.to_patient(corners), max(image.spacing_mm))


def exposure_levels(
    beam: PhotonBeam,
    exposure: Exposure,
    machine: PhotonMachine,
    algorithm: Algorithm,
    backend: Backend,
    pitch_mm: float,
    slice_mm: float,
) -> tuple[Level, Level]:
    """The fine and the coarse rays of an exposure, across the beam only: slices come with the image."""
    box = opening_box(beam, exposure)
    fine = _rays_around(box, PRIMARY_MARGIN_MM, machine, pitch_mm, slice_mm)
    coarse = _rays_around(box, SCATTER_MARGIN_MM, machine, COARSE_PITCH_MM[algorithm], COARSE_SLICES * slice_mm)
    near, far = (_fluence(beam, exposure, machine, frustum) for frustum in (fine, coarse))
    outside, electrons = far * _uncovered(coarse, fine), electron_fluence(machine, coarse, far)
    put = backend.put
    return (
        Level(fine, put(softening_factor(machine, fine)), put(near)),
        Level(coarse, put(softening_factor(machine, coarse)), put(far), put(outside), put(electrons)),
    )


def transport(backend: Backend, rays: Rays, level: Level, tables: TransportTables, algorithm: Algorithm) -> Any:
    """(n_slice, n_v, n_u) dose to water per calibration, in the isocentre plane, of one set of rays."""
    out = backend.zeros(rays.frustum.shape)

    def freed(fluence: Any, table: Float32) -> Any:
        return backend.release(rays, fluence, level.softening, table, tables.per_mm)

    released = freed(level.fluence, tables.primary if level.is_fine else tables.scatter)
    if algorithm is Algorithm.PENCIL:
        backend.carry(rays, released, tables.primary_modes if level.is_fine else tables.scatter_modes, out)
    else:
        rows = tables.cones.primary if level.is_fine else tables.cones.scatter
        backend.cones(rays, released, cone_sets(tables.cones.edge_deg, rows, rays.frustum), out)
    if not level.is_fine:
        backend.settle(rays, freed(level.outside, tables.primary), out)
        backend.settle(rays, freed(level.electrons, tables.electrons), out)
    return out


def _rays_around(
    box: Sequence[float], margin_mm: float, machine: PhotonMachine, pitch_mm: float, slice_mm: float
) -> Frustum:
    sad = machine.source_axis_mm
    first = [np.floor((low - margin_mm) / pitch_mm) for low in (box[0], box[2])]
    last = [np.ceil((high + margin_mm) / pitch_mm) for high in (box[1], box[3])]
    shape = (1, int(last[1] - first[1]) + 1, int(last[0] - first[0]) + 1)
    return Frustum((first[0] * pitch_mm, first[1] * pitch_mm), pitch_mm, shape, 0.0, slice_mm, (sad, sad))


def _fluence(beam: PhotonBeam, exposure: Exposure, machine: PhotonMachine, frustum: Frustum) -> Float32:
    maps = fluence_maps(beam, exposure, machine, frustum.u_mm, frustum.v_mm)
    total: Float32 = maps.focal + maps.extrafocal
    return total


def _uncovered(coarse: Frustum, fine: Frustum) -> Float32:
    """(n_v, n_u) share of each coarse pixel that lies outside the fine rays."""

    def covered(centers: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        half = 0.5 * coarse.pitch_mm
        inside = np.minimum(centers + half, edges[-1]) - np.maximum(centers - half, edges[0])
        return np.clip(inside / coarse.pitch_mm, 0.0, 1.0)

    return (1.0 - np.outer(covered(coarse.v_mm, fine.v_mm), covered(coarse.u_mm, fine.u_mm))).astype(np.float32)
