"""The numbers of a report as JSON-ready data, for the script of the page and for other programs."""

from __future__ import annotations

import math
from datetime import datetime

from cluster.report.plots import DvhPlot
from robust.export import anchoring_to_json, scenario_to_json
from robust.result import RobustReport


def report_data(
    report: RobustReport, plot: DvhPlot, unit: str, dose_decimals: int, written: datetime
) -> dict[str, object]:
    """All numbers; NaN where there is none (see `finite`). DVHs on the dose axis of the plot."""
    return {
        "schema": "doseeng-robust-report/1",
        "case": report.case_key,
        "plan": report.plan_label,
        "written": written.isoformat(),
        "verdict": report.verdict.value,
        "reasons": list(report.reasons),
        "dose_unit": unit,
        "anchoring": report.anchoring and anchoring_to_json(report.anchoring),
        "scenarios": [scenario_to_json(s) for s in report.scenarios],
        "goals": [
            {
                "structure": r.goal.structure,
                "metric": r.goal.metric,
                "relation": r.goal.relation,
                "limit": r.goal.limit,
                "unit": r.goal.unit,
                "values": r.values.tolist(),
                "worst": r.worst_index,
                "band": r.band,
                "voxelwise": r.voxelwise,
                "passed": r.passed,
                "status": r.status.value,
            }
            for r in report.goals
        ],
        "dvh": {
            "dose_decimals": dose_decimals,
            "dose_gy": plot.dose_gy.round(3).tolist(),
            "curves": [
                {
                    "structure": c.structure,
                    "nominal": c.nominal.round(2).tolist(),
                    "lowest": c.lowest.round(2).tolist(),
                    "highest": c.highest.round(2).tolist(),
                }
                for c in plot.curves
            ],
        },
    }


def finite(value: object) -> object:
    """`value` with null for NaN and infinity, which JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value
