"""How numbers, units and names are written, so that a rounded number never contradicts its verdict."""

from __future__ import annotations

import math
import re
from typing import Final

from doseeng.dose import Quantity
from doseeng.scenario import Scenario
from robust.goals import Goal

NO_VALUE: Final = "–"
MINUS: Final = "−"
NO_BREAK: Final = "\u00a0"
_MOST_DECIMALS: Final = 6


def dose_unit(quantity: Quantity) -> str:
    """The unit of a dose; RBE-weighted dose is never written as bare gray."""
    return "Gy (RBE 1.1)" if quantity is Quantity.RBE_WEIGHTED else "Gy"


def dose_decimals(reference_gy: float) -> int:
    """Decimals of doses in gray: tenths for a course, hundredths where 100 % is a few gray."""
    return 1 if reference_gy >= 10.0 else 2


def goal_unit(goal: Goal, gray: str) -> str:
    """The unit of a goal's values; `gray` is the dose unit of the report."""
    return {"%": "%", "cm3": "cm³", "Gy": gray}[goal.unit]


def number(value: float, decimals: int = 1) -> str:
    """`value` with fixed decimals and a true minus sign; a dash where there is no value."""
    if not math.isfinite(value):
        return NO_VALUE
    text = f"{value:.{decimals}f}"
    if float(text) == 0.0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def against_limit(value: float, limit: float, decimals: int = 1) -> str:
    """`value` with as many decimals as it takes to be on the same side of `limit` when rounded as it really is.

    94.97 against a limit of 95 reads "94.97", never "95.0".
    """
    if not math.isfinite(value):
        return NO_VALUE
    for places in range(decimals, _MOST_DECIMALS + 1):
        rounded = round(value, places)
        if (rounded > limit) == (value > limit) and (rounded < limit) == (value < limit):
            return number(value, places)
    return number(value, _MOST_DECIMALS)


def limit_text(limit: float) -> str:
    """A limit as it was written by the person who set it."""
    return f"{limit:.{_MOST_DECIMALS}f}".rstrip("0").rstrip(".").replace("-", MINUS)


def signed(value: float, decimals: int = 1) -> str:
    """`value` with its sign; zero has none."""
    text = number(value, decimals)
    return f"+{text}" if value > 0 and text.strip("0.") else text


def metric_parts(metric: str) -> tuple[str, str]:
    """A metric as letter and subscript: "V95%" is ("V", "95 %"), "D2cm3" is ("D", "2 cm³")."""
    match = re.fullmatch(r"([VD])(\d+(?:\.\d+)?)\s*(%|Gy|cm3)", metric)
    if match:
        return match[1], f"{match[2]} {match[3].replace('cm3', 'cm³')}"
    match = re.fullmatch(r"([VD])(mean|max|min)", metric)
    return (match[1], match[2]) if match else (metric, "")


def sign(goal: Goal) -> str:
    """The relation of a goal as one character."""
    return "≥" if goal.relation == ">=" else "≤"


def scale_text(scenario: Scenario) -> str:
    """The change of the materials in a scenario."""
    percent = 100.0 * (scenario.rsp_scale - 1.0)
    return "0 %" if round(percent, 2) == 0 else f"{signed(percent)} %"


def range_text(scenario: Scenario) -> str:
    """The range error of a scenario of protons: the change of stopping power and what it does to the beam."""
    change = scale_text(scenario)
    return change if change == "0 %" else f"{change} ({'undershoot' if scenario.rsp_scale > 1.0 else 'overshoot'})"
