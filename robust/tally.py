"""What is gathered while scenario doses pass by, in blocks, so that blocks may be computed anywhere.

Which scenarios form a block depends on their number alone, and the moments of a block are always formed apart and
merged in the order of the blocks. So an evaluation gives the same bytes whether one process took all of them or many
processes took one each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

import numpy as np

from doseeng.case import Case
from doseeng.dose import Dose
from doseeng.dvh import DoseSamples, SamplePoints, sample_dose, sample_points
from doseeng.errors import JobError, MetricError, Notice, StructureError
from doseeng.grid import Grid
from doseeng.masks import contour_notices
from doseeng.scenario import Scenario
from robust.gates import clipping, finite_gate
from robust.goals import Goal, filled
from robust.measure import NO_VALUE, Measured, dose_band_gy, measure
from robust.statistics import DVH_STEPS, DvhRows, VoxelStatistics
from robust.verdict import margins

_NO_ORGAN: Final = frozenset(
    {"EXTERNAL", "SUPPORT", "FIXATION", "BOLUS", "MARKER", "REGISTRATION", "ISOCENTER", "CONTRAST_AGENT", "CONTROL"}
    | {"DOSE_REGION", "DOSE_MEASUREMENT", "TREATED_VOLUME", "IRRAD_VOLUME"}
)
"""RT ROI Interpreted Types without a clinical DVH (DICOM PS3.3 C.8.8.8)."""
PAIR: Final = 2
"""Blocks hold whole pairs of scenarios: sets put those that differ by the sign of the range error side by side, and the
engine traces rays once for both."""
MOST_BLOCKS: Final = 64
"""More blocks would cost more to merge than they give to workers."""


@dataclass(frozen=True, slots=True)
class Settings:
    """dose_uncertainty_percent: half-width of the band of a dose, in percent of the prescription. most_organs: DVHs of
    at most so many structures that have no goal and are no target."""

    dose_uncertainty_percent: float = 1.0
    most_organs: int = 20

    def record(self, scenarios: int) -> dict[str, object]:
        """For provenance."""
        return {"robust": {**asdict(self), "scenarios": scenarios}}


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """What all blocks of an evaluation share. points: of every structure with a DVH, by name. bands_gy: half-width of
    the band of a dose for each goal. step_gy: of the DVHs. notices: on structures."""

    scenarios: tuple[Scenario, ...]
    goals: tuple[Goal, ...]
    grid: Grid
    points: dict[str, SamplePoints]
    bands_gy: tuple[float, ...]
    step_gy: float
    notices: tuple[Notice, ...]


def blocks(scenarios: int) -> tuple[range, ...]:
    """The blocks that so many scenarios are taken in, as indices; the nominal one goes with the first block."""
    errors = max(scenarios - 1, 0)
    size = PAIR * max(1, -(-errors // (PAIR * MOST_BLOCKS)))
    starts = [0, *range(1 + size, scenarios, size)]
    return tuple(range(a, b) for a, b in zip(starts, [*starts[1:], scenarios], strict=True))


def basis_of(
    case: Case,
    scenarios: tuple[Scenario, ...],
    goals: tuple[Goal, ...],
    grid: Grid,
    settings: Settings,
    highest_gy: Callable[[], float],
) -> Basis:
    """The basis of an evaluation on one dose grid.

    highest_gy: the highest finite value of the nominal dose, asked only for a plan that prescribes nothing.
    StructureError: the structure of a goal is missing, empty or unusable.
    """
    reference_gy = max((p.dose_gy for p in case.plan.prescriptions), default=0.0) or highest_gy() or 1.0
    points, notices = _sampled(case, goals, grid, settings)
    bands_gy = tuple(dose_band_gy(g, reference_gy, settings.dose_uncertainty_percent) for g in goals)
    return Basis(scenarios, goals, grid, points, bands_gy, reference_gy / DVH_STEPS, notices)


def highest_gy(dose: Dose) -> float:
    """The highest finite value of a dose."""
    values = dose.volume.values
    return float(np.max(values, where=np.isfinite(values), initial=0.0))


@dataclass(slots=True, eq=False)
class Tally:
    """Partial results of neighbouring scenarios; a few volumes and a DVH row per scenario, no dose but two.

    first, count: scenarios first..first + count - 1 were taken in. nominal: its dose, where it is one of them. worst:
    the dose in which the goals that count there keep their limits by the smallest margin, its index and that margin;
    None while no goal has a value.
    """

    first: int
    voxels: VoxelStatistics
    rows: dict[str, DvhRows]
    measured: list[list[Measured]]
    count: int = 0
    gates: list[Notice] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    nominal: Dose | None = None
    worst: Dose | None = None
    worst_index: int = 0
    worst_margin: float = float("inf")

    @property
    def end(self) -> int:
        """The scenario that comes next."""
        return self.first + self.count

    def merge(self, later: Tally) -> None:
        """Take in what comes directly after; JobError when it does not."""
        if later.first != self.end:
            raise JobError(f"partial results of scenarios from {later.first} on do not follow those up to {self.end}")
        self.voxels.merge(later.voxels)
        for name, row in self.rows.items():
            row.extend(later.rows[name])
        for measured, more in zip(self.measured, later.measured, strict=True):
            measured += more
        self.gates += later.gates
        self.notices += later.notices
        if later.worst_margin < self.worst_margin:
            self.worst, self.worst_index, self.worst_margin = later.worst, later.worst_index, later.worst_margin
        if later.nominal is not None:
            self.nominal = later.nominal
        self.count += later.count


def empty_tally(basis: Basis, first: int = 0) -> Tally:
    """Nothing yet, from scenario `first` on."""
    rows = {name: DvhRows(name, p.volume_cm3, basis.step_gy) for name, p in basis.points.items()}
    return Tally(first, VoxelStatistics(basis.grid), rows, [[] for _ in basis.goals])


def take_block(
    tally: Tally,
    basis: Basis,
    block: Sequence[int],
    dose_of: Callable[[Scenario], Dose],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Take the next block of scenarios in. progress: called with (doses done, doses in all).

    GeometryError: a dose on another grid.
    """
    voxels = VoxelStatistics(basis.grid)
    for index in block:
        _take(tally, voxels, basis, index, dose_of(basis.scenarios[index]))
        if progress is not None:
            progress(index + 1, len(basis.scenarios))
    tally.voxels.merge(voxels)


def measured_or_none(goal: Goal, samples: dict[str, DoseSamples], band_gy: float, notices: list[Notice]) -> Measured:
    """A goal in one dose; where it has no value a notice says why."""
    try:
        return measure(goal, samples[goal.structure], band_gy)
    except MetricError as error:
        notices.append(Notice("goal-without-value", goal.name, str(error)))
        return NO_VALUE


def _take(tally: Tally, voxels: VoxelStatistics, basis: Basis, index: int, dose: Dose) -> None:
    tally.count += 1
    if index == 0:
        tally.nominal = dose
    broken = finite_gate(basis.scenarios[index], dose)
    if broken:
        tally.gates += broken
        for row in tally.rows.values():
            row.add_unknown()
        for measured in tally.measured:
            measured.append(NO_VALUE)
        return
    voxels.add(dose.volume)
    samples = {name: sample_dose(points, dose.volume) for name, points in basis.points.items()}
    for name, row in tally.rows.items():
        row.add(samples[name])
    if index == 0:
        clipped, named = clipping(basis.goals, samples)
        tally.gates += clipped
        tally.notices += named
    pairs = zip(basis.goals, basis.bands_gy, strict=True)
    here = [measured_or_none(goal, samples, band_gy, tally.notices) for goal, band_gy in pairs]
    for measured, now in zip(tally.measured, here, strict=True):
        measured.append(now)
    margin = _smallest_margin(basis.goals, here, index)
    if margin < tally.worst_margin:
        tally.worst, tally.worst_index, tally.worst_margin = dose, index, margin


def _smallest_margin(goals: tuple[Goal, ...], here: list[Measured], index: int) -> float:
    counted = [
        float(margins(goal, measured.value))
        for goal, measured in zip(goals, here, strict=True)
        if index == 0 or goal.in_scenarios_percent > 0
    ]
    return min((m for m in counted if np.isfinite(m)), default=np.inf)


def _sampled(
    case: Case, goals: tuple[Goal, ...], grid: Grid, settings: Settings
) -> tuple[dict[str, SamplePoints], tuple[Notice, ...]]:
    """Sample points of the structures of the goals, of all targets and of some organs, in this order, and notices."""
    spacing, slice_mm = grid.spacing_mm, case.ct.grid.spacing_mm[2]
    asked = [filled(case, name) for name in dict.fromkeys(goal.structure for goal in goals)]
    points = {s.name: sample_points(s, spacing, slice_mm) for s in asked}
    notices = [notice for s in asked for notice in contour_notices(s, slice_mm)]
    others = [s for s in case.structures.structures if not s.is_empty and s.name not in points]
    targets = [s for s in others if s.is_target]
    organs = [s for s in others if not s.is_target and s.kind.upper() not in _NO_ORGAN]
    for structure in (*targets, *organs[: settings.most_organs]):
        try:
            points[structure.name] = sample_points(structure, spacing, slice_mm)
        except StructureError as error:
            notices.append(Notice("structure-without-dvh", structure.name, str(error)))
    if len(organs) > settings.most_organs:
        left = ", ".join(f"'{s.name}'" for s in organs[settings.most_organs :])
        message = f"{settings.most_organs} organs without goals have a DVH; left out: {left}."
        notices.append(Notice("organs-without-dvh", "", message))
    return points, tuple(notices)
