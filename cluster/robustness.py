"""The robustness job: scenarios and goals from what people write, the engine for each, report and doses out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from cluster.report import write_report
from doseeng.case import Case
from doseeng.comparison import ACTION_PERCENT, DISTANCE_MM, DOSE_PERCENT, compare
from doseeng.dicom.rtdose import write_dose
from doseeng.dose import Dose
from doseeng.engine import Prepared, scenario_dose
from doseeng.errors import DicomError, MetricError, Notice
from doseeng.scenario import NOMINAL, Scenario
from robust.evaluate import Settings, evaluate
from robust.goals import goals_for, read_goal_file
from robust.result import RobustReport
from robust.scenarios import load_scenarios, scenario_set, site_errors


@dataclass(frozen=True, slots=True)
class RobustnessRequest:
    """What is asked: a set name or .toml path, the site's errors or explicit ones, a goals file, a seed."""

    scenarios: str = "28"
    site: str = "default"
    setup_mm: float | None = None
    range_percent: float | None = None
    goals: Path | None = None
    seed: int = 0


def run_robustness(
    prepared: Prepared,
    request: RobustnessRequest,
    report_path: Path,
    dose_folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[RobustReport, Path]:
    """Evaluate a prepared case and write its report; returns the result and the report's path.

    dose_folder: where RTDOSE files of nominal, worst, voxel-wise minimum and maximum go, all of them or none; None:
    nowhere. The report is written last.
    """
    case = prepared.case
    scenarios = requested_scenarios(request)
    goal_file = read_goal_file(request.goals)
    goals, goal_notices = goals_for(case, goal_file)
    nominal = scenario_dose(prepared, NOMINAL)
    gates, agreement = _agreement(prepared, nominal)

    def dose_of(scenario: Scenario) -> Dose:
        return nominal if scenario == NOMINAL else scenario_dose(prepared, scenario)

    result = evaluate(
        case,
        scenarios,
        goals,
        dose_of,
        settings=Settings(dose_uncertainty_percent=goal_file.uncertainty.dose_percent),
        gates=gates,
        notices=(*prepared.notices, *goal_notices, *agreement),
        provenance={**prepared.provenance, "request": _as_json(request)},
        progress=progress,
    )
    if dose_folder is not None:
        _write_doses(result, case, dose_folder)
    return result, write_report(result, case, report_path)


def requested_scenarios(request: RobustnessRequest) -> tuple[Scenario, ...]:
    """The scenarios of a request: a named set with the site's or explicit magnitudes, or a list from TOML."""
    if request.scenarios.endswith(".toml"):
        return load_scenarios(Path(request.scenarios))
    site_setup, site_range = site_errors(request.site)
    return scenario_set(
        request.scenarios,
        setup_mm=site_setup if request.setup_mm is None else request.setup_mm,
        range_percent=site_range if request.range_percent is None else request.range_percent,
        rng=np.random.default_rng(request.seed),
    )


def _agreement(prepared: Prepared, nominal: Dose) -> tuple[tuple[Notice, ...], tuple[Notice, ...]]:
    """Gate and notice on how well the engine reproduces the planning system's nominal dose, if there is one."""
    reference = next((d for d in prepared.case.doses if d.summation == "PLAN"), None)
    if reference is None:
        text = "the case holds no plan dose; the engine's nominal dose was not checked against the planning system's"
        return (), (Notice("nominal-not-compared", "", text),)
    try:
        found = compare("plan", reference, nominal)
    except MetricError as error:
        return (), (Notice("nominal-not-compared", "", str(error)),)
    text = (
        f"gamma {found.gamma_percent:.1f} % at {DOSE_PERCENT:g} %/{DISTANCE_MM:g} mm against the planning system's "
        f"dose, mean ratio {found.mean_ratio:.3f}"
    )
    if found.gamma_percent < ACTION_PERCENT:
        gate = Notice(
            "nominal-disagrees", "plan", f"{text}; find out why with `doseeng dose` before trusting scenarios"
        )
        return (gate,), ()
    return (), (Notice("nominal-compared", "plan", text),)


def _write_doses(result: RobustReport, case: Case, folder: Path) -> None:
    if case.dicom is None:
        raise DicomError("the case was not read from DICOM; there is nothing to refer to in an RTDOSE")
    folder.mkdir(parents=True, exist_ok=True)
    doses = {
        "nominal": result.nominal,
        "worst": result.worst,
        "voxel-min": replace(result.nominal, volume=result.voxel_min),
        "voxel-max": replace(result.nominal, volume=result.voxel_max),
    }
    written: list[Path] = []
    try:
        for name, dose in doses.items():
            path = folder / f"{name}.dcm"
            write_dose(path, dose, case.dicom, case.plan, f"doseeng {name}")
            written.append(path)
    finally:
        if len(written) < len(doses):
            for path in written:
                path.unlink(missing_ok=True)


def _as_json(request: RobustnessRequest) -> dict[str, object]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(request).items()}
