"""What became of each item of a batch, as plain data for the live table, the result tables and the overview."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from cluster.jobs.model import Job, JobState
from robust.result import Verdict


class Outcome(StrEnum):
    """The word for an item, the most urgent one first."""

    RED = "RED"
    UNEVALUABLE = "UNEVALUABLE"
    FAILED = "FAILED"
    AMBER = "AMBER"
    GREEN = "GREEN"
    DONE = "DONE"
    """Computed, and no verdict asked for (dose)."""
    WAITING = "WAITING"
    """Not ended: the batch was stopped before, or goes on."""


URGENCY: Final = {outcome: place for place, outcome in enumerate(Outcome)}
_MISSED: Final = frozenset({Verdict.RED.value, Verdict.AMBER.value, Verdict.UNEVALUABLE.value})


@dataclass(frozen=True, slots=True)
class GoalResult:
    """One goal of an item. reference: nominal value (adapt: as planned). value: the worst of the scenarios
    (adapt: today's). low, high: the band of its uncertainty. where: the worst scenario. passed_percent: of scenarios
    that meet it."""

    structure: str
    metric: str
    relation: str
    limit: float
    unit: str
    status: str
    reference: float | None
    value: float | None
    low: float | None
    high: float | None
    where: str = ""
    passed_percent: float | None = None
    reason: str = ""

    @property
    def is_missed(self) -> bool:
        """Whether a person must look at it."""
        return self.status in _MISSED


@dataclass(frozen=True, slots=True)
class ItemResult:
    """One item. state: of its job, or "reading" and "failed" before there is one. reasons: of the verdict or error.

    report: file name of its HTML report below the batch's folder, "" where there is none. seconds: from claim to end.
    """

    name: str
    kind: str
    state: str
    outcome: Outcome
    treatment_site: str = ""
    plan: str = ""
    plan_uid: str = ""
    case_key: str = ""
    patient_key: str = ""
    job_id: str = ""
    stage: str = ""
    done: int = 0
    total: int = 0
    seconds: float | None = None
    reasons: tuple[str, ...] = ()
    error: str = ""
    report: str = ""
    goals: tuple[GoalResult, ...] = ()

    @property
    def missed(self) -> int:
        """How many goals are not plainly met."""
        return sum(goal.is_missed for goal in self.goals)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will become of it."""
        return self.outcome is not Outcome.WAITING


def by_urgency(items: Iterable[ItemResult]) -> list[ItemResult]:
    """The most urgent first; of equal outcome those that miss more goals, then by name."""
    return sorted(items, key=lambda item: (URGENCY[item.outcome], -item.missed, item.name))


def failed_item(name: str, kind: str, treatment_site: str, error: str, message: str) -> ItemResult:
    """An item that could not even be read. error: name of its class. message: without identity."""
    return ItemResult(name, kind, "failed", Outcome.FAILED, treatment_site, reasons=(message,), error=error)


def item_of_job(name: str, treatment_site: str, job: Job) -> ItemResult:
    """An item as its job stands now, without what is in the job's artifacts."""
    summary = job.summary or {}
    reasons = tuple(str(reason) for reason in summary.get("reasons", ()))
    return ItemResult(
        name=name,
        kind=job.spec.kind.value,
        state=job.state.value,
        outcome=outcome_of(job),
        treatment_site=treatment_site,
        plan=str(summary.get("plan", "")),
        plan_uid=job.spec.plan_uid,
        case_key=job.case_key,
        patient_key=job.spec.patient_key,
        job_id=job.id,
        stage=job.stage,
        done=job.done,
        total=job.total,
        seconds=_seconds(job),
        reasons=(job.error.message,) if job.error else reasons,
        error=job.error.kind if job.error else "",
    )


def outcome_of(job: Job) -> Outcome:
    """The word for a job."""
    if job.state in (JobState.FAILED, JobState.CANCELLED):
        return Outcome.FAILED
    if job.state is not JobState.DONE:
        return Outcome.WAITING
    return Outcome(job.verdict) if job.verdict else Outcome.DONE


def goals_in(result: dict[str, Any]) -> tuple[GoalResult, ...]:
    """The goals of a "result.json", of an evaluation or of a day; none for a dose."""
    return tuple(_goal(goal) for goal in result.get("goals", ()))


def _goal(goal: dict[str, Any]) -> GoalResult:
    is_day = "planned" in goal
    value = goal["value"] if is_day else goal["worst"]
    return GoalResult(
        structure=goal["structure"],
        metric=goal["metric"],
        relation=goal["relation"],
        limit=float(goal["limit"]),
        unit=goal["unit"],
        status=goal["status"],
        reference=goal["planned"] if is_day else goal["nominal"],
        value=value,
        low=goal["band"]["low"] if is_day else _beside(value, goal["band"], -1.0),
        high=goal["band"]["high"] if is_day else _beside(value, goal["band"], 1.0),
        where="" if is_day else goal["worst_scenario"],
        passed_percent=None if is_day else goal["passed_percent"],
        reason=goal.get("reason") or "",
    )


def _beside(value: float | None, band: float | None, side: float) -> float | None:
    return None if value is None or band is None else value + side * band


def _seconds(job: Job) -> float | None:
    if job.started_at is None:
        return None
    return ((job.finished_at or job.updated_at) - job.started_at).total_seconds()
