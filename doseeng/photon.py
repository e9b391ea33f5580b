"""Photon dose of one beam: trace, set free, carry, resample.

The fluence of every stretch of the delivery with one geometry (`fluence.Exposure`) meets the image along rays that
diverge from the target, in the frame of the collimator. `photonlevels` says what becomes of it there, with one of two
algorithms; here every exposure is placed in the patient, with the errors of a scenario, and added to the dose grid.

    model = prepare_photon_beam(beam, machine, maps, grid, "HFS", settings, backend, materials)
    dose = model.dose(scenario)            # any number of scenarios
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import numpy as np

from doseeng.backend import Backend, Materials, Rays
from doseeng.beamseye import Frustum, gantry_to_index, grid_box, index_to_gantry, spanning, voxel_extent_mm
from doseeng.fluence import Exposure, exposures
from doseeng.grid import BeamFrame, Grid, beam_frame, crop_grid
from doseeng.machines.photonmodel import PhotonMachine
from doseeng.materials import PhotonMaps
from doseeng.photonfield import gy_per_fluence
from doseeng.photonkernels import TransportTables, transport_tables
from doseeng.photonlevels import Algorithm, Level, exposure_levels, transport
from doseeng.plan import PhotonBeam
from doseeng.scenario import NOMINAL, Scenario

Exposed = tuple[Exposure, tuple[Level, ...]]

AIR_DENSITY: Final = 0.05
"""Slices are marched where anything is denser; the beam crosses air unchanged."""


@dataclass(frozen=True, slots=True)
class PhotonSettings:
    """algorithm: which. pitch_mm: largest distance of fine rays in the isocentre plane; slice_mm: largest step along
    the axis; both shrink with the voxels of the dose grid. to_water: dose to water in the medium instead of to it."""

    algorithm: Algorithm = Algorithm.COLLAPSED_CONE
    pitch_mm: float = 2.0
    slice_mm: float = 2.5
    to_water: bool = False


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
    _levels: dict[float, list[Exposed]] = field(default_factory=dict)

    def dose(self, scenario: Scenario = NOMINAL) -> Any:
        """Dose of one fraction, Gy, an array (grid.shape) of the backend."""
        exposed = self._exposed(scenario)
        parts = np.array_split(np.arange(len(exposed)), self.backend.workers)
        tasks = [partial(self._part, scenario, [exposed[i] for i in part]) for part in parts if len(part)]
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

    def _part(self, scenario: Scenario, exposed: Sequence[Exposed]) -> Any:
        """Dose over calibration of some exposures."""
        out = self.backend.zeros(self.grid.shape)
        for exposure, levels in exposed:
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

    def _exposed(self, scenario: Scenario) -> list[Exposed]:
        """Exposures and their rays, made again when the error of the leaves changes."""
        opening = scenario.leaf_opening_mm
        known = self._levels.get(opening)
        if known is None:
            beam, settings = _opened(self.beam, opening), self.settings
            voxel = float(np.min(self.grid.spacing_mm))
            pitch = float(np.clip(voxel / np.sqrt(2.0), 0.5 * settings.pitch_mm, settings.pitch_mm))
            slice_mm = float(np.clip(voxel, 0.5 * settings.slice_mm, settings.slice_mm))
            of = (self.machine, settings.algorithm, self.backend, pitch, slice_mm)
            known = [(e, exposure_levels(beam, e, *of)) for e in exposures(beam)]
            self._levels.clear()
            self._levels[opening] = known
        return known


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


def _opened(beam: PhotonBeam, opening_mm: float) -> PhotonBeam:
    """The beam with every leaf end open farther; ends that would cross when they close meet halfway."""
    if not opening_mm:
        return beam
    moved = []
    for mlc in beam.mlcs:
        low, high = mlc.leaf_mm[:, 0], mlc.leaf_mm[:, 1]
        middle = 0.5 * (low + high)
        ends = np.minimum(low - opening_mm, middle), np.maximum(high + opening_mm, middle)
        moved.append(replace(mlc, leaf_mm=np.stack(ends, axis=1)))
    return replace(beam, mlcs=tuple(moved))
