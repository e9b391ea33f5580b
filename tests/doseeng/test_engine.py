"""The engine's front door: choices it makes for a case, what it names, and dose kinds that must agree."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from doseeng.case import Case
from doseeng.dose import Dose, Quantity
from doseeng.engine import (
    EngineSettings,
    Prepared,
    compute_dose,
    let_volume,
    prepare,
    scenario_dose,
    single_beam_dose,
    variable_rbe_dose,
)
from doseeng.errors import ConfigError, MachineError, Notice, PlanError, StructureError
from doseeng.grid import Grid, Volume
from doseeng.machines.file import machine_hash, write_machine
from doseeng.machines.library import find_machine
from doseeng.materials import read_hu_table
from doseeng.plan import Plan, Prescription, ProtonBeam, RangeShifter
from doseeng.proton import ProtonSettings
from doseeng.rbe import RbeModel
from doseeng.scenario import Scenario
from doseeng.structures import PhysicalOverride, Structure, StructureSet

FAST = EngineSettings(4.0, proton=ProtonSettings(pitch_mm=3.0, slice_mm=3.0, mixing_mm=12.0))
CT = Grid((30, 40, 40), (3.0, 3.0, 3.0), (-58.5, -58.5, -43.5))


def box(number: int, name: str, kind: str, half: tuple[float, float, float]) -> Structure:
    """A box about the origin, contoured every 3 mm."""
    x, y, z = half
    corners = [(-x, -y), (x, -y), (x, y), (-x, y)]
    planes = np.arange(-z + 1.5, z, 3.0)
    return Structure(number, name, kind, tuple(np.array([(u, v, p) for u, v in corners]) for p in planes))


BODY = box(1, "Body", "EXTERNAL", (42.0, 42.0, 36.0))
PTV = box(2, "PTV", "PTV", (12.0, 12.0, 12.0))


def beam(number: int, gantry: float, **changes: object) -> ProtonBeam:
    uv = np.array([(0.0, 0.0), (6.0, 3.0)])
    # The centre of the target lies behind 44 mm of water-equivalent tissue: 76 MeV and 80 MeV.
    energy, mu = np.array([76.0, 80.0]), np.array([2.0, 3.0])
    return replace(
        ProtonBeam(number, f"B{number}", "generic", (0.0, 0.0, 0.0), gantry, 0.0, uv, energy, mu, fractions=20),
        **changes,
    )


def make_case(
    beams: tuple = (beam(1, 0.0), beam(2, 90.0)),
    structures: tuple[Structure, ...] = (BODY, PTV),
    doses: tuple[Dose, ...] = (),
    roi: int = 2,
) -> Case:
    hu = np.full(CT.shape, 40.0)
    plan = Plan("P", "1.2.3", "HFS", beams, (Prescription(roi, 60.0),))
    return Case("case-7", Volume(CT, hu), StructureSet("S", "1.2", "1.1", structures), plan, doses)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(make_case(), settings=FAST)


@pytest.fixture(scope="module")
def dose(prepared: Prepared) -> Dose:
    return scenario_dose(prepared)


def codes(notices: tuple[Notice, ...]) -> list[str]:
    return [notice.code for notice in notices]


def test_default_grid_lies_around_the_body(prepared: Prepared) -> None:
    # The body and 10 mm, in CT voxels: x and y from -52 to 52 in voxels of 3 mm, z clipped to the image.
    assert prepared.grid.spacing_mm == (4.0, 4.0, 4.0)
    assert prepared.grid.contains(np.concatenate(BODY.contours), margin_mm=6.0).all()
    low, high = prepared.grid.corners_mm().min(axis=0), prepared.grid.corners_mm().max(axis=0)
    assert np.all(low[:2] >= -60.0)
    assert np.all(low[:2] <= -52.0)
    assert np.all(high[:2] <= 62.0)
    assert low[2] == pytest.approx(-45.0)


def test_without_a_body_the_grid_is_that_of_the_image() -> None:
    found = prepare(make_case(structures=(PTV,)), settings=FAST)
    np.testing.assert_allclose(found.grid.corners_mm()[0], CT.corners_mm()[0])
    assert "no-external" in codes(found.notices)


def test_the_plan_dose_of_the_case_gives_the_grid() -> None:
    grids = [Grid((5, 6, 7), (5.0, 5.0, 5.0), (-15.0 + n, -12.0, -10.0)) for n in (0, 1)]
    volumes = [Volume(g, np.zeros(g.shape)) for g in grids]
    found = prepare(make_case(doses=(Dose(volumes[0], summation="BEAM"), Dose(volumes[1]))), settings=FAST)
    assert found.grid.is_same(grids[1])
    asked = Grid((4, 4, 4), (10.0, 10.0, 10.0), (-15.0, -15.0, -15.0))
    assert prepare(make_case(doses=(Dose(volumes[1]),)), grid=asked, settings=FAST).grid is asked


def test_a_grid_that_clips_the_target_is_named() -> None:
    # The target reaches from -12 to 12 mm; the grid ends at 6 mm along x: three quarters inside.
    clipping = Grid((20, 20, 12), (3.0, 3.0, 3.0), (-28.5, -28.5, -28.5))
    found = prepare(make_case(), grid=clipping, settings=FAST)
    [notice] = [n for n in found.notices if n.code == "dose-grid-clips-target"]
    assert notice.where == "PTV"
    assert "75.0 %" in notice.message
    assert "dose-grid-clips-target" not in codes(prepare(make_case(), settings=FAST).notices)


def test_unknown_machine_is_an_error() -> None:
    with pytest.raises(MachineError, match="no machine 'TR4'"):
        prepare(make_case((beam(1, 0.0, machine="TR4"),)), settings=FAST)


def test_replacing_the_machine_is_named() -> None:
    case = make_case((beam(1, 0.0, machine="TR4"), beam(2, 90.0)))
    found = prepare(case, machine="generic-pbs", settings=FAST)
    [notice] = [n for n in found.notices if n.code == "machine-replaced"]
    assert notice.where == "TR4"
    assert "'generic-pbs'" in notice.message
    assert [m.name for m in found.machines] == ["generic-pbs"] * 2
    # An alias of the plan's own machine is no replacement.
    assert "machine-replaced" not in codes(prepare(make_case(), machine="generic-pbs", settings=FAST).notices)


def test_machines_of_a_folder_are_found(tmp_path: Path) -> None:
    write_machine(replace(find_machine("generic-pbs"), name="Room 2", aliases=("TR4",)), tmp_path / "room.toml")
    found = prepare(make_case((beam(1, 0.0, machine="TR4"),)), machine_folders=[tmp_path], settings=FAST)
    assert found.machines[0].name == "Room 2"


def test_a_prescription_to_no_structure_is_an_error() -> None:
    with pytest.raises(StructureError, match="ROI number 9 is not in structure set"):
        prepare(make_case(roi=9), settings=FAST)


def test_an_empty_target_does_not_stop_preparation() -> None:
    assert prepare(make_case(structures=(BODY, Structure(2, "PTV", "PTV", ()))), settings=FAST).grid.shape


def test_notices_of_the_case_and_the_materials_travel_along() -> None:
    metal = replace(box(3, "Hip", "ORGAN", (4.0, 4.0, 4.0)), overrides=(PhysicalOverride("REL_MASS_DENSITY", 4.5),))
    case = replace(make_case(structures=(BODY, PTV, metal)), notices=(Notice("ct-gap", "CT", "text"),))
    found = prepare(case, settings=FAST)
    assert codes(found.notices)[0] == "ct-gap"
    assert "override" in codes(found.notices)
    assert "material-outside-body" in codes(found.notices)


def test_spots_beside_the_patient_are_named_and_impossible_ones_refused() -> None:
    uv = np.array([(0.0, 0.0), (100.0, 0.0)])
    found = prepare(make_case((beam(1, 0.0, spot_uv_mm=uv),)), settings=FAST)
    [notice] = [n for n in found.notices if n.code == "spots-miss-patient"]
    assert notice.where == "beam 1 'B1'"
    assert notice.message.startswith("1 of 2 spots, 3 of 5 MU")
    with pytest.raises(PlanError, match=r"beam 1 'B1': spot 1 is at \(1000, 0\) mm"):
        prepare(make_case((beam(1, 0.0, spot_uv_mm=10 * uv),)), settings=FAST)


def test_the_machine_knows_the_density_of_its_range_shifter() -> None:
    known, other = RangeShifter("rs_block", 20.0, 100.0, 1.0), RangeShifter("Lucite", 20.0, 100.0, 1.0)
    found = prepare(make_case((beam(1, 0.0, range_shifter=known), beam(2, 0.0, range_shifter=other))), settings=FAST)
    assert [b.range_shifter.density_gcm3 for b in found.beams] == [1.2, 1.0]
    assert [b.range_shifter.wet_mm for b in found.beams] == [20.0, 20.0]


def test_beams_sum_to_the_plan(prepared: Prepared, dose: Dose) -> None:
    single = [single_beam_dose(prepared, n) for n in range(2)]
    assert [(d.summation, d.beam_numbers) for d in single] == [("BEAM", (1,)), ("BEAM", (2,))]
    assert (dose.summation, dose.beam_numbers, dose.plan_uid) == ("PLAN", (), "1.2.3")
    total = single[0].volume.values + single[1].volume.values
    np.testing.assert_allclose(dose.volume.values, total, rtol=1e-5, atol=1e-5 * total.max())
    assert min(d.volume.values.max() for d in single) > 0.2 * total.max()


def test_the_dose_lies_in_the_target(dose: Dose) -> None:
    hottest = dose.volume.grid.to_patient(
        np.unravel_index(np.argmax(dose.volume.values), dose.volume.values.shape)[::-1]
    )
    assert np.all(np.abs(hottest) <= 14.0)


def test_rbe_weighted_is_the_default_and_a_tenth_above_physical(prepared: Prepared, dose: Dose) -> None:
    assert dose.quantity is Quantity.RBE_WEIGHTED
    assert "RBE constant 1.1" in dose.comment
    physical = scenario_dose(replace(prepared, settings=replace(FAST, quantity=Quantity.PHYSICAL)))
    assert physical.quantity is Quantity.PHYSICAL
    assert "RBE" not in physical.comment
    np.testing.assert_allclose(dose.volume.values, np.float32(1.1) * physical.volume.values, rtol=1e-5)


def test_dose_is_of_the_whole_course(dose: Dose) -> None:
    case = make_case((beam(1, 0.0, fractions=10), beam(2, 90.0, fractions=10)))
    half = compute_dose(case, settings=FAST)
    np.testing.assert_allclose(half.volume.values, 0.5 * dose.volume.values, rtol=1e-5)


def test_a_scenario_is_that_of_the_moved_isocentre(prepared: Prepared) -> None:
    moved = scenario_dose(prepared, Scenario("x", (4.0, 0.0, 0.0)))
    there = tuple(replace(b, isocenter_mm=(4.0, 0.0, 0.0)) for b in prepared.beams)
    planned = scenario_dose(replace(prepared, beams=there)).volume.values
    # Fluence is drawn where the nominal beam is narrowest; a scenario keeps it.
    np.testing.assert_allclose(moved.volume.values, planned, atol=2e-3 * planned.max())


@pytest.mark.parametrize("angle", ["gantry_deg", "couch_deg"])
def test_an_angle_error_is_that_of_the_turned_beam(prepared: Prepared, dose: Dose, angle: str) -> None:
    turned = scenario_dose(prepared, Scenario("turned", **{angle: 8.0})).volume.values
    there = tuple(replace(b, **{angle: getattr(b, angle) + 8.0}) for b in prepared.beams)
    planned = scenario_dose(replace(prepared, beams=there)).volume.values
    # Fluence is drawn where the nominal beam is narrowest; a scenario keeps it.
    np.testing.assert_allclose(turned, planned, atol=2e-3 * planned.max())
    assert np.abs(turned - dose.volume.values).max() > 0.05 * planned.max()
    # What was traced for the turned beam is not kept for the nominal one.
    np.testing.assert_array_equal(scenario_dose(prepared).volume.values, dose.volume.values)


@pytest.mark.parametrize(("error", "what"), [("collimator_deg", "collimator"), ("leaf_opening_mm", "leaf opening")])
def test_errors_that_protons_do_not_know_are_refused(prepared: Prepared, error: str, what: str) -> None:
    with pytest.raises(ConfigError, match=f"scenario 'wrong': has a {what} error"):
        scenario_dose(prepared, Scenario("wrong", **{error: 0.5}))


def test_provenance_names_everything_the_dose_depends_on(prepared: Prepared) -> None:
    found = prepared.provenance
    assert {"code", "case", "plan_uid", "image_sha256", "plan_sha256", "machines", "hu_table", "dose_grid", "rbe",
            "settings", "backend"} <= set(found)  # fmt: skip
    assert found["case"] == "case-7"
    assert found["rbe"] == 1.1
    machine = prepared.machines[0]
    assert found["machines"] == {"generic-pbs": {"version": machine.version, "sha256": machine_hash(machine)}}
    assert found["hu_table"]["sha256"] == read_hu_table().digest
    assert found["dose_grid"] == {"shape": list(prepared.grid.shape), "spacing_mm": [4.0, 4.0, 4.0]}
    assert found["settings"]["proton"]["pitch_mm"] == 3.0
    assert "photon" not in found["settings"]


@pytest.mark.parametrize(
    "change",
    [
        {"gantry_deg": 1.0},
        {"couch_deg": 1.0},
        {"isocenter_mm": (0.0, 0.0, 0.1)},
        {"spot_mu": np.array([2.0, 3.001])},
        {"spot_energy_mev": np.array([76.0, 80.1])},
        {"spot_uv_mm": np.array([(0.0, 0.0), (6.0, 3.1)])},
        {"fractions": 21},
        {"range_shifter": RangeShifter("RS", 20.0, 100.0)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_plans_hash_changes_with_whatever_changes_the_dose(change: dict) -> None:
    plain, changed = (
        prepare(make_case((b,)), settings=FAST).provenance for b in (beam(1, 0.0), beam(1, 0.0, **change))
    )
    assert plain["plan_sha256"] != changed["plan_sha256"]
    assert plain["image_sha256"] == changed["image_sha256"]


def test_the_plans_hash_knows_the_patient_position() -> None:
    case = make_case()
    turned = replace(case, plan=replace(case.plan, patient_position="FFP"))
    hashes = {prepare(c, settings=FAST).provenance["plan_sha256"] for c in (case, turned)}
    assert len(hashes) == 2


# --- LET and variable RBE --------------------------------------------------------------------------------------------


def test_let_is_low_at_the_skin_and_high_where_protons_stop(prepared: Prepared, dose: Dose) -> None:
    lets = let_volume(prepared)
    assert lets.grid.is_same(dose.volume.grid)
    k, j, i = np.indices(lets.grid.shape)
    inside = np.all(np.abs(lets.grid.to_patient(np.stack([i, j, k], axis=-1))) < (38.0, 38.0, 32.0), axis=-1)
    reached = inside & (dose.volume.values > 0.05 * dose.volume.values.max())
    assert np.all(lets.values[reached] > 0.0)
    assert not lets.values[dose.volume.values < 0.9e-3 * dose.volume.values.max()].any()
    # Stopping power of water at 80 MeV is 0.86 keV/um (PSTAR), secondaries add to it; where the deeper ones stop LET
    # exceeds 5, and 20 nowhere (Grassberger and Paganetti, Phys Med Biol 56 (2011) 6677).
    assert 0.86 < lets.values[reached].min() < 1.1
    assert 5.0 < lets.values[reached].max() < 20.0


def test_let_of_two_beams_is_the_dose_weighted_mean(prepared: Prepared) -> None:
    alone = [
        replace(prepared, beams=(b,), machines=(m,)) for b, m in zip(prepared.beams, prepared.machines, strict=True)
    ]
    doses = [scenario_dose(one).volume.values for one in alone]
    lets = [let_volume(one).values for one in alone]
    both = let_volume(prepared).values
    total = doses[0] + doses[1]
    high = np.minimum(*doses) > 0.05 * total.max()
    expected = (doses[0] * lets[0] + doses[1] * lets[1]) / np.maximum(total, 1e-9)
    np.testing.assert_allclose(both[high], expected[high], rtol=2e-3)


def test_variable_rbe_weights_the_physical_dose_of_a_fraction(prepared: Prepared) -> None:
    physical = scenario_dose(replace(prepared, settings=replace(prepared.settings, quantity=Quantity.PHYSICAL)))
    constant = variable_rbe_dose(prepared, RbeModel.CONSTANT, 3.0)
    np.testing.assert_allclose(constant.volume.values, 1.1 * physical.volume.values, rtol=1e-5)
    found = variable_rbe_dose(prepared, RbeModel.WEDENBERG, 3.0)
    assert found.quantity is Quantity.RBE_WEIGHTED
    assert "wedenberg" in found.comment
    at = np.unravel_index(physical.volume.values.argmax(), physical.volume.values.shape)
    dose, let = physical.volume.values[at] / 20.0, let_volume(prepared).values[at]
    # Wedenberg et al. (2013), Eq. 8, for alpha/beta 3 Gy.
    rbe = (-3.0 + np.sqrt(9.0 + 4.0 * dose * (3.0 + 0.434 * let) + 4.0 * dose**2)) / (2.0 * dose)
    assert found.volume.values[at] == pytest.approx(20.0 * dose * rbe, rel=1e-4)


def test_variable_rbe_needs_one_fractionation(prepared: Prepared) -> None:
    mixed = replace(prepared, beams=(prepared.beams[0], replace(prepared.beams[1], fractions=10)))
    with pytest.raises(PlanError, match=r"beams have \[10, 20\] fractions"):
        variable_rbe_dose(mixed, RbeModel.MCNAMARA, 3.0)


def test_no_dose_is_negative(dose: Dose) -> None:
    assert dose.volume.values.min() == 0.0
