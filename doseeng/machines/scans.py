"""Measured water-phantom data of a machine: every scan and output factor in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from doseeng.errors import MachineError, Notice
from doseeng.machines.scancsv import read_csv
from doseeng.machines.scandata import OutputFactor, Scan
from doseeng.machines.w2cad import read_w2cad


@dataclass(frozen=True, slots=True, eq=False)
class Measurements:
    """What was read, in order of file names, and what a physicist should know about it."""

    scans: tuple[Scan, ...]
    output_factors: tuple[OutputFactor, ...]
    notices: tuple[Notice, ...] = ()


def read_scans(folder: Path) -> Measurements:
    """All scans in a folder: comma-separated text (.csv, see `scancsv`) and W2CAD (.asc, see `w2cad`).

    A notice names each other file, each wedged scan and each assumption. MachineError, naming file and line, for a file
    that cannot be understood, and for a folder that is not there or holds no scan.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MachineError(f"folder of scans {folder} does not exist")
    scans: list[Scan] = []
    factors: list[OutputFactor] = []
    notices: list[Notice] = []
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        if path.suffix.casefold() == ".csv":
            found, ratios, noted = read_csv(path)
            factors += ratios
        elif path.suffix.casefold() == ".asc":
            found, noted = read_w2cad(path)
        else:
            found, noted = [], [Notice("file-left-out", path.name, "scans are read from .csv and .asc files only")]
        scans += found
        notices += noted
    if not scans and not factors:
        raise MachineError(f"folder {folder} holds no scan: expected .csv or W2CAD .asc files")
    return Measurements(tuple(scans), tuple(factors), tuple(notices))
