"""From Hounsfield units to what protons feel: density, relative stopping power, relative scattering power.

HU tables are named, versioned TOML files in `doseeng/data/materials`: a density curve, the composition of each HU
range, and optionally a measured `rsp` curve that replaces the computed one.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from doseeng import protonphysics
from doseeng.errors import MaterialError, Notice, StructureError
from doseeng.grid import Volume
from doseeng.masks import mask
from doseeng.structures import PhysicalOverride, StructureSet

FORMAT: Final = "doseeng hu table 1"
DEFAULT_TABLE: Final = "schneider-2000"
TABLE_FOLDER: Final = Path(__file__).parent / "data" / "materials"
HU_MIN: Final = -1024
HU_MAX: Final = 3071
INSIDE: Final = 0.5
"""A voxel belongs to a structure when at least half of it lies inside."""
SAME_DENSITY: Final = 1e-6
"""An override of exactly water density means water."""
FIXED_KINDS: Final = frozenset({"SUPPORT", "FIXATION", "BOLUS"})
"""Structures that beams pass although they lie outside the body (DICOM RT ROI Interpreted Type)."""


@dataclass(frozen=True, slots=True, eq=False)
class HuTable:
    """Density in g/cm3, stopping and scattering power relative to water for every HU from HU_MIN to HU_MAX.

    All arrays are (HU_MAX - HU_MIN + 1,) float32. compositions: (first HU, element -> mass fraction), ascending.
    """

    name: str
    version: str
    density_gcm3: npt.NDArray[np.float32]
    rsp: npt.NDArray[np.float32]
    scattering: npt.NDArray[np.float32]
    compositions: tuple[tuple[int, Mapping[str, float]], ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the numbers, for provenance."""
        return hashlib.sha256(self.density_gcm3.tobytes() + self.rsp.tobytes() + self.scattering.tobytes()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class MaterialMaps:
    """Relative stopping power and relative scattering power of every voxel of the image; notices from making them."""

    rsp: Volume
    scattering: Volume
    notices: tuple[Notice, ...] = ()


def read_hu_table(path: Path | str = DEFAULT_TABLE) -> HuTable:
    """A shipped table by name ("schneider-2000") or any table by path; MaterialError says what is wrong with it."""
    file = TABLE_FOLDER / f"{path}.toml" if "/" not in str(path) and not str(path).endswith(".toml") else Path(path)
    if not file.is_file():
        known = ", ".join(sorted(f.stem for f in TABLE_FOLDER.glob("*.toml")))
        raise MaterialError(f"HU table '{path}' not found; shipped tables: {known}; or give the path of a .toml file")
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MaterialError(f"{file.name}: not a readable TOML file: {error}") from error
    return _table_from(data, file.name)


def material_maps(ct: Volume, table: HuTable, structures: StructureSet | None = None) -> MaterialMaps:
    """Stopping and scattering power maps of a CT, with ROI overrides and air outside the body.

    Voxels outside the EXTERNAL structure (if there is one) and outside SUPPORT, FIXATION and BOLUS structures become
    air, as planning systems do. Overrides apply in file order, body first, so that an inner structure wins.
    """
    if not np.all(np.isfinite(ct.values)):
        raise MaterialError("the image holds NaN or infinite HU values; export the CT again")
    index = np.clip(np.rint(ct.values), HU_MIN, HU_MAX).astype(np.int32) - HU_MIN
    rsp, scattering = table.rsp[index], table.scattering[index]
    notices = []
    clipped = int(np.count_nonzero(ct.values > HU_MAX + 0.5))
    if clipped:
        text = f"{clipped} voxels above {HU_MAX} HU were taken as {HU_MAX} HU; consider a density override for metal"
        notices.append(Notice("hu-above-table", "CT", text))
    if structures is not None:
        notices += _clear_outside(ct, structures, table, rsp, scattering)
        notices += _apply_overrides(ct, structures, table, rsp, scattering)
    return MaterialMaps(Volume(ct.grid, rsp), Volume(ct.grid, scattering), tuple(notices))


def override_powers(overrides: tuple[PhysicalOverride, ...], table: HuTable, where: str) -> tuple[float, float]:
    """(relative stopping power, relative scattering power) that the physical properties of a ROI stand for.

    In order of preference: REL_STOP_RATIO as it is; the Bethe formula on REL_MASS_DENSITY with ELEM_FRACTION (and
    MEAN_EXCI_ENERGY where given); REL_ELEC_DENSITY; the tissue of REL_MASS_DENSITY in the HU table. Scattering comes
    from the composition or else from that tissue. MaterialError when nothing of that is there.
    """
    value = {o.property: o.value for o in overrides}
    for key, number in value.items():
        if not np.isfinite(number) or number < 0:
            raise MaterialError(f"{where}: override {key} of {number} has no meaning; correct it and export again")
    pairs = next((o.composition for o in overrides if o.composition), ())
    composition = _composition_of(pairs, where) if pairs else None
    mass = value.get("REL_MASS_DENSITY")
    excitation = value.get("MEAN_EXCI_ENERGY")
    if mass is not None and composition:
        rsp = protonphysics.relative_stopping_power(mass, composition, excitation)
        scattering = protonphysics.relative_scattering_power(mass, composition)
        return value.get("REL_STOP_RATIO", rsp), scattering
    electrons = value.get("REL_ELEC_DENSITY")
    if electrons is not None and excitation:
        water = protonphysics.mass_stopping_power(protonphysics.REFERENCE_ENERGY_MEV)
        other = protonphysics.mass_stopping_power(protonphysics.REFERENCE_ENERGY_MEV, excitation_ev=excitation)
        electrons *= float(other / water)
    rsp_given = value.get("REL_STOP_RATIO", electrons)
    if rsp_given is not None:
        return rsp_given, _scattering_of_tissue(table, table.rsp, rsp_given)
    if mass is None:
        raise MaterialError(
            f"{where}: override {', '.join(value)} says nothing about stopping power; "
            "expected REL_MASS_DENSITY, REL_ELEC_DENSITY or REL_STOP_RATIO"
        )
    if abs(mass - 1.0) < SAME_DENSITY:
        return 1.0, 1.0
    nearest = int(np.argmin(np.abs(table.density_gcm3 - mass)))
    return float(table.rsp[nearest]) * mass / float(table.density_gcm3[nearest]), _scattering_of_tissue(
        table, table.density_gcm3, mass
    )


def _scattering_of_tissue(table: HuTable, quantity: npt.NDArray[np.float32], value: float) -> float:
    nearest = int(np.argmin(np.abs(quantity - value)))
    return float(table.scattering[nearest]) * value / max(float(quantity[nearest]), 1e-6)


def _clear_outside(
    ct: Volume, structures: StructureSet, table: HuTable, rsp: npt.NDArray, scattering: npt.NDArray
) -> list[Notice]:
    body = structures.external()
    if body is None:
        return [Notice("no-external", "", "no EXTERNAL structure: everything in the CT image counts, couch included")]
    keep = mask(body, ct.grid).values >= INSIDE
    for structure in structures.structures:
        if structure.kind.upper() in FIXED_KINDS and not structure.is_empty:
            keep |= mask(structure, ct.grid).values >= INSIDE
    air = -1000 - HU_MIN
    removed = int(np.count_nonzero(~keep & (rsp > 0.05)))
    rsp[~keep], scattering[~keep] = table.rsp[air], table.scattering[air]
    if not removed:
        return []
    volume = removed * ct.grid.voxel_volume_cm3
    text = f"{volume:.0f} cm3 of material outside the body and support structures was taken as air"
    return [Notice("material-outside-body", body.name, text)]


def _apply_overrides(
    ct: Volume, structures: StructureSet, table: HuTable, rsp: npt.NDArray, scattering: npt.NDArray
) -> list[Notice]:
    notices = []
    with_override = [s for s in structures.structures if s.overrides]
    for structure in sorted(with_override, key=lambda s: s.kind.upper() != "EXTERNAL"):
        if structure.is_empty:
            raise StructureError(f"structure '{structure.name}' has a density override but no contour; remove one")
        powers = override_powers(structure.overrides, table, f"structure '{structure.name}'")
        inside = mask(structure, ct.grid).values >= INSIDE
        rsp[inside], scattering[inside] = powers
        density = next((f", density {o.value:g}" for o in structure.overrides if o.property == "REL_MASS_DENSITY"), "")
        text = f"the plan's material replaces the CT: RSP {powers[0]:.3f}{density}"
        notices.append(Notice("override", structure.name, text))
    return notices


def _composition_of(pairs: tuple[tuple[int, float], ...], where: str) -> dict[str, float]:
    by_number = {z: symbol for symbol, (z, _, _) in protonphysics.ELEMENTS.items()}
    unknown = [z for z, _ in pairs if z not in by_number]
    if unknown:
        raise MaterialError(f"{where}: composition holds element Z = {unknown[0]}, which is not in the element table")
    total = sum(w for _, w in pairs)
    return {by_number[z]: w / total for z, w in pairs}


def _table_from(data: dict[str, Any], where: str) -> HuTable:
    allowed = {"format", "name", "version", "description", "density", "rsp", "composition"}
    for key in data:
        if key not in allowed:
            raise MaterialError(f"{where}: unknown key '{key}'; expected {', '.join(sorted(allowed))}")
    if data.get("format") != FORMAT:
        raise MaterialError(f"{where}: format is {data.get('format')!r}, expected '{FORMAT}'")
    hu = np.arange(HU_MIN, HU_MAX + 1)
    density = _curve(data, "density", "g_cm3", hu, where)
    compositions = _compositions(data, where)
    starts = np.array([start for start, _ in compositions])
    which = np.clip(np.searchsorted(starts, hu, side="right") - 1, 0, None)
    stopping = np.array([protonphysics.relative_stopping_power(1.0, c) for _, c in compositions])[which]
    scatter = np.array([protonphysics.relative_scattering_power(1.0, c) for _, c in compositions])[which]
    rsp = _curve(data, "rsp", "value", hu, where) if "rsp" in data else density * stopping
    return HuTable(
        str(data.get("name", where)),
        str(data.get("version", "")),
        density.astype(np.float32),
        rsp.astype(np.float32),
        (density * scatter).astype(np.float32),
        tuple(compositions),
    )


def _curve(data: dict[str, Any], key: str, column: str, hu: npt.NDArray, where: str) -> npt.NDArray[np.float64]:
    table = data.get(key)
    if not isinstance(table, dict) or set(table) != {"hu", column}:
        raise MaterialError(f"{where}: [{key}] must hold exactly the arrays 'hu' and '{column}'")
    x, y = np.asarray(table["hu"], dtype=np.float64), np.asarray(table[column], dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 2 or np.any(np.diff(x) <= 0):
        raise MaterialError(f"{where}: [{key}] needs two or more ascending 'hu' and as many '{column}' values")
    if not np.all(np.isfinite(y)) or np.any(y < 0):
        raise MaterialError(f"{where}: [{key}] '{column}' must be finite and not negative")
    return np.interp(hu, x, y)


def _compositions(data: dict[str, Any], where: str) -> list[tuple[int, Mapping[str, float]]]:
    found: list[tuple[int, Mapping[str, float]]] = []
    for n, entry in enumerate(data.get("composition", [])):
        percent = entry.get("percent", {})
        unknown = set(percent) - set(protonphysics.ELEMENTS)
        if unknown or not percent:
            raise MaterialError(f"{where}: composition[{n}].percent: unknown or missing elements {sorted(unknown)}")
        total = sum(percent.values())
        if abs(total - 100.0) > 1.0:
            raise MaterialError(f"{where}: composition[{n}].percent sums to {total:g}, expected 100")
        found.append((int(entry["hu"]), {element: value / total for element, value in percent.items()}))
    if not found:
        raise MaterialError(f"{where}: no [[composition]] entry")
    return sorted(found, key=lambda pair: pair[0])
