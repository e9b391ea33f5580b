"""The value of a goal in one dose, and the band of its uncertainty."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from doseeng.dvh import DoseSamples
from doseeng.errors import MetricError
from doseeng.metrics import evaluate_metric, parse_metric
from robust.goals import Goal


class Measured(NamedTuple):
    """A value and its band, low <= value <= high, in the unit of the goal."""

    value: float
    low: float
    high: float


NO_VALUE: Final = Measured(np.nan, np.nan, np.nan)


def dose_band_gy(goal: Goal, reference_gy: float, dose_uncertainty_percent: float) -> float:
    """Half-width of the band of a dose in Gy: a percentage of the goal's prescription, or else of `reference_gy`."""
    of_gy = goal.prescription_gy if goal.prescription_gy is not None else reference_gy
    return of_gy * dose_uncertainty_percent / 100


def measure(goal: Goal, samples: DoseSamples, band_gy: float) -> Measured:
    """A goal in one dose; MetricError when it has no value there (a volume larger than the structure).

    The band is what the value becomes when all doses change by +-band_gy: as much for a dose, and for a volume a lot
    where the dose falls off steeply, asymmetric at the shoulder of a DVH. A goal with a band of its own has that.
    """
    value = _value(goal, samples)
    if goal.band is not None:
        return Measured(value, value - goal.band, value + goal.band)
    low, high = (_value(goal, replace(samples, dose_gy=samples.dose_gy + np.float32(d))) for d in (-band_gy, band_gy))
    return Measured(value, low, high)


def _value(goal: Goal, samples: DoseSamples) -> float:
    """The value in the unit of the goal."""
    is_volume = parse_metric(goal.metric).kind == "volume"
    name = f"{goal.metric.removesuffix('[cm3]')}[cm3]" if is_volume and goal.unit == "cm3" else goal.metric
    value = evaluate_metric(samples, name, goal.prescription_gy)
    if is_volume or goal.unit == "Gy":
        return value
    if not goal.prescription_gy:
        raise MetricError(f"{goal.name} in {goal.unit}: percent of dose needs a prescription; give prescription_gy")
    return 100 * value / goal.prescription_gy
