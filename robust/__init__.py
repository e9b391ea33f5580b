"""Robustness: scenario sets, scenario statistics, clinical goals and the verdict. No DICOM, web or report code.

In a few lines, with `dose_of` a function that computes the dose of one scenario:

    scenarios = robust.scenario_set("28", setup_mm=3, range_percent=3.5)
    report = robust.evaluate(case, scenarios, robust.default_goals(case), dose_of)
"""

from robust.evaluate import Settings, evaluate
from robust.export import report_to_json
from robust.goals import Goal, default_goals, goals_for, read_goal_file
from robust.result import CourseProbability, DvhBand, GoalResult, RobustReport, Verdict
from robust.scenarios import load_scenarios, scenario_set, site_errors

__all__ = [
    "CourseProbability",
    "DvhBand",
    "Goal",
    "GoalResult",
    "RobustReport",
    "Settings",
    "Verdict",
    "default_goals",
    "evaluate",
    "goals_for",
    "load_scenarios",
    "read_goal_file",
    "report_to_json",
    "scenario_set",
    "site_errors",
]
