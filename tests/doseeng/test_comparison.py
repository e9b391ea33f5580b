"""Comparison with the planning system's doses: figures on made-up doses, explanations on the water case."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from doseeng.comparison import compare, compare_with_case
from doseeng.dose import Dose, Quantity
from doseeng.engine import Prepared, prepare, single_beam_dose
from doseeng.errors import MetricError, Notice
from doseeng.grid import Grid, Volume

GRID = Grid((12, 14, 16), (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))


def field(scale: float = 1.0, quantity: Quantity = Quantity.PHYSICAL) -> Dose:
    """A plateau of 2 Gy that falls off along x."""
    across = np.clip((np.arange(16) - 2) / 4.0, 0.0, 1.0) * 2.0 * scale
    return Dose(Volume(GRID, np.broadcast_to(across, GRID.shape).astype(np.float32)), quantity)


def test_equal_doses_agree_in_every_point() -> None:
    found = compare("plan", field(), field())
    assert (found.gamma_percent, found.mean_ratio) == (100.0, pytest.approx(1.0))
    assert (found.reference_max_gy, found.computed_max_gy) == (2.0, 2.0)
    # Ten of sixteen columns lie on the plateau; three of the four steps before it exceed 10 %.
    assert found.points == 12 * 14 * 13


def test_nothing_is_normalised() -> None:
    # 4 % more everywhere: the plateau fails 3 %, only the slope finds its dose within 3 mm.
    found = compare("plan", field(), field(1.04))
    assert found.mean_ratio == pytest.approx(1.04, rel=1e-5)
    assert found.gamma_percent < 35.0
    assert compare("plan", field(), field(1.02)).gamma_percent == 100.0


def test_reference_on_a_grid_of_its_own() -> None:
    finer = Grid((24, 28, 32), (1.5, 1.5, 1.5), (-0.75, -0.75, -0.75))
    across = np.interp(finer.origin_mm[0] + 1.5 * np.arange(32), 3.0 * np.arange(16), field().volume.values[0, 0])
    reference = Dose(Volume(finer, np.broadcast_to(across, finer.shape).astype(np.float32)))
    found = compare("plan", reference, field())
    assert found.gamma_percent == 100.0
    assert found.mean_ratio == pytest.approx(1.0, rel=1e-4)


def test_doses_that_cannot_be_compared() -> None:
    with pytest.raises(MetricError, match="plan: the reference is physical dose, the computed one rbe_weighted"):
        compare("plan", field(), field(quantity=Quantity.RBE_WEIGHTED))
    with pytest.raises(MetricError, match="plan: the reference dose is zero everywhere"):
        compare("plan", field(0.0), field())


@pytest.fixture(scope="module")
def prepared(water_case: Any) -> Prepared:
    return prepare(water_case.case)


def with_doses(prepared: Prepared, *doses: Dose) -> Prepared:
    return replace(prepared, case=replace(prepared.case, doses=doses))


def scaled(dose: Dose, factor: float) -> Dose:
    return replace(dose, volume=Volume(dose.volume.grid, dose.volume.values * np.float32(factor)))


def sum_of(*doses: Dose) -> Dose:
    grid = doses[0].volume.grid
    values = np.sum([d.volume.values for d in doses], axis=0)
    return replace(doses[0], volume=Volume(grid, values), summation="PLAN", beam_numbers=())


def codes(notices: tuple[Notice, ...]) -> list[tuple[str, str]]:
    return [(n.code, n.where) for n in notices]


def test_a_case_that_fits(prepared: Prepared) -> None:
    steps: list[tuple[int, int]] = []
    total, found, notices = compare_with_case(prepared, lambda done, of: steps.append((done, of)))
    assert notices == ()
    assert {c.what: c.gamma_percent for c in found} == {"beam 1 'F1'": 100.0, "beam 2 'F2'": 100.0, "plan": 100.0}
    np.testing.assert_allclose(total.volume.values, prepared.case.doses[0].volume.values, atol=1e-5)
    assert (total.summation, total.beam_numbers) == ("PLAN", ())
    assert steps == [(i, 5) for i in range(5)]


def test_doses_of_a_turned_gantry_are_explained(prepared: Prepared) -> None:
    turns = {1: 180.0, 2: 270.0}
    beams = tuple(replace(b, gantry_deg=b.gantry_deg + turns[b.number]) for b in prepared.beams)
    fields = [single_beam_dose(replace(prepared, beams=beams), i) for i in range(2)]
    _, found, notices = compare_with_case(with_doses(prepared, sum_of(*fields), *fields))
    assert codes(notices) == [("plan-dose-mismatch", c.what) for c in found]
    assert [c.what for c in found] == ["beam 1 'F1'", "beam 2 'F2'", "plan"]
    # Each beam was turned by another angle; the plan's explanation takes both over.
    assert "100.0 % with the gantry at 180 / 0 degrees instead of the plan's 0 / 90" in notices[2].message


def test_a_plan_dose_alone_is_explained_by_one_turn_of_all(prepared: Prepared) -> None:
    beams = tuple(replace(b, gantry_deg=b.gantry_deg + 90.0) for b in prepared.beams)
    turned = sum_of(*(single_beam_dose(replace(prepared, beams=beams), i) for i in range(2)))
    _, _, notices = compare_with_case(with_doses(prepared, turned))
    assert codes(notices) == [("plan-dose-mismatch", "plan")]
    assert "at 90 / 180 degrees" in notices[0].message


def test_what_no_turn_explains_is_called_so(prepared: Prepared) -> None:
    plan, first, _ = prepared.case.doses
    _, found, notices = compare_with_case(with_doses(prepared, scaled(plan, 0.8), scaled(first, 0.8)))
    assert codes(notices) == [("dose-disagrees", "beam 1 'F1'"), ("dose-disagrees", "plan")]
    assert [c.mean_ratio for c in found] == pytest.approx([1.25, 1.25], rel=1e-3)


def test_turns_that_miss_the_patient_are_no_explanation(prepared: Prepared) -> None:
    # Seen from gantry 0 the body is in the field; seen from the side the field passes 30 cm in front of it.
    beams = tuple(replace(b, gantry_deg=0.0, isocenter_mm=(0.0, -300.0, 0.0)) for b in prepared.beams)
    moved = replace(prepared, beams=beams)
    wrong = scaled(prepared.case.doses[1], 0.5)
    _, _, notices = compare_with_case(with_doses(moved, wrong))
    assert codes(notices) == [("dose-disagrees", "beam 1 'F1'")]


def test_doses_without_counterpart_are_named(prepared: Prepared) -> None:
    plan, first, _ = prepared.case.doses
    doses = (
        replace(plan, summation="FRACTION"),
        replace(first, beam_numbers=(7,)),
        replace(first, beam_numbers=()),
        scaled(plan, 0.0),
        replace(plan, quantity=Quantity.PHYSICAL),
        replace(sum_of(*prepared.case.doses[1:]), summation="BEAM", beam_numbers=(2, 1)),
    )
    _, found, notices = compare_with_case(with_doses(prepared, *doses))
    assert {n.code for n in notices} == {"dose-not-compared"}
    assert [n.where for n in notices] == ["fraction", "beam 7 '?'", "beam", "plan", "plan"]
    # A dose of several beams is compared with their sum.
    assert [(c.what, c.gamma_percent) for c in found] == [("beam 2 'F2', 1 'F1'", 100.0)]


# --- photons ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photons(photon_case: Any) -> Prepared:
    return prepare(photon_case.case, machine_folders=[photon_case.folder])


def test_a_photon_case_that_fits(photons: Prepared) -> None:
    total, found, notices = compare_with_case(photons)
    assert notices == ()
    assert {c.what: c.gamma_percent for c in found} == {"beam 1 'X1'": 100.0, "beam 2 'X2'": 100.0, "plan": 100.0}
    assert total.quantity is Quantity.PHYSICAL
    assert [c.mean_ratio for c in found] == pytest.approx([1.0] * 3, abs=1e-4)


def test_photon_doses_of_a_turned_gantry_are_explained(photons: Prepared) -> None:
    beams = tuple(replace(b, gantry_deg=b.gantry_deg + 90.0) for b in photons.beams)
    fields = [single_beam_dose(replace(photons, beams=beams), i) for i in range(2)]
    _, _, notices = compare_with_case(with_doses(photons, sum_of(*fields), *fields))
    assert {n.code for n in notices} == {"plan-dose-mismatch"}
    assert "100.0 % with the gantry at 90 / 180 degrees instead of the plan's 0 / 90" in notices[2].message


def test_a_weighted_dose_is_no_reference_for_photons(photons: Prepared) -> None:
    weighted = replace(photons.case.doses[0], quantity=Quantity.RBE_WEIGHTED)
    _, found, notices = compare_with_case(with_doses(photons, weighted))
    assert found == ()
    assert codes(notices) == [("dose-not-compared", "plan")]
