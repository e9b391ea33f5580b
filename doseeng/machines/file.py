"""The one-file machine format: readable TOML, one line per energy, the same bytes for the same machine.

A header of named keys, then tables. Header numbers and nominal energies keep every digit; tables keep six significant
digits, well below the uncertainty of any measurement, so a file can be read and compared by a person.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from doseeng.errors import MachineError
from doseeng.machines.model import Array, Halo, Optics, ProtonMachine, RangeShifterModel

FORMAT = "doseeng proton machine 1"

BEAM_COLUMNS = ("energy_mev", "mean_energy_mev", "energy_spread_mev", "range_mm", "protons_per_mu")
OPTICS_COLUMNS = (
    "energy_mev, weight of gaussian 2, then for gaussian 1 and again for gaussian 2: "
    "sigma_x_mm, sigma_y_mm, divergence_x_rad, divergence_y_rad, correlation_x, correlation_y"
)
_HEADER = ("name", "version", "description", "source")
_TABLES = ("beam", "optics", "depth_dose", "halo")
_RANGE_SHIFTER = ("id", "wet_mm", "density_gcm3")


def write_machine(machine: ProtonMachine, path: Path | str) -> None:
    """Write `machine` to `path` in one step: a reader never sees half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(machine_text(machine))
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def machine_hash(machine: ProtonMachine) -> str:
    """SHA-256 (hex) of the machine's file text: equal for a machine and for what is read back from its file."""
    return hashlib.sha256(machine_text(machine).encode("utf-8")).hexdigest()


def machine_text(machine: ProtonMachine) -> str:
    """The file content of `machine`: UTF-8 TOML with Unix line ends."""
    optics = machine.optics
    per_gaussian = np.stack([optics.sigma_mm, optics.divergence_rad, optics.correlation], axis=2)
    optics_rows = np.column_stack([optics.weight, per_gaussian.reshape(len(machine.energy_mev), 12)])
    beam_rows = np.column_stack([getattr(machine, name) for name in BEAM_COLUMNS[1:]])
    lines = [
        f"format = {_string(FORMAT)}",
        *(f"{key} = {_string(getattr(machine, key))}" for key in _HEADER),
        f"aliases = [{', '.join(_string(alias) for alias in machine.aliases)}]",
        f"source_distance_mm = [{', '.join(_exact(v) for v in machine.source_distance_mm)}]",
    ]
    for shifter in machine.range_shifters:
        lines += ["", "[[range_shifter]]", f"id = {_string(shifter.id)}"]
        lines += [f"{key} = {_exact(getattr(shifter, key))}" for key in _RANGE_SHIFTER[1:]]
    lines += ["", "[beam]", f"# {', '.join(BEAM_COLUMNS)}", *_rows("rows", beam_rows, machine.energy_mev)]
    lines += ["", "[optics]", f"plane_mm = {_exact(optics.plane_mm)}  # upstream of the isocentre"]
    lines += [f"# {OPTICS_COLUMNS}", *_rows("rows", optics_rows, machine.energy_mev)]
    lines += ["", "[depth_dose]", "# depth in water over range_mm; then one row per energy"]
    lines += [_vector("depth_fraction", machine.depth_fraction)]
    lines += _rows("idd_gy_mm2_per_1e9_protons", machine.idd)
    lines += ["", "[halo]", "# depth in water over range_mm; then one row per energy"]
    lines += [_vector("depth_fraction", machine.halo.depth_fraction)]
    lines += [*_rows("fraction", machine.halo.fraction), *_rows("sigma_mm", machine.halo.sigma_mm)]
    return "\n".join(lines) + "\n"


def read_machine(path: Path | str) -> ProtonMachine:
    """Read a machine file.

    Raises MachineError, with the file name and the key path, for unreadable TOML, another format, missing or unknown
    keys, wrong types, wrong table sizes and values that cannot be physical.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MachineError(f"{path}: cannot read the machine file: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MachineError(f"{path}: not a machine file: {error}") from error
    try:
        return _machine_from(data)
    except MachineError as error:
        raise MachineError(f"{path}: {error}") from error


def _machine_from(data: Mapping[str, Any]) -> ProtonMachine:
    if data.get("format") != FORMAT:
        raise MachineError(f"format is {data.get('format')!r}, expected {FORMAT!r}; import the machine again")
    _check_keys(
        data, "", required=("format", *_HEADER, "aliases", "source_distance_mm", *_TABLES), optional=("range_shifter",)
    )
    beam, optics, depth_dose, halo = (_table(data, key) for key in _TABLES)
    _check_keys(beam, "beam", ("rows",))
    _check_keys(optics, "optics", ("plane_mm", "rows"))
    _check_keys(depth_dose, "depth_dose", ("depth_fraction", "idd_gy_mm2_per_1e9_protons"))
    _check_keys(halo, "halo", ("depth_fraction", "fraction", "sigma_mm"))

    columns = _matrix(beam["rows"], "beam.rows", None, len(BEAM_COLUMNS))
    n = len(columns)
    optics_rows = _matrix(optics["rows"], "optics.rows", n, 14)
    if not np.array_equal(optics_rows[:, 0], columns[:, 0]):
        raise MachineError("optics.rows: the energies in column 1 differ from those of beam.rows")
    per_gaussian = optics_rows[:, 2:].reshape(n, 2, 3, 2)
    depth_fraction = _ascending(depth_dose["depth_fraction"], "depth_dose.depth_fraction")
    idd = _matrix(
        depth_dose["idd_gy_mm2_per_1e9_protons"], "depth_dose.idd_gy_mm2_per_1e9_protons", n, len(depth_fraction)
    )
    halo_fraction = _ascending(halo["depth_fraction"], "halo.depth_fraction")
    distances = _vector_from(data["source_distance_mm"], "source_distance_mm", 2)
    machine = ProtonMachine(
        name=_text_from(data["name"], "name"),
        version=_text_from(data["version"], "version"),
        description=_text_from(data["description"], "description"),
        source=_text_from(data["source"], "source"),
        energy_mev=columns[:, 0].copy(),
        mean_energy_mev=columns[:, 1].copy(),
        energy_spread_mev=columns[:, 2].copy(),
        range_mm=columns[:, 3].copy(),
        protons_per_mu=columns[:, 4].copy(),
        depth_fraction=depth_fraction,
        idd=idd,
        halo=Halo(
            halo_fraction,
            _matrix(halo["fraction"], "halo.fraction", n, len(halo_fraction)),
            _matrix(halo["sigma_mm"], "halo.sigma_mm", n, len(halo_fraction)),
        ),
        optics=Optics(
            _number(optics["plane_mm"], "optics.plane_mm"),
            optics_rows[:, 1].copy(),
            *(np.ascontiguousarray(per_gaussian[:, :, i, :]) for i in range(3)),
        ),
        source_distance_mm=(float(distances[0]), float(distances[1])),
        range_shifters=_range_shifters(data.get("range_shifter", [])),
        aliases=tuple(_text_from(v, f"aliases[{i}]") for i, v in enumerate(_list_from(data["aliases"], "aliases"))),
    )
    _check_values(machine)
    return machine


def _check_values(machine: ProtonMachine) -> None:
    """What no beam line can have, whatever its sizes."""
    optics, halo = machine.optics, machine.halo
    checks = (
        ("beam: mean_energy_mev must be positive", machine.mean_energy_mev > 0),
        ("beam: energy_spread_mev must not be negative", machine.energy_spread_mev >= 0),
        ("depth_dose: dose must not be negative", machine.idd >= 0),
        ("halo.fraction must lie in 0..1", (halo.fraction >= 0) & (halo.fraction <= 1)),
        ("halo.sigma_mm must not be negative", halo.sigma_mm >= 0),
        ("optics: weight must lie in 0..1", (optics.weight >= 0) & (optics.weight <= 1)),
        ("optics: sigma must not be negative", optics.sigma_mm >= 0),
        ("optics: divergence must not be negative", optics.divergence_rad >= 0),
        ("optics: correlation must lie in -1..1", np.abs(optics.correlation) <= 1),
    )
    for message, good in checks:
        if not np.all(good):
            row = int(np.argwhere(~good)[0][0])
            raise MachineError(f"{message} (found otherwise at {machine.energy_mev[row]:g} MeV)")


def _range_shifters(value: object) -> tuple[RangeShifterModel, ...]:
    shifters = []
    for i, item in enumerate(_list_from(value, "range_shifter")):
        key = f"range_shifter[{i}]"
        if not isinstance(item, dict):
            raise MachineError(f"{key} is {item!r}, expected a table")
        _check_keys(item, key, _RANGE_SHIFTER)
        wet_mm, density = (_number(item[name], f"{key}.{name}") for name in _RANGE_SHIFTER[1:])
        if wet_mm <= 0 or density <= 0:
            raise MachineError(f"{key}: wet_mm and density_gcm3 must be positive")
        shifters.append(RangeShifterModel(_text_from(item["id"], f"{key}.id"), wet_mm, density))
    return tuple(shifters)


def _check_keys(table: Mapping[str, Any], where: str, required: Sequence[str], optional: Sequence[str] = ()) -> None:
    prefix = f"{where}." if where else ""
    for key in required:
        if key not in table:
            raise MachineError(f"key '{prefix}{key}' is missing")
    for key in table:
        if key not in required and key not in optional:
            raise MachineError(f"unknown key '{prefix}{key}'; known here: {', '.join((*required, *optional))}")


def _table(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data[key]
    if not isinstance(value, dict):
        raise MachineError(f"'{key}' is {type(value).__name__}, expected a table [{key}]")
    return value


def _text_from(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise MachineError(f"'{key}' is {value!r}, expected text")
    return value


def _list_from(value: object, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise MachineError(f"'{key}' is {type(value).__name__}, expected a list")
    return value


def _number(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MachineError(f"'{key}' is {value!r}, expected a number")
    return float(value)


def _vector_from(value: object, key: str, size: int | None) -> Array:
    items = _list_from(value, key)
    if not items or (size is not None and len(items) != size):
        raise MachineError(f"'{key}' has {len(items)} values, expected {'at least 1' if size is None else size}")
    for i, item in enumerate(items):
        # bool is an int to Python but not to a reader of this file.
        if type(item) is not float and type(item) is not int:
            raise MachineError(f"'{key}[{i}]' is {item!r}, expected a number")
    return np.array(items, dtype=np.float64)


def _ascending(value: object, key: str) -> Array:
    vector = _vector_from(value, key, None)
    if np.any(np.diff(vector) <= 0) or vector[0] < 0:
        raise MachineError(f"'{key}' must be non-negative and ascend")
    return vector


def _matrix(value: object, key: str, rows: int | None, columns: int) -> Array:
    items = _list_from(value, key)
    if not items or (rows is not None and len(items) != rows):
        raise MachineError(f"'{key}' has {len(items)} rows, expected {'at least 1' if rows is None else rows}")
    return np.stack([_vector_from(item, f"{key}[{i}]", columns) for i, item in enumerate(items)])


def _string(value: str) -> str:
    # JSON's escapes are a subset of TOML's basic strings, but JSON leaves DEL alone and TOML forbids it.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def _exact(value: float) -> str:
    text = repr(float(value))
    return text.removesuffix(".0")


def _six(values: Iterable[float]) -> str:
    # Adding zero turns -0.0 into 0.0: the same machine, the same bytes.
    return ", ".join(f"{value + 0.0:.6g}" for value in values)


def _vector(key: str, values: Array) -> str:
    return f"{key} = [{_six(values.tolist())}]"


def _rows(key: str, values: Array, exact_first: Array | None = None) -> list[str]:
    first = [""] * len(values) if exact_first is None else [f"{_exact(v)}, " for v in exact_first]
    return [f"{key} = [", *(f"  [{head}{_six(row)}]," for head, row in zip(first, values.tolist(), strict=True)), "]"]
