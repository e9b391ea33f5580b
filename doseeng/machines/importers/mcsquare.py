"""MCsquare beam data library (BDL) text and depth doses.

The BDL is described in the MCsquare documentation (openmcsquare.org): optics of one or two Gaussians at the nozzle
exit, energy spread as 1 sigma in percent of the nominal energy. It holds no depth doses; those come from a table beside
it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from doseeng.errors import MachineError, Notice
from doseeng.machines.depthdose import (
    DEPTH_FRACTION,
    bin_edges_mm,
    interpolate_depth_dose,
    interpolate_range,
    table_from_bins,
    table_from_points,
)
from doseeng.machines.halo import analytic_halo
from doseeng.machines.model import Array, Halo, Optics, ProtonMachine, RangeShifterModel

_DISTANCES = {"nozzle exit": "nozzle_mm", "smx": "smx_mm", "smy": "smy_mm"}
_ONE_GAUSSIAN = tuple(f"{name}1{axis}" for axis in "xy" for name in ("SpotSize", "Divergence", "Correlation"))
_REQUIRED = ("NominalEnergy", "MeanEnergy", "EnergySpread", "ProtonsMU", *_ONE_GAUSSIAN)


@dataclass(frozen=True, slots=True)
class BeamDataLibrary:
    """What a BDL file says. columns: the beam parameter table by header name, each (n,), ascending NominalEnergy."""

    distances_mm: Mapping[str, float]
    range_shifters: tuple[RangeShifterModel, ...]
    columns: Mapping[str, Array]


def import_mcsquare(
    bdl_path: Path | str, depth_dose_path: Path | str, *, name: str | None = None, halo: Halo | None = None
) -> tuple[ProtonMachine, list[Notice]]:
    """A machine from an MCsquare BDL file and a depth-dose table (see `read_depth_doses`).

    Energies are those of both files that the depth doses cover: beam parameters are linear in nominal energy between
    BDL rows, as MCsquare has them; depth doses are interpolated at equal depth over range, never extrapolated. Energies
    left out are named in a notice. halo: from measured profiles; without it an analytic one is used, with a notice.
    """
    bdl_path, depth_dose_path = Path(bdl_path), Path(depth_dose_path)
    bdl = read_bdl(bdl_path)
    dose_energy, dose_range, dose_idd = read_depth_doses(depth_dose_path)
    nominal = bdl.columns["NominalEnergy"]
    candidates = np.unique(np.concatenate([nominal, dose_energy]))
    usable = (dose_energy >= nominal[0]) & (dose_energy <= nominal[-1])
    if not np.any(usable):
        raise MachineError(f"{bdl_path.name} and {depth_dose_path.name} have no energy range in common")
    dose_energy, dose_range, dose_idd = dose_energy[usable], dose_range[usable], dose_idd[usable]
    low, high = dose_energy[0], dose_energy[-1]
    energy = candidates[(candidates >= low) & (candidates <= high)]
    notices = []
    dropped = candidates[(candidates < low) | (candidates > high)]
    if len(dropped):
        listed = ", ".join(f"{e:g}" for e in dropped)
        notices.append(
            Notice(
                "energies-without-depth-dose",
                depth_dose_path.name,
                f"{listed} MeV left out: depth doses and beam data both cover {low:g} to {high:g} MeV only",
            )
        )

    def at(key: str, energies: Array = energy) -> Array:
        return np.interp(energies, nominal, bdl.columns[key])

    range_mm = interpolate_range(at("MeanEnergy", dose_energy), dose_range, at("MeanEnergy"))
    if halo is None:
        halo = analytic_halo(range_mm)
        notices.append(
            Notice("analytic-halo", bdl_path.name, "nuclear halo from Soukup et al. (2005), not from measured profiles")
        )
    machine = ProtonMachine(
        name=name or bdl_path.stem,
        version="1",
        description="Imported from MCsquare beam data; a model, not a commissioned machine.",
        source=f"{bdl_path.name} + {depth_dose_path.name}",
        energy_mev=energy,
        mean_energy_mev=at("MeanEnergy"),
        energy_spread_mev=at("EnergySpread") / 100.0 * energy,
        range_mm=range_mm,
        protons_per_mu=at("ProtonsMU"),
        depth_fraction=DEPTH_FRACTION,
        idd=interpolate_depth_dose(dose_energy, dose_idd, energy),
        halo=halo,
        optics=_optics(bdl, energy),
        source_distance_mm=(bdl.distances_mm["smx_mm"], bdl.distances_mm["smy_mm"]),
        range_shifters=bdl.range_shifters,
    )
    return machine, notices


def _optics(bdl: BeamDataLibrary, energy: Array) -> Optics:
    nominal, columns = bdl.columns["NominalEnergy"], bdl.columns
    # A BDL without a second Gaussian gets the first one twice, the second with no weight.
    wide = "2" if "SpotSize2x" in columns else "1"
    weight = columns["Weight2"] if wide == "2" else np.zeros(len(nominal))

    def stack(quantity: str) -> Array:
        return np.stack(
            [
                np.stack([np.interp(energy, nominal, columns[f"{quantity}{g}{axis}"]) for axis in "xy"], axis=-1)
                for g in ("1", wide)
            ],
            axis=1,
        )

    return Optics(
        plane_mm=bdl.distances_mm["nozzle_mm"],
        weight=np.interp(energy, nominal, weight),
        sigma_mm=stack("SpotSize"),
        divergence_rad=stack("Divergence"),
        correlation=stack("Correlation"),
    )


def read_bdl(path: Path) -> BeamDataLibrary:
    """Parse a BDL text file. Raises MachineError naming the line that cannot be understood."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise MachineError(f"{path}: cannot read the beam data: {error.strerror}") from error
    distances: dict[str, float] = {}
    shifters: list[dict[str, str]] = []
    header: list[str] = []
    rows: list[list[float]] = []
    pending = ""  # the distance whose value stands on the next line
    for number, raw in enumerate(lines, start=1):
        line = raw.split("#", 1)[0].strip()
        words = line.split()
        where = f"{path.name} line {number}"
        if not line or line.startswith("--"):
            continue
        if header:
            rows.append(_row(words, header, where))
        elif words[0] == "NominalEnergy":
            header = words
        elif pending:
            distances[pending] = _number(line, where)
            pending = ""
        elif label := next((key for start, key in _DISTANCES.items() if line.lower().startswith(start)), ""):
            pending = label
        elif match := re.fullmatch(r"(RS_\w+)\s*=\s*(.+)", line):
            if match[1] == "RS_ID":
                shifters.append({})
            if not shifters:
                raise MachineError(f"{where}: {match[1]} stands before any RS_ID")
            shifters[-1][match[1]] = match[2].strip()
        elif not re.fullmatch(r"(?i)range shifter parameters|beam parameters|\d+ energies", line):
            raise MachineError(f"{where}: '{line[:60]}' is not part of an MCsquare beam data file")
    missing = [key for key in _DISTANCES.values() if key not in distances]
    if missing:
        raise MachineError(f"{path.name}: distances to the isocentre are missing: {', '.join(missing)}")
    return BeamDataLibrary(distances, _shifters(shifters, path), _columns(header, rows, path))


def _row(words: list[str], header: list[str], where: str) -> list[float]:
    if len(words) != len(header):
        raise MachineError(f"{where}: {len(words)} values, but the header has {len(header)} columns")
    return [_number(word, where) for word in words]


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise MachineError(f"{where}: '{text[:40]}' is not a number")
    return value


def _columns(header: list[str], rows: list[list[float]], path: Path) -> dict[str, Array]:
    missing = [key for key in _REQUIRED if key not in header]
    if any("2" in key for key in header):
        second = ("Weight2", *(key.replace("1", "2") for key in _ONE_GAUSSIAN))
        missing += [key for key in second if key not in header]
    if missing:
        raise MachineError(f"{path.name}: the beam parameter header lacks {', '.join(missing)}")
    if not rows:
        raise MachineError(f"{path.name}: the beam parameter table has no rows")
    table = np.array(rows)
    table = table[np.argsort(table[:, header.index("NominalEnergy")])]
    columns = {key: table[:, i].copy() for i, key in enumerate(header)}
    if np.any(np.diff(columns["NominalEnergy"]) <= 0):
        raise MachineError(f"{path.name}: a nominal energy occurs twice")
    return columns


def _shifters(blocks: list[dict[str, str]], path: Path) -> tuple[RangeShifterModel, ...]:
    shifters = []
    for block in blocks:
        where = f"{path.name} range shifter {block['RS_ID']}"
        if block.get("RS_type", "binary") != "binary":
            raise MachineError(f"{where}: RS_type '{block['RS_type']}' is not supported, only 'binary'")
        if "RS_WET" not in block or "RS_density" not in block:
            raise MachineError(f"{where}: RS_WET and RS_density are needed")
        wet_mm, density = _number(block["RS_WET"], where), _number(block["RS_density"], where)
        shifters.append(RangeShifterModel(block["RS_ID"], wet_mm, density))
    return tuple(shifters)


def read_depth_doses(path: Path) -> tuple[Array, Array, Array]:
    """Energies (n,), ranges (n,) in mm and depth doses (n, m) on `DEPTH_FRACTION` nodes, from a table in a file.

    `.npz`: `energy_mev` (n,), `depth_mm` (k,) centres of equal bins from the surface on, `idd` (n, k). Anything else is
    text, separated by commas, semicolons or blanks: a header `depth_mm` and one nominal energy in MeV per column, then
    rows of depth (mm) and doses at that depth. Doses are Gy mm2 per 1e9 protons.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as data:
                absent = [key for key in ("energy_mev", "depth_mm", "idd") if key not in data]
                if absent:
                    raise MachineError(f"{path.name}: arrays missing: {', '.join(absent)}")
                energy, depth, idd = (data[key].astype(np.float64) for key in ("energy_mev", "depth_mm", "idd"))
        else:
            energy, depth, idd = _text_table(path)
    except (OSError, ValueError) as error:
        raise MachineError(f"{path}: cannot read the depth doses: {error}") from error
    if idd.shape != (len(energy), len(depth)) or len(depth) < 10 or len(energy) == 0:
        raise MachineError(f"{path.name}: idd has shape {idd.shape}, expected {(len(energy), len(depth))}")
    if not np.all(np.isfinite(idd)) or np.any(idd < 0) or np.any(np.diff(depth) <= 0):
        raise MachineError(f"{path.name}: depths must ascend and doses must be finite and not negative")
    order = np.argsort(energy)
    energy, idd = energy[order], idd[order]
    if path.suffix == ".npz":
        edges = bin_edges_mm(depth)
        tables = [table_from_bins(edges, row) for row in idd]
    else:
        tables = [table_from_points(depth, row) for row in idd]
    return energy, np.array([r for r, _ in tables]), np.stack([curve for _, curve in tables])


def _text_table(path: Path) -> tuple[Array, Array, Array]:
    lines = [
        (number, re.split(r"[,;\s]+", line.split("#", 1)[0].strip()))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if line.split("#", 1)[0].strip()
    ]
    if not lines or lines[0][1][0] != "depth_mm":
        raise MachineError(f"{path.name}: the first line must be a header 'depth_mm' and one energy in MeV per column")
    header = lines[0][1]
    energy = np.array([_number(word, f"{path.name} line {lines[0][0]}") for word in header[1:]])
    table = np.array([_row(words, header, f"{path.name} line {number}") for number, words in lines[1:]])
    if len(table) == 0:
        raise MachineError(f"{path.name}: the table has no rows")
    return energy, table[:, 0], table[:, 1:].T.copy()
