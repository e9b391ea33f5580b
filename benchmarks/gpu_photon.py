"""The photon arc of the GPU benchmark: a VMAT plan with both algorithms, the CPU first, then the GPU beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.gpu_roofline import TimedDevice
from benchmarks.photon_case import reference_photon_machine
from doseeng.backend import Backend, Float32, Materials
from doseeng.cpu import cpu
from doseeng.cuda import cuda
from doseeng.cuda_backend import CudaBackend
from doseeng.dicom.case import read_case
from doseeng.dosegrid import default_grid
from doseeng.errors import BackendUnavailable
from doseeng.fluence import exposures
from doseeng.grid import Grid
from doseeng.machines.photonmodel import LeafModel, PhotonMachine
from doseeng.materials import PhotonMaps, photon_maps, read_hu_table
from doseeng.photon import Algorithm, PhotonModel, PhotonSettings, prepare_photon_beam
from doseeng.photonphysics import effective_energy_mev
from doseeng.plan import PhotonBeam

Result = TypeVar("Result")
ARC = Path("dicom") / "alderson_vmat.zip"
QUALITY = "mohan10"
"""The arc is one of 10 MV; what the machine's dose per MU is does not matter here."""
LEAVES = LeafModel("80 x 5 mm", ((80, 5.0),), 340.0, 0.005, 0.0, 0.0, 0.0)
SPACING_MM = 3.0
"""Dose grid, should the case have no dose of its own."""
LARGEST_DIFFERENCE_PERCENT = 0.1
REPEATS = 3


@dataclass(frozen=True, slots=True, eq=False)
class _Arc:
    """A photon beam with the patient that it meets."""

    beam: PhotonBeam
    machine: PhotonMachine
    maps: PhotonMaps
    grid: Grid
    patient_position: str

    def on(self, backend: Backend, algorithm: Algorithm) -> PhotonModel:
        """The beam ready for scenarios."""
        materials = Materials(*(backend.put(v.values) for v in (self.maps.attenuation, self.maps.electron_density)))
        return prepare_photon_beam(
            self.beam, self.machine, self.maps, self.grid, self.patient_position, PhotonSettings(algorithm), backend,
            materials,
        )  # fmt: skip


def photon_arc(data_dir: Path) -> bool:
    """Times of the arc, and where there is a GPU its dose against the CPU's; False when they differ."""
    if not (data_dir / ARC).is_file():
        print(f"\nphoton arc: not run: {data_dir / ARC} is not there")
        return True
    arc = _read(data_dir / ARC)
    shape, rays = arc.maps.attenuation.grid.shape, len(exposures(arc.beam))
    print(f"\nphoton arc: {rays} gantry positions, CT of {shape} voxels, dose on {arc.grid.shape}")
    gpu = None
    try:
        gpu = cuda()
    except BackendUnavailable as reason:
        print(f"{reason}\nNot measured: the arc on a GPU. Verified here: every kernel to PTX.")
    return all([_timed_arc(arc, algorithm, gpu) for algorithm in Algorithm])


def _read(file: Path) -> _Arc:
    case = read_case(file)
    (beam,) = case.plan.photon_beams
    machine = replace(reference_photon_machine(QUALITY), leaves=(LEAVES,))
    energy_mev = effective_energy_mev(machine.spectrum_mev, machine.spectrum_weight)
    maps = photon_maps(case.ct, read_hu_table(), case.structures, mean_energy_mev=energy_mev)
    return _Arc(beam, machine, maps, default_grid(case, SPACING_MM), case.plan.patient_position)


def _timed_arc(arc: _Arc, algorithm: Algorithm, gpu: CudaBackend | None) -> bool:
    """One algorithm on the CPU and, if there is one, on the GPU; True unless their doses differ."""
    print(f"\n{algorithm.value}, seconds with the dose copied to the host: prepare, first dose, dose after it")
    expected = _timed_dose(arc, algorithm, cpu())
    if gpu is None:
        return True
    found = _timed_dose(arc, algorithm, gpu)
    percent = 100.0 * float(np.abs(found - expected).max() / expected.max())
    good = percent < LARGEST_DIFFERENCE_PERCENT
    print(f"GPU against CPU: {percent:.4f} % of maximum at most ({'ok' if good else 'NOT OK'})")
    device = TimedDevice(gpu.device.xp)
    model = arc.on(CudaBackend(device), algorithm)
    model.dose()
    device.clear()
    model.dose()
    for name, spent in sorted(device.seconds().items(), key=lambda item: -item[1]):
        print(f"  {name:16} {1e3 * spent:9.2f} ms")
    return good


def _timed_dose(arc: _Arc, algorithm: Algorithm, backend: Backend) -> Float32:
    model, prepare_s = _timed(lambda: arc.on(backend, algorithm))
    dose, first_s = _timed(lambda: backend.get(model.dose()))
    warm_s = float(np.median([_timed(lambda: backend.get(model.dose()))[1] for _ in range(REPEATS)]))
    print(f"  {prepare_s:8.2f} {first_s:8.2f} {warm_s:8.3f}  {backend.description}")
    return dose


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What `work`, which must wait for the device itself, returns, and the seconds it took."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start
