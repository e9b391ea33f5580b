"""Which site an association belongs to."""

import pytest

from cluster.node.callers import Refusal, site_of
from cluster.service.config import ServiceConfig

CONFIG = ServiceConfig.model_validate(
    {
        "site": [
            {"name": "north", "calling_ae": ["LINAC", "TPS"]},
            {"name": "south", "called_ae": "SOUTH", "calling_ae": ["LINAC"]},
            {"name": "closed", "called_ae": "CLOSED"},
        ]
    }
)


@pytest.mark.parametrize(
    ("called", "calling", "expected"),
    [
        ("DOSEENG", "LINAC", "north"),
        ("DOSEENG", "TPS", "north"),
        (" DOSEENG ", "LINAC  ", "north"),
        ("SOUTH", "LINAC", "south"),
        ("SOUTH", "TPS", Refusal.CALLING_UNKNOWN),
        ("DOSEENG", "STRANGER", Refusal.CALLING_UNKNOWN),
        ("DOSEENG", "", Refusal.CALLING_UNKNOWN),
        ("DOSEENG", "linac", Refusal.CALLING_UNKNOWN),
        ("CLOSED", "LINAC", Refusal.CALLING_UNKNOWN),
        ("OTHER", "LINAC", Refusal.CALLED_UNKNOWN),
        ("", "LINAC", Refusal.CALLED_UNKNOWN),
    ],
)
def test_the_pair_of_titles_decides(called: str, calling: str, expected: str | Refusal) -> None:
    found = site_of(CONFIG, called, calling)
    assert (found if isinstance(found, Refusal) else found.name) == expected
