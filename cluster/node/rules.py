"""Which rule of a site a received image series fits; nothing but that."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.service.config import Rule


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """What rules are made of. description, manufacturer: as the scanner wrote them. calling_ae: who sent the series."""

    modality: str
    description: str
    manufacturer: str
    calling_ae: str


def fitting(rules: Sequence[Rule], facts: SeriesFacts) -> Rule | None:
    """The first rule that the series fits, None when there is none. The number of images is judged elsewhere: a series
    that is still coming has few."""
    return next((rule for rule in rules if _fits(rule, facts)), None)


def _fits(rule: Rule, facts: SeriesFacts) -> bool:
    return (
        rule.modality.strip().upper() == facts.modality.strip().upper()
        and re.search(rule.description, facts.description, re.IGNORECASE) is not None
        and re.search(rule.manufacturer, facts.manufacturer, re.IGNORECASE) is not None
        and (not rule.calling_ae or facts.calling_ae.strip() in (caller.strip() for caller in rule.calling_ae))
    )
