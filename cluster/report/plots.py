"""Geometry of the vector plots: DVH bands and the spread of a goal's values. Pure numbers in, SVG coordinates out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from robust.result import DvhBand, GoalResult

Array = npt.NDArray[np.float64]

WIDTH: Final = 760.0
HEIGHT: Final = 400.0
LEFT: Final = 52.0
RIGHT: Final = 744.0
TOP: Final = 14.0
BOTTOM: Final = 352.0

_SAMPLES: Final = 401
"""Points per curve that the read-out interpolates between: a quarter of a per cent of the dose axis."""
_FLATNESS_PX: Final = 0.15
"""Points nearer than this to the line between their neighbours are left out of a path."""
_TAIL_PERCENT: Final = 0.05
_MARKER_PERCENT: Final = (85.0, 50.0, 15.0)
_LEAST_MARKED_DOSE: Final = 0.01
"""Markers below this share of the dose axis would pile up on it."""
_SPREAD_PAD: Final = 0.08


@dataclass(frozen=True, slots=True)
class Tick:
    """A tick: position in SVG units and its label."""

    at: float
    label: str


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One structure: SVG paths of band, nominal line and every scenario, markers (x, y) and the numbers behind them.

    nominal, lowest, highest: (_SAMPLES,) volume percent at the doses of the plot.
    """

    structure: str
    volume_cm3: float
    band: str
    nominal_line: str
    scenario_lines: tuple[str, ...]
    markers: tuple[tuple[float, float], ...]
    nominal: Array
    lowest: Array
    highest: Array


@dataclass(frozen=True, slots=True, eq=False)
class DvhPlot:
    """All curves on one pair of axes; dose_gy (_SAMPLES,) from 0 to the end of the axis."""

    curves: tuple[Curve, ...]
    dose_gy: Array
    dose_ticks: tuple[Tick, ...]
    volume_ticks: tuple[Tick, ...]

    def x(self, dose_gy: float) -> float:
        """Horizontal SVG position of a dose."""
        return round(LEFT + (RIGHT - LEFT) * dose_gy / float(self.dose_gy[-1]), 2)


@dataclass(frozen=True, slots=True)
class Spread:
    """Positions in percent of the width: limit, all values, the nominal one, the worst one and the end of its band."""

    limit: float
    values: tuple[float, ...]
    nominal: float
    worst: float
    worst_with_band: float


def dvh_plot(bands: tuple[DvhBand, ...], reference_gy: float) -> DvhPlot:
    """DVH bands as SVG geometry; the dose axis reaches beyond the reference and the last dose in any structure.

    Scenarios without values (NaN) are left out of a curve, and structures without any out of the plot.
    """
    last = [reference_gy]
    for band in bands:
        occupied = np.flatnonzero((band.volume_percent > _TAIL_PERCENT).any(axis=0))
        last += [float(band.dose_gy[occupied[-1]])] if len(occupied) else []
    end = 1.04 * max(last)
    dose = np.linspace(0.0, end, _SAMPLES)
    step = round_step(end / 8)
    dose_ticks = tuple(
        Tick(round(LEFT + (RIGHT - LEFT) * t / end, 2), f"{t:g}") for t in np.arange(0.0, end + step / 1e6, step)
    )
    volume_ticks = tuple(Tick(round(float(_y(v)), 2), f"{v:g}") for v in range(0, 101, 20))
    evaluable = [band for band in bands if np.isfinite(band.volume_percent).all(axis=1).any()]
    return DvhPlot(tuple(_curve(band, dose) for band in evaluable), dose, dose_ticks, volume_ticks)


def dose_to_volume(band: DvhBand, volume_percent: float) -> Array:
    """(n_scenario,) dose in Gy that at least `volume_percent` of the structure receives, read from its DVH; NaN where a
    scenario has none."""
    # np.interp wants ascending abscissae; a DVH falls, so it is read backwards.
    doses = [np.interp(volume_percent, row[::-1], band.dose_gy[::-1]) for row in band.volume_percent]
    return np.where(np.isfinite(band.volume_percent).all(axis=1), doses, np.nan)


def mean_dose(band: DvhBand) -> Array:
    """(n_scenario,) mean dose in Gy: the area under the cumulative DVH."""
    return np.asarray(np.trapezoid(band.volume_percent, band.dose_gy, axis=1)) / 100.0


def spread(result: GoalResult) -> Spread | None:
    """Where the values of a goal lie about its limit, or None when a scenario has no value."""
    values, limit = result.values, result.goal.limit
    if not np.all(np.isfinite(values)):
        return None
    worst = float(values[result.worst_index])
    band = result.band if np.isfinite(result.band) else 0.0
    banded = worst + band if worst < limit else worst - band
    low, high = min(*values.tolist(), limit, banded), max(*values.tolist(), limit, banded)
    pad = _SPREAD_PAD * (high - low) or 1.0

    def at(value: float) -> float:
        return round(100.0 * (value - low + pad) / (high - low + 2 * pad), 2)

    return Spread(at(limit), tuple(map(at, values.tolist())), at(float(values[0])), at(worst), at(banded))


def curve_line(dose: Array, volume_percent: Array) -> str:
    """The SVG path of a curve over the dose axis (_SAMPLES,) of a plot; "" where it has no values."""
    if not np.isfinite(volume_percent).all():
        return ""
    return _path(_thinned(LEFT + (RIGHT - LEFT) * dose / dose[-1], _y(volume_percent)))


def _curve(band: DvhBand, dose: Array) -> Curve:
    volume = np.array([np.interp(dose, band.dose_gy, row, right=0.0) for row in band.volume_percent])
    known = volume[np.isfinite(volume).all(axis=1)]
    lowest, highest = known.min(axis=0), known.max(axis=0)
    x = LEFT + (RIGHT - LEFT) * dose / dose[-1]
    upper = _thinned(x, _y(highest))
    lower = _thinned(x, _y(lowest))[::-1]
    nominal = volume[0]
    marks = np.interp(_MARKER_PERCENT, nominal[::-1], dose[::-1])
    return Curve(
        structure=band.structure,
        volume_cm3=band.volume_cm3,
        band=_path(np.concatenate([upper, lower])) + "Z",
        nominal_line=curve_line(dose, nominal),
        scenario_lines=tuple(_path(_thinned(x, _y(row))) for row in known),
        markers=tuple(
            (round(LEFT + (RIGHT - LEFT) * d / dose[-1], 1), round(float(_y(v)), 1))
            for d, v in zip(marks.tolist(), _MARKER_PERCENT, strict=True)
            if d > _LEAST_MARKED_DOSE * dose[-1]
        ),
        nominal=nominal,
        lowest=lowest,
        highest=highest,
    )


def _y(volume_percent: Array | float) -> Array:
    return BOTTOM - (BOTTOM - TOP) * np.asarray(volume_percent, dtype=np.float64) / 100.0


def _thinned(x: Array, y: Array) -> Array:
    """The points (n, 2) of a curve that a polyline needs to stay within _FLATNESS_PX of it."""
    keep = [0]
    for end in range(2, len(x)):
        start = keep[-1]
        between = slice(start + 1, end)
        chord = y[start] + (y[end] - y[start]) * (x[between] - x[start]) / (x[end] - x[start])
        if np.abs(chord - y[between]).max() > _FLATNESS_PX:
            keep.append(end - 1)
    keep.append(len(x) - 1)
    return np.column_stack([x[keep], y[keep]])


def _path(points: Array) -> str:
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)


def round_step(rough: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below `rough`."""
    power = 10.0 ** np.floor(np.log10(rough))
    return float(next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= rough * (1 - 1e-9)))
