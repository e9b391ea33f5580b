"""Which rule a series fits."""

import pytest

from cluster.node.rules import SeriesFacts, fitting
from cluster.service.config import Rule

FACTS = SeriesFacts("CT", "CBCT Head & Neck", "Varian Medical Systems", "LINAC1")


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        ({}, True),
        ({"description": "cbct"}, True),
        ({"description": "^cbct.*neck$"}, True),
        ({"description": "kvct"}, False),
        ({"manufacturer": "varian|elekta"}, True),
        ({"manufacturer": "^elekta"}, False),
        ({"calling_ae": ["LINAC1", "LINAC2"]}, True),
        ({"calling_ae": ["LINAC2"]}, False),
        ({"modality": "MR"}, False),
        ({"modality": "ct"}, True),
        ({"description": "cbct", "manufacturer": "elekta"}, False),
    ],
)
def test_every_condition_must_be_met(rule: dict, fits: bool) -> None:
    assert (fitting([Rule(name="r", **rule)], FACTS) is not None) == fits


def test_the_first_rule_that_fits_counts() -> None:
    rules = [Rule(name="mr", modality="MR"), Rule(name="cbct", description="cbct"), Rule(name="any")]
    found = fitting(rules, FACTS)
    assert found is not None
    assert found.name == "cbct"


def test_without_rules_nothing_fits() -> None:
    assert fitting([], FACTS) is None
