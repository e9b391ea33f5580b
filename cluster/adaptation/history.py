"""A day's place in the course store: what came before it, and keeping what was found."""

from __future__ import annotations

from cluster.adaptation.basis import Basis
from cluster.adaptation.course import Course, CourseDay, as_earlier, course_day, day_dose, days_before, store_day
from cluster.adaptation.workflow import Evaluated, History
from doseeng.dicom.day import DayImage
from doseeng.errors import ConfigError, Notice
from registration.accumulation import DayDose


def history_of(
    basis: Basis, day: DayImage, course: Course, fraction: int | None = None
) -> tuple[History, tuple[Notice, ...]]:
    """What the store holds of the days before this one. fraction: this day's number, None for the next one.

    A dose that is damaged or on another grid than the plan's is left out of the course with a notice.
    """
    before = days_before(course, day.acquired)
    numbers = _numbers(before)
    doses, notices = [], []
    for number, stored in zip(numbers, before, strict=True):
        try:
            dose = day_dose(course, stored)
        except ConfigError as error:
            notices.append(Notice("day-without-dose", f"{stored.acquired:%Y-%m-%d}", str(error)))
            continue
        if dose is None:
            continue
        if not dose.grid.is_same(basis.prepared.grid):
            message = "its stored dose is on another grid than the plan's now and is left out of the course"
            notices.append(Notice("day-on-other-grid", f"{stored.acquired:%Y-%m-%d}", f"{message}; evaluate it again"))
            continue
        doses.append(DayDose(number, dose))
    own = fraction if fraction is not None else max(numbers, default=0) + 1
    return History(own, tuple(map(as_earlier, before)), tuple(doses)), tuple(notices)


def keep(course: Course, evaluated: Evaluated) -> tuple[Course, tuple[Notice, ...]]:
    """The course with a day in it, and notices of what that replaced and of later days that were judged before it."""
    report = evaluated.report
    stored = store_day(course, course_day(report), evaluated.carried)
    later = [day for day in stored.days if day.acquired > report.acquired]
    notices = tuple(n for n in stored.notices if n not in course.notices)
    if later:
        message = f"{len(later)} later days were evaluated before this one; evaluate them again to count it in"
        notices += (Notice("later-days", f"{report.acquired:%Y-%m-%d}", message),)
    return stored, notices


def _numbers(days: tuple[CourseDay, ...]) -> list[int]:
    """Fraction numbers as they were given, in order; a number that does not rise is the next one."""
    numbers: list[int] = []
    for day in days:
        numbers.append(max(day.fraction, numbers[-1] + 1 if numbers else 1))
    return numbers
