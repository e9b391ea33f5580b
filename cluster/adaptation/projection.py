"""The whole course if today's anatomy persists: days so far as they were, fractions to come as today.

Doses of days are carried to the planning CT, where goals are measured on the planned contours; fractions without an
image lie between those that have one (`registration.accumulation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cluster.adaptation.measures import Points, measured, samples_in
from cluster.adaptation.result import DayGoal
from doseeng.grid import Volume
from registration.accumulation import DayDose, Remaining, accumulated


def course_dose(earlier: Sequence[DayDose], today: DayDose, fractions: int, planned: Volume) -> Volume:
    """The dose of the course in Gy on the planning CT, all fractions after today like today.

    earlier: fractions before today's; all doses are course doses on the grid of `planned`. PlanError for a fraction
    that repeats, lies outside the course or after today; GeometryError for doses on another grid.
    """
    return accumulated((*earlier, today), fractions, planned, delivered=today.fraction, remaining=Remaining.AS_LATEST)


def with_course(goals: Sequence[DayGoal], course: Volume, points: Points) -> tuple[DayGoal, ...]:
    """The goals with their values in the dose of the course. points: planned structures on the planning CT."""
    asked = {day.goal.structure for day in goals}
    samples = samples_in({name: found for name, found in points.items() if name in asked}, course)
    return tuple(replace(day, course=measured(day.goal, samples, 0.0).value) for day in goals)
