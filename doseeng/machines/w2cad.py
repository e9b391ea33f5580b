"""Water scans in the W2CAD text format (.asc) of Varian Eclipse, which most scanning programs export.

    $STOM                            begins a scan
    %TYPE OPD                        OPD depth dose, OPP profile, DPR diagonal; others have a wedge
    %AXIS Z                          along which a profile runs: X, Y
    %FLSZ 100*100                    field x*y, mm
    %SSD 1000                        mm
    %DPTH 050                        of a profile, mm
    %PNTS 301
    <+000.0 +000.0 +015.0 +099.8>    x, y, depth in mm, dose
    $ENOM                            ends it

Coordinates are IEC 61217; depth counts down from the surface, but some programs write it negative.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from doseeng.errors import Notice
from doseeng.machines.scandata import Kind, Place, Scan, number_at, positive_at, read_lines, scan_of

WEDGED: Final = ("WDD", "WDP", "WLP")
"""Types of scans behind a wedge, with endings such as WDD_SSD80."""
PROFILES: Final[dict[str, Kind]] = {"X": "profile-x", "Y": "profile-y"}


def read_w2cad(path: Path) -> tuple[list[Scan], list[Notice]]:
    """The open-field photon scans of a file, and notices of those left out; MachineError naming file and line."""
    scans: list[Scan] = []
    notices = []
    begins: Place | None = None
    keys: dict[str, tuple[Place, str]] = {}
    points: list[tuple[Place, str]] = []
    for place, line in read_lines(path):
        if line.startswith("$STOM"):
            if begins is not None:
                raise place.error(f"$STOM inside the scan that begins in line {begins.line}; $ENOM is missing")
            begins, keys, points = place, {}, []
        elif begins is not None and line.startswith("%"):
            key, *value = line[1:].split(maxsplit=1)
            keys[key] = (place, "".join(value))
        elif begins is not None and line.startswith("<"):
            points.append((place, line))
        elif begins is not None and line.startswith("$ENOM"):
            wedge = keys.get("TYPE", (place, ""))[1]
            if wedge.startswith(WEDGED):
                text = f"the scan in line {begins.line} is of type {wedge}, behind a wedge; only open fields are read"
                notices.append(Notice("wedged-scan-left-out", path.name, text))
            else:
                scans.append(_scan(begins, place, keys, points))
            begins = None
        elif begins is not None and line and not line.startswith("#"):
            raise place.error(f"'{line[:40]}' is neither a key (%...), a point (<...>) nor the end ($ENOM) of a scan")
    if begins is not None:
        raise begins.error("the scan has no end ($ENOM); the file is cut off")
    if not scans and not notices:
        raise Place(path, 1).error("no scan ($STOM) in the file; expected W2CAD text")
    return scans, notices


def _scan(begins: Place, ends: Place, keys: dict[str, tuple[Place, str]], lines: list[tuple[Place, str]]) -> Scan:
    beam_place, beam = keys.get("BMTY", (begins, "PHO"))
    if beam != "PHO":
        raise beam_place.error(f"%BMTY is '{beam}', expected PHO: photons")
    kind = _kind(begins, keys)
    field_mm = _field(*_required(begins, keys, "FLSZ"))
    ssd_mm = _positive(begins, keys, "SSD")
    depth_mm = None if kind == "depth" else _positive(begins, keys, "DPTH")
    if "PNTS" in keys:
        stated = number_at(*keys["PNTS"], "%PNTS")
        if stated != len(lines):
            raise ends.error(f"the scan has {len(lines)} points, but %PNTS says {stated:g}")
    rows = [(place, _point(place, line)) for place, line in lines]
    along = [_position(kind, *row[:3]) for _, row in rows]
    if kind == "depth" and np.sum(along) < 0:
        along = [-z for z in along]
    points = [(place, position, row[3]) for (place, row), position in zip(rows, along, strict=True)]
    return scan_of(begins, kind, field_mm, ssd_mm, depth_mm, points)


def _kind(begins: Place, keys: dict[str, tuple[Place, str]]) -> Kind:
    place, what = _required(begins, keys, "TYPE")
    if what == "OPD":
        return "depth"
    if what == "DPR":
        return "diagonal"
    if what != "OPP":
        raise place.error(f"%TYPE is '{what}', expected OPD, OPP, DPR or a wedge's {', '.join(WEDGED)}")
    place, axis = _required(begins, keys, "AXIS")
    if axis not in PROFILES:
        raise place.error(f"%AXIS is '{axis}', expected X or Y for a profile")
    return PROFILES[axis]


def _position(kind: Kind, x: float, y: float, z: float) -> float:
    """Where along its line a point lies."""
    along = {"depth": z, "profile-x": x, "profile-y": y}
    # The halves of a diagonal have x of opposite sign.
    return along.get(kind, float(np.copysign(np.hypot(x, y), x)))


def _field(place: Place, text: str) -> tuple[float, float]:
    sides = text.split("*")
    if len(sides) != 2:
        raise place.error(f"%FLSZ is '{text}', expected two sides in mm, as 100*100")
    x, y = (positive_at(place, side, "%FLSZ") for side in sides)
    return x, y


def _point(place: Place, line: str) -> tuple[float, float, float, float]:
    cells = line.removeprefix("<").removesuffix(">").split()
    if len(cells) != 4 or not line.endswith(">"):
        raise place.error(f"'{line[:60]}' is no point; expected <x y depth dose>")
    x, y, z, dose = (number_at(place, cell, what) for cell, what in zip(cells, ("x", "y", "z", "dose"), strict=True))
    return x, y, z, dose


def _positive(begins: Place, keys: dict[str, tuple[Place, str]], key: str) -> float:
    return positive_at(*_required(begins, keys, key), f"%{key}")


def _required(begins: Place, keys: dict[str, tuple[Place, str]], key: str) -> tuple[Place, str]:
    if key not in keys:
        raise begins.error(f"the scan has no %{key}")
    return keys[key]
