"""Photon beams for people: words, openings, and the scenario list of a photon plan."""

from __future__ import annotations

import base64
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster import photonbeams
from cluster.report.openings import beam_openings, share_open
from cluster.report.scenariotable import scenario_table
from doseeng.plan import Block, Mlc, PhotonBeam, Plan, Wedge
from doseeng.scenario import NOMINAL, Modality, Scenario

EDGES = np.array([-30.0, -10.0, 10.0, 30.0])


@pytest.fixture(scope="module")
def static(photon_case: Any) -> PhotonBeam:
    """Jaws 60 x 50 mm, no leaves, two control points."""
    return photon_case.case.plan.beams[0]


def with_leaves(beam: PhotonBeam, upper: tuple[float, float], axis: Any = "X") -> PhotonBeam:
    """Three pairs that open from -10 mm to `upper` at the first and the second control point."""
    leaf = np.stack([np.stack([np.full(3, -10.0), np.full(3, end)]) for end in upper])
    return replace(beam, mlcs=(Mlc(axis, EDGES, leaf),))


def test_techniques(static: PhotonBeam) -> None:
    turning = np.array([170.0, 190.0])
    sliding = with_leaves(static, (-10.0, 20.0))
    assert photonbeams.technique(static) == "static"
    assert photonbeams.technique(with_leaves(static, (10.0, 10.0))) == "static"
    assert photonbeams.technique(sliding) == "sliding window"
    assert photonbeams.technique(replace(static, gantry_deg=turning)) == "arc"
    assert photonbeams.technique(replace(sliding, gantry_deg=turning)) == "VMAT"
    # Two segments: the leaves move while nothing is given.
    four = np.array([0, 0, 1, 1])
    columns = ("isocenter_mm", "gantry_deg", "collimator_deg", "couch_deg", "jaw_x_mm", "jaw_y_mm")
    segments = replace(static, meterset_fraction=np.array([0.0, 0.5, 0.5, 1.0]), mlcs=(),
                       **{name: getattr(static, name)[four] for name in columns})  # fmt: skip
    leaf = np.stack([np.stack([np.full(3, -10.0), np.full(3, end)]) for end in (5.0, 5.0, 20.0, 20.0)])
    assert photonbeams.technique(replace(segments, mlcs=(Mlc("X", EDGES, leaf),))) == "step and shoot"


def test_words(static: PhotonBeam) -> None:
    assert photonbeams.energy(static) == "6 MV"
    assert photonbeams.energy(replace(static, energy_mv=10.0, fluence_mode="FFF")) == "10 MV FFF"
    assert photonbeams.gantry(replace(static, gantry_deg=np.array([181.0, 539.0])), "°") == "181.0° to 179.0° CW"
    assert photonbeams.gantry(replace(static, gantry_deg=np.array([20.0, -30.0]))) == "20.0 to 330.0 CCW"
    assert photonbeams.gantry(static, "°") == "0.0°"
    assert photonbeams.span(np.array([359.0, 361.0]), "°") == "359.0° to 1.0°"
    assert photonbeams.field_cm(static) == "6.0 x 5.0"
    assert photonbeams.field_cm(with_leaves(static, (10.0, 10.0))) == "2.0 x 5.0"
    assert photonbeams.accessories(static) == ""
    wedge = Wedge("W30", "STANDARD", 30.0, 0.0, np.ones(2))
    assert photonbeams.accessories(replace(static, wedges=(wedge,), bolus=("5 mm",))) == "wedge W30, bolus 5 mm"


def test_jaws_and_leaves_leave_open_what_they_say(static: PhotonBeam) -> None:
    u_mm, v_mm = np.arange(-39.5, 40.0), np.arange(-34.5, 35.0)
    jaws = share_open(static, u_mm, v_mm)
    # Pixels of 1 mm: 60 x 50 of them.
    assert (jaws.sum(), set(np.unique(jaws))) == (3000.0, {0.0, 1.0})
    assert jaws[:, 10:70].sum() == 3000.0
    leaves = share_open(with_leaves(static, (10.0, 10.0)), u_mm, v_mm)
    assert (leaves.sum(), leaves[:, 30:50].sum()) == (1000.0, 1000.0)
    along_y = share_open(with_leaves(static, (10.0, 10.0), "Y"), u_mm, v_mm)
    assert (along_y.sum(), along_y[25:45].sum()) == (1200.0, 1200.0)
    two_layers = replace(static, mlcs=(*with_leaves(static, (10.0, 10.0)).mlcs, *with_leaves(static, (0.0, 0.0)).mlcs))
    assert share_open(two_layers, u_mm, v_mm).sum() == 500.0


def test_a_moving_leaf_leaves_open_in_proportion_to_time(static: PhotonBeam) -> None:
    u_mm, v_mm = np.arange(-39.5, 40.0), np.arange(-34.5, 35.0)
    share = share_open(with_leaves(static, (-10.0, 20.0)), u_mm, v_mm)
    # The end passes u = x after (x + 10) / 30 of the meterset, in five steps.
    middle = share[35, 30:60]
    np.testing.assert_allclose(middle, 1.0 - (u_mm[30:60] + 10.0) / 30.0, atol=0.11)
    assert np.all(np.diff(middle) <= 0.0)
    assert share.sum() == pytest.approx(50.0 * 15.0, rel=0.01)


def test_every_photon_beam_has_a_picture(photon_case: Any, water_case: Any, static: PhotonBeam) -> None:
    block = Block("tray", "SHIELDING", np.array([(0.0, 0.0), (20.0, 0.0), (0.0, 20.0)]), 0.05, True, 600.0)
    plan = photon_case.case.plan
    pictures = beam_openings(replace(plan, beams=(replace(static, blocks=(block,)), plan.beams[1])))
    assert [p.caption for p in pictures] == ["1 X1: static, 6.0 x 5.0 cm, block tray", "2 X2: static, 4.0 x 4.0 cm"]
    assert pictures[1].alt == "Opening of beam 2 X2: static, 4.0 x 4.0 cm, gantry 90.0 degrees"
    data = [base64.b64decode(p.src.removeprefix("data:image/webp;base64,")) for p in pictures]
    assert all(d[:4] == b"RIFF" for d in data)
    plain = beam_openings(plan)[0].src
    assert pictures[0].src != plain
    assert beam_openings(water_case.case.plan) == ()


def closed(beam: PhotonBeam) -> PhotonBeam:
    return with_leaves(beam, (-10.0, -10.0))


def test_a_closed_beam_can_be_drawn(photon_case: Any, static: PhotonBeam) -> None:
    plan: Plan = replace(photon_case.case.plan, beams=(closed(static),))
    (picture,) = beam_openings(plan)
    assert picture.caption == "1 X1: static, 0.0 x 0.0 cm"


def table_of(modality: Modality, *scenarios: Scenario) -> Any:
    report: Any = SimpleNamespace(scenarios=(NOMINAL, *scenarios), goals=(), worst_index=1)
    return scenario_table(report, modality)


SETUP = ("Left (mm)", "Posterior (mm)", "Superior (mm)")


def test_scenarios_show_the_errors_there_are() -> None:
    shift = Scenario("left", (3.0, 0.0, -1.5))
    assert table_of("photon", shift).headings == SETUP
    assert table_of("photon", shift).meaning == "Shift of the isocentre in patient axes."
    assert table_of("photon", shift).rows[1].errors == ("+3.0", "0.0", "−1.5")
    assert table_of("proton", shift).headings == (*SETUP, "Range error")
    dense = table_of("photon", Scenario("dense", rsp_scale=1.02))
    assert dense.headings == (*SETUP, "Density error")
    assert dense.rows[1].errors[3:] == ("+2.0 %",)
    assert "density and attenuation" in dense.meaning
    assert table_of("proton", Scenario("s", rsp_scale=1.02)).rows[1].errors[3:] == ("+2.0 % (undershoot)",)
    machine = table_of("photon", Scenario("g", gantry_deg=1.0), Scenario("l", leaf_opening_mm=-0.5))
    assert machine.headings == (*SETUP, "Gantry (°)", "Leaves (mm)")
    assert [row.errors[3:] for row in machine.rows] == [("0.0", "0.0"), ("+1.0", "0.0"), ("0.0", "−0.5")]
    assert [row.is_worst for row in machine.rows] == [False, True, False]
