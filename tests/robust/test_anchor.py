"""Anchored doses: the formula, what it refuses, where an error goes when the range changes, and Monte Carlo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.anchoring import Engine, compare_pair
from benchmarks.mc_case import read_mc_case, reference_hu_table
from doseeng.comparison import Comparison
from doseeng.dose import Dose, Quantity
from doseeng.errors import DicomError, DoseengError, GeometryError, MetricError
from doseeng.grid import Grid, Volume, beam_frame
from doseeng.machines.library import find_machine
from doseeng.plan import Plan, ProtonBeam
from doseeng.scenario import NOMINAL, Scenario
from robust.anchor import Anchoring, anchored, clipping_notices, digest, disagreement, reach_notices, usable_reference
from robust.carry import BeamDose, error_carrier

ONE = np.ones(1)
PLAN = Plan("P", "1.2.5", "HFS", (ProtonBeam(1, "B", "m", (0, 0, 0), 0, 0, np.zeros((1, 2)), 100 * ONE, ONE),))
SHIFT = Scenario("left", (5.0, 0.0, 0.0))
GRID = Grid((12, 80, 12), (2.0, 2.0, 2.0), (-11.0, 1.0, -11.0))
"""160 mm deep along +y, from a surface at y = 0."""
DEPTH = GRID.origin_mm[1] + 2.0 * np.arange(80)


def in_depth(profile: np.ndarray) -> np.ndarray:
    """A dose that depends on y alone, 0 outside a field of 16 mm."""
    values = np.zeros(GRID.shape, dtype=np.float32)
    values[2:10, :, 2:10] = profile[:, None]
    return values


def dose(values: np.ndarray, **changes: Any) -> Dose:
    return replace(Dose(Volume(GRID, values.astype(np.float32)), Quantity.RBE_WEIGHTED, plan_uid="1.2.5"), **changes)


def edge(at_mm: float, width_mm: float, depth: np.ndarray = DEPTH) -> np.ndarray:
    """1 in front of a distal edge, 0 behind."""
    return 0.5 - 0.5 * np.tanh((depth - at_mm) / width_mm)


def still(error: np.ndarray) -> Callable[[float], np.ndarray]:
    return lambda _scale: error.astype(np.float32)


# --- the formula ----------------------------------------------------------------------------------------------------


def test_nominal_is_the_reference_and_others_change_as_the_engine_says() -> None:
    rng = np.random.default_rng(1)
    reference, nominal, own = (2.0 + rng.random(GRID.shape) for _ in range(3))
    asked: list[str] = []

    def own_dose(scenario: Scenario) -> Dose:
        asked.append(scenario.name)
        return dose(own)

    doses = anchored(dose(reference, uid="9.9"), own_dose, still(reference - nominal), "sha256 abc")
    assert doses(NOMINAL).volume.values is doses.reference.volume.values
    np.testing.assert_array_equal(doses(NOMINAL).volume.values, reference.astype(np.float32))
    np.testing.assert_allclose(doses(SHIFT).volume.values, reference + (own - nominal), rtol=1e-6)
    # The nominal dose is not computed again, and what is made here does not pass for the clinic's own object.
    assert asked == ["left"]
    for made in (doses(NOMINAL), doses(SHIFT)):
        assert made.uid == ""
        assert (made.plan_uid, made.quantity) == ("1.2.5", Quantity.RBE_WEIGHTED)
        assert made.comment.endswith("anchored to RTDOSE sha256 abc")
        assert len(made.comment) <= 64


def test_an_error_that_stays_in_the_patient_cancels() -> None:
    truth = {s: in_depth(edge(100.0 + s, 4.0)) for s in (0.0, 6.0)}
    wrong = in_depth(0.1 * np.exp(-(((DEPTH - 50.0) / 20.0) ** 2)))
    own = {s: truth[s] - wrong for s in truth}
    doses = anchored(dose(truth[0.0]), lambda _: dose(own[6.0]), still(truth[0.0] - own[0.0]))
    np.testing.assert_allclose(doses(SHIFT).volume.values, truth[6.0], atol=1e-6)
    assert doses.clipped_percent["left"] == pytest.approx(0.0, abs=1e-6)


def test_noise_of_the_reference_is_the_same_in_all_scenarios() -> None:
    noise = np.random.default_rng(2).normal(0.0, 0.02, GRID.shape)
    own = {name: np.full(GRID.shape, level) for name, level in (("a", 1.0), ("b", 1.2), ("c", 0.9))}
    doses = anchored(dose(1.0 + noise), lambda s: dose(own[s.name]), still(noise))
    made = np.array([doses(Scenario(name, (1.0, 0.0, 0.0))).volume.values for name in own])
    np.testing.assert_allclose(made.std(axis=0), np.std([1.0, 1.2, 0.9]), rtol=1e-5)
    np.testing.assert_allclose(made.min(axis=0), 0.9 + noise, atol=1e-6)


def test_negative_dose_is_zero_and_counted() -> None:
    values = np.ones(GRID.shape)
    values[0] = 0.0
    error = np.zeros(GRID.shape)
    error[0] = -0.05
    doses = anchored(dose(values), lambda _: dose(values), still(error))
    assert doses(SHIFT).volume.values.min() == 0.0
    # One of twelve slices at -0.05 against eleven at 1.
    assert doses.clipped_percent == {"left": pytest.approx(100.0 * 0.05 / 11.0)}
    assert clipping_notices(doses.clipped_percent) == ()
    (notice,) = clipping_notices({"left": 0.4, "far": 3.0})
    assert (notice.code, notice.where) == ("anchored-dose-clipped", "far")
    assert "3.00 %" in notice.message
    assert clipping_notices({}) == ()


# --- range errors ---------------------------------------------------------------------------------------------------


def carrier(own: list[tuple[float, np.ndarray]], error: np.ndarray, rsp: np.ndarray) -> Callable[[float], np.ndarray]:
    """own: gantry angle and nominal own dose of each beam."""
    middle = (0.0, 80.0, 0.0)
    beams = [BeamDose(beam_frame(middle, angle), Volume(GRID, values.astype(np.float32))) for angle, values in own]
    return error_carrier(
        Volume(GRID, error.astype(np.float32)), beams, Volume(GRID, np.broadcast_to(rsp, GRID.shape).astype(np.float32))
    )


@pytest.mark.parametrize("scale", [0.9, 0.965, 1.035, 1.1])
def test_an_error_of_the_distal_edge_moves_with_it(scale: float) -> None:
    """In water a range error stretches depth: what is at w is what was at scale x w."""

    def truth(s: float) -> np.ndarray:
        return in_depth(edge(100.0, 8.0, s * DEPTH))

    def own(s: float) -> np.ndarray:
        return in_depth(edge(100.0, 4.0, s * DEPTH))

    error = truth(1.0) - own(1.0)
    carried = carrier([(0.0, own(1.0))], error, np.ones(1))
    doses = anchored(dose(truth(1.0)), lambda _: dose(own(scale)), carried)
    made = doses(Scenario("range", rsp_scale=scale)).volume.values
    inside = np.s_[4:8, 2:72, 4:8]
    plain = np.abs(own(scale) - truth(scale))[inside].max()
    left_behind = np.abs(own(scale) + error - truth(scale))[inside].max()
    assert plain > 0.1
    assert left_behind > 0.1
    # Two trilinear interpolations on 2 mm flatten the peak of the error by as much.
    assert np.abs(made - truth(scale))[inside].max() < 0.015


def test_depth_is_water_equivalent() -> None:
    """An error behind lung moves by the change of water-equivalent depth over the stopping power there."""
    rsp = np.where((DEPTH > 30.0) & (DEPTH < 130.0), 0.25, 1.0)[:, None] * np.ones((12, 80, 12))
    scale, at = 1.05, 110.0
    error = in_depth(np.exp(-(((DEPTH - at) / 6.0) ** 2)))
    own = in_depth(edge(at, 6.0))
    moved = carrier([(0.0, own)], error, rsp)(scale)[5, :, 5]
    # wet(110) = 30 + 80 / 4 = 50; 50 / 1.05 = 47.62 is reached at 30 + 4 x 17.62 = 100.48 mm.
    assert np.average(DEPTH, weights=moved) == pytest.approx(100.48, abs=0.3)
    assert moved.max() == pytest.approx(1.0, abs=0.03)


def test_each_beam_carries_the_error_of_its_own_edge() -> None:
    """Two opposed beams: the error of each edge moves towards the source of its own beam."""
    front, back = in_depth(edge(60.0, 3.0)), in_depth(edge(60.0, 3.0, 160.0 - DEPTH))
    bump = {at: in_depth(np.exp(-(((DEPTH - at) / 4.0) ** 2))) for at in (60.0, 100.0)}
    carried = carrier([(0.0, front), (180.0, back)], bump[60.0] + bump[100.0], np.ones(1))(1.05)[5, :, 5]
    near, far = DEPTH < 80.0, DEPTH > 80.0
    # At 5 % more stopping power 60 mm of water become 57.1 mm, from either side.
    assert np.average(DEPTH[near], weights=carried[near]) == pytest.approx(57.1, abs=0.4)
    assert np.average(DEPTH[far], weights=carried[far]) == pytest.approx(160.0 - 57.1, abs=0.4)


def test_what_no_beam_owns_stays_and_no_range_error_changes_nothing() -> None:
    own = in_depth(edge(100.0, 4.0))
    error = in_depth(edge(100.0, 8.0)) - own
    error[0, 40, 0] = 0.3
    carried = carrier([(0.0, own)], error, np.ones(1))
    np.testing.assert_array_equal(carried(1.0), error.astype(np.float32))
    assert carried(1.035)[0, 40, 0] == pytest.approx(0.3)
    alone = carrier([], error, np.ones(1))
    np.testing.assert_array_equal(alone(0.9), error.astype(np.float32))
    dark = carrier([(0.0, np.zeros(GRID.shape))], error, np.ones(1))
    np.testing.assert_array_equal(dark(0.9), error.astype(np.float32))


# --- what can be an anchor ------------------------------------------------------------------------------------------

INNER = np.zeros(GRID.shape, dtype=np.float32)
INNER[3:9, 20:60, 3:9] = 2.0


def test_a_reference_of_the_plan_is_taken_as_it_is() -> None:
    reference = dose(INNER)
    assert usable_reference(reference, PLAN, Quantity.RBE_WEIGHTED) == (reference, 1.0)
    assert digest(reference) != digest(dose(1.1 * INNER))


def test_physical_dose_is_weighted_and_weighted_dose_is_not_unweighted() -> None:
    physical = dose(INNER, quantity=Quantity.PHYSICAL)
    weighted, factor = usable_reference(physical, PLAN, Quantity.RBE_WEIGHTED)
    assert factor == 1.1
    assert weighted.quantity is Quantity.RBE_WEIGHTED
    np.testing.assert_allclose(weighted.volume.values, 1.1 * INNER, rtol=1e-6)
    with pytest.raises(MetricError, match="model it does not name"):
        usable_reference(dose(INNER), PLAN, Quantity.PHYSICAL)


WITH_NAN = INNER.copy()
WITH_NAN[5, 30, 5] = np.nan
CUT = INNER.copy()
CUT[5, -1, 5] = 1.9


@pytest.mark.parametrize(
    ("reference", "kind", "message"),
    [
        (dose(INNER, plan_uid="7.7"), DicomError, "7.7.*1.2.5"),
        (dose(INNER, plan_uid=""), DicomError, "of no plan"),
        (dose(INNER, summation="FRACTION"), DicomError, "'FRACTION', expected PLAN"),
        (dose(INNER, summation="BEAM"), DicomError, "'BEAM', expected PLAN"),
        (dose(WITH_NAN), DicomError, "1 of 11520 voxels"),
        (dose(np.zeros(GRID.shape)), DicomError, "no dose"),
        (dose(CUT), GeometryError, "1.90 Gy on its outer faces, 2.00 Gy"),
    ],
)
def test_what_cannot_be_an_anchor_is_an_error(reference: Dose, kind: type[DoseengError], message: str) -> None:
    with pytest.raises(kind, match=message):
        usable_reference(reference, PLAN, Quantity.RBE_WEIGHTED)


@pytest.mark.parametrize(
    ("gamma", "ratio", "gate", "said"),
    [
        (99.0, 1.004, "", "gamma 99.0 %"),
        (92.0, 0.97, "", "gamma 92.0 %"),
        (89.9, 1.0, "anchor-disagrees", "Anatomy, plan version"),
        (99.0, 1.06, "anchor-disagrees", "0.95 to 1.05"),
        (5.0, 30.2, "anchor-disagrees", "number of fractions (30)"),
        (60.0, 1.1, "anchor-disagrees", "seems to be physical"),
        (60.0, 0.909, "anchor-disagrees", "seems to be RBE-weighted"),
    ],
)
def test_gross_disagreement_is_a_gate_with_its_numbers(gamma: float, ratio: float, gate: str, said: str) -> None:
    gates, notices = disagreement(Comparison("plan", gamma, 1234, ratio, 60.0, 60.0), 30, "proton")
    assert [n.code for n in gates] == [gate] * bool(gate)
    (notice,) = gates or notices
    assert f"{ratio:.3f}" in notice.message
    assert "1234 points" in notice.message
    assert said in notice.message
    if not gate:
        assert notice.code == ("anchor-compared" if gamma >= 95.0 else "anchor-agrees-weakly")


def test_setup_errors_beyond_what_was_shown_are_named() -> None:
    assert reach_notices((NOMINAL, SHIFT, Scenario("corner", (5.7, 5.7, 5.7))), "proton") == ()
    far = (NOMINAL, Scenario("far", (9.0, 9.0, 0.0)), Scenario("further", (0.0, 0.0, -15.0)))
    (notice,) = reach_notices(far, "proton")
    assert (notice.code, notice.where) == ("anchor-far-scenarios", "further")
    assert "2 of 3 scenarios" in notice.message
    assert "15.0 mm" in notice.message
    (of_photons,) = reach_notices(far, "photon")
    assert of_photons.message == notice.message.removesuffix(RANGE_SHIFTERS)
    assert notice.message.endswith(RANGE_SHIFTERS)


RANGE_SHIFTERS = ", above all at the lateral edges of fields with range shifters"


def test_a_photon_anchor_is_not_explained_by_rbe() -> None:
    gates, _ = disagreement(Comparison("plan", 60.0, 1234, 1.1, 60.0, 60.0), 30, "photon")
    assert "Anatomy, plan version" in gates[0].message
    assert "RBE" not in gates[0].message


def test_an_anchoring_says_what_to_what() -> None:
    told = str(Anchoring("1.2.3", "0123456789abcdef", 1.1, 98.25, 1000, 0.996, True, 0.123, "up"))
    assert "range errors carry the difference" in told
    of_photons = str(Anchoring("1.2.3", "0123456789abcdef", 1.0, 98.25, 1000, 0.996, is_carried=False))
    assert "own nominal dose). The engine's nominal dose" in of_photons
    assert "range" not in of_photons
    for part in (
        "1.2.3",
        "0123456789ab)",
        "times 1.1",
        "98.2 %",
        "0.996",
        "0.12 % of all dose, in 'up'",
        "own nominal",
    ):
        assert part in told
    refused = str(Anchoring("1.2.3", "0123456789abcdef", 1.0, 50.0, 1000, 0.8, False))
    assert refused.startswith("Not anchored to RTDOSE 1.2.3")
    assert "50.0 %" in refused


# --- Monte Carlo ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setup", ["lung_g45_setup_1", "lung_g45_setup_2"])
def test_setup_errors_in_lung_against_monte_carlo(data_dir: Path, setup: str) -> None:
    """A setup error of 7 mm moves tumour and chest wall through the field; both doses are independent Monte Carlo."""
    table, machine = reference_hu_table(data_dir / "proton_mc"), find_machine("generic-pbs")
    engines = [Engine(read_mc_case(data_dir / "proton_mc" / f"{n}.npz", table), machine) for n in ("lung_g45", setup)]
    plain, made = compare_pair(engines[0], engines[1])
    assert made["γ 2/2 %"] >= 99.5
    assert made["error / noise"] <= 1.5
    assert made["error %"] < 0.6 * plain["error %"]
