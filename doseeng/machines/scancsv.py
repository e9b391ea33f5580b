"""Water scans as comma-separated text that a person can write.

One scan, or several one below the other (axis: depth, x, y or diagonal; depth_mm only for profiles):

    # doseeng scan
    # axis = x
    # field_x_mm = 100
    # field_y_mm = 100
    # ssd_mm = 900
    # depth_mm = 100
    position_mm,dose
    -80,1.2

Depth doses of many fields side by side, sides in cm in the names (PDD_3x3 or 3x3), depth_mm or depth_cm:

    # ssd_mm = 1000
    depth_cm,PDD_3x3,PDD_10x10
    0.5,80.1,81.9

Output factors, field_mm or field_cm for squares, or field_x_mm and field_y_mm:

    # ssd_mm = 900
    # depth_mm = 100
    field_mm,factor
    30,0.85

Lines with # and no equals sign are comments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from doseeng.errors import Notice
from doseeng.machines.scandata import (
    Kind,
    OutputFactor,
    Place,
    Scan,
    number_at,
    positive_at,
    read_lines,
    scan_of,
)

AXES: Final[dict[str, Kind]] = {"depth": "depth", "x": "profile-x", "y": "profile-y", "diagonal": "diagonal"}
KEYS: Final = ("axis", "field_x_mm", "field_y_mm", "ssd_mm", "depth_mm")
BEGIN: Final = "doseeng scan"
USUAL_SSD_MM: Final = 1000.0
MM_PER_CM: Final = 10.0
FIELD_NAME: Final = re.compile(r"(?:pdd_)?(\d+(?:\.\d+)?)x(\d+(?:\.\d+)?)", re.IGNORECASE)
FACTOR_COLUMNS: Final[dict[tuple[str, ...], float]] = {
    ("field_mm", "factor"): 1.0,
    ("field_cm", "factor"): MM_PER_CM,
    ("field_x_mm", "field_y_mm", "factor"): 1.0,
}
"""Columns of output factors -> mm in their unit."""


@dataclass(slots=True)
class Block:
    """Key lines, a header and rows of numbers, while a file is read."""

    begins: Place
    keys: dict[str, tuple[Place, str]] = field(default_factory=dict)
    header: Place | None = None
    columns: tuple[str, ...] = ()
    rows: list[tuple[Place, list[str]]] = field(default_factory=list)

    def positive(self, key: str) -> float:
        """A positive number of a key line that must be there."""
        return positive_at(*self.required(key), key)

    def required(self, key: str) -> tuple[Place, str]:
        if key not in self.keys:
            raise self.begins.error(f"the line '# {key} = ...' is missing")
        return self.keys[key]

    def only(self, *allowed: str) -> None:
        """MachineError for a key line that means nothing here."""
        for key, (place, _) in self.keys.items():
            if key not in allowed:
                raise place.error(f"'{key}' means nothing here; expected {', '.join(allowed)}")


def read_csv(path: Path) -> tuple[list[Scan], list[OutputFactor], list[Notice]]:
    """Scans and output factors of a file and notices; MachineError naming file and line."""
    scans: list[Scan] = []
    factors: list[OutputFactor] = []
    notices: list[Notice] = []
    for block in _blocks(path):
        if block.header is None:
            raise block.begins.error("there is no header line with column names")
        if block.columns == ("position_mm", "dose"):
            scans.append(_single(block))
        elif block.columns in FACTOR_COLUMNS:
            factors += _factors(block, FACTOR_COLUMNS[block.columns])
        elif block.columns[0] in ("depth_mm", "depth_cm"):
            wide, noted = _depth_doses(block, block.header)
            scans += wide
            notices += noted
        else:
            raise block.header.error(
                f"columns {', '.join(block.columns)} are not known; expected position_mm,dose, or depth_cm with fields "
                "as PDD_10x10, or field_mm,factor"
            )
    return scans, factors, notices


def _blocks(path: Path) -> list[Block]:
    blocks: list[Block] = []
    for place, line in read_lines(path):
        if not line.strip(",;"):
            continue
        text = line.lstrip("#").strip().rstrip(",")
        if not blocks or (line.startswith("#") and text == BEGIN and blocks[-1].header is not None):
            blocks.append(Block(place))
        block = blocks[-1]
        if not line.startswith("#"):
            cells = [cell.strip() for cell in line.split(",")]
            if block.header is None:
                block.header, block.columns = place, tuple(cells)
            elif len(cells) != len(block.columns):
                raise place.error(f"{len(cells)} values, expected {len(block.columns)}: {', '.join(block.columns)}")
            else:
                block.rows.append((place, cells))
        elif "=" in text:
            _add_key(block, place, text)
    if not blocks:
        raise Place(path, 1).error("the file is empty")
    return blocks


def _add_key(block: Block, place: Place, text: str) -> None:
    key, value = (part.strip() for part in text.split("=", 1))
    if key not in KEYS:
        raise place.error(f"key '{key}' is not known; expected {', '.join(KEYS)}")
    if block.header is not None:
        raise place.error(f"'{key}' stands below its table; a new scan begins with '# {BEGIN}'")
    if key in block.keys:
        raise place.error(f"'{key}' is there twice")
    block.keys[key] = (place, value)


def _single(block: Block) -> Scan:
    block.only(*KEYS)
    place, axis = block.required("axis")
    if axis not in AXES:
        raise place.error(f"axis is '{axis}', expected {', '.join(AXES)}")
    kind = AXES[axis]
    if kind == "depth" and "depth_mm" in block.keys:
        raise block.keys["depth_mm"][0].error("depth_mm stands in a depth dose; it belongs to profiles")
    depth_mm = None if kind == "depth" else block.positive("depth_mm")
    sides_mm = (block.positive("field_x_mm"), block.positive("field_y_mm"))
    points = [(p, number_at(p, c[0], "position_mm"), number_at(p, c[1], "dose")) for p, c in block.rows]
    return scan_of(block.begins, kind, sides_mm, block.positive("ssd_mm"), depth_mm, points)


def _depth_doses(block: Block, header: Place) -> tuple[list[Scan], list[Notice]]:
    block.only("ssd_mm")
    notices = []
    if "ssd_mm" in block.keys:
        ssd_mm = block.positive("ssd_mm")
    else:
        ssd_mm = USUAL_SSD_MM
        text = f"the file states no SSD: {ssd_mm:g} mm is taken; write '# ssd_mm = ...' above its header"
        notices.append(Notice("ssd-assumed", header.path.name, text))
    unit = MM_PER_CM if block.columns[0] == "depth_cm" else 1.0
    depths = [number_at(place, cells[0], block.columns[0]) * unit for place, cells in block.rows]
    scans = []
    for column, name in enumerate(block.columns[1:], 1):
        sides = FIELD_NAME.fullmatch(name)
        if sides is None:
            raise header.error(f"column '{name}' does not name a field in cm, as PDD_10x10")
        x, y = (positive_at(header, side, f"the field of column '{name}'") * MM_PER_CM for side in sides.groups())
        points = [
            (place, depth, number_at(place, cells[column], name))
            for depth, (place, cells) in zip(depths, block.rows, strict=True)
        ]
        scans.append(scan_of(header, "depth", (x, y), ssd_mm, None, points))
    if not scans:
        raise header.error(f"there is no column beside {block.columns[0]}")
    return scans, notices


def _factors(block: Block, unit: float) -> list[OutputFactor]:
    block.only("ssd_mm", "depth_mm")
    ssd_mm, depth_mm = block.positive("ssd_mm"), block.positive("depth_mm")
    factors = []
    for place, cells in block.rows:
        *sides, factor = (positive_at(place, c, name) for c, name in zip(cells, block.columns, strict=True))
        factors.append(OutputFactor((sides[0] * unit, sides[-1] * unit), factor, ssd_mm, depth_mm))
    if not factors:
        raise block.begins.error("there is no output factor below the header")
    return factors
