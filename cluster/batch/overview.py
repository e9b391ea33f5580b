"""The page of a batch: who needs attention first, with links to the reports of the items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cluster.batch.results import GoalResult, ItemResult, Outcome, by_urgency
from cluster.report import text
from cluster.report.document import render_document, write_document

OUTCOME_MEANING: Final = {
    Outcome.RED: "a goal is missed",
    Outcome.UNEVALUABLE: "no answer, which is no pass",
    Outcome.FAILED: "could not be computed",
    Outcome.AMBER: "a person must decide",
    Outcome.GREEN: "all goals are met",
    Outcome.DONE: "computed, no verdict asked for",
    Outcome.WAITING: "not ended yet",
}
_SHOWN_REASONS: Final = 2


@dataclass(frozen=True, slots=True)
class Filter:
    """A kind of outcome that occurs: its count and its share of all items in percent."""

    outcome: Outcome
    meaning: str
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Row:
    """An item as the page shows it. worst: the goal that is furthest on the wrong side, "" where none is missed."""

    item: ItemResult
    reasons: tuple[str, ...]
    more: tuple[str, ...]
    goals: str
    worst: str
    minutes: str


def write_overview(
    name: str, kind: str, items: Sequence[ItemResult], path: Path, *, written: datetime | None = None, version: str = ""
) -> Path:
    """Write the overview as one HTML file; it links to `ItemResult.report` beside it and needs nothing else.

    The file appears complete or not at all. version: of the code, for the page's foot.
    """
    return write_document(render_overview(name, kind, items, written or datetime.now().astimezone(), version), path)


def render_overview(name: str, kind: str, items: Sequence[ItemResult], written: datetime, version: str) -> str:
    """The page as text, the most urgent item first."""
    ordered = by_urgency(items)
    seconds = sum(item.seconds or 0.0 for item in ordered if item.has_ended)
    values: dict[str, object] = dict(
        name=name,
        kind=kind,
        written=f"{written:%Y-%m-%d %H:%M %Z}".strip(),
        version=version,
        filters=_filters(ordered),
        rows=[_row(item) for item in ordered],
        ended=sum(item.has_ended for item in ordered),
        seconds=duration(seconds),
    )
    return render_document("batch.html.j2", ("report.css", "batch.css"), values)


def duration(seconds: float | None) -> str:
    """A time as people say it: "8.4 s", "3 min 20 s", "2 h 05 min"."""
    if seconds is None:
        return text.NO_VALUE
    if seconds < 60.0:
        return f"{seconds:.1f}{text.NO_BREAK}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}{text.NO_BREAK}h {minutes:02d}{text.NO_BREAK}min"
    return f"{minutes}{text.NO_BREAK}min {rest:02d}{text.NO_BREAK}s"


def _filters(items: Sequence[ItemResult]) -> list[Filter]:
    counts = Counter(item.outcome for item in items)
    return [
        Filter(outcome, OUTCOME_MEANING[outcome], counts[outcome], round(100.0 * counts[outcome] / len(items), 2))
        for outcome in Outcome
        if counts[outcome]
    ]


def _row(item: ItemResult) -> Row:
    missed = [goal for goal in item.goals if goal.is_missed]
    reasons = item.reasons or ((item.stage,) if item.stage else ())
    return Row(
        item=item,
        reasons=reasons[:_SHOWN_REASONS],
        more=reasons[_SHOWN_REASONS:],
        goals=f"{len(item.goals) - len(missed)} of {len(item.goals)}" if item.goals else text.NO_VALUE,
        worst=_worst(missed),
        minutes=duration(item.seconds),
    )


def _worst(missed: Sequence[GoalResult]) -> str:
    if not missed:
        return ""
    goal = max(missed, key=_shortfall)
    relation = "≥" if goal.relation == ">=" else "≤"
    unit = goal.unit.replace("cm3", "cm³")
    value = text.NO_VALUE if goal.value is None else text.against_limit(goal.value, goal.limit)
    return f"{goal.structure} {goal.metric.replace('cm3', 'cm³')} {value}, limit {relation} {goal.limit:g} {unit}"


def _shortfall(goal: GoalResult) -> float:
    """How far a value is beyond its limit, as a share of the limit; what has no value is worst."""
    if goal.value is None:
        return float("inf")
    beyond = goal.limit - goal.value if goal.relation == ">=" else goal.value - goal.limit
    return beyond / abs(goal.limit) if goal.limit else beyond
