"""Photon plans through the engine's front door: what they have in common with proton plans, and what they lack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doseeng.dose import Dose, Quantity
from doseeng.engine import (
    EngineSettings,
    Prepared,
    let_volume,
    prepare,
    scenario_dose,
    single_beam_dose,
    variable_rbe_dose,
)
from doseeng.errors import MachineError, PlanError
from doseeng.grid import Grid
from doseeng.machines.photonfile import photon_machine_hash, write_photon_machine
from doseeng.photon import Algorithm, PhotonSettings
from doseeng.plan import Block, Mlc, PhotonBeam, Wedge
from doseeng.rbe import RbeModel
from doseeng.scenario import Scenario
from doseeng.structures import PhysicalOverride

PENCIL = EngineSettings(photon=PhotonSettings(Algorithm.PENCIL))
CENTRE = (slice(14, 16), slice(19, 21), slice(19, 21))


@pytest.fixture(scope="module")
def prepared(photon_case: Any) -> Prepared:
    return prepare(photon_case.case, machine_folders=[photon_case.folder], settings=PENCIL)


@pytest.fixture(scope="module")
def dose(prepared: Prepared) -> Dose:
    return scenario_dose(prepared)


def with_beams(prepared: Prepared, **changes: Any) -> Prepared:
    """Every beam changed; a function gets the beam."""
    beams = tuple(
        replace(b, **{name: value(b) if callable(value) else value for name, value in changes.items()})
        for b in prepared.beams
    )
    return replace(prepared, beams=beams)


def assert_same(found: Dose, expected: Dose, tolerance: float = 1e-4) -> None:
    highest = expected.volume.values.max()
    np.testing.assert_allclose(found.volume.values, expected.volume.values, atol=tolerance * highest)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_beams_sum_to_the_plan(photon_case: Any, algorithm: Algorithm) -> None:
    settings = EngineSettings(photon=PhotonSettings(algorithm))
    found = prepare(photon_case.case, machine_folders=[photon_case.folder], settings=settings)
    total, single = scenario_dose(found), [single_beam_dose(found, i) for i in range(2)]
    assert [(d.summation, d.beam_numbers) for d in single] == [("BEAM", (1,)), ("BEAM", (2,))]
    assert (total.summation, total.plan_uid) == ("PLAN", photon_case.case.plan.uid)
    np.testing.assert_allclose(total.volume.values, single[0].volume.values + single[1].volume.values, rtol=1e-5)
    assert {d.quantity for d in (total, *single)} == {Quantity.PHYSICAL}
    assert total.comment.endswith(f": dose to medium, {algorithm.value}")
    assert total.volume.values.min() >= 0.0
    # 2 Gy were asked of the target; the two algorithms agree there within a few percent.
    assert total.volume.values[CENTRE].mean() == pytest.approx(2.0, rel=0.05)


def test_the_reference_field_gives_the_dose_of_the_machine(photon_case: Any) -> None:
    """10 x 10 cm on a deep, wide phantom at SSD 90 cm: 1 cGy per MU 10 cm deep, whatever the kernels."""
    grid = Grid((60, 60, 60), (5.0, 5.0, 5.0), (-147.5, -97.5, -147.5))
    case, beam = photon_case.case, photon_case.case.plan.beams[0]
    jaws = np.array([(-50.0, 50.0)] * 2)
    beam = replace(beam, meterset_mu=100.0, jaw_x_mm=jaws, jaw_y_mm=jaws)
    water = replace(
        case,
        ct=replace(case.ct, grid=grid, values=np.zeros(grid.shape, dtype=np.float32)),
        structures=replace(case.structures, structures=()),
        plan=replace(case.plan, beams=(beam,), prescriptions=()),
        doses=(),
    )
    for algorithm in Algorithm:
        settings = EngineSettings(photon=PhotonSettings(algorithm))
        asked = Grid((5, 21, 5), (2.5, 2.5, 2.5), (-5.0, -25.0, -5.0))
        found = scenario_dose(prepare(water, machine_folders=[photon_case.folder], settings=settings, grid=asked))
        assert found.volume.values[2, 10, 2] == pytest.approx(1.0, rel=0.01)


def test_dose_follows_meterset_and_fractions(prepared: Prepared, dose: Dose) -> None:
    course = scenario_dose(with_beams(prepared, fractions=5, meterset_mu=lambda b: 0.5 * b.meterset_mu))
    np.testing.assert_allclose(course.volume.values, 2.5 * dose.volume.values, rtol=1e-4)


def test_photon_dose_is_never_weighted(photon_case: Any, prepared: Prepared) -> None:
    assert prepared.quantity is Quantity.PHYSICAL
    with pytest.raises(PlanError, match="plan 'X1': photon dose is physical"):
        prepare(photon_case.case, settings=EngineSettings(quantity=Quantity.RBE_WEIGHTED))
    with pytest.raises(PlanError, match="plan 'X1': has photon beams; LET and variable RBE"):
        let_volume(prepared)
    with pytest.raises(PlanError, match="plan 'X1': has photon beams; LET and variable RBE"):
        variable_rbe_dose(prepared, RbeModel.MCNAMARA, 3.0)


def test_dose_to_water_in_bone(photon_case: Any) -> None:
    structures = photon_case.case.structures
    bone = (PhysicalOverride("REL_MASS_DENSITY", 1.85),)
    dense = tuple(replace(s, overrides=bone) if s.name == "CTV" else s for s in structures.structures)
    case = replace(photon_case.case, structures=replace(structures, structures=dense))
    doses = []
    for to_water in (False, True):
        settings = EngineSettings(photon=PhotonSettings(Algorithm.PENCIL, to_water=to_water))
        doses.append(scenario_dose(prepare(case, machine_folders=[photon_case.folder], settings=settings)))
    assert "dose to water, pencil" in doses[1].comment
    ratio = doses[1].volume.values[CENTRE] / doses[0].volume.values[CENTRE]
    # Water over cortical bone, stopping powers of 1 MeV electrons: 1.10 to 1.12 (ICRU Report 37).
    assert np.all((ratio > 1.07) & (ratio < 1.15))
    soft = doses[1].volume.values[15, 8, 20] / doses[0].volume.values[15, 8, 20]
    assert soft == pytest.approx(1.0, abs=0.02)


# --- scenarios -------------------------------------------------------------------------------------------------------


def test_a_setup_error_is_that_of_the_moved_isocentre(prepared: Prepared, dose: Dose) -> None:
    moved = scenario_dose(prepared, Scenario("x", (4.0, -3.0, 2.0)))
    planned = scenario_dose(with_beams(prepared, isocenter_mm=np.tile([4.0, -3.0, 2.0], (2, 1))))
    assert_same(moved, planned)
    assert np.abs(moved.volume.values - dose.volume.values).max() > 0.2


@pytest.mark.parametrize("angle", ["gantry_deg", "collimator_deg", "couch_deg"])
def test_an_angle_error_is_that_of_the_turned_beam(prepared: Prepared, dose: Dose, angle: str) -> None:
    turned = scenario_dose(prepared, Scenario("turned", **{angle: 6.0}))
    planned = scenario_dose(with_beams(prepared, **{angle: lambda b: getattr(b, angle) + 6.0}))
    assert_same(turned, planned)
    assert np.abs(turned.volume.values - dose.volume.values).max() > 0.05


def test_a_leaf_error_opens_every_leaf_end(prepared: Prepared) -> None:
    error = Scenario("worn", leaf_opening_mm=2.0)
    jaws, leaves = (single_beam_dose(prepared, i, error) for i in range(2))
    np.testing.assert_array_equal(jaws.volume.values, single_beam_dose(prepared, 0).volume.values)
    mlc = prepared.beams[1].mlcs[0]
    wider = replace(prepared.beams[1], mlcs=(replace(mlc, leaf_mm=mlc.leaf_mm + np.array([[-2.0], [2.0]])),))
    planned = single_beam_dose(replace(prepared, beams=(prepared.beams[0], wider)), 1)
    assert_same(leaves, planned, 1e-5)
    assert leaves.volume.values.sum() > 1.1 * single_beam_dose(prepared, 1).volume.values.sum()


def test_a_density_error_attenuates(prepared: Prepared) -> None:
    errors = (Scenario("dense", rsp_scale=1.03), Scenario("nominal"))
    dense, plain = (single_beam_dose(prepared, 0, error).volume.values[15, 9:34, 20] for error in errors)
    along = dense / plain
    # From 1.6 to 11.6 cm deep 3 % more water takes 3 % of 10 cm times an attenuation of 0.03 to 0.06 per cm.
    assert np.all(np.diff(along) < 1e-4)
    assert 0.003 * 3.0 < np.log(along[0] / along[-1]) < 0.006 * 3.0


def test_scenarios_do_not_leave_traces(prepared: Prepared, dose: Dose) -> None:
    for error in ({"gantry_deg": 1.0}, {"leaf_opening_mm": 0.5}, {"rsp_scale": 1.02}, {"collimator_deg": 1.0}):
        scenario_dose(prepared, Scenario("s", **error))
    np.testing.assert_array_equal(scenario_dose(prepared).volume.values, dose.volume.values)


# --- choices and what is told of them --------------------------------------------------------------------------------


def test_what_a_photon_dose_is_worth_knowing_with(prepared: Prepared) -> None:
    codes = [n.code for n in prepared.notices]
    assert codes.count("couch-out") == 1
    assert "machine-replaced" not in codes


def test_beams_of_one_spectrum_share_the_patient(prepared: Prepared) -> None:
    assert prepared.maps[0] is prepared.maps[1]
    assert prepared.materials[0] is prepared.materials[1]


def test_a_dose_grid_past_the_image_is_computed_and_named(photon_case: Any, dose: Dose) -> None:
    image = photon_case.case.ct.grid
    longer = Grid(
        (32, 40, 44), image.spacing_mm, (image.origin_mm[0] - 8.0, image.origin_mm[1], image.origin_mm[2] - 4.0)
    )
    found = prepare(photon_case.case, machine_folders=[photon_case.folder], settings=PENCIL, grid=longer)
    [notice] = [n for n in found.notices if n.code == "dose-grid-leaves-image"]
    assert "8.0 mm" in notice.message
    inner = scenario_dose(found).volume.values[1:31, :, 2:42]
    np.testing.assert_allclose(inner, dose.volume.values, atol=2e-3 * dose.volume.values.max())


def test_machines_are_chosen_by_name_and_energy(photon_case: Any, tmp_path: Path) -> None:
    case = photon_case.case
    with pytest.raises(MachineError, match="LINAC"):
        prepare(case, machine_folders=[tmp_path])
    fast = tuple(replace(b, energy_mv=18.0) for b in case.plan.beams)
    with pytest.raises(MachineError, match="18 MV"):
        prepare(replace(case, plan=replace(case.plan, beams=fast)), machine_folders=[photon_case.folder])
    write_photon_machine(replace(photon_case.machine, name="Room 2", aliases=()), tmp_path / "room.toml")
    found = prepare(case, machine="Room 2", machine_folders=[tmp_path])
    [notice] = [n for n in found.notices if n.code == "machine-replaced"]
    assert (notice.where, notice.message) == ("LINAC", "computed with 'Room 2' 1 instead of 'LINAC'")


def test_provenance_names_machine_algorithm_and_settings(photon_case: Any, prepared: Prepared) -> None:
    found: Any = prepared.provenance
    sha256 = photon_machine_hash(photon_case.machine)
    assert found["machines"] == {"L6 6 MV STANDARD": {"version": "1", "sha256": sha256}}
    assert found["settings"]["photon"]["algorithm"] == "pencil"
    assert found["settings"]["photon"]["to_water"] is False
    assert found["settings"]["quantity"] == "physical"
    assert "proton" not in found["settings"]
    assert "rbe" not in found


LEAVES = Mlc("X", np.array([-50.0, 0.0, 50.0]), np.tile([[-10.0], [10.0]], (2, 1, 2)))
OTHER_LEAVES = replace(LEAVES, leaf_mm=LEAVES.leaf_mm + np.array([[0.0], [0.1]]))


@pytest.mark.parametrize(
    "change",
    [
        {"gantry_deg": np.array([0.0, 1.0])},
        {"collimator_deg": np.array([0.0, 1.0])},
        {"couch_deg": np.array([0.0, 1.0])},
        {"isocenter_mm": np.full((2, 3), 0.1)},
        {"meterset_mu": 99.0},
        {"jaw_x_mm": np.array([(-30.0, 30.0), (-30.0, 30.1)])},
        {"mlcs": (OTHER_LEAVES,)},
        {"wedges": (Wedge("W30", "STANDARD", 30.0, 90.0, np.ones(2)),)},
        {"blocks": (Block("B", "SHIELDING", np.array([(0.0, 0.0), (9.0, 0.0), (0.0, 9.0)]), 0.05, True, 600.0),)},
        {"fractions": 2},
        {"fluence_mode": ""},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_plans_hash_changes_with_whatever_changes_the_dose(photon_case: Any, change: dict[str, Any]) -> None:
    leafy = replace(photon_case.machine.leaves[0], widths=((2, 50.0),))
    machine = replace(photon_case.machine, leaves=(leafy,))
    case, beam = photon_case.case, replace(photon_case.case.plan.beams[0], mlcs=(LEAVES,))

    def plan_hash(beam: PhotonBeam, folder: Path) -> object:
        plan = replace(case.plan, beams=(beam,))
        return prepare(replace(case, plan=plan), machine_folders=[folder]).provenance["plan_sha256"]

    folder = photon_case.folder.parent / f"two_leaves_{next(iter(change))}"
    folder.mkdir(exist_ok=True)
    write_photon_machine(machine, folder / "l6.toml")
    plain = plan_hash(beam, folder)
    assert plan_hash(replace(beam, name="renamed"), folder) == plain
    assert plan_hash(replace(beam, **change), folder) != plain
