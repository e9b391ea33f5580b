"""One error scenario of a delivery; sets of them are made in `robust.scenarios`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Scenario:
    """A rigid and calibration error that holds for the whole course.

    isocenter_shift_mm: the isocentre moves by this much in patient axes (the patient moves the other way).
    rsp_scale: multiplies every relative stopping power (1.035 = the patient stops protons 3.5 % more: undershoot).
    random: drawn at random (counts in probability statements) rather than placed on a grid.
    """

    name: str
    isocenter_shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rsp_scale: float = 1.0
    random: bool = False

    @property
    def is_nominal(self) -> bool:
        """True without any error, whatever its name."""
        return (self.isocenter_shift_mm, self.rsp_scale) == ((0.0, 0.0, 0.0), 1.0)


NOMINAL: Final = Scenario("nominal")
