"""Wedges and blocks of a photon beam in an RT Plan (DICOM PS3.3 C.8.8.14)."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from doseeng.dicom.tags import integer, items, numbers, required_integer, required_number, text
from doseeng.errors import PlanError
from doseeng.plan import Block, Wedge

WEDGE_KINDS: Final[dict[str, Literal["STANDARD", "MOTORIZED", "DYNAMIC"]]] = {
    "STANDARD": "STANDARD",
    "MOTORIZED": "MOTORIZED",
    "DYNAMIC": "DYNAMIC",
}
BLOCK_KINDS: Final[dict[str, Literal["SHIELDING", "APERTURE"]]] = {"SHIELDING": "SHIELDING", "APERTURE": "APERTURE"}
WEDGE_POSITIONS: Final = {"IN": True, "OUT": False}


def wedges_of(beam: Dataset, control_points: list[Dataset], where: str) -> tuple[Wedge, ...]:
    """The wedges that are in the beam at some control point.

    PlanError naming the wedge when its type is unknown or a position is missing; DicomError when it lacks angle or
    orientation.
    """
    found = []
    for item in items(beam, "WedgeSequence"):
        wedge_number = required_integer(item, "WedgeNumber", where)
        wedge_id = text(item, "WedgeID") or str(wedge_number)
        wedge_where = f"{where}, wedge '{wedge_id}'"
        inside = _inside(control_points, wedge_number, wedge_where)
        if not inside.any():
            continue
        kind = text(item, "WedgeType").upper()
        if kind not in WEDGE_KINDS:
            raise PlanError(
                f"{wedge_where}: WedgeType is '{kind}', which is not supported; expected {', '.join(WEDGE_KINDS)}"
            )
        angle = required_number(item, "WedgeAngle", wedge_where)
        orientation = required_number(item, "WedgeOrientation", wedge_where)
        try:
            found.append(Wedge(wedge_id, WEDGE_KINDS[kind], angle, orientation, inside))
        except PlanError as error:
            raise PlanError(f"{where}: {error}") from error
    return tuple(found)


def _inside(control_points: list[Dataset], wedge_number: int, where: str) -> npt.NDArray[np.bool_]:
    """(n_cp,) whether a wedge is in the beam, carried over where a control point does not repeat it."""
    inside: list[bool] = []
    for index, control_point in enumerate(control_points):
        stated = [
            text(position, "WedgePosition").upper()
            for position in items(control_point, "WedgePositionSequence")
            if integer(position, "ReferencedWedgeNumber", where) == wedge_number
        ]
        if not stated and inside:
            inside.append(inside[-1])
        elif len(stated) == 1 and stated[0] in WEDGE_POSITIONS:
            inside.append(WEDGE_POSITIONS[stated[0]])
        else:
            raise PlanError(
                f"{where}: control point {index} gives its WedgePosition as '{', '.join(stated)}'; expected IN or OUT, "
                "which the first control point must state"
            )
    return np.array(inside)


def blocks_of(beam: Dataset, where: str) -> tuple[Block, ...]:
    """The blocks of a beam; PlanError or DicomError naming the block for an unknown type or missing attributes.

    BlockData are projected to the isocentre plane of the beam limiting device system already.
    """
    found = []
    for item in items(beam, "BlockSequence"):
        name = text(item, "BlockName") or str(integer(item, "BlockNumber", where) or "")
        block_where = f"{where}, block '{name}'"
        kind = text(item, "BlockType").upper()
        if kind not in BLOCK_KINDS:
            raise PlanError(f"{block_where}: BlockType is '{kind}'; expected {' or '.join(BLOCK_KINDS)}")
        values = numbers(item, "BlockData", block_where)
        points = required_integer(item, "BlockNumberOfPoints", block_where)
        if len(values) != 2 * points:
            raise PlanError(
                f"{block_where}: BlockData holds {len(values)} numbers; expected two for each of "
                f"BlockNumberOfPoints = {points} points"
            )
        transmission = required_number(item, "BlockTransmission", block_where)
        tray = required_number(item, "SourceToBlockTrayDistance", block_where)
        divergent = text(item, "BlockDivergence").upper() != "ABSENT"
        try:
            found.append(Block(name, BLOCK_KINDS[kind], values.reshape(-1, 2), transmission, divergent, tray))
        except PlanError as error:
            raise PlanError(f"{where}: {error}") from error
    return tuple(found)
