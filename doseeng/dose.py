"""A dose distribution and what kind of dose it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from doseeng.grid import Volume


class Quantity(StrEnum):
    """Physical dose, or dose weighted with relative biological effectiveness (constant 1.1 unless said otherwise)."""

    PHYSICAL = "physical"
    RBE_WEIGHTED = "rbe_weighted"


@dataclass(frozen=True, slots=True, eq=False)
class Dose:
    """Dose in Gy for the whole course unless `summation` says otherwise.

    summation: DICOM Dose Summation Type (PLAN, BEAM, FRACTION, ...). beam_numbers: the beams that contribute when the
    summation is BEAM. uid and plan_uid: SOP Instance UIDs of this dose and of the plan it belongs to ("" if none).
    """

    volume: Volume
    quantity: Quantity = Quantity.PHYSICAL
    summation: str = "PLAN"
    beam_numbers: tuple[int, ...] = ()
    uid: str = ""
    plan_uid: str = ""
    comment: str = ""
