"""One error scenario of a delivery; sets of them are made in `robust.scenarios`."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Final, Literal

from doseeng.errors import ConfigError

Modality = Literal["proton", "photon"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """An error of patient, image or machine that holds for the whole course.

    isocenter_shift_mm: the isocentre moves by this much in patient axes (the patient moves the other way).
    rsp_scale: multiplies what the CT says of every material: for protons the relative stopping power (1.035 = the
    patient stops protons 3.5 % more: undershoot), for photons density and attenuation.
    random: drawn at random (counts in probability statements) rather than placed on a grid.
    gantry_deg, collimator_deg, couch_deg: added to the IEC 61217 angles of every beam. leaf_opening_mm: every leaf end
    is open farther by this in the isocentre plane, so that a gap is wider by twice as much.

    ConfigError for a number that is not finite, or a scale that is not positive.
    """

    name: str
    isocenter_shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rsp_scale: float = 1.0
    random: bool = False
    gantry_deg: float = 0.0
    collimator_deg: float = 0.0
    couch_deg: float = 0.0
    leaf_opening_mm: float = 0.0

    def __post_init__(self) -> None:
        if not all(map(isfinite, (*self.isocenter_shift_mm, self.rsp_scale, *self.delivery))):
            raise ConfigError(f"scenario '{self.name}': has an error of NaN or infinity; every error must be finite")
        if self.rsp_scale <= 0.0:
            raise ConfigError(
                f"scenario '{self.name}': scales the materials by {self.rsp_scale:g}; expected more than zero, such as "
                "1.035 for +3.5 %"
            )

    @property
    def delivery(self) -> tuple[float, float, float, float]:
        """The errors of the machine: gantry, collimator and couch in degrees, leaf opening in mm."""
        return self.gantry_deg, self.collimator_deg, self.couch_deg, self.leaf_opening_mm

    @property
    def is_nominal(self) -> bool:
        """True without any error, whatever its name."""
        return (self.isocenter_shift_mm, self.rsp_scale, *self.delivery) == ((0.0, 0.0, 0.0), 1.0, 0.0, 0.0, 0.0, 0.0)


NOMINAL: Final = Scenario("nominal")


def require_possible(scenario: Scenario, modality: Modality) -> None:
    """ConfigError when a scenario has an error that beams of this modality do not know."""
    if modality == "photon":
        return
    for what, value in (("collimator", scenario.collimator_deg), ("leaf opening", scenario.leaf_opening_mm)):
        if value != 0.0:
            raise ConfigError(
                f"scenario '{scenario.name}': has a {what} error, but scanned proton beams have no collimator; remove "
                "it, or evaluate a photon plan"
            )
