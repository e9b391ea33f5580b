"""The numbers of a report as JSON-ready data, for the script of the page and for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cluster.report.plots import Array, DvhPlot
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
        "dvh": dvh_data(plot, dose_decimals),
    }


def facts(provenance: dict[str, object]) -> list[tuple[str, str]]:
    """The plain values of the provenance, two levels deep, as name and text."""
    facts: list[tuple[str, str]] = []
    for key, value in provenance.items():
        inner = value if isinstance(value, dict) else {"": value}
        facts += [
            (f"{key} {name}".replace("_", " ").strip(), str(item))
            for name, item in inner.items()
            if isinstance(item, str | int | float | bool)
        ]
    return facts


def dvh_data(plot: DvhPlot, dose_decimals: int, planned: Sequence[Array] = ()) -> dict[str, object]:
    """The curves of a plot, for its read-out; planned: volume percent to be read beside each curve, if any."""
    curves: list[dict[str, object]] = [
        {
            "structure": c.structure,
            "nominal": c.nominal.round(2).tolist(),
            "lowest": c.lowest.round(2).tolist(),
            "highest": c.highest.round(2).tolist(),
        }
        for c in plot.curves
    ]
    for curve, volume in zip(curves, planned, strict=False):
        curve["planned"] = volume.round(2).tolist()
    return {"dose_decimals": dose_decimals, "dose_gy": plot.dose_gy.round(3).tolist(), "curves": curves}
