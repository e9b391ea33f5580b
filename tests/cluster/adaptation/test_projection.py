"""Course doses and values of goals against arithmetic on a dose with a straight edge."""

import numpy as np
import pytest

from cluster.adaptation.judge import GoalMeasures, judge_goal
from cluster.adaptation.measures import dvh_bands, measured, perturbed_values, points_in, samples_in, yardstick
from cluster.adaptation.projection import course_dose, with_course
from doseeng.case import Case
from doseeng.errors import PlanError
from doseeng.grid import Grid, Volume
from doseeng.plan import Plan, Prescription, ProtonBeam
from doseeng.structures import Structure, StructureSet
from doseeng.transforms import DisplacementField
from registration.accumulation import DayDose
from robust.goals import Goal
from robust.measure import Measured

GRID = Grid((30, 30, 30), (2.0, 2.0, 2.0), (-29.0, -29.0, -29.0))
MEAN = Goal("CTV", "Dmean", ">=", 55.0, "Gy", 60.0)
COVER = Goal("CTV", "V95%", ">=", 95.0, "%", 60.0)
ABSENT = Goal("Nowhere", "Dmean", "<=", 10.0, "Gy")


def cube(number: int, name: str, kind: str, half_mm: float) -> Structure:
    square = half_mm * np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])
    planes = np.arange(-half_mm + 1.0, half_mm, 2.0)
    return Structure(number, name, kind, tuple(np.column_stack([square, np.full(4, z)]) for z in planes))


@pytest.fixture
def case() -> Case:
    one = np.ones(1)
    beam = ProtonBeam(1, "B", "m", (0.0, 0.0, 0.0), 0.0, 0.0, np.zeros((1, 2)), 100 * one, one, fractions=30)
    empty = Structure(3, "Nowhere", "ORGAN", ())
    drawn = (cube(1, "CTV", "CTV", 10.0), cube(2, "BODY", "EXTERNAL", 28.0), empty)
    plan = Plan("P", "1.2.5", "HFS", (beam,), (Prescription(1, 60.0),))
    return Case("c", Volume(GRID, np.zeros(GRID.shape)), StructureSet("S", "1.2.3", "1.2.4", drawn), plan)


def uniform(dose_gy: float) -> Volume:
    return Volume(GRID, np.full(GRID.shape, dose_gy))


def up_to(edge_mm: float) -> Volume:
    """60 Gy where x < edge, falling to 0 within the two voxels beyond."""
    x = GRID.to_patient([(i, 0, 0) for i in range(30)])[:, 0]
    return Volume(GRID, np.broadcast_to(60.0 * np.clip(1.0 - (x - edge_mm) / 4.0, 0.0, 1.0), GRID.shape))


def test_days_so_far_and_the_rest_as_today(case: Case) -> None:
    earlier = (DayDose(1, uniform(60.0)), DayDose(2, uniform(48.0)))
    course = course_dose(earlier, DayDose(3, uniform(54.0)), 30, uniform(60.0))
    assert float(course.values.mean()) == pytest.approx((60.0 + 48.0 + 28 * 54.0) / 30)
    day = judge_goal(GoalMeasures(MEAN, Measured(60, 60, 60), Measured(54, 54, 54), np.zeros(0), np.zeros(0)))
    (found,) = with_course((day,), course, points_in(case.structures, case, (MEAN,))[0])
    assert found.course == pytest.approx((60.0 + 48.0 + 28 * 54.0) / 30, rel=1e-5)
    assert found.value == 54


def test_a_day_without_image_lies_between_its_neighbours() -> None:
    course = course_dose((DayDose(1, uniform(60.0)),), DayDose(3, uniform(40.0)), 3, uniform(60.0))
    assert float(course.values.mean()) == pytest.approx(50.0)


def test_a_fraction_that_repeats_or_exceeds_the_course_is_refused() -> None:
    with pytest.raises(PlanError, match="twice"):
        course_dose((DayDose(2, uniform(60.0)),), DayDose(2, uniform(60.0)), 30, uniform(60.0))
    with pytest.raises(PlanError, match="course of 30"):
        course_dose((), DayDose(31, uniform(60.0)), 30, uniform(60.0))


def test_structures_of_goals_targets_and_organs_are_sampled_and_an_empty_one_is_named(case: Case) -> None:
    points, notices = points_in(case.structures, case, (ABSENT,))
    assert list(points) == ["CTV"]
    assert [n.where for n in notices] == ["Nowhere"]
    assert np.isnan(measured(ABSENT, samples_in(points, uniform(1.0)), 1.0).value)


def test_percent_of_dose_refers_to_the_prescription(case: Case) -> None:
    organ = Goal("Cord", "Dmean", "<=", 10.0, "Gy")
    boost = Goal("CTV", "Dmean", ">=", 40.0, "Gy", 40.0)
    found = yardstick(case, (organ, boost), 1.0, 2.0)
    assert found.engine_gy == pytest.approx((0.6, 0.4))
    assert found.image_gy == pytest.approx((1.2, 0.8))


def test_moving_the_target_over_the_edge_of_the_dose_costs_the_volume_it_moves_by(case: Case) -> None:
    points, _ = points_in(case.structures, case, (COVER, MEAN, ABSENT))
    still, across = np.zeros((*GRID.shape, 3)), np.zeros((*GRID.shape, 3))
    across[..., 0] = 4.0
    moves = [DisplacementField(GRID, vectors.astype(np.float32)) for vectors in (still, across)]
    # The dose falls by 15 Gy a millimetre from 11 mm, so that 95 % reach 11.2 mm; the moved target reaches 14 mm.
    found = perturbed_values((COVER, MEAN, ABSENT), points, up_to(11.0), moves)
    assert found.shape == (2, 3)
    assert found[:, 0] == pytest.approx([100.0, 100.0 * 17.2 / 20.0], abs=0.5)
    assert found[1, 1] == pytest.approx(60.0 - 15.0 * 3.0**2 / 2 / 20.0, abs=0.1)
    assert np.isnan(found[:, 2]).all()


def test_dvhs_have_a_row_for_the_plan_and_one_for_today(case: Case) -> None:
    points, _ = points_in(case.structures, case, (COVER,))
    planned, today = (samples_in(points, uniform(d)) for d in (60.0, 30.0))
    (band,) = dvh_bands(planned, today, 60.0)
    assert band.structure == "CTV"
    at = np.searchsorted(band.dose_gy, 45.0)
    assert list(band.volume_percent[:, at]) == [100.0, 0.0]
    assert band.volume_cm3 == pytest.approx(8.0, rel=1e-3)
