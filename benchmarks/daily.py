"""Daily images of the demo patient to try the daily evaluation on: plausible ones, and failures it must not trust.

A plausible day ends in a verdict, whichever; a failure ends UNEVALUABLE or in an error. Everything is made lazily, one
image at a time, and is the same every time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from benchmarks.reference import DATA
from cluster.demo.anatomy import GTV_CENTRE
from cluster.demo.conebeam import OUTSIDE_HU, FieldOfView, Look
from cluster.demo.days import DAYS, DaySpec, DemoDay, demo_day, make_day, planning_ct
from cluster.demo.motion import Motion
from cluster.demo.shapes import Triple, ellipsoid, space_of
from doseeng.grid import Grid, Volume
from doseeng.transforms import DisplacementField, voxel_centres

SEED: Final = 20260105
FIRST_DAY: Final = datetime(2026, 1, 5, 8, 0)
LARGEST_SETUP_MM: Final = 15.0
LARGEST_SETUP_DEG: Final = 3.0
LARGEST_DRIFT_MM: Final = 7.0
OESOPHAGUS_XY: Final = (6.0, 37.0)
GAS_HU: Final = -850.0
OFFSET_MM: Final = (40.0, -15.0, 42.0)
"""60 mm in all."""
BIAS_HU: Final = 40.0
FOLD_MM: Final = 20.0
FOLD_PERIOD_MM: Final = 24.0
BUMP_MM: Final = 14.0
"""Worst error of demons on a cone-beam image whose Jacobian was positive everywhere."""
BUMP_SIGMA_MM: Final = 20.0


@dataclass(frozen=True, slots=True, eq=False)
class DailyImage:
    """image: what the scanner shows, in the frame of the day. evaluable: whether a verdict may come of it. truth: what
    is known about it, None for images that are not of the demo patient."""

    name: str
    image: Volume
    evaluable: bool
    truth: DemoDay | None = None


@dataclass(frozen=True, slots=True, eq=False)
class WrongField:
    """A deformation to put in the place of the registration's, treatment -> planning points, on the planning grid."""

    name: str
    day: DemoDay
    pullback: DisplacementField


def plausible_days(count: int = 20) -> Iterator[DailyImage]:
    """Days as clinics have them: setup errors up to 15 mm and 3 degrees, drift, breath, weight, gas, artefacts."""
    for number in range(count):
        rng = np.random.default_rng((SEED, number))
        spec = _plausible_spec(f"plausible-{number + 1:02d}", FIRST_DAY + timedelta(days=number), rng)
        day = make_day(_with_gas(planning_ct(), rng), spec, rng)
        yield DailyImage(day.name, day.cbct, True, day)


def failing_images() -> Iterator[DailyImage]:
    """Images that cannot be trusted, each for its own reason."""
    yield DailyImage("another patient: thorax", _known("lung_known"), False)
    yield DailyImage("another patient: head and neck", _known("hn_known"), False)
    mirrored = Volume(planning_ct().grid, planning_ct().values[:, :, ::-1])
    yield DailyImage("another patient of the same build", make_day(mirrored, DAYS[0], _rng("mirrored")).cbct, False)
    good = demo_day("good")
    view = FieldOfView(GTV_CENTRE, length_mm=150.0)
    far = make_day(planning_ct(), replace(DAYS[0], name="offset", setup_mm=OFFSET_MM, view=view), _rng("offset"))
    yield DailyImage("60 mm offset", far.cbct, False, far)
    short = demo_day("truncated")
    yield DailyImage("60 mm offset, truncated", short.cbct, False, short)
    noise = _rng("empty").normal(OUTSIDE_HU, DAYS[0].look.noise_hu, good.cbct.grid.shape)
    yield DailyImage("empty", Volume(good.cbct.grid, np.rint(np.maximum(noise, -1024.0)).astype(np.float32)), False)
    yield DailyImage("half of the field missing over the target", _half_missing(good.cbct), False, good)
    turned = np.rot90(good.cbct.values, axes=(1, 2))
    yield DailyImage("turned by 90 degrees", Volume(good.cbct.grid, turned), False, good)
    yield DailyImage("40 HU bias", biased(good.cbct, DAYS[0].view, BIAS_HU), False, good)


def wrong_fields() -> Iterator[WrongField]:
    """Deformations of the good day that are wrong around the target: one folds, one looks healthy everywhere."""
    day = demo_day("good")
    grid = day.pullback.grid
    offset = voxel_centres(grid) - np.asarray(GTV_CENTRE)
    near = np.exp(-0.5 * (offset**2).sum(axis=-1) / BUMP_SIGMA_MM**2)
    fold = FOLD_MM * near * np.sin(2.0 * np.pi * offset[..., 0] / FOLD_PERIOD_MM)
    yield WrongField("folded", day, _added(day.pullback, fold, (1.0, 0.0, 0.0)))
    yield WrongField("wrong with a positive Jacobian", day, _added(day.pullback, BUMP_MM * near, (0.0, 0.6, 0.8)))


def biased(scan: Volume, view: FieldOfView, bias_hu: float) -> Volume:
    """A scan whose HU scale is off in the whole field of view, the air around the patient included.

    Soft tissue of cone-beam images is as far off on any day; but their air is air.
    """
    seen = view.radius_mm <= 0.5 * view.diameter_mm
    return Volume(scan.grid, scan.values + np.where(seen, np.float32(bias_hu), np.float32(0.0)))


def _plausible_spec(name: str, acquired: datetime, rng: np.random.Generator) -> DaySpec:
    motion = Motion(
        tumour_mm=_random_vector(rng, LARGEST_DRIFT_MM),
        tumour_growth=rng.uniform(0.95, 1.05),
        breath_mm=rng.uniform(-5.0, 5.0),
        flank_mm=rng.uniform(-5.0, 5.0),
        wave_mm=rng.uniform(0.3, 1.0),
        seed=int(rng.integers(2**31)),
    )
    look = Look(
        gain=rng.uniform(0.93, 1.02),
        offset_hu=rng.uniform(-30.0, 20.0),
        cupping_hu=rng.uniform(30.0, 110.0),
        shading_hu=rng.uniform(5.0, 20.0),
        streak_hu=rng.uniform(10.0, 40.0),
        noise_hu=rng.uniform(15.0, 45.0),
    )
    setup_mm, setup_deg = _random_vector(rng, LARGEST_SETUP_MM), _random_vector(rng, LARGEST_SETUP_DEG)
    # No longer than what the planning CT has to show when the patient is set up wrong.
    view = FieldOfView(GTV_CENTRE, length_mm=rng.uniform(150.0, 170.0))
    return DaySpec(name, acquired, setup_mm, setup_deg, motion, view, look)


def _with_gas(ct: Volume, rng: np.random.Generator) -> Volume:
    """On every other day a bubble in the oesophagus."""
    if rng.random() < 0.5:
        return ct
    centre = (*OESOPHAGUS_XY, rng.uniform(-60.0, 60.0))
    bubble = ellipsoid(space_of(ct.grid), centre, (6.0, 4.5, rng.uniform(8.0, 20.0)))
    share = np.clip(0.5 + bubble / np.float32(ct.grid.spacing_mm[0]), 0.0, 1.0)
    return Volume(ct.grid, ct.values + share * (np.float32(GAS_HU) - ct.values))


def _random_vector(rng: np.random.Generator, largest: float) -> Triple:
    """In any direction, any length up to the largest."""
    x, y, z = rng.uniform(0.0, largest) * Rotation.random(random_state=rng).apply((0.0, 0.0, 1.0))
    return float(x), float(y), float(z)


def _known(name: str) -> Volume:
    """The cone-beam image of a reference patient, its centre where that of the demo patient is."""
    data = np.load(DATA / "registration" / f"{name}.npz")
    values = data["daily_cbct_hu"]
    spacing = tuple(float(s) for s in data["spacing_mm"])
    x, y, z = (-0.5 * step * (n - 1) for step, n in zip(spacing, values.shape[::-1], strict=True))
    return Volume(Grid(values.shape, (spacing[0], spacing[1], spacing[2]), (x, y, z)), values.astype(np.float32))


def _half_missing(image: Volume) -> Volume:
    """Nothing to the right of the target's centre, where two of the beams come in."""
    x = image.grid.origin_mm[0] + image.grid.spacing_mm[0] * np.arange(image.grid.shape[2])
    return Volume(image.grid, np.where(x < GTV_CENTRE[0], np.float32(OUTSIDE_HU), image.values))


def _added(field: DisplacementField, amount: npt.NDArray[np.float64], along: Triple) -> DisplacementField:
    return DisplacementField(field.grid, field.vectors_mm + (amount[..., None] * np.array(along)).astype(np.float32))


def _rng(what: str) -> np.random.Generator:
    return np.random.default_rng((SEED, *what.encode()))
