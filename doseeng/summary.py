"""A result in brief, as plain data: what structured reports, one-page PDFs and messages are made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

STATEMENT: Final = "Research and quality-assurance tool: it does not release a treatment."
"""Stands in everything that leaves doseeng."""


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """One goal. relation: ">=" or "<=". unit: "%", "cm3" or "Gy", of all its numbers.

    reference and value: of the two occasions that `ReportSummary.occasions` names; low, high: the band of uncertainty
    around the value; each NaN where there is none. status: GREEN, AMBER, RED or UNEVALUABLE. reason: one sentence.
    """

    structure: str
    metric: str
    relation: str
    limit: float
    unit: str
    reference: float
    value: float
    low: float
    high: float
    status: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReportSummary:
    """What a person is told first. title: of the kind of result. verdict: GREEN, AMBER, RED, UNEVALUABLE, "" for none.

    plan_label: as the planning system named it. case_key: pseudonym. fraction, fractions: of a treatment day, else 0.
    acquired: when the day's image was taken, scanner's local time. occasions: names of the two columns of numbers, such
    as ("planned", "today"). rows: goals. facts: what else to know, name and text. notices: sentences. rbe_weighted:
    doses in Gy are weighted with an RBE of 1.1. provenance: SHA-256 of the result's provenance record, in hex.
    made: when the result was made.
    """

    title: str
    verdict: str
    plan_label: str
    case_key: str
    reasons: tuple[str, ...]
    made: datetime
    rows: tuple[SummaryRow, ...] = ()
    occasions: tuple[str, str] = ("planned", "today")
    fraction: int = 0
    fractions: int = 0
    acquired: datetime | None = None
    facts: tuple[tuple[str, str], ...] = ()
    notices: tuple[str, ...] = ()
    rbe_weighted: bool = False
    provenance: str = ""


def provenance_digest(record: Mapping[str, Any]) -> str:
    """SHA-256 in hex of a provenance record, written as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, default=str).encode()).hexdigest()
