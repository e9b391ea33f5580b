"""One day of a course from end to end: its history out of the store, its evaluation, and back into the store."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cluster.adaptation.basis import Basis
from cluster.adaptation.course import Course
from cluster.adaptation.history import history_of, keep
from cluster.adaptation.result import FractionReport
from cluster.adaptation.stages import Progress
from cluster.adaptation.workflow import Evaluated, evaluate_fraction
from doseeng.dicom.day import DayImage
from doseeng.errors import Notice
from robust.result import Verdict


class PackageWhen(StrEnum):
    """When a replan package is written."""

    RED = "red"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True, eq=False)
class DayInCourse:
    """A day that was evaluated. course: with the day in it. notices: about the course, not about the day itself."""

    evaluated: Evaluated
    course: Course
    notices: tuple[Notice, ...]

    @property
    def report(self) -> FractionReport:
        """Of the day."""
        return self.evaluated.report


def evaluate_in_course(
    basis: Basis,
    day: DayImage,
    course: Course,
    *,
    fraction: int | None = None,
    robust: bool = False,
    progress: Progress | None = None,
) -> DayInCourse:
    """Evaluate a day as the next of its course, and keep it there. Errors as `evaluate_fraction` and `store_day`."""
    history, missing = history_of(basis, day, course, fraction)
    evaluated = evaluate_fraction(basis, day, history, robust=robust, progress=progress)
    kept, changed = keep(course, evaluated)
    return DayInCourse(evaluated, kept, (*missing, *changed))


def wants_package(report: FractionReport, when: PackageWhen) -> bool:
    """Whether a day gets a replan package; one that could not be evaluated has nothing to replan on."""
    if report.verdict is Verdict.UNEVALUABLE:
        return False
    return when is PackageWhen.ALWAYS or (when is PackageWhen.RED and report.verdict is Verdict.RED)
