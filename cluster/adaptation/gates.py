"""What must hold before a day's values are trusted: the registration's own gates, the couch, and the dose."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cluster.adaptation.basis import Basis
from doseeng.dose import Dose
from doseeng.dvh import DoseSamples
from doseeng.errors import Notice
from doseeng.scenario import NOMINAL
from doseeng.structures import StructureSet
from registration import gates
from registration.result import DayRegistration, GateResult
from robust.gates import clipping, dose_kind_gates, finite_gate

Point = tuple[float, float, float]


def day_gates(
    basis: Basis,
    registration: DayRegistration,
    today: StructureSet,
    drawn: StructureSet | None,
    dose: Dose,
    samples: Mapping[str, DoseSamples],
) -> tuple[GateResult, ...]:
    """All gates of a day.

    today: structures on today's anatomy, treatment frame; samples: today's dose in them. drawn: structures that a
    person drew on the day's image, in its own frame, None without.
    """
    of_dose = (
        *dose_kind_gates(basis.case, dose),
        *finite_gate(NOMINAL, dose),
        *clipping(basis.yardstick.goals, dict(samples))[0],
    )
    return (
        *registration_gates(basis, registration, today, drawn),
        _couch_gate(basis, registration),
        *(_failed(notice) for notice in of_dose),
    )


def registration_gates(
    basis: Basis, registration: DayRegistration, today: StructureSet, drawn: StructureSet | None
) -> tuple[GateResult, ...]:
    """The gates of the registration, for all targets and the organs that have goals. Arguments as for `day_gates`."""
    organs = {goal.structure for goal in basis.yardstick.goals}
    return gates.evaluate(registration, basis.case, today, drawn, organs=organs, limits=basis.limits)


def couch_shift_mm(registration: DayRegistration, isocenter_mm: Point) -> Point:
    """By how much the couch moves what is at the isocentre, patient x, y, z."""
    shift = registration.couch.apply(isocenter_mm) - np.asarray(isocenter_mm)
    return float(shift[0]), float(shift[1]), float(shift[2])


def residual_rotation_deg(registration: DayRegistration) -> float:
    """The angle of the rotation that the couch leaves in the anatomy of the day."""
    rotation = registration.rigid.rotation @ registration.couch.rotation.T
    return float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1.0, 1.0))))


def _couch_gate(basis: Basis, registration: DayRegistration) -> GateResult:
    """A shift that no couch makes is no setup error."""
    shift_mm = float(np.linalg.norm(couch_shift_mm(registration, basis.isocenter_mm)))
    limit_mm = basis.settings.couch_shift_mm
    passed = shift_mm <= limit_mm
    message = f"the couch would have to move by {shift_mm:.0f} mm; setup errors reach {limit_mm:g} mm"
    hint = "" if passed else ": is it this patient, this site, and the plan's isocentre?"
    return GateResult("couch-shift", "", shift_mm, limit_mm, "mm", passed, f"{message}{hint}")


def _failed(notice: Notice) -> GateResult:
    return GateResult(notice.code, notice.where, np.nan, np.nan, "", False, notice.message)
