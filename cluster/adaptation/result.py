"""What a fraction's evaluation found, as plain data; report, JSON, course store and exit code are made from this."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from doseeng.dose import Dose
from doseeng.errors import Notice
from doseeng.grid import Volume
from doseeng.structures import StructureSet
from doseeng.waterpath import PathChange
from registration.result import DayRegistration, GateResult
from robust.goals import Goal
from robust.result import DvhBand, RobustReport, Verdict


class ImageMethod(StrEnum):
    """Which image the dose of the day is computed on."""

    VIRTUAL_CT = "virtual-ct"
    CORRECTED = "corrected"
    AS_IS = "as-is"


@dataclass(frozen=True, slots=True)
class Band:
    """Half-widths of the uncertainty of a goal's value, in its unit, each >= 0, and NaN where not assessed.

    image: between the methods that make an image for dose; registration: between perturbed deformations; dose: of the
    dose engine (and statistics). low, high: the whole band around the value, low <= value <= high.
    """

    image: float
    registration: float
    dose: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class DayGoal:
    """One goal on one day.

    planned: value on the planning CT by this engine. value: with the whole course given as today. band: its
    uncertainty. status, reason: the verdict of this goal alone. accepted_in_plan: the plan itself missed the limit, so
    the day is judged against the planned value. course: value of the accumulated course if today's anatomy persists.
    """

    goal: Goal
    planned: float
    value: float
    band: Band
    status: Verdict
    reason: str
    accepted_in_plan: bool = False
    course: float = float("nan")


@dataclass(frozen=True, slots=True)
class StructureChange:
    """How one structure changed from planning to today. shift_mm: centroid, patient x, y, z, today - planned."""

    structure: str
    planned_cm3: float
    today_cm3: float
    shift_mm: tuple[float, float, float]
    mean_surface_mm: float
    dice: float


@dataclass(frozen=True, slots=True)
class EarlierDay:
    """A fraction evaluated before, as the course store keeps it: what trends are drawn from.

    values, low, high: by goal name (Goal.name). statuses likewise.
    """

    acquired: datetime
    series_uid: str
    verdict: Verdict
    values: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    statuses: dict[str, Verdict]


@dataclass(frozen=True, slots=True, eq=False)
class FractionReport:
    """The whole answer for one day.

    image_method: of `image`, the CT that today's dose was computed on (treatment frame, HU). structures: the planned
    contours on today's anatomy. planned_dose, dose: course doses on the planning CT and as if every fraction were
    today's. bands: DVHs, two rows each: planned, today. gates: all quality gates, failed ones make the verdict
    UNEVALUABLE. path_changes: the pre-screen. earlier: days before this one, oldest first. robust: residual setup and
    range scenarios on today's image, None unless asked. seconds: wall time by stage, in order. verdict_alone: the
    verdict of this day without the rule of two AMBERs in a row.
    """

    case_key: str
    plan_label: str
    acquired: datetime
    series_uid: str
    fraction: int
    fractions: int
    verdict: Verdict
    verdict_alone: Verdict
    reasons: tuple[str, ...]
    goals: tuple[DayGoal, ...]
    gates: tuple[GateResult, ...]
    path_changes: tuple[PathChange, ...]
    structure_changes: tuple[StructureChange, ...]
    couch_shift_mm: tuple[float, float, float]
    couch_rotation_deg: float
    residual_rotation_deg: float
    image_method: ImageMethod
    earlier: tuple[EarlierDay, ...] = ()
    registration: DayRegistration | None = None
    image: Volume | None = None
    structures: StructureSet | None = None
    planned_dose: Dose | None = None
    dose: Dose | None = None
    bands: tuple[DvhBand, ...] = ()
    robust: RobustReport | None = None
    notices: tuple[Notice, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, object] = field(default_factory=dict)
