"""The one-file machine format: readable TOML, one line per energy, the same bytes for the same machine.

A header of named keys, then tables. Header numbers and nominal energies keep every digit; tables keep six significant
digits, well below the uncertainty of any measurement, so a file can be read and compared by a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from doseeng.errors import MachineError
from doseeng.machines.model import Halo, Optics, ProtonMachine, RangeShifterModel
from doseeng.machines.tomlparts import (
    ascending_of,
    check_keys,
    exact,
    list_of,
    matrix_of,
    naming,
    number_of,
    quoted,
    read_toml,
    row_lines,
    table_of,
    text_hash,
    text_of,
    vector_line,
    vector_of,
    write_text,
)

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
    write_text(Path(path), machine_text(machine))


def machine_hash(machine: ProtonMachine) -> str:
    """SHA-256 (hex) of the machine's file text: equal for a machine and for what is read back from its file."""
    return text_hash(machine_text(machine))


def machine_text(machine: ProtonMachine) -> str:
    """The file content of `machine`: UTF-8 TOML with Unix line ends."""
    optics = machine.optics
    per_gaussian = np.stack([optics.sigma_mm, optics.divergence_rad, optics.correlation], axis=2)
    optics_rows = np.column_stack([optics.weight, per_gaussian.reshape(len(machine.energy_mev), 12)])
    beam_rows = np.column_stack([getattr(machine, name) for name in BEAM_COLUMNS[1:]])
    lines = [
        f"format = {quoted(FORMAT)}",
        *(f"{key} = {quoted(getattr(machine, key))}" for key in _HEADER),
        f"aliases = [{', '.join(quoted(alias) for alias in machine.aliases)}]",
        f"source_distance_mm = [{', '.join(exact(v) for v in machine.source_distance_mm)}]",
    ]
    for shifter in machine.range_shifters:
        lines += ["", "[[range_shifter]]", f"id = {quoted(shifter.id)}"]
        lines += [f"{key} = {exact(getattr(shifter, key))}" for key in _RANGE_SHIFTER[1:]]
    lines += ["", "[beam]", f"# {', '.join(BEAM_COLUMNS)}", *row_lines("rows", beam_rows, machine.energy_mev)]
    lines += ["", "[optics]", f"plane_mm = {exact(optics.plane_mm)}  # upstream of the isocentre"]
    lines += [f"# {OPTICS_COLUMNS}", *row_lines("rows", optics_rows, machine.energy_mev)]
    lines += ["", "[depth_dose]", "# depth in water over range_mm; then one row per energy"]
    lines += [vector_line("depth_fraction", machine.depth_fraction)]
    lines += row_lines("idd_gy_mm2_per_1e9_protons", machine.idd)
    lines += ["", "[halo]", "# depth in water over range_mm; then one row per energy"]
    lines += [vector_line("depth_fraction", machine.halo.depth_fraction)]
    lines += [*row_lines("fraction", machine.halo.fraction), *row_lines("sigma_mm", machine.halo.sigma_mm)]
    return "\n".join(lines) + "\n"


def read_machine(path: Path | str) -> ProtonMachine:
    """Read a machine file.

    Raises MachineError, with the file name and the key path, for unreadable TOML, another format, missing or unknown
    keys, wrong types, wrong table sizes and values that cannot be physical.
    """
    path = Path(path)
    with naming(path):
        return machine_from(read_toml(path))


def machine_from(data: Mapping[str, Any]) -> ProtonMachine:
    """The machine of a parsed file; MachineError as `read_machine`, without the file name."""
    if data.get("format") != FORMAT:
        raise MachineError(f"format is {data.get('format')!r}, expected {FORMAT!r}; import the machine again")
    check_keys(
        data, "", required=("format", *_HEADER, "aliases", "source_distance_mm", *_TABLES), optional=("range_shifter",)
    )
    beam, optics, depth_dose, halo = (table_of(data, key) for key in _TABLES)
    check_keys(beam, "beam", ("rows",))
    check_keys(optics, "optics", ("plane_mm", "rows"))
    check_keys(depth_dose, "depth_dose", ("depth_fraction", "idd_gy_mm2_per_1e9_protons"))
    check_keys(halo, "halo", ("depth_fraction", "fraction", "sigma_mm"))

    columns = matrix_of(beam["rows"], "beam.rows", None, len(BEAM_COLUMNS))
    n = len(columns)
    optics_rows = matrix_of(optics["rows"], "optics.rows", n, 14)
    if not np.array_equal(optics_rows[:, 0], columns[:, 0]):
        raise MachineError("optics.rows: the energies in column 1 differ from those of beam.rows")
    per_gaussian = optics_rows[:, 2:].reshape(n, 2, 3, 2)
    depth_fraction = ascending_of(depth_dose["depth_fraction"], "depth_dose.depth_fraction")
    idd = matrix_of(
        depth_dose["idd_gy_mm2_per_1e9_protons"], "depth_dose.idd_gy_mm2_per_1e9_protons", n, len(depth_fraction)
    )
    halo_fraction = ascending_of(halo["depth_fraction"], "halo.depth_fraction")
    distances = vector_of(data["source_distance_mm"], "source_distance_mm", 2)
    machine = ProtonMachine(
        name=text_of(data["name"], "name"),
        version=text_of(data["version"], "version"),
        description=text_of(data["description"], "description"),
        source=text_of(data["source"], "source"),
        energy_mev=columns[:, 0].copy(),
        mean_energy_mev=columns[:, 1].copy(),
        energy_spread_mev=columns[:, 2].copy(),
        range_mm=columns[:, 3].copy(),
        protons_per_mu=columns[:, 4].copy(),
        depth_fraction=depth_fraction,
        idd=idd,
        halo=Halo(
            halo_fraction,
            matrix_of(halo["fraction"], "halo.fraction", n, len(halo_fraction)),
            matrix_of(halo["sigma_mm"], "halo.sigma_mm", n, len(halo_fraction)),
        ),
        optics=Optics(
            number_of(optics["plane_mm"], "optics.plane_mm"),
            optics_rows[:, 1].copy(),
            *(np.ascontiguousarray(per_gaussian[:, :, i, :]) for i in range(3)),
        ),
        source_distance_mm=(float(distances[0]), float(distances[1])),
        range_shifters=_range_shifters(data.get("range_shifter", [])),
        aliases=tuple(text_of(v, f"aliases[{i}]") for i, v in enumerate(list_of(data["aliases"], "aliases"))),
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
    for i, item in enumerate(list_of(value, "range_shifter")):
        key = f"range_shifter[{i}]"
        if not isinstance(item, dict):
            raise MachineError(f"{key} is {item!r}, expected a table")
        check_keys(item, key, _RANGE_SHIFTER)
        wet_mm, density = (number_of(item[name], f"{key}.{name}") for name in _RANGE_SHIFTER[1:])
        if wet_mm <= 0 or density <= 0:
            raise MachineError(f"{key}: wet_mm and density_gcm3 must be positive")
        shifters.append(RangeShifterModel(text_of(item["id"], f"{key}.id"), wet_mm, density))
    return tuple(shifters)
