"""What must hold before a day's values are trusted: the registration's own gates, the couch, and the dose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from cluster.adaptation.basis import Basis
from doseeng.dose import Dose
from doseeng.dvh import DoseSamples
from doseeng.errors import Notice
from doseeng.masks import mask
from doseeng.scenario import NOMINAL
from doseeng.structures import StructureSet
from registration.result import DayRegistration, GateResult
from robust.gates import clipping, dose_kind_gates, finite_gate

Point = tuple[float, float, float]

LEAST_SEEN: Final = 0.95
"""Share of a target that the day's image must show; what it does not show is taken from the planning CT."""


def day_gates(
    basis: Basis,
    registration: DayRegistration,
    today: StructureSet,
    dose: Dose,
    samples: Mapping[str, DoseSamples],
) -> tuple[GateResult, ...]:
    """All gates of a day. today: structures on today's anatomy, treatment frame; samples: today's dose in them."""
    of_dose = (
        *dose_kind_gates(basis.case, dose),
        *finite_gate(NOMINAL, dose),
        *clipping(basis.yardstick.goals, dict(samples))[0],
    )
    return (
        *registration_gates(basis, registration, today),
        _couch_gate(basis, registration),
        *(_failed(notice) for notice in of_dose),
    )


def registration_gates(basis: Basis, registration: DayRegistration, today: StructureSet) -> tuple[GateResult, ...]:
    """Whether the day's image shows the structures that must receive dose. Arguments as for `day_gates`."""
    covered = dict.fromkeys(goal.structure for goal in basis.yardstick.goals if goal.relation == ">=")
    found = []
    for name in covered:
        target = today.by_name(name)
        inside = np.zeros(1) if target.is_empty else mask(target, registration.seen.grid).values
        volume = float(inside.sum(dtype=np.float64))
        share = float((inside * registration.seen.values).sum(dtype=np.float64)) / volume if volume > 0 else np.nan
        passed = share >= LEAST_SEEN
        message = f"the day's image shows {100 * share:.0f} % of it, at least {100 * LEAST_SEEN:.0f} % are needed"
        found.append(GateResult("field-of-view", name, 100 * share, 100 * LEAST_SEEN, "%", passed, message))
    return tuple(found)


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
