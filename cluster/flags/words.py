"""A message in words, for people."""

from __future__ import annotations

from typing import Any

from cluster.flags.message import Message
from doseeng.summary import STATEMENT


def as_text(message: Message) -> str:
    """Plain text without links: whoever is told looks it up where they know to look."""
    lines = [
        f"doseeng: {message.verdict}",
        "",
        f"Site       {message.site}",
        f"Patient    {message.patient_key or 'not known'} (pseudonym)",
        f"Case       {message.case_key or 'not known'} (pseudonym)",
        f"Job        {message.job_id} ({message.kind})",
        f"Ended      {message.ended:%Y-%m-%d %H:%M} UTC",
    ]
    if message.reasons:
        lines += ["", "Why", *(f"- {reason}" for reason in message.reasons)]
    if message.goals:
        lines += ["", "Goals", *(f"- {goal_text(goal, message)}" for goal in message.goals)]
    return "\n".join([*lines, "", STATEMENT, ""])


def goal_text(goal: dict[str, Any], message: Message) -> str:
    """One goal: "CTV D95%: 91.3 %, at least 95 % wanted: RED"."""
    unit = unit_text(goal["unit"], message.rbe_weighted)
    # Digits enough for a rounded number not to contradict its status.
    value = "no value" if goal["value"] is None else f"{goal['value']:.6g} {unit}"
    wanted = f"at {'least' if goal['relation'] == '>=' else 'most'} {goal['limit']:g} {unit} wanted"
    return f"{goal['name']}: {value}, {wanted}: {goal['status']}"


def unit_text(unit: str, rbe_weighted: bool) -> str:
    """A unit as people read it; RBE-weighted dose is never bare gray."""
    return "Gy (RBE 1.1)" if unit == "Gy" and rbe_weighted else unit
