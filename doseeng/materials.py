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
"""An override of exactly the density or stopping power of water means water."""
SMALLEST: Final = 1e-6
"""Guards divisions by the density or stopping power of a table that begins with vacuum."""
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
        return rsp_given, _of_tissue(table.scattering, table.rsp, rsp_given)
    if mass is None:
        raise MaterialError(
            f"{where}: override {', '.join(value)} says nothing about stopping power; "
            "expected REL_MASS_DENSITY, REL_ELEC_DENSITY or REL_STOP_RATIO"
        )
    return _of_tissue(table.rsp, table.density_gcm3, mass), _of_tissue(table.scattering, table.density_gcm3, mass)


def _of_tissue(wanted: npt.NDArray[np.float32], given: npt.NDArray[np.float32], value: float) -> float:
    """`wanted` for the tissue of the table whose `given` is nearest to `value`, scaled to it."""
    if abs(value - 1.0) < SAME_DENSITY:
        return 1.0
    nearest = int(np.argmin(np.abs(given - value)))
    return float(wanted[nearest]) * value / max(float(given[nearest]), SMALLEST)


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
    if total <= 0 or any(w < 0 for _, w in pairs):
        raise MaterialError(f"{where}: mass fractions of the composition must be positive, found a sum of {total:g}")
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
    for name, values in table.items():
        if not isinstance(values, list) or not all(_is_finite(v) for v in values):
            raise MaterialError(f"{where}: [{key}] '{name}' must be a list of finite numbers")
    x, y = np.array(table["hu"], dtype=np.float64), np.array(table[column], dtype=np.float64)
    if x.shape != y.shape or len(x) < 2 or np.any(np.diff(x) <= 0):
        raise MaterialError(f"{where}: [{key}] needs two or more ascending 'hu' and as many '{column}' values")
    if np.any(y < 0):
        raise MaterialError(f"{where}: [{key}] '{column}' must not be negative, found {y.min():g}")
    return np.interp(hu, x, y)


def _compositions(data: dict[str, Any], where: str) -> list[tuple[int, Mapping[str, float]]]:
    entries = data.get("composition")
    if not isinstance(entries, list) or not entries:
        raise MaterialError(f"{where}: no [[composition]] entry")
    found: dict[int, Mapping[str, float]] = {}
    for n, entry in enumerate(entries):
        key = f"{where}: composition[{n}]"
        if not isinstance(entry, dict) or not {"hu", "percent"} <= set(entry) <= {"hu", "name", "percent"}:
            raise MaterialError(f"{key} must hold 'hu' and 'percent' (and may hold 'name'), nothing else")
        hu, percent = entry["hu"], entry["percent"]
        if type(hu) is not int or hu in found:
            raise MaterialError(f"{key}.hu is {hu!r}; expected a whole number that no other composition has")
        if not isinstance(percent, dict) or not all(_is_finite(v) and v >= 0 for v in percent.values()):
            raise MaterialError(f"{key}.percent must give a number from 0 to 100 for each element")
        unknown = sorted(set(percent) - set(protonphysics.ELEMENTS))
        if unknown:
            raise MaterialError(f"{key}.percent: unknown element '{unknown[0]}'")
        total = sum(percent.values())
        if abs(total - 100.0) > 1.0:
            raise MaterialError(f"{key}.percent sums to {total:g}, expected 100")
        found[hu] = {element: value / total for element, value in percent.items()}
    return sorted(found.items())


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
