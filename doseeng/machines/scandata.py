"""What a water phantom measures: scans along a line and output factors, whatever file they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from doseeng.errors import MachineError
from doseeng.machines.model import Array

Kind = Literal["depth", "profile-x", "profile-y", "diagonal"]


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """Dose along a line in water, in any unit.

    kind: depth dose on the axis, or profile along IEC 61217 X, Y or a diagonal. field_mm: sides (x, y) in the isocentre
    plane. depth_mm: of a profile, None for a depth dose. position_mm (n,): ascending, depth or distance from the axis
    at the depth of the scan. dose (n,). file: where it was read.
    """

    kind: Kind
    field_mm: tuple[float, float]
    ssd_mm: float
    depth_mm: float | None
    position_mm: Array
    dose: Array
    file: str


@dataclass(frozen=True, slots=True)
class OutputFactor:
    """Dose per monitor unit of a field on the axis at a depth, over that of the reference field. field_mm: sides."""

    field_mm: tuple[float, float]
    factor: float
    ssd_mm: float
    depth_mm: float


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, for messages."""

    path: Path
    line: int

    def error(self, text: str) -> MachineError:
        """A MachineError about this line."""
        return MachineError(f"{self.path.name}, line {self.line}: {text}")


def read_lines(path: Path) -> list[tuple[Place, str]]:
    """Lines without blanks around them, and where they are; MachineError for a file that cannot be read.

    Measuring programs write comments in many encodings and numbers in ASCII: other bytes are replaced.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise MachineError(f"{path.name}: cannot be read: {error.strerror}") from error
    return [(Place(path, number), line.strip()) for number, line in enumerate(text.splitlines(), 1)]


def number_at(place: Place, text: str, what: str) -> float:
    """A finite number, or a MachineError naming the line."""
    try:
        value = float(text)
    except ValueError:
        raise place.error(f"{what} is '{text}', expected a number") from None
    if not np.isfinite(value):
        raise place.error(f"{what} is {text}, expected a finite number")
    return value


def positive_at(place: Place, text: str, what: str) -> float:
    """A positive number, or a MachineError naming the line."""
    value = number_at(place, text, what)
    if value <= 0:
        raise place.error(f"{what} is {text}, expected a positive number")
    return value


def scan_of(
    begins: Place,
    kind: Kind,
    field_mm: tuple[float, float],
    ssd_mm: float,
    depth_mm: float | None,
    points: Sequence[tuple[Place, float, float]],
) -> Scan:
    """A scan from points (line, position, dose) in any order.

    MachineError for fewer than three points, a position that occurs twice, and a scan without dose.
    """
    if len(points) < 3:
        raise begins.error(f"the scan has {len(points)} points, expected at least 3")
    ordered = sorted(points, key=lambda point: point[1])
    for (_, before, _), (place, position, _) in pairwise(ordered):
        if position == before:
            raise place.error(f"position {position:g} mm occurs twice in the scan")
    dose = np.array([d for _, _, d in ordered])
    if dose.max() <= 0:
        raise begins.error("the scan holds no dose above zero")
    position_mm = np.array([p for _, p, _ in ordered])
    return Scan(kind, field_mm, ssd_mm, depth_mm, position_mm, dose, begins.path.name)
