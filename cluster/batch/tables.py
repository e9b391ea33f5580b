"""The results of a batch as tables, for spreadsheets (CSV) and for programs (Parquet): one row per item, and one per
goal of each item.

The table of goals holds nothing that depends on when and where it was computed: it is byte for byte the same for a
batch that was interrupted and for one that was not.
"""

from __future__ import annotations

import csv
import io
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.batch.results import ItemResult

ITEMS: Final = pa.schema(
    [
        ("item", pa.string()),
        ("outcome", pa.string()),
        ("kind", pa.string()),
        ("state", pa.string()),
        ("treatment_site", pa.string()),
        ("plan", pa.string()),
        ("plan_uid", pa.string()),
        ("case", pa.string()),
        ("patient", pa.string()),
        ("goals", pa.int32()),
        ("goals_missed", pa.int32()),
        ("reasons", pa.string()),
        ("error", pa.string()),
        ("seconds", pa.float64()),
        ("job", pa.string()),
        ("report", pa.string()),
    ]
)
"""case, patient: pseudonyms. reasons: joined by " | "."""
GOALS: Final = pa.schema(
    [
        ("item", pa.string()),
        ("structure", pa.string()),
        ("metric", pa.string()),
        ("relation", pa.string()),
        ("limit", pa.float64()),
        ("unit", pa.string()),
        ("status", pa.string()),
        ("reference", pa.float64()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("where", pa.string()),
        ("passed_percent", pa.float64()),
        ("reason", pa.string()),
    ]
)
"""Columns as `cluster.batch.results.GoalResult`."""
TABLES: Final = ("items.csv", "items.parquet", "goals.csv", "goals.parquet")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def write_tables(items: Sequence[ItemResult], folder: Path) -> list[Path]:
    """Write the four tables into `folder`, in the order of `items`; each appears complete or not at all."""
    item_rows = [_item_row(item) for item in items]
    goal_rows = [_goal_row(item, index) for item in items for index in range(len(item.goals))]
    tables = {"items": (ITEMS, item_rows), "goals": (GOALS, goal_rows)}
    written = []
    for name, (schema, rows) in tables.items():
        written.append(_replace(folder / f"{name}.csv", _csv(schema, rows)))
        written.append(_replace(folder / f"{name}.parquet", _parquet(schema, rows)))
    return written


def _item_row(item: ItemResult) -> dict[str, Any]:
    return {
        "item": item.name,
        "outcome": item.outcome.value,
        "kind": item.kind,
        "state": item.state,
        "treatment_site": item.treatment_site,
        "plan": item.plan,
        "plan_uid": item.plan_uid,
        "case": item.case_key,
        "patient": item.patient_key,
        "goals": len(item.goals),
        "goals_missed": item.missed,
        "reasons": " | ".join(item.reasons),
        "error": item.error,
        "seconds": item.seconds,
        "job": item.job_id,
        "report": item.report,
    }


def _goal_row(item: ItemResult, index: int) -> dict[str, Any]:
    goal = item.goals[index]
    return {"item": item.name, **{name: getattr(goal, name) for name in GOALS.names if name != "item"}}


def _csv(schema: pa.Schema, rows: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, schema.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    # With the mark by which spreadsheets know that it is UTF-8.
    return text.getvalue().encode("utf-8-sig")


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula is marked as text: names come from files of others."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def _parquet(schema: pa.Schema, rows: Sequence[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema), sink)
    return sink.getvalue()


def _replace(path: Path, data: bytes) -> Path:
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
