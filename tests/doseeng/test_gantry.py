"""Beams from another gantry angle: one number for protons, every control point of an arc."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from doseeng.gantry import start_deg, starting_at


def test_a_proton_beam_gets_the_angle(water_case: Any) -> None:
    beam = water_case.case.plan.beams[1]
    assert start_deg(beam) == 90.0
    assert start_deg(replace(beam, gantry_deg=-30.0)) == 330.0
    assert starting_at(beam, 15.0).gantry_deg == 15.0


def test_an_arc_turns_as_a_whole(photon_case: Any) -> None:
    arc = replace(photon_case.case.plan.beams[0], gantry_deg=np.array([350.0, 372.0]))
    assert start_deg(arc) == 350.0
    turned = starting_at(arc, 20.0)
    assert start_deg(turned) == pytest.approx(20.0)
    np.testing.assert_allclose(np.diff(turned.gantry_deg), 22.0)
    np.testing.assert_array_equal(turned.jaw_x_mm, arc.jaw_x_mm)
