"""The one-file format of photon machines: readable TOML, units beside numbers, the same bytes for the same machine.

Header numbers, positions and energies keep every digit; tables keep six significant digits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from doseeng.errors import MachineError
from doseeng.machines.photonmodel import (
    Array,
    Cones,
    Electrons,
    Jaws,
    LeafModel,
    Modes,
    PhotonMachine,
    Reference,
    Source,
    WedgeModel,
)
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

FORMAT: Final = "doseeng photon machine 1"
FLUENCE_MODES: Final = ("STANDARD", "FFF")
SUM_TOLERANCE: Final = 1e-3
"""Shares that belong together sum to one within this; far above the rounding of six digits."""
KERNEL_TOLERANCE: Final = 0.02
"""Primary energy is kept by cones, and by modes as well as they fit them. Shares of scatter are amplitudes: their
exponentials are fitted as far as patients reach and end later than photons do."""


class Range(NamedTuple):
    """Which values of a number are physical."""

    words: str
    holds: Callable[[float], bool]


class Entry(NamedTuple):
    """A number in a file: its key, which values it may have, and the comment beside it."""

    key: str
    range: Range
    comment: str


POSITIVE: Final = Range("must be positive", lambda v: 0.0 < v < np.inf)
NOT_NEGATIVE: Final = Range("must not be negative", lambda v: 0.0 <= v < np.inf)
SHARE: Final = Range("must lie in 0..1", lambda v: 0.0 <= v <= 1.0)
FINITE: Final = Range("must be finite", lambda v: bool(np.isfinite(v)))
ANGLE: Final = Range("must lie in 0..90", lambda v: 0.0 < v < 90.0)

TEXTS: Final = ("name", "version", "description", "source")
HEADER: Final = (
    Entry("energy_mv", POSITIVE, "nominal, as plans state it"),
    Entry("source_axis_mm", POSITIVE, "target to isocentre"),
    Entry("softening", SHARE, "1: a flattening filter softens the beam off the axis, 0: it does not"),
)
REFERENCE: Final = (
    Entry("ssd_mm", POSITIVE, "target to water surface"),
    Entry("depth_mm", POSITIVE, "in water, on the axis"),
    Entry("field_mm", POSITIVE, "side of the square field in the isocentre plane"),
    Entry("gy_per_mu", POSITIVE, "dose to water per monitor unit there"),
)
HEAD: Final = (
    Entry("scatter_share", SHARE, "energy fluence of the extra-focal source, fully seen, over the focal one's"),
    Entry("scatter_sigma_mm", POSITIVE, "width of the extra-focal source"),
    Entry("scatter_plane_mm", POSITIVE, "target to extra-focal source"),
)
ELECTRONS: Final = (
    Entry("share", SHARE, "dose at the surface of the reference field over the largest photon dose"),
    Entry("depth_mm", POSITIVE, "of water, to 1/e"),
    Entry("sigma_mm", NOT_NEGATIVE, "spread in the isocentre plane"),
)
JAWS: Final = (
    Entry("transmission", SHARE, "of a closed jaw"),
    Entry("x_plane_mm", POSITIVE, "target to the middle of the X jaws"),
    Entry("y_plane_mm", POSITIVE, "target to the middle of the Y jaws"),
)
LEAVES: Final = (
    Entry("plane_mm", POSITIVE, "target to the middle of the leaves"),
    Entry("transmission", SHARE, "through leaves"),
    Entry("interleaf_transmission", SHARE, "more of it within tongue_mm of closed leaf sides"),
    Entry("tip_offset_mm", FINITE, "leaf ends are so much farther open than stated: half the dosimetric leaf gap"),
    Entry("tongue_mm", NOT_NEGATIVE, "strip of a leaf side that its neighbour's tongue covers, isocentre plane"),
)
WEDGE: Final = (Entry("angle_deg", ANGLE, "as plans state it"),)
_TABLES: Final = ("reference", "spectrum", "profile", "head", "electrons", "jaws", "cones", "modes")


def write_photon_machine(machine: PhotonMachine, path: Path | str) -> None:
    """Write `machine` to `path` in one step: a reader never sees half a file."""
    write_text(Path(path), photon_machine_text(machine))


def photon_machine_hash(machine: PhotonMachine) -> str:
    """SHA-256 (hex) of the machine's file text: equal for a machine and for what is read back from its file."""
    return text_hash(photon_machine_text(machine))


def photon_machine_text(machine: PhotonMachine) -> str:
    """The file content of `machine`: UTF-8 TOML with Unix line ends."""
    lines = [f"format = {quoted(FORMAT)}", *(f"{key} = {quoted(getattr(machine, key))}" for key in TEXTS)]
    lines += [f"aliases = [{', '.join(map(quoted, machine.aliases))}]"]
    lines += [f"fluence_mode = {quoted(machine.fluence_mode)}  # {' or '.join(FLUENCE_MODES)}"]
    lines += _entry_lines(machine, HEADER)
    lines += [
        "",
        "[reference]  # where the dose per monitor unit is stated",
        *_entry_lines(machine.reference, REFERENCE),
    ]
    lines += ["", "[spectrum]", "# photon energy in MeV, share of the energy fluence on the axis"]
    lines += _pair_lines(machine.spectrum_mev, machine.spectrum_weight)
    lines += ["", "[profile]", "# mm from the axis in the isocentre plane, energy fluence in air over that on the axis"]
    lines += _pair_lines(machine.profile_mm, machine.profile)
    focal = ", ".join(map(exact, machine.head.focal_mm))
    lines += ["", "[head]", f"focal_mm = [{focal}]  # sigma of the focal spot along x, y"]
    lines += _entry_lines(machine.head, HEAD)
    lines += ["", "[electrons]  # contaminant electrons", *_entry_lines(machine.electrons, ELECTRONS)]
    lines += ["", "[jaws]", *_entry_lines(machine.jaws, JAWS)]
    for leaf in machine.leaves:
        widths = ", ".join(f"[{count}, {exact(width)}]" for count, width in leaf.widths)
        lines += ["", "[[leaves]]", f"id = {quoted(leaf.id)}"]
        lines += [f"widths = [{widths}]  # leaves along a bank and their width in mm, isocentre plane"]
        lines += _entry_lines(leaf, LEAVES)
    for wedge in machine.wedges:
        lines += ["", "[[wedge]]", f"id = {quoted(wedge.id)}  # as plans state it", *_entry_lines(wedge, WEDGE)]
        lines += [
            "# mm from the axis in the isocentre plane, towards the toe positive; energy fluence with over without"
        ]
        lines += _pair_lines(wedge.position_mm, wedge.transmission)
    cones, modes = machine.cones, machine.modes
    lines += ["", "[cones]  # point kernel in water, collapsed", "# polar angles between cones"]
    lines += [vector_line("edge_deg", cones.edge_deg), "# one row per cone: share of the energy, attenuation per g/cm2"]
    lines += [*row_lines("primary", cones.primary), *row_lines("scatter", cones.scatter)]
    lines += ["", "[modes]  # pencil kernel in water"]
    lines += ["# share of the energy, deposited per g/cm2 of ray, variance across over mean square distance along"]
    lines += [*row_lines("primary", modes.primary), *row_lines("scatter", modes.scatter)]
    return "\n".join(lines) + "\n"


def read_photon_machine(path: Path | str) -> PhotonMachine:
    """Read a photon machine file.

    Raises MachineError, with the file name and the key path, for unreadable TOML, another format, missing or unknown
    keys, wrong types, wrong table sizes and values that cannot be physical.
    """
    path = Path(path)
    with naming(path):
        return photon_machine_from(read_toml(path))


def photon_machine_from(data: Mapping[str, Any]) -> PhotonMachine:
    """The machine of a parsed file; MachineError as `read_photon_machine`, without the file name."""
    if data.get("format") != FORMAT:
        raise MachineError(f"format is {data.get('format')!r}, expected {FORMAT!r}; commission the machine again")
    keys = ("format", *TEXTS, "aliases", "fluence_mode", *(e.key for e in HEADER), *_TABLES)
    check_keys(data, "", keys, optional=("leaves", "wedge"))
    mode = text_of(data["fluence_mode"], "fluence_mode")
    if mode not in FLUENCE_MODES:
        raise MachineError(f"fluence_mode is '{mode}', expected {' or '.join(FLUENCE_MODES)}")
    spectrum = _pairs(table_of(data, "spectrum"), "spectrum", ())
    profile = _pairs(table_of(data, "profile"), "profile", ())
    header: dict[str, Any] = {key: text_of(data[key], key) for key in TEXTS}
    header |= _numbers(data, "", HEADER)
    machine = PhotonMachine(
        **header,
        fluence_mode=mode,
        reference=Reference(**_section(data, "reference", REFERENCE)),
        spectrum_mev=spectrum[0],
        spectrum_weight=spectrum[1],
        profile_mm=profile[0],
        profile=profile[1],
        head=_head(data),
        electrons=Electrons(**_section(data, "electrons", ELECTRONS)),
        jaws=Jaws(**_section(data, "jaws", JAWS)),
        leaves=tuple(_leaves(item, key) for item, key in _items(data, "leaves")),
        wedges=tuple(_wedge(item, key) for item, key in _items(data, "wedge")),
        cones=_cones(table_of(data, "cones")),
        modes=_modes(table_of(data, "modes")),
        aliases=tuple(text_of(v, f"aliases[{i}]") for i, v in enumerate(list_of(data["aliases"], "aliases"))),
    )
    _check_beam(machine)
    return machine


def _check_beam(machine: PhotonMachine) -> None:
    """What no linac can have, whatever its sizes."""
    if machine.spectrum_mev[0] <= 0:
        raise MachineError("spectrum: energies must be positive")
    _check_sum(machine.spectrum_weight, "spectrum: shares")
    if machine.profile_mm[0] != 0 or abs(machine.profile[0] - 1.0) > SUM_TOLERANCE:
        raise MachineError("profile must begin with 1 on the axis, at 0 mm")
    planes = {
        "head.scatter_plane_mm": machine.head.scatter_plane_mm,
        "jaws.x_plane_mm": machine.jaws.x_plane_mm,
        "jaws.y_plane_mm": machine.jaws.y_plane_mm,
        **{f"leaves[{i}].plane_mm": leaf.plane_mm for i, leaf in enumerate(machine.leaves)},
    }
    for key, plane_mm in planes.items():
        if plane_mm >= machine.source_axis_mm:
            raise MachineError(f"'{key}' is {plane_mm:g}, beyond the isocentre at {machine.source_axis_mm:g} mm")


def _check_sum(shares: Array, what: str, tolerance: float = SUM_TOLERANCE) -> None:
    if not abs(shares.sum() - 1.0) <= tolerance:
        raise MachineError(f"{what} sum to {shares.sum():g}, expected 1")


def _head(data: Mapping[str, Any]) -> Source:
    table = table_of(data, "head")
    check_keys(table, "head", ("focal_mm", *(e.key for e in HEAD)))
    x, y = vector_of(table["focal_mm"], "head.focal_mm", 2).tolist()
    for value in (x, y):
        _require(NOT_NEGATIVE, value, "head.focal_mm")
    return Source(focal_mm=(x, y), **_numbers(table, "head", HEAD))


def _leaves(item: Mapping[str, Any], where: str) -> LeafModel:
    check_keys(item, where, ("id", "widths", *(e.key for e in LEAVES)))
    rows = matrix_of(item["widths"], f"{where}.widths", None, 2)
    for i, (count, width) in enumerate(rows.tolist()):
        if count < 1 or count != int(count) or not 0 < width < np.inf:
            raise MachineError(f"'{where}.widths[{i}]' is [{count:g}, {width:g}], expected [number of leaves, width]")
    widths = tuple((int(count), width) for count, width in rows.tolist())
    return LeafModel(id=text_of(item["id"], f"{where}.id"), widths=widths, **_numbers(item, where, LEAVES))


def _wedge(item: Mapping[str, Any], where: str) -> WedgeModel:
    position_mm, transmission = _pairs(item, where, ("id", *(e.key for e in WEDGE)))
    if np.any(transmission > 1):
        raise MachineError(f"{where}: transmission must lie in 0..1, found {transmission.max():g}")
    wedge_id = text_of(item["id"], f"{where}.id")
    return WedgeModel(id=wedge_id, position_mm=position_mm, transmission=transmission, **_numbers(item, where, WEDGE))


def _cones(table: Mapping[str, Any]) -> Cones:
    check_keys(table, "cones", ("edge_deg", "primary", "scatter"))
    edge_deg = ascending_of(table["edge_deg"], "cones.edge_deg")
    if len(edge_deg) < 2 or edge_deg[0] != 0 or edge_deg[-1] != 180:
        raise MachineError("'cones.edge_deg' must go from 0 to 180")
    rows = (_kernel_rows(table[key], f"cones.{key}", len(edge_deg) - 1, 2) for key in ("primary", "scatter"))
    return Cones(edge_deg, *rows)


def _modes(table: Mapping[str, Any]) -> Modes:
    check_keys(table, "modes", ("primary", "scatter"))
    return Modes(*(_kernel_rows(table[key], f"modes.{key}", None, 3) for key in ("primary", "scatter")))


def _kernel_rows(value: object, key: str, rows: int | None, columns: int) -> Array:
    """Rows of share, per_gcm2 and, for modes, spread."""
    kernel = matrix_of(value, key, rows, columns)
    if not (np.all(np.isfinite(kernel)) and np.all(kernel >= 0) and np.all(kernel[:, 1] > 0)):
        raise MachineError(f"'{key}': shares must not be negative and rates per g/cm2 must be positive")
    if key.endswith("primary"):
        _check_sum(kernel[:, 0], f"'{key}': shares", KERNEL_TOLERANCE)
    return kernel


def _pairs(table: Mapping[str, Any], where: str, others: tuple[str, ...]) -> tuple[Array, Array]:
    """The two columns of `rows`, beside the keys `others`; the model checks that positions ascend."""
    check_keys(table, where, (*others, "rows"))
    rows = matrix_of(table["rows"], f"{where}.rows", None, 2)
    return rows[:, 0].copy(), rows[:, 1].copy()


def _items(data: Mapping[str, Any], key: str) -> list[tuple[Mapping[str, Any], str]]:
    """The tables [[key]] with their paths."""
    items: list[tuple[Mapping[str, Any], str]] = []
    for i, item in enumerate(list_of(data.get(key, []), key)):
        if not isinstance(item, dict):
            raise MachineError(f"{key}[{i}] is {item!r}, expected a table")
        items.append((item, f"{key}[{i}]"))
    return items


def _section(data: Mapping[str, Any], key: str, entries: tuple[Entry, ...]) -> dict[str, float]:
    table = table_of(data, key)
    check_keys(table, key, tuple(e.key for e in entries))
    return _numbers(table, key, entries)


def _numbers(table: Mapping[str, Any], where: str, entries: tuple[Entry, ...]) -> dict[str, float]:
    prefix = f"{where}." if where else ""
    values = {e.key: number_of(table[e.key], f"{prefix}{e.key}") for e in entries}
    for entry in entries:
        _require(entry.range, values[entry.key], f"{prefix}{entry.key}")
    return values


def _require(allowed: Range, value: float, key: str) -> None:
    if not allowed.holds(value):
        raise MachineError(f"'{key}' is {value:g}; it {allowed.words}")


def _entry_lines(part: object, entries: tuple[Entry, ...]) -> list[str]:
    return [f"{e.key} = {exact(getattr(part, e.key))}  # {e.comment}" for e in entries]


def _pair_lines(position: Array, value: Array) -> list[str]:
    return row_lines("rows", value[:, None], position)
