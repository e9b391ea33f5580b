"""A box phantom: a cubic target and an organ beside it in a dose with linear edges, so that all has a formula."""

from collections.abc import Callable

import numpy as np
import pytest

from doseeng.case import Case
from doseeng.dose import Dose, Quantity
from doseeng.grid import Grid, Volume
from doseeng.plan import Plan, Prescription, ProtonBeam
from doseeng.scenario import Scenario
from doseeng.structures import Structure, StructureSet

PRESCRIPTION_GY = 60.0
GRID = Grid((40, 60, 60), (2, 2, 2), (-59, -59, -39))


def box(number: int, name: str, kind: str, x: tuple[float, float], half_mm: float = 20.0) -> Structure:
    """A box from x[0] to x[1] and over +-half_mm in y and z, contoured every 2 mm."""
    corners = [(x[0], -half_mm), (x[1], -half_mm), (x[1], half_mm), (x[0], half_mm)]
    planes = np.arange(-half_mm + 1, half_mm, 2)
    return Structure(number, name, kind, tuple(np.array([(u, v, z) for u, v in corners]) for z in planes))


def make_case(
    prescriptions: tuple[Prescription, ...] = (Prescription(1, PRESCRIPTION_GY),),
    structures: tuple[Structure, ...] | None = None,
) -> Case:
    """CTV: the cube of +-20 mm. Cord: x 30..40 mm. Empty: no contour."""
    one = np.ones(1)
    beam = ProtonBeam(1, "B1", "test", (0, 0, 0), 0, 0, np.zeros((1, 2)), 100 * one, one)
    drawn = structures or (
        box(1, "CTV", "CTV", (-20, 20)),
        box(2, "Cord", "ORGAN", (30, 40)),
        Structure(3, "Empty", "ORGAN", ()),
        box(4, "BODY", "EXTERNAL", (-50, 50), 35),
    )
    return Case(
        "case-1",
        Volume(GRID, np.zeros(GRID.shape, np.float32)),
        StructureSet("S", "1.2.3", "1.2.4", drawn),
        Plan("P", "1.2.5", "HFS", (beam,), prescriptions),
    )


def box_dose(scenario: Scenario) -> Dose:
    """60 Gy up to 21 mm from x = shift, from there falling by 5 % a millimetre: 95 % reach 22 mm."""
    x = GRID.to_patient([(i, 0, 0) for i in range(GRID.shape[2])])[:, 0] - scenario.isocenter_shift_mm[0]
    profile = PRESCRIPTION_GY * np.clip(1 - 0.05 * (np.abs(x) - 21), 0, 1)
    return Dose(Volume(GRID, np.broadcast_to(profile, GRID.shape).astype(np.float32)), Quantity.RBE_WEIGHTED)


@pytest.fixture
def case() -> Case:
    return make_case()


@pytest.fixture
def case_with() -> Callable[..., Case]:
    return make_case


@pytest.fixture
def dose_of() -> Callable[[Scenario], Dose]:
    return box_dose
