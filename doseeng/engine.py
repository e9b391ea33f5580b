"""From a case to its dose: choose machines and grid once, then compute any scenario.

    prepared = prepare(case)
    nominal = scenario_dose(prepared, NOMINAL)

`compute_dose(case)` does both. Proton dose is RBE-weighted with the constant 1.1 (ICRU Report 78) unless physical is
asked for; `let_volume` and `variable_rbe_dose` tell what LET makes of it. Photon dose is physical.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

import doseeng
from doseeng.case import Case
from doseeng.dose import Dose, Quantity
from doseeng.errors import PlanError
from doseeng.grid import Volume
from doseeng.layers import Deposit
from doseeng.plan import Plan
from doseeng.preparation import RBE, DoseModel, EngineSettings, Prepared, beam_model, prepare
from doseeng.proton import BeamModel
from doseeng.rbe import RbeModel, rbe_weighted_course
from doseeng.scenario import NOMINAL, Scenario, require_possible

__all__ = [
    "RBE",
    "DoseModel",
    "EngineSettings",
    "Prepared",
    "compute_dose",
    "dose_kind",
    "let_volume",
    "prepare",
    "require_protons",
    "scenario_dose",
    "scenario_values",
    "single_beam_dose",
    "variable_rbe_dose",
]

_DEFAULTS: Final = EngineSettings()
LET_THRESHOLD: Final = 1e-3
"""LET is not told where there is less than this share of the largest dose."""


def scenario_dose(prepared: Prepared, scenario: Scenario = NOMINAL) -> Dose:
    """Dose of the whole course in one scenario; ConfigError for an error that the plan's modality does not know."""
    return _as_dose(prepared, prepared.backend.get(scenario_values(prepared, scenario)), "PLAN")


def scenario_values(prepared: Prepared, scenario: Scenario = NOMINAL) -> Any:
    """The values of `scenario_dose` as an array of the backend, for statistics that stay where it computes."""
    first, *others = prepared.backend.together(
        [partial(_course_values, prepared, index, scenario) for index in range(len(prepared.beams))]
    )
    for values in others:
        first += values
    return first


def single_beam_dose(prepared: Prepared, index: int, scenario: Scenario = NOMINAL) -> Dose:
    """Dose of one beam over the whole course."""
    values = prepared.backend.get(_course_values(prepared, index, scenario))
    return _as_dose(prepared, values, "BEAM", (prepared.beams[index].number,))


def require_protons(plan: Plan) -> None:
    """PlanError for a photon plan, which has no LET of protons and no RBE other than 1."""
    if plan.modality != "proton":
        raise PlanError(f"plan '{plan.label}': has photon beams; LET and variable RBE exist for proton plans only")


def let_volume(prepared: Prepared, scenario: Scenario = NOMINAL) -> Volume:
    """Dose-averaged LET of protons in water over all beams of the course, keV/um; 0 where there is no dose.

    PlanError for a photon plan.
    """
    require_protons(prepared.case.plan)
    models = _proton_models(prepared)
    dose, product = (prepared.backend.zeros(prepared.grid.shape) for _ in range(2))
    for beam, model in zip(prepared.beams, models, strict=True):
        dose += model.dose(scenario).clip(0.0, None) * np.float32(beam.fractions)
        product += model.dose(scenario, Deposit.DOSE_LET).clip(0.0, None) * np.float32(beam.fractions)
    dose, product = prepared.backend.get(dose), prepared.backend.get(product)
    least = LET_THRESHOLD * float(dose.max())
    return Volume(prepared.grid, np.divide(product, dose, out=np.zeros_like(dose), where=dose > least))


def variable_rbe_dose(prepared: Prepared, model: RbeModel, alpha_beta_gy: float, scenario: Scenario = NOMINAL) -> Dose:
    """Dose of the course weighted with a variable RBE; alpha_beta_gy: of the tissue, the same everywhere.

    PlanError for a photon plan, and when beams have different numbers of fractions: such a course is no repetition of
    one fraction.
    """
    require_protons(prepared.case.plan)
    fractions = {beam.fractions for beam in prepared.beams}
    if len(fractions) != 1:
        raise PlanError(f"beams have {sorted(fractions)} fractions; variable RBE needs one fractionation for all beams")
    n = fractions.pop()
    physical = replace(prepared, settings=replace(prepared.settings, quantity=Quantity.PHYSICAL))
    dose = prepared.backend.get(scenario_values(physical, scenario)) / np.float32(n)
    weighted = rbe_weighted_course(model, dose, let_volume(prepared, scenario).values, alpha_beta_gy, n)
    comment = f"doseeng {doseeng.__version__}: RBE {model.value}, alpha/beta {alpha_beta_gy:g} Gy"
    return replace(_as_dose(prepared, weighted, "PLAN"), quantity=Quantity.RBE_WEIGHTED, comment=comment)


def compute_dose(
    case: Case,
    scenario: Scenario = NOMINAL,
    *,
    machine: str | None = None,
    settings: EngineSettings = _DEFAULTS,
) -> Dose:
    """Dose of a case in one scenario with everything else at its default."""
    return scenario_dose(prepare(case, machine=machine, settings=settings), scenario)


def dose_kind(prepared: Prepared) -> str:
    """What kind of dose comes out, in words: RBE-weighted, to water or to the medium, and by which algorithm."""
    if prepared.quantity is Quantity.RBE_WEIGHTED:
        return f"RBE constant {RBE}"
    if prepared.case.plan.modality == "proton":
        return "dose to water"
    settings = prepared.settings.photon
    return f"dose to {'water' if settings.to_water else 'medium'}, {settings.algorithm.value}"


def _course_values(prepared: Prepared, index: int, scenario: Scenario) -> Any:
    require_possible(scenario, prepared.case.plan.modality)
    weight = RBE if prepared.quantity is Quantity.RBE_WEIGHTED else 1.0
    values = beam_model(prepared, index).dose(scenario)
    values *= np.float32(prepared.beams[index].fractions * weight)
    # Protons: the cubic between slices undershoots zero where dose begins or ends within one.
    return values.clip(0.0, None)


def _proton_models(prepared: Prepared) -> list[BeamModel]:
    models = [beam_model(prepared, index) for index in range(len(prepared.beams))]
    return [model for model in models if isinstance(model, BeamModel)]


def _as_dose(
    prepared: Prepared, values: npt.NDArray[np.float32], summation: str, beam_numbers: tuple[int, ...] = ()
) -> Dose:
    return Dose(
        Volume(prepared.grid, values),
        prepared.quantity,
        summation,
        beam_numbers,
        plan_uid=prepared.case.plan.uid,
        comment=f"doseeng {doseeng.__version__}: {dose_kind(prepared)}",
    )
