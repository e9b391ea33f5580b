"""The dose of a whole course from the days that were imaged, and how sure it is.

Doses of days are course doses on the planning CT: Gy as if every fraction were that day's. The course is their weighted
mean over fractions. A fraction without an image lies between imaged ones and takes their doses, linear in the fraction
number; before the first and after the last imaged day it takes the nearest one's.

The uncertainty of deformations is carried by perturbing them: smooth random fields of known size and correlation
length are added, and the same dose is carried through each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from doseeng.dvh import SamplePoints, sample_dose
from doseeng.errors import GeometryError, PlanError, RegistrationError
from doseeng.grid import Grid, Volume, resample, resampled_grid
from doseeng.metrics import evaluate_metric
from doseeng.transforms import DisplacementField
from registration.dosewarp import direct

Array = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

STEPS_PER_CORRELATION: Final = 4.0
"""Random fields are drawn on a lattice this much finer than their correlation length, and are linear between."""
CUT_SIGMAS: Final = 4.0
STEEPEST: Final = 0.25
"""SD over correlation length is the SD of each derivative of a random field; one of -1, a fold, lies four SD off."""


class Remaining(StrEnum):
    """What the fractions to come are taken to be."""

    PLANNED = "planned"
    AS_LATEST = "as-latest"


@dataclass(frozen=True, slots=True, eq=False)
class DayDose:
    """The course dose of one imaged fraction (counted from 1) on the planning CT, Gy as if every fraction were it."""

    fraction: int
    dose: Volume


@dataclass(frozen=True, slots=True)
class CourseWeights:
    """For how many fractions each imaged day stands, in the order given, and the plan; their sum is the course."""

    days: tuple[float, ...]
    planned: float


@dataclass(frozen=True, slots=True, eq=False)
class DoseSpread:
    """Mean and standard deviation (of a sample, n - 1) per voxel in Gy over `count` perturbed deformations."""

    mean: Volume
    std: Volume
    count: int


def course_weights(
    imaged: Sequence[int],
    fractions_total: int,
    delivered: int | None = None,
    remaining: Remaining = Remaining.PLANNED,
) -> CourseWeights:
    """How many fractions each imaged one stands for.

    imaged: fraction numbers from 1, each once, in any order. delivered: fractions given so far, by default up to the
    last imaged one. PlanError for numbers that repeat, lie outside the course, or were not delivered.
    """
    last = max(imaged, default=0)
    given = last if delivered is None else delivered
    _require_course(imaged, fractions_total, given)
    if not imaged:
        return CourseWeights((), float(fractions_total))
    order = np.argsort(imaged)
    known = np.asarray(imaged, dtype=np.float64)[order]
    fractions = np.arange(1, given + 1)
    weights = np.empty(len(known))
    for place, day in enumerate(order):
        # Linear interpolation of a hat: the share of each fraction that this day gives.
        weights[day] = np.interp(fractions, known, np.eye(len(known))[place]).sum()
    rest = float(fractions_total - given)
    if remaining is Remaining.AS_LATEST:
        weights[order[-1]] += rest
        rest = 0.0
    return CourseWeights(tuple(map(float, weights)), rest)


def accumulated(
    days: Sequence[DayDose],
    fractions_total: int,
    planned: Volume,
    delivered: int | None = None,
    remaining: Remaining = Remaining.PLANNED,
) -> Volume:
    """The dose of the whole course in Gy on the planning CT.

    planned: the planned course dose, for fractions to come (Remaining.PLANNED) and for a course without images. All on
    one grid, else GeometryError. For delivered and PlanError see `course_weights`.

    With standard deviations in place of doses (and zeros planned) it gives the standard deviation of the course when
    the errors of all days go together, its upper bound: the same registration on the same anatomy errs alike.
    """
    weights = course_weights([day.fraction for day in days], fractions_total, delivered, remaining)
    total = planned.values * np.float64(weights.planned / fractions_total)
    for day, weight in zip(days, weights.days, strict=True):
        if not day.dose.grid.is_same(planned.grid):
            raise GeometryError(
                f"the dose of fraction {day.fraction} has grid {day.dose.grid.shape}, the planned dose "
                f"{planned.grid.shape} elsewhere; carry all doses to one grid of the planning CT"
            )
        total += day.dose.values * (weight / fractions_total)
    return Volume(planned.grid, total.astype(np.float32))


def perturbed_fields(
    field: DisplacementField,
    sigma_mm: float | Volume,
    correlation_mm: float,
    rng: np.random.Generator,
    count: int,
) -> Iterator[DisplacementField]:
    """`count` times the field plus a smooth random one, on the field's grid.

    Each component of the random field is Gaussian with zero mean, standard deviation sigma_mm (a number, or a Volume of
    them, 0 outside it) and correlation exp(-r^2 / (2 correlation_mm^2)); components are independent. RegistrationError
    when sigma_mm exceeds a quarter of correlation_mm: such fields fold.
    """
    sigma = sigma_mm if isinstance(sigma_mm, float | int) else resample(sigma_mm, field.grid, 0.0).values
    largest, least = float(np.max(sigma)), float(np.min(sigma))
    if not (correlation_mm > 0 and least >= 0 and largest <= STEEPEST * correlation_mm):
        raise RegistrationError(
            f"perturbed deformations: expected 0 <= sigma <= {STEEPEST} x correlation length, found sigma up to "
            f"{largest:.2f} mm (least {least:.2f}) and {correlation_mm:.2f} mm; a rougher field folds"
        )
    size = np.asarray(sigma, dtype=np.float32)[..., None]
    return (_perturbed(field, size, correlation_mm, rng) for _ in range(count))


def dose_spread(dose: Volume, to_dose: Iterable[DisplacementField], grid: Grid | None = None) -> DoseSpread:
    """Per voxel of `grid` (planning frame, by default the dose's) how a dose varies with the deformation.

    dose: of the day, treatment frame. to_dose: perturbed pushforwards (planning -> treatment), at least two, else
    RegistrationError. Doses are carried by direct mapping.
    """
    target = grid or dose.grid
    count, mean, squares = 0, np.zeros(target.shape), np.zeros(target.shape)
    for field in to_dose:
        values = direct(dose, field, target).values
        count += 1
        # Welford, Technometrics 4 (1962) 419.
        difference = values - mean
        mean += difference / count
        squares += difference * (values - mean)
    if count < 2:
        raise RegistrationError(f"the spread of a dose needs at least two deformations, found {count}")
    std = np.sqrt(squares / (count - 1))
    return DoseSpread(Volume(target, mean.astype(np.float32)), Volume(target, std.astype(np.float32)), count)


def metric_samples(
    dose: Volume,
    to_dose: Iterable[DisplacementField],
    points: SamplePoints,
    metrics: Sequence[str],
    prescription_gy: float | None = None,
) -> Array:
    """(deformations, metrics) DVH metrics of a planned structure in the dose of a day.

    points: of the planned structure, planning frame, each keeping its planned volume; to_dose: perturbed pushforwards.
    Metrics are names of `doseeng.metrics`; MetricError where one has no value.
    """
    rows = []
    for field in to_dose:
        moved = field.apply(points.points_mm).astype(np.float32)
        samples = sample_dose(SamplePoints(points.structure, moved, points.weight_cm3, points.volume_cm3), dose)
        rows.append([evaluate_metric(samples, name, prescription_gy) for name in metrics])
    return np.asarray(rows, dtype=np.float64).reshape(-1, len(metrics))


def _require_course(imaged: Sequence[int], fractions_total: int, delivered: int) -> None:
    if fractions_total < 1 or not 0 <= delivered <= fractions_total:
        raise PlanError(f"{delivered} fractions delivered of a course of {fractions_total}: expected 0 to the course")
    repeated = sorted({n for n in imaged if list(imaged).count(n) > 1})
    if repeated:
        raise PlanError(f"fraction {repeated[0]} is given twice; keep one image of each fraction")
    wrong = [n for n in imaged if not 1 <= n <= delivered]
    if wrong:
        raise PlanError(
            f"fraction {wrong[0]} has an image, but fractions 1 to {delivered} were delivered (course of "
            f"{fractions_total}); correct the fraction number or the number delivered"
        )


def _perturbed(
    field: DisplacementField, sigma_mm: Float32, correlation_mm: float, rng: np.random.Generator
) -> DisplacementField:
    lattice = _lattice(field.grid, correlation_mm)
    components = [resample(_unit_noise(lattice, correlation_mm, rng), field.grid, 0.0).values for _ in range(3)]
    return DisplacementField(field.grid, field.vectors_mm + sigma_mm * np.stack(components, axis=-1))


def _lattice(grid: Grid, correlation_mm: float) -> Grid:
    """A lattice that covers the grid and is coarser where the correlation allows."""
    x, y, z = (max(s, correlation_mm / STEPS_PER_CORRELATION) for s in grid.spacing_mm)
    inner = resampled_grid(grid, (x, y, z))
    nz, ny, nx = inner.shape
    first = inner.to_patient((-1.0, -1.0, -1.0))
    return Grid((nz + 2, ny + 2, nx + 2), (x, y, z), (first[0], first[1], first[2]), grid.direction)


def _unit_noise(lattice: Grid, correlation_mm: float, rng: np.random.Generator) -> Volume:
    """Gaussian noise of unit variance and correlation exp(-r^2 / (2 correlation_mm^2)).

    White noise blurred by a Gaussian of SD s has the correlation exp(-r^2 / (4 s^2)).
    """
    blur = correlation_mm / np.sqrt(2.0) / np.asarray(lattice.spacing_mm)[::-1]
    pad = np.ceil(CUT_SIGMAS * blur).astype(int)
    noise = rng.standard_normal(np.asarray(lattice.shape) + 2 * pad, dtype=np.float32)
    smooth = gaussian_filter(noise, blur, truncate=CUT_SIGMAS)
    inner = smooth[tuple(slice(p, len_ - p) for p, len_ in zip(pad, smooth.shape, strict=True))]
    return Volume(lattice, inner / np.float32(np.sqrt(np.prod([_squares(b) for b in blur]))))


def _squares(blur: float) -> float:
    """Variance that one axis of a Gaussian blur leaves of white noise."""
    reach = int(CUT_SIGMAS * blur + 0.5)
    weight = np.exp(-0.5 * (np.arange(-reach, reach + 1) / blur) ** 2)
    return float((weight**2).sum() / weight.sum() ** 2)
