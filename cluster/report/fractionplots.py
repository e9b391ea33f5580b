"""Geometry of the plots of a treatment day: limit and band of a goal, path changes, trends, DVHs of plan and today."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np

from cluster.adaptation.result import DayGoal, EarlierDay, PathChange
from cluster.report import plots, text
from cluster.report.plots import Array, Curve, DvhPlot, Tick, round_step
from robust.result import DvhBand, Verdict

WIDTH: Final = 380.0
HEIGHT: Final = 196.0
LEFT: Final = 46.0
RIGHT: Final = 368.0
TOP: Final = 12.0
BOTTOM: Final = 164.0
"""The box of a trend plot in SVG units."""

_PAD: Final = 0.08
_MOST_DATES: Final = 6
"""Dates that fit side by side under a trend plot."""
_LEAST_LABEL_STEP: Final = 45.0
"""SVG units between the middles of two labels there, at least."""
_LEAST_REACH_MM: Final = 3.0
"""Half the width of the axis of path changes, at least: a still patient should look like one."""


@dataclass(frozen=True, slots=True)
class DayBar:
    """Positions in percent of the width: limit, planned value, today's value, ends of its band; None: unknown."""

    limit: float
    planned: float | None
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class PathBar:
    """Positions in percent of the width; 50 is no change."""

    low: float
    high: float
    mean: float
    worst: float


@dataclass(frozen=True, slots=True)
class TrendPoint:
    """One day of a trend, or the plan (status None). y, low, high: SVG positions, None where there is no value."""

    x: float
    y: float | None
    low: float | None
    high: float | None
    status: Verdict | None
    words: str


@dataclass(frozen=True, slots=True)
class Trend:
    """A goal over the evaluated days: points from the plan to today, ticks, the limit and the side that misses it."""

    points: tuple[TrendPoint, ...]
    line: str
    limit: float
    missed: tuple[float, float]
    value_ticks: tuple[Tick, ...]
    date_ticks: tuple[Tick, ...]


@dataclass(frozen=True, slots=True, eq=False)
class DayCurve:
    """A structure in the DVH plot: `curve` is today's with the difference to the plan as its band.

    planned: (n,) volume percent at the doses of the plot; planned_line: its SVG path, "" without values.
    """

    curve: Curve
    planned: Array
    planned_line: str


def day_bar(goal: DayGoal) -> DayBar | None:
    """Where plan, today and today's band lie about the limit; None when neither has a value."""
    values = (goal.planned, goal.value, goal.band.low, goal.band.high)
    known = [v for v in values if math.isfinite(v)]
    if not known:
        return None
    limit = goal.goal.limit
    low, high = min(*known, limit), max(*known, limit)
    pad = _PAD * (high - low) or 1.0

    def at(value: float) -> float:
        return round(100.0 * (value - low + pad) / (high - low + 2 * pad), 2)

    planned, value, band_low, band_high = (at(v) if math.isfinite(v) else None for v in values)
    return DayBar(at(limit), planned, value, band_low, band_high)


def path_reach_mm(changes: Sequence[PathChange]) -> float:
    """Half the width of the common axis of the path changes, mm."""
    sizes = [abs(v) for c in changes for v in _of(c) if math.isfinite(v)]
    return max([_LEAST_REACH_MM, *sizes])


def path_bar(change: PathChange, reach_mm: float) -> PathBar | None:
    """One field on the common axis; None where it has no values."""
    values = _of(change)
    if not all(math.isfinite(v) for v in values):
        return None
    mean, low, high, worst = (round(50.0 + 46.0 * v / reach_mm, 2) for v in values)
    return PathBar(low, high, mean, worst)


def trend(goal: DayGoal, earlier: Sequence[EarlierDay], acquired: datetime) -> Trend:
    """A goal from the plan over the earlier days to today: a step per evaluated day, as on a control chart."""
    name, nan = goal.goal.name, math.nan
    days = [
        (d.acquired, d.values.get(name, nan), d.low.get(name, nan), d.high.get(name, nan), d.statuses.get(name))
        for d in earlier
    ]
    days.append((acquired, goal.value, goal.band.low, goal.band.high, goal.status))
    seen = [goal.planned, goal.goal.limit, *(v for day in days for v in day[1:4])]
    bottom, top, value_ticks = _value_axis([v for v in seen if math.isfinite(v)])
    step = (RIGHT - LEFT) / (len(days) + 1)

    def y(value: float) -> float | None:
        return round(BOTTOM - (BOTTOM - TOP) * (value - bottom) / (top - bottom), 1) if math.isfinite(value) else None

    def x(index: int) -> float:
        return round(LEFT + step * (index + 0.5), 1)

    points = [TrendPoint(x(0), y(goal.planned), None, None, None, f"plan: {text.number(goal.planned)}")]
    for index, (day, value, low, high, status) in enumerate(days, start=1):
        words = f"{day:%Y-%m-%d}: {text.number(value)} ({text.number(low)} to {text.number(high)})"
        points.append(TrendPoint(x(index), y(value), y(low), y(high), status or Verdict.UNEVALUABLE, words))
    limit = BOTTOM - (BOTTOM - TOP) * (goal.goal.limit - bottom) / (top - bottom)
    return Trend(
        points=tuple(points),
        line=_line(points),
        limit=round(limit, 1),
        missed=(round(limit, 1), BOTTOM) if goal.goal.relation == ">=" else (TOP, round(limit, 1)),
        value_ticks=tuple(Tick(round(BOTTOM - (BOTTOM - TOP) * share, 1), label) for share, label in value_ticks),
        date_ticks=_date_ticks([d[0] for d in days], [p.x for p in points]),
    )


def day_curves(bands: tuple[DvhBand, ...], reference_gy: float) -> tuple[DvhPlot, tuple[DayCurve, ...]]:
    """The DVHs of plan and today. bands: two rows each, planned and today."""
    today_first = tuple(DvhBand(b.structure, b.volume_cm3, b.dose_gy, b.volume_percent[::-1]) for b in bands)
    plot = plots.dvh_plot(today_first, reference_gy)
    drawn = [b for b in bands if np.isfinite(b.volume_percent).all(axis=1).any()]
    curves = []
    for band, curve in zip(drawn, plot.curves, strict=True):
        planned = np.interp(plot.dose_gy, band.dose_gy, band.volume_percent[0], right=0.0)
        curves.append(DayCurve(curve, planned, plots.curve_line(plot.dose_gy, planned)))
    return plot, tuple(curves)


def _of(change: PathChange) -> tuple[float, float, float, float]:
    return change.mean_mm, change.p05_mm, change.p95_mm, change.worst_mm


def _value_axis(values: list[float]) -> tuple[float, float, list[tuple[float, str]]]:
    """Ends of an axis about values and its ticks as share of its length and label."""
    low, high = min(values), max(values)
    pad = _PAD * (high - low) or 1.0
    bottom, top = low - pad, high + pad
    step = round_step((top - bottom) / 4)
    at = np.arange(math.ceil(bottom / step), math.floor(top / step) + 1) * step
    return bottom, top, [((t - bottom) / (top - bottom), f"{round(t, 6) + 0.0:g}") for t in at.tolist()]


def _line(points: list[TrendPoint]) -> str:
    """The path through all points that have a value, broken where a day has none."""
    path, pen = "", "M"
    for point in points:
        if point.y is None:
            pen = "M"
            continue
        path += f"{pen}{point.x:g},{point.y:g}"
        pen = "L"
    return path


def _date_ticks(days: list[datetime], at: list[float]) -> tuple[Tick, ...]:
    """The plan and the dates, today's always, as many as fit."""
    last = len(days)
    every = math.ceil(last / _MOST_DATES)
    kept = [i for i in range(1, last + 1) if (last - i) % every == 0 and at[i] - at[0] >= _LEAST_LABEL_STEP]
    return (Tick(at[0], "plan"), *(Tick(at[i], f"{days[i - 1].day} {days[i - 1]:%b}") for i in kept))
