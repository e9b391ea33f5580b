"""matRad and pyRadPlan proton base data (`protons_*.mat`).

Field meanings follow the matRad documentation (e0404.github.io/matRad, base data): `Z` is the integrated depth dose in
MeV cm2/g per primary, `initFocus` the spot size in air against distance from the source, `weight` and `sigma2` the
second Gaussian in water. Spot weights of these programs are in millions of protons, so one MU here is 1e6 protons.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from scipy.optimize import lsq_linear

from doseeng.errors import MachineError, Notice
from doseeng.machines.depthdose import DEPTH_FRACTION, GY_MM2_PER_1E9_PROTONS, table_from_points
from doseeng.machines.halo import HALO_FRACTION, analytic_halo
from doseeng.machines.model import Array, Halo, Optics, ProtonMachine

PROTONS_PER_WEIGHT = 1e6


def import_matrad(
    path: Path | str, *, focus: int = 0, name: str | None = None, halo: Halo | None = None
) -> tuple[ProtonMachine, list[Notice]]:
    """A machine from a matRad or pyRadPlan proton file. focus: index of the spot size setting, for files with several.

    The optics is the Courant-Snyder drift closest to the tabulated spot size in air. Raises MachineError for other
    files, particles and missing fields.
    """
    path = Path(path)
    meta, data = _load(path)
    notices: list[Notice] = []
    energy = np.array([float(_field(row, "energy", path)) for row in data])
    data = [data[i] for i in np.argsort(energy)]
    energy = np.sort(energy)
    tables = [_depth_dose(row, path) for row in data]
    range_mm = np.array([table[0] for table in tables])
    if halo is None:
        halo = _halo(data, range_mm, path)
    if halo is None:
        halo = analytic_halo(range_mm)
        notices.append(Notice("analytic-halo", path.name, "single Gaussian data: halo from Soukup et al. (2005)"))
    mean_energy, spread = _spectrum(data, energy)
    if not np.any(spread):
        notices.append(Notice("energy-spread-unknown", path.name, "no energy spectrum in the file: spread set to zero"))
    sad_mm = float(_field(meta, "SAD", path))
    optics, residual_mm = _optics(data, sad_mm, focus, path)
    if residual_mm > 0.1:
        notices.append(
            Notice("optics-fit", path.name, f"the drift misses the spot size in air by up to {residual_mm:.2f} mm")
        )
    machine = ProtonMachine(
        name=name or f"matRad {_field(meta, 'name', path)}",
        version=str(getattr(meta, "created_on", "")),
        description="Imported matRad base data. One MU is 1e6 protons, the unit of matRad's spot weights.",
        source=path.name,
        energy_mev=energy,
        mean_energy_mev=mean_energy,
        energy_spread_mev=spread,
        range_mm=range_mm,
        protons_per_mu=np.full(len(energy), PROTONS_PER_WEIGHT),
        depth_fraction=DEPTH_FRACTION,
        idd=np.stack([table[1] for table in tables]),
        halo=halo,
        optics=optics,
        source_distance_mm=(sad_mm, sad_mm),
    )
    return machine, notices


def _load(path: Path) -> tuple[Any, list[Any]]:
    try:
        content = loadmat(path, squeeze_me=True, struct_as_record=False)
    except (OSError, ValueError, NotImplementedError, MatReadError) as error:
        raise MachineError(f"{path}: cannot read the machine: {error}") from error
    if "machine" not in content:
        raise MachineError(f"{path.name}: holds no variable 'machine'")
    machine = content["machine"]
    meta, data = _field(machine, "meta", path), np.atleast_1d(_field(machine, "data", path))
    if str(getattr(meta, "radiationMode", "")) != "protons":
        raise MachineError(f"{path.name}: radiationMode is '{getattr(meta, 'radiationMode', '')}', expected 'protons'")
    return meta, list(data)


def _field(record: Any, key: str, path: Path) -> Any:
    if not hasattr(record, key):
        raise MachineError(f"{path.name}: field '{key}' is missing")
    return getattr(record, key)


def _depths_mm(row: Any, path: Path) -> Array:
    # `offset` shifts the table against the water surface, as matRad applies it.
    return np.asarray(_field(row, "depths", path), dtype=np.float64) + float(getattr(row, "offset", 0.0))


def _depth_dose(row: Any, path: Path) -> tuple[float, Array]:
    depth = _depths_mm(row, path)
    dose = np.asarray(_field(row, "Z", path), dtype=np.float64) * GY_MM2_PER_1E9_PROTONS
    if depth.shape != dose.shape or np.any(np.diff(depth) <= 0):
        raise MachineError(f"{path.name}: depths and Z of {row.energy:g} MeV do not match or do not ascend")
    return table_from_points(depth, dose)


def _spectrum(data: list[Any], energy: Array) -> tuple[Array, Array]:
    """Mean energy and spread (1 sigma) in MeV; the file's sigma is in percent of the mean, as in MCsquare."""
    mean, spread = energy.copy(), np.zeros(len(energy))
    for i, row in enumerate(data):
        spectrum = getattr(row, "energySpectrum", None)
        if spectrum is not None:
            mean[i] = float(spectrum.mean)
            spread[i] = float(spectrum.sigma) / 100.0 * mean[i]
    return mean, spread


def _halo(data: list[Any], range_mm: Array, path: Path) -> Halo | None:
    if not all(hasattr(row, "weight") and hasattr(row, "sigma2") for row in data):
        return None
    at = [HALO_FRACTION * r for r in range_mm]
    depths = [_depths_mm(row, path) for row in data]
    fraction = [np.interp(z, d, row.weight) for z, d, row in zip(at, depths, data, strict=True)]
    sigma = [np.interp(z, d, row.sigma2) for z, d, row in zip(at, depths, data, strict=True)]
    return Halo(HALO_FRACTION, np.clip(fraction, 0.0, 1.0), np.maximum(sigma, 0.0))


def _optics(data: list[Any], sad_mm: float, focus: int, path: Path) -> tuple[Optics, float]:
    """The drift nearest to each energy's spot sizes, at the table's plane nearest to the source, and its worst miss.

    sigma^2(z) = a + b z + c z^2 with a, c >= 0 and b^2 <= 4 a c, so that the correlation stays within -1..1.
    """
    tables = [_spot_size(row, focus, path) for row in data]
    plane_at = max(float(distance[0]) for distance, _ in tables)
    sigma, divergence, correlation = (np.empty(len(data)) for _ in range(3))
    worst = 0.0
    for i, (distance, size) in enumerate(tables):
        z = (distance - plane_at) / 1000.0
        # Relative misses of sigma count alike at all distances.
        basis = np.column_stack([np.ones_like(z), z, z**2]) / size[:, None] ** 2
        a, b, c = lsq_linear(basis, np.ones_like(z), bounds=([1e-6, -np.inf, 0.0], np.inf)).x
        b = float(np.clip(b, -2.0 * np.sqrt(a * c), 2.0 * np.sqrt(a * c)))
        worst = max(worst, float(np.max(np.abs(np.sqrt(np.maximum(a + b * z + c * z**2, 0.0)) - size))))
        sigma[i], divergence[i] = np.sqrt(a), np.sqrt(c) / 1000.0
        correlation[i] = b / (2.0 * np.sqrt(a * c)) if c > 0 else 0.0

    def both(values: Array) -> Array:
        return np.broadcast_to(values[:, None, None], (len(values), 2, 2)).copy()

    return Optics(sad_mm - plane_at, np.zeros(len(data)), both(sigma), both(divergence), both(correlation)), worst


def _spot_size(row: Any, focus: int, path: Path) -> tuple[Array, Array]:
    initial = _field(row, "initFocus", path)
    distance = np.atleast_2d(np.asarray(_field(initial, "dist", path), dtype=np.float64))
    size = np.atleast_2d(np.asarray(_field(initial, "sigma", path), dtype=np.float64))
    if not 0 <= focus < len(size) or distance.shape != size.shape:
        raise MachineError(f"{path.name}: focus {focus} not found at {row.energy:g} MeV; the file has {len(size)}")
    return distance[focus], size[focus]
