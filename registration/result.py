"""What bringing a day's image to the planning CT gives, as plain data.

Three frames: *day* is the image's own; *treatment* is the day after the couch correction, in which the plan's isocentre
and beams hold; *planning* is the planning CT. Treatment and planning differ by anatomy (and what a couch cannot turn).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from doseeng.errors import Notice
from doseeng.grid import Volume
from doseeng.transforms import DisplacementField, RigidTransform


@dataclass(frozen=True, slots=True, eq=False)
class DayRegistration:
    """A day's image brought to the planning CT.

    rigid: day points -> planning points, the best six degrees of freedom. couch: the part of it that the couch
    corrects, day points -> treatment points. pullback: treatment points -> planning points; pushforward: the way back,
    both on the working grid. day: the day's image in the treatment frame on the working grid, HU as scanned, AIR_HU
    where it shows nothing. seen: 1 where the day's image shows something, 0 outside its field of view, same grid.
    planning: the planning CT on the same grid. seconds: wall time by stage.
    """

    rigid: RigidTransform
    couch: RigidTransform
    pullback: DisplacementField
    pushforward: DisplacementField
    day: Volume
    seen: Volume
    planning: Volume
    seconds: dict[str, float] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True)
class GateResult:
    """One quality gate. value in `unit` (NaN when it could not be measured, which fails); limit: what it is held to.

    where: the structure, beam or image concerned. message: one sentence for a physicist. relation: of value to limit
    when it passes.
    """

    name: str
    where: str
    value: float
    limit: float
    unit: str
    passed: bool
    message: str
    relation: Literal["<=", ">="] = "<="
