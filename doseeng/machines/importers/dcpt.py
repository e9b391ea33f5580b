"""Beam models of the Danish Centre for Particle Therapy's open format: optics and protons per MU, no depth doses.

A CSV with `#` headers: the plane (`BMODPOS`, mm upstream of the isocentre), then nominal energy, real mean energy and
its spread (MeV, 1 sigma), protons per MU, sigma (mm), divergence (rad) and correlation in x and y.
"""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import numpy as np

from doseeng.errors import MachineError, Notice
from doseeng.machines.bortfeld import bragg_curve, range_sigma_mm
from doseeng.machines.depthdose import interpolate_depth_dose, interpolate_range
from doseeng.machines.halo import interpolate_halo
from doseeng.machines.model import Array, Optics, ProtonMachine

_COLUMNS = (
    "energy nominal [mev]",
    "e real [mev]",
    "e real sigma [mev]",
    "protons/mu",
    "sigma x [mm]",
    "sigma y [mm]",
    "sigma x' [rad]",
    "sigma y' [rad]",
    "cor(x x')",
    "cor(y y')",
)
# Relative stopping power of air at 20 degC and 1013 hPa: density 1.204e-3 times 0.88 for its composition.
AIR_RSP = 1.06e-3


def import_dcpt(
    path: Path | str,
    *,
    base: ProtonMachine,
    source_distance_mm: tuple[float, float],
    name: str | None = None,
    step_mev: float = 2.0,
) -> tuple[ProtonMachine, list[Notice]]:
    """A machine from a DCPT beam model, with the depth doses and halo of `base` at the real energies.

    base: a machine whose mean energies enclose those of the file; other energies are left out with a notice. Its peaks
    are broadened or sharpened to the energy spread of the file (`respread`). source_distance_mm: (x, y), from a plan's
    Virtual Source-Axis Distances (300A,030A). step_mev: spacing of the kept rows; files list every 0.1 MeV.
    """
    path = Path(path)
    plane_mm, table = read_dcpt(path)
    covered = (table[:, 1] >= base.mean_energy_mev[0]) & (table[:, 1] <= base.mean_energy_mev[-1])
    if not np.any(covered):
        raise MachineError(f"{path.name}: no energy lies within the depth doses of machine '{base.name}'")
    notices = [
        Notice("depth-dose-of-base", path.name, f"depth doses and halo are those of '{base.name}' at the real energies")
    ]
    if not np.all(covered):
        left = table[~covered, 0]
        message = f"{len(left)} of {len(table)} energies, {left[0]:g} to {left[-1]:g} MeV, are outside '{base.name}'"
        notices.append(Notice("energies-without-depth-dose", path.name, message))
    table = _thin(table[covered], step_mev)
    energy, mean, spread, protons = (table[:, i].copy() for i in range(4))
    range_mm = interpolate_range(base.mean_energy_mev, base.range_mm, mean)
    base_spread = np.interp(mean, base.mean_energy_mev, base.energy_spread_mev)
    curves = interpolate_depth_dose(base.mean_energy_mev, base.idd, mean)
    idd = np.stack(
        [
            respread(base.depth_fraction, curve, r, float(range_sigma_mm(r, e, old)), float(range_sigma_mm(r, e, new)))
            for curve, r, e, old, new in zip(curves, range_mm, mean, base_spread, spread, strict=True)
        ]
    )
    # The mean energy holds at the plane of each model: a plane farther upstream has more air before the water.
    range_mm = range_mm - AIR_RSP * (plane_mm - base.optics.plane_mm)

    def both(first: int) -> Array:
        return np.repeat(table[:, None, first : first + 2], 2, axis=1)

    machine = ProtonMachine(
        name=name or path.stem,
        version="1",
        description="Optics and protons per MU of a DCPT beam model; depth doses and halo of a base machine.",
        source=f"{path.name}; depth doses of '{base.name}' {base.version}",
        energy_mev=energy,
        mean_energy_mev=mean,
        energy_spread_mev=spread,
        range_mm=range_mm,
        protons_per_mu=protons,
        depth_fraction=base.depth_fraction,
        idd=idd,
        halo=interpolate_halo(base.halo, base.mean_energy_mev, mean),
        optics=Optics(plane_mm, np.zeros(len(energy)), both(4), both(6), both(8)),
        source_distance_mm=source_distance_mm,
    )
    return machine, notices


def respread(depth_fraction: Array, idd: Array, range_mm: float, sigma_mm: float, new_sigma_mm: float) -> Array:
    """A depth dose (m,) whose range spread changes from `sigma_mm` to `new_sigma_mm`, range and plateau kept.

    The ratio of the curve to Bortfeld's Bragg curve of its own spread, times Bortfeld's curve of the new spread.
    From 1 sigma behind the range both fall to nothing and their ratio says nothing: it is held from there on.
    """
    depth = depth_fraction * range_mm
    model = bragg_curve(depth, range_mm, sigma_mm)
    held = depth > range_mm + sigma_mm
    ratio = np.divide(idd, model, out=np.zeros_like(idd), where=~held)
    ratio[held] = ratio[~held][-1]
    result = ratio * bragg_curve(depth, range_mm, new_sigma_mm)
    # What lies farther behind than the new peak can reach is dose of neutrons, which keeps its value.
    tail = depth > range_mm + 6.0 * max(sigma_mm, new_sigma_mm)
    result[tail] = idd[tail]
    return result


def read_dcpt(path: Path) -> tuple[float, Array]:
    """Plane upstream of the isocentre (mm) and the table (n, 10) of a DCPT file, ascending in nominal energy."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            records = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError) as error:
        raise MachineError(f"{path}: cannot read the beam model: {error}") from error
    plane_mm: float | None = None
    header: tuple[str, ...] | None = None
    rows = []
    for number, record in enumerate(records, start=1):
        if not record or not record[0].strip():
            continue
        if record[0].lstrip().startswith("#"):
            if match := re.search(r"BMODPOS\s+([\d.]+)\s*mm", record[0]):
                plane_mm = float(match[1])
            # Comment lines have one filled cell, the header has all.
            if all(cell.strip() for cell in record):
                header = tuple(re.sub(r"[#\"]", "", cell).strip().lower() for cell in record)
            continue
        rows.append(_row(record, f"{path.name} line {number}"))
    if plane_mm is None:
        raise MachineError(f"{path.name}: no line 'BMODPOS ... mm' says where the beam model is defined")
    if header != _COLUMNS:
        raise MachineError(f"{path.name}: columns are {header}, expected {_COLUMNS}")
    if not rows:
        raise MachineError(f"{path.name}: the table has no rows")
    table = np.array(rows)
    return plane_mm, table[np.argsort(table[:, 0])]


def _row(record: list[str], where: str) -> list[float]:
    if len(record) != len(_COLUMNS):
        raise MachineError(f"{where}: {len(record)} values, expected {len(_COLUMNS)}")
    try:
        values = [float(cell) for cell in record]
    except ValueError as error:
        raise MachineError(f"{where}: {error}") from error
    if not all(math.isfinite(value) for value in values):
        raise MachineError(f"{where}: NaN or infinity")
    return values


def _thin(table: Array, step_mev: float) -> Array:
    """The first row, then rows at least `step_mev` after the last kept one, and the last row."""
    kept = [0]
    for i in range(1, len(table)):
        if table[i, 0] - table[kept[-1], 0] >= step_mev - 1e-6 or (i == len(table) - 1 and i != kept[-1]):
            kept.append(i)
    return table[kept]
