"""HU tables: named, versioned TOML files in `doseeng/data/materials`.

A table holds a density curve, the composition of each HU range, and optionally a measured `rsp` curve that replaces
the computed one.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from doseeng import protonphysics
from doseeng.errors import MaterialError

Curve = npt.NDArray[np.float32]
"""A quantity for every HU from HU_MIN to HU_MAX."""

FORMAT: Final = "doseeng hu table 1"
DEFAULT_TABLE: Final = "schneider-2000"
TABLE_FOLDER: Final = Path(__file__).parent / "data" / "materials"
HU_MIN: Final = -1024
HU_MAX: Final = 3071


@dataclass(frozen=True, slots=True, eq=False)
class HuTable:
    """Density in g/cm3, stopping and scattering power relative to water for every HU from HU_MIN to HU_MAX.

    All arrays are (HU_MAX - HU_MIN + 1,) float32. compositions: (first HU, element -> mass fraction), ascending.
    """

    name: str
    version: str
    density_gcm3: Curve
    rsp: Curve
    scattering: Curve
    compositions: tuple[tuple[int, Mapping[str, float]], ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the numbers, for provenance."""
        return hashlib.sha256(self.density_gcm3.tobytes() + self.rsp.tobytes() + self.scattering.tobytes()).hexdigest()


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


def which_composition(compositions: Sequence[tuple[int, Mapping[str, float]]]) -> npt.NDArray[np.intp]:
    """Index of the composition of every HU; the first also holds below its own HU."""
    starts = np.array([start for start, _ in compositions])
    return np.clip(np.searchsorted(starts, np.arange(HU_MIN, HU_MAX + 1), side="right") - 1, 0, None)


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
    which = which_composition(compositions)
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
