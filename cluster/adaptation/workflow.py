"""From a day's image to its report: one function per stage, timed, in this order.

    register          the image brought to the planning CT: couch, residual anatomy
    image for dose    virtual CT and corrected image; today's dose is computed on one, the other tells how sure it is
    contours          the planned structures on today's anatomy
    pre-screen        water-equivalent path to the far edge of the target, field by field
    dose today        on that image, as if the whole course were given so
    goals             values, their bands, DVHs
    gates             what must hold for any of it to be trusted
    course            the dose carried to the planning CT, and the whole course if today's anatomy persists
    robust            only when asked: residual setup and range errors on today's image

The plan's own dose is no stage: `cluster.adaptation.basis` makes it once for all days.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from cluster.adaptation.basis import Basis, main_target
from cluster.adaptation.gates import couch_shift_mm, day_gates, residual_rotation_deg
from cluster.adaptation.judge import GoalMeasures, judge_goal, last_evaluable, not_trusted, overall
from cluster.adaptation.measures import dvh_bands, measured, perturbed_values, points_in, samples_in
from cluster.adaptation.projection import course_dose, with_course
from cluster.adaptation.result import DayGoal, EarlierDay, FractionReport, ImageMethod, StructureChange
from cluster.adaptation.stages import Progress, Stages
from doseeng.dicom.day import DayImage
from doseeng.dose import Dose
from doseeng.dvh import DoseSamples
from doseeng.engine import Prepared, scenario_dose
from doseeng.errors import GeometryError, Notice, RegistrationError, StructureError
from doseeng.grid import Grid, Volume, resampled_grid
from doseeng.materials import densities
from doseeng.scenario import NOMINAL
from doseeng.structures import StructureSet
from doseeng.transforms import DisplacementField
from doseeng.waterpath import PathChange, path_changes
from registration import contours, dayimage, pipeline
from registration.accumulation import STEPS_PER_CORRELATION, DayDose, course_weights, perturbed_fields
from registration.couch import Couch
from registration.dosewarp import direct, energy_mass
from registration.result import DayRegistration, GateResult
from robust.evaluate import Settings, evaluate
from robust.result import DvhBand, RobustReport, Verdict
from robust.scenarios import DEFAULT_SET, scenario_set

STAGES: Final = ("register", "image for dose", "contours", "pre-screen", "dose today", "goals", "gates", "course")
SEED: Final = 20250101
"""Of the random deformations: the same for all days, so that a change between days is one of the patient."""


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """Where a day stands in its course.

    fraction: its number, from 1. earlier: the days before it, oldest first. doses: theirs carried to the planning CT,
    on the grid of the plan's dose.
    """

    fraction: int
    earlier: tuple[EarlierDay, ...] = ()
    doses: tuple[DayDose, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Evaluated:
    """A day's report, and its dose carried to the planning CT for the course; None when it could not be evaluated."""

    report: FractionReport
    carried: Volume | None


@dataclass(frozen=True, slots=True, eq=False)
class _Anatomy:
    """Today as the engine sees it, before any dose. other: the image made the other way, None where there is none."""

    prepared: Prepared
    structures: StructureSet
    other: Volume | None
    changes: tuple[StructureChange, ...]
    path_changes: tuple[PathChange, ...]
    notices: tuple[Notice, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Measures:
    goals: tuple[DayGoal, ...]
    samples: dict[str, DoseSamples]
    bands: tuple[DvhBand, ...]
    notices: tuple[Notice, ...]


def evaluate_fraction(
    basis: Basis, day: DayImage, history: History, *, robust: bool = False, progress: Progress | None = None
) -> Evaluated:
    """The report of one day.

    robust: also over residual setup and range errors on today's image. An image that cannot be registered gives an
    UNEVALUABLE report with the reason. PlanError for a fraction number outside the course or not after those of
    earlier days; otherwise errors as of the engine.
    """
    # Asked before anything is computed: a wrong number would end the work after minutes.
    course_weights([*(d.fraction for d in history.doses), history.fraction], basis.fractions, history.fraction)
    stages = Stages(len(STAGES) + robust, progress)
    blank = _blank(basis, day, history, stages)
    try:
        with stages.stage("register"):
            registration = _register(basis, day, stages)
    except RegistrationError as error:
        return Evaluated(_not_registered(blank, str(error)), None)
    anatomy = _anatomy(basis, registration, stages)
    with stages.stage("dose today"):
        dose = scenario_dose(anatomy.prepared)
        other = None if anatomy.other is None else scenario_dose(_prepared_on(basis, anatomy.other, anatomy.structures))
    with stages.stage("goals"):
        measures = _measure(basis, anatomy.structures, dose, other, last_evaluable(history.earlier))
    with stages.stage("gates"):
        gates = (
            *basis.gates,
            *day_gates(basis, registration, anatomy.structures, day.daily_structures, dose, measures.samples),
        )
    with stages.stage("course"):
        carried = _carried(basis, registration, anatomy.prepared.case.ct, dose.volume)
        course = course_dose(history.doses, DayDose(history.fraction, carried), basis.fractions, basis.dose.volume)
        goals = with_course(measures.goals, course, basis.points)
    robustness = None
    if robust:
        with stages.stage("robust"):
            robustness = _robustness(basis, anatomy.prepared, dose)
    verdict, alone, reasons = overall(goals, basis.planned, gates, history.earlier)
    if not all(gate.passed for gate in gates):
        goals = not_trusted(goals)
    if robustness is not None:
        reasons += (f"With residual setup and range errors: {robustness.verdict.value}. {robustness.reasons[0]}",)
    notices = (*blank.notices, *registration.notices, *anatomy.notices, *measures.notices)
    report = replace(
        _with_anatomy(blank, basis, registration, anatomy),
        verdict=verdict,
        verdict_alone=alone,
        reasons=reasons,
        goals=goals,
        gates=gates,
        dose=dose,
        bands=measures.bands,
        robust=robustness,
        notices=tuple(dict.fromkeys(notices)),
    )
    return Evaluated(report, carried if verdict is not Verdict.UNEVALUABLE else None)


def _blank(basis: Basis, day: DayImage, history: History, stages: Stages) -> FractionReport:
    """The report as far as it is known before anything is done: UNEVALUABLE."""
    return FractionReport(
        case_key=basis.case.key,
        plan_label=basis.case.plan.label,
        acquired=day.acquired,
        series_uid=day.series.context.series_uid,
        fraction=history.fraction,
        fractions=basis.fractions,
        verdict=Verdict.UNEVALUABLE,
        verdict_alone=Verdict.UNEVALUABLE,
        reasons=(),
        goals=(),
        gates=basis.gates,
        path_changes=(),
        structure_changes=(),
        couch_shift_mm=(np.nan, np.nan, np.nan),
        couch_rotation_deg=np.nan,
        residual_rotation_deg=np.nan,
        image_method=basis.settings.image_method,
        earlier=history.earlier,
        planned_dose=basis.dose,
        notices=(*basis.notices, *day.notices),
        seconds=stages.seconds,
        provenance={
            **basis.prepared.provenance,
            "day": {
                "series_uid": day.series.context.series_uid,
                "acquired": day.acquired.isoformat(),
                "image_sha256": hashlib.sha256(day.series.volume.values.tobytes()).hexdigest(),
            },
            "adaptation": {**basis.settings.model_dump(mode="json"), "seed": SEED},
        },
    )


def _with_anatomy(
    blank: FractionReport, basis: Basis, registration: DayRegistration, anatomy: _Anatomy
) -> FractionReport:
    """The report with what was found of the patient before any dose."""
    return replace(
        blank,
        path_changes=anatomy.path_changes,
        structure_changes=anatomy.changes,
        couch_shift_mm=couch_shift_mm(registration, basis.isocenter_mm),
        couch_rotation_deg=registration.couch.angle_deg,
        residual_rotation_deg=residual_rotation_deg(registration),
        registration=registration,
        image=anatomy.prepared.case.ct,
        structures=anatomy.structures,
    )


def _register(basis: Basis, day: DayImage, stages: Stages) -> DayRegistration:
    """By the clinic's own rigid registration where it was exported along: the couch was moved by it."""
    largest_deg = basis.settings.couch_rotation_deg if basis.settings.couch == "six-dof" else 0.0
    return pipeline.register_day(
        basis.case.ct,
        day.series.volume,
        basis.isocenter_mm,
        couch=Couch(largest_deg),
        progress=lambda done, total: stages.step(f"register: deformation {done} of {total}"),
        rigid=day.registration,
    )


def _carried(basis: Basis, registration: DayRegistration, image: Volume, dose: Volume) -> Volume:
    """The day's dose on the planning CT, on the grid of the plan's dose."""
    grid, pushforward = basis.dose.volume.grid, registration.pushforward
    if basis.settings.dose_transfer == "direct":
        return direct(dose, pushforward, grid)
    there, here = (densities(ct, basis.hu_table) for ct in (image, basis.case.ct))
    return energy_mass(dose, there, here, registration.pullback, pushforward, grid).dose


def _not_registered(blank: FractionReport, why: str) -> FractionReport:
    gate = GateResult("registration", "", np.nan, np.nan, "", False, why)
    verdict, alone, reasons = overall((), (), (gate,), blank.earlier)
    return replace(blank, verdict=verdict, verdict_alone=alone, reasons=reasons, gates=(*blank.gates, gate))


def _anatomy(basis: Basis, registration: DayRegistration, stages: Stages) -> _Anatomy:
    with stages.stage("image for dose"):
        image, other = _images(basis, registration)
    with stages.stage("contours"):
        slice_mm = basis.case.ct.grid.spacing_mm[2]
        today = contours.propagated(basis.case.structures, registration.pushforward, registration.pullback, slice_mm)
        changes, change_notices = _structure_changes(basis, today)
    with stages.stage("pre-screen"):
        prepared = _prepared_on(basis, image, today)
        paths, path_notices = _path_changes(basis, prepared)
    notices = (*today.notices, *change_notices, *prepared.notices, *path_notices)
    return _Anatomy(prepared, today, other, changes, paths, notices)


def _images(basis: Basis, registration: DayRegistration) -> tuple[Volume, Volume | None]:
    """The image for dose, and the one made the other way."""
    planning, method = basis.case.ct, basis.settings.image_method
    if method is ImageMethod.AS_IS:
        return dayimage.as_is(planning, registration), None
    virtual, corrected = dayimage.virtual_and_corrected(planning, registration)
    return (corrected, virtual) if method is ImageMethod.CORRECTED else (virtual, corrected)


def _structure_changes(basis: Basis, today: StructureSet) -> tuple[tuple[StructureChange, ...], tuple[Notice, ...]]:
    """Of the structures that have a goal, and of all targets; what cannot be compared is named."""
    asked = {goal.structure for goal in basis.yardstick.goals}
    found, notices = [], []
    for planned, now in zip(basis.case.structures.structures, today.structures, strict=True):
        if not (planned.name in asked or planned.is_target) or planned.is_empty or now.is_empty:
            continue
        try:
            change = contours.change(planned, now, basis.case.ct.grid.spacing_mm[2])
        except StructureError as error:
            notices.append(Notice("structure-not-compared", planned.name, str(error)))
            continue
        found.append(
            StructureChange(
                change.structure,
                change.planned_cm3,
                change.today_cm3,
                change.shift_mm,
                change.mean_surface_mm,
                change.dice,
            )
        )
    return tuple(found), tuple(notices)


def _prepared_on(basis: Basis, image: Volume, today: StructureSet) -> Prepared:
    """The plan on today's image and contours, for dose on the grid of the plan's dose."""
    case = replace(basis.case, ct=image, structures=today, doses=(), notices=())
    return basis.prepare_day(case, basis.prepared.grid)


def _path_changes(basis: Basis, today: Prepared) -> tuple[tuple[PathChange, ...], tuple[Notice, ...]]:
    """A day without path changes still has a dose: what stops the pre-screen is named and goes no further."""
    try:
        target = main_target(basis.case)
        return path_changes(basis.prepared, today, target, today.case.structures.by_number(target.number)), ()
    except (GeometryError, StructureError) as error:
        return (), (Notice("pre-screen-without-result", "", str(error)),)


def _measure(basis: Basis, today: StructureSet, dose: Dose, other: Dose | None, before: EarlierDay | None) -> _Measures:
    ruler = basis.yardstick
    points, notices = points_in(today, basis.case, ruler.goals)
    samples = samples_in(points, dose.volume)
    moved = perturbed_values(ruler.goals, points, dose.volume, _moves(basis, dose.volume.grid))
    elsewhere = None if other is None else samples_in(points, other.volume)
    judged = []
    for index, goal in enumerate(ruler.goals):
        if elsewhere is not None:
            image = [measured(goal, elsewhere, 0.0).value]
        else:
            image = list(measured(replace(goal, band=None), samples, ruler.image_gy[index])[1:])
        now = measured(goal, samples, ruler.engine_gy[index])
        judged.append(
            judge_goal(GoalMeasures(goal, basis.planned[index], now, moved[:, index], np.array(image)), before)
        )
    return _Measures(tuple(judged), samples, dvh_bands(basis.samples, samples, ruler.reference_gy), notices)


def _moves(basis: Basis, dose_grid: Grid) -> list[DisplacementField]:
    """Random displacements as large as the errors of the deformation."""
    settings = basis.settings
    step_mm = settings.registration_correlation_mm / STEPS_PER_CORRELATION
    grid = resampled_grid(dose_grid, (step_mm, step_mm, step_mm))
    still = DisplacementField(grid, np.zeros((*grid.shape, 3), dtype=np.float32))
    rng = np.random.default_rng(SEED)
    count = settings.perturbed_deformations
    sigma_mm, correlation_mm = settings.registration_sigma_mm, settings.registration_correlation_mm
    return list(perturbed_fields(still, sigma_mm, correlation_mm, rng, count))


def _robustness(basis: Basis, today: Prepared, dose: Dose) -> RobustReport:
    """Residual errors on today's anatomy, over the scenario set that the plan's modality has by default."""
    settings, modality = basis.settings, basis.case.plan.modality
    scenarios = scenario_set(
        DEFAULT_SET[modality],
        setup_mm=settings.residual_setup_mm,
        range_percent=settings.residual_range_percent if modality == "proton" else 0.0,
        modality=modality,
    )
    return evaluate(
        today.case,
        scenarios,
        basis.yardstick.goals,
        lambda scenario: dose if scenario == NOMINAL else scenario_dose(today, scenario),
        settings=Settings(dose_uncertainty_percent=basis.engine_percent),
        provenance=today.provenance,
    )
