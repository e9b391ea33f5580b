"""From doses and contours to the numbers a day is judged by: goal values, the ingredients of their bands, DVHs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from doseeng.case import Case
from doseeng.dvh import DoseSamples, SamplePoints, sample_dose, sample_points
from doseeng.errors import MetricError, Notice, StructureError
from doseeng.grid import Volume
from doseeng.structures import StructureSet
from doseeng.transforms import DisplacementField
from robust.goals import Goal
from robust.measure import NO_VALUE, Measured, dose_band_gy, measure
from robust.result import DvhBand
from robust.statistics import DVH_STEPS, DvhRows

Array = npt.NDArray[np.float64]
Points = Mapping[str, SamplePoints]
"""Sample points by structure name."""

MOST_ORGANS: Final = 12
"""DVHs of at most so many organs without a goal."""
ORGANS: Final = frozenset({"ORGAN", "AVOIDANCE"})
MOST_MOVED: Final = 25_000
"""Points of a structure that are moved: how much a value varies needs fewer than the value itself."""


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What doses are measured by: goals, each with the half-width in Gy of the band of a dose from the engine and from
    the image, and the dose that DVH axes are divided by."""

    goals: tuple[Goal, ...]
    engine_gy: tuple[float, ...]
    image_gy: tuple[float, ...]
    reference_gy: float


def yardstick(case: Case, goals: tuple[Goal, ...], engine_percent: float, image_percent: float) -> Yardstick:
    """Percentages refer to a goal's prescription, or to the plan's largest where it has none (1 Gy without any)."""
    reference_gy = max((p.dose_gy for p in case.plan.prescriptions), default=1.0)

    def half_widths(percent: float) -> tuple[float, ...]:
        return tuple(dose_band_gy(goal, reference_gy, percent) for goal in goals)

    return Yardstick(goals, half_widths(engine_percent), half_widths(image_percent), reference_gy)


def points_in(structures: StructureSet, case: Case, goals: tuple[Goal, ...]) -> tuple[Points, tuple[Notice, ...]]:
    """Sample points of the structures of goals, of all targets and of some organs; what has none is named.

    structures: those of `case`, or the same on today's anatomy.
    """
    asked = dict.fromkeys(goal.structure for goal in goals)
    others = [s for s in case.structures.structures if s.name not in asked and not s.is_empty]
    targets = [s.name for s in others if s.is_target]
    organs = [s.name for s in others if s.kind.upper() in ORGANS][:MOST_ORGANS]
    spacing_mm = case.ct.grid.spacing_mm
    points, notices = {}, []
    for name in (*asked, *targets, *organs):
        try:
            points[name] = sample_points(structures.by_name(name), spacing_mm, spacing_mm[2])
        except StructureError as error:
            notices.append(Notice("structure-without-dvh", name, str(error)))
    return points, tuple(notices)


def samples_in(points: Points, dose: Volume) -> dict[str, DoseSamples]:
    """The dose in each structure; MetricError when it is not finite there."""
    return {name: sample_dose(found, dose) for name, found in points.items()}


def measured(goal: Goal, samples: Mapping[str, DoseSamples], band_gy: float) -> Measured:
    """A goal in one dose; NaN where it has no value, because its structure is empty, outside the dose or too small."""
    if goal.structure not in samples:
        return NO_VALUE
    try:
        return measure(goal, samples[goal.structure], band_gy)
    except MetricError:
        return NO_VALUE


def perturbed_values(
    goals: tuple[Goal, ...], points: Points, dose: Volume, moves: Iterable[DisplacementField]
) -> Array:
    """(n, n_goal) values with the structures of goals moved by each of n displacements, the dose staying where it is.

    A contour that a deformation took to the wrong place is off by that much against the dose of the day. Values are
    those of all points plus what moving some of them changes.
    """
    asked = {name: points[name] for name in dict.fromkeys(goal.structure for goal in goals) if name in points}
    few = {name: _thinned(found) for name, found in asked.items()}

    def values(of: Points) -> Array:
        samples = samples_in(of, dose)
        return np.array([measured(goal, samples, 0.0).value for goal in goals])

    shift = values(asked) - values(few)
    rows = []
    for move in moves:
        moved = {name: replace(p, points_mm=p.points_mm + move.at(p.points_mm)) for name, p in few.items()}
        rows.append(values(moved) + shift)
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(goals))


def dvh_bands(
    planned: Mapping[str, DoseSamples], today: Mapping[str, DoseSamples], reference_gy: float
) -> tuple[DvhBand, ...]:
    """DVHs of two rows, planned and today, of the structures that both have."""
    bands = []
    for name in planned:
        if name in today:
            rows = DvhRows(name, planned[name].volume_cm3, reference_gy / DVH_STEPS)
            rows.add(planned[name])
            rows.add(today[name])
            bands.append(rows.band())
    return tuple(bands)


def _thinned(points: SamplePoints) -> SamplePoints:
    """At most about MOST_MOVED of the points, evenly among them, standing for the same volume."""
    step = max(len(points.points_mm) // MOST_MOVED, 1)
    kept = points.weight_cm3[::step]
    weight = kept * np.float32(points.weight_cm3.sum(dtype=np.float64) / kept.sum(dtype=np.float64))
    return replace(points, points_mm=points.points_mm[::step], weight_cm3=weight)
