"""A day from its registration to its verdict: a box of water whose tissue has moved by a known distance."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from cluster.adaptation.basis import Basis, make_basis
from cluster.adaptation.course import as_earlier, course_day, read_course
from cluster.adaptation.gates import registration_gates
from cluster.adaptation.history import history_of, keep
from cluster.adaptation.package import package_name, write_package
from cluster.adaptation.result import FractionReport, ImageMethod
from cluster.adaptation.workflow import STAGES, History, evaluate_fraction
from doseeng.case import Case
from doseeng.dicom.case import read_case, read_image
from doseeng.dicom.day import DayImage
from doseeng.dicom.registration import registration_from
from doseeng.dicom.rtdose import read_dose
from doseeng.dicom.rtstruct import structure_set_from
from doseeng.engine import prepare
from doseeng.errors import ConfigError, DicomError, PlanError
from doseeng.grid import Volume
from doseeng.structures import StructureSet
from doseeng.transforms import RigidTransform
from registration.accumulation import DayDose
from registration.result import DayRegistration, GateResult
from robust.result import Verdict

Days = Callable[[int], DayImage]
FAILED = GateResult("coverage", "CTV", 0.4, 0.9, "", False, "60 % of the target lie outside the image.")
ALONG_MM = (0.0, 0.0, 16.0)
"""Across both fields, along the box: the target leaves the fields, the paths stay."""


def values(report: FractionReport) -> dict[str, float]:
    return {day.goal.metric: day.value for day in report.goals}


def with_bone(basis: Basis) -> Volume:
    """Bone in place of 24 mm of water in front of gantry 0, which looks along +y; gantry 90 looks along -x."""
    denser = basis.case.ct.values.copy()
    denser[4:26, 6:12, 5:35] = 800.0
    return Volume(basis.case.ct.grid, denser)


def test_the_anatomy_of_the_plan_gets_the_dose_of_the_plan(basis: Basis, truth: Any, day: Days) -> None:
    told: list[tuple[str, int, int]] = []
    found = evaluate_fraction(basis, day(1), History(1), progress=lambda *step: told.append(step))
    report = found.report
    assert report.verdict is report.verdict_alone is Verdict.GREEN
    for goal in report.goals:
        assert goal.value == pytest.approx(goal.planned, abs=0.05)
        assert goal.course == pytest.approx(goal.planned, abs=0.05)
        assert goal.band.low <= goal.value <= goal.band.high
        assert goal.band.image == pytest.approx(0.0, abs=1e-6)
    assert found.carried is not None
    np.testing.assert_allclose(found.carried.values, basis.dose.volume.values, atol=0.02)
    for change in report.path_changes:
        assert abs(change.mean_mm) < 0.2
    assert [c.structure for c in report.structure_changes] == ["CTV"]
    assert report.structure_changes[0].dice > 0.98
    assert [stage for stage, _, _ in told] == list(report.seconds) == list(STAGES)
    assert [done for _, done, _ in told] == list(range(len(STAGES)))
    assert (report.fraction, report.fractions) == (1, 10)
    assert report.provenance["adaptation"]["image_method"] == "virtual-ct"


def test_a_target_that_has_left_the_fields_is_red(basis: Basis, truth: Any, day: Days) -> None:
    truth.moved_mm = ALONG_MM
    truth.couch = RigidTransform(np.eye(3), np.array([3.0, -4.0, 0.0]), np.zeros(3))
    found = evaluate_fraction(basis, day(1), History(1))
    report = found.report
    assert report.verdict is Verdict.RED
    assert report.structure_changes[0].shift_mm == pytest.approx(ALONG_MM, abs=0.3)
    assert report.couch_shift_mm == pytest.approx((3.0, -4.0, 0.0))
    # Water moved along water: the same depth everywhere.
    assert all(abs(change.mean_mm) < 0.5 for change in report.path_changes)
    # 24 mm of target, of which about 16 mm have left a field with an edge a few millimetres wide.
    assert values(report)["V95%"] < 60.0
    # What tissue got is found where that tissue lies on the planning CT, four slices away. Far from the end of the box:
    # beyond it protons now fly through air.
    assert found.carried is not None
    np.testing.assert_allclose(found.carried.values[10:18], basis.dose.volume.values[14:22], atol=0.02)
    assert report.goals[0].course == pytest.approx(report.goals[0].value, abs=3.0)
    assert "value and band miss the limit" in report.reasons[0]


def test_energy_and_mass_carry_the_dose_of_moved_tissue_like_the_tissue_itself(
    basis: Basis, truth: Any, day: Days
) -> None:
    truth.moved_mm = ALONG_MM
    by_energy = replace(basis, settings=basis.settings.model_copy(update={"dose_transfer": "energy-mass"}))
    direct, found = (evaluate_fraction(b, day(1), History(1)).carried for b in (basis, by_energy))
    assert direct is not None
    assert found is not None
    assert found is not direct
    np.testing.assert_allclose(found.values[10:18], direct.values[10:18], atol=0.1)


def test_days_so_far_count_in_the_course(basis: Basis, truth: Any, day: Days) -> None:
    good = evaluate_fraction(basis, day(1), History(1))
    assert good.carried is not None
    earlier = (as_earlier(course_day(good.report)),)
    truth.moved_mm = ALONG_MM
    late = evaluate_fraction(basis, day(2), History(10, earlier, (DayDose(9, good.carried),))).report
    # Nine of ten fractions were good: the last one does not cost the course its coverage.
    assert late.goals[1].value < 80.0
    assert late.goals[1].course == pytest.approx(0.9 * late.goals[1].planned + 0.1 * late.goals[1].value, abs=2.5)
    assert "on 2025-01-06" in late.reasons[0]


def test_tissue_in_the_way_is_seen_by_the_pre_screen(basis: Basis, truth: Any, day: Days) -> None:
    truth.image = with_bone(basis)
    report = evaluate_fraction(basis, day(1), History(1)).report
    stopping = basis.prepare_day(replace(basis.case, ct=truth.image, doses=()), basis.prepared.grid).maps[0].rsp.values
    front, side = report.path_changes
    assert front.mean_mm == pytest.approx(24.0 * (stopping[15, 8, 20] - stopping[15, 20, 20]), abs=0.2)
    assert side.mean_mm == pytest.approx(0.0, abs=0.2)
    # Half of the dose stops 10 mm early.
    assert report.verdict is not Verdict.GREEN
    assert report.goals[1].value < report.goals[1].planned - 3.0


def test_two_images_for_dose_that_disagree_widen_the_band(basis: Basis, truth: Any, day: Days) -> None:
    plain = evaluate_fraction(basis, day(1), History(1)).report
    truth.other = with_bone(basis)
    report = evaluate_fraction(basis, day(1), History(1)).report
    assert values(report) == pytest.approx(values(plain))
    for wider, narrow in zip(report.goals, plain.goals, strict=True):
        assert wider.band.low < narrow.band.low
        assert wider.band.image > 0.5 > narrow.band.image


def test_an_image_that_cannot_be_registered_is_unevaluable(basis: Basis, truth: Any, day: Days) -> None:
    truth.error = "the image holds air alone"
    found = evaluate_fraction(basis, day(1), History(1))
    assert found.carried is None
    assert found.report.verdict is Verdict.UNEVALUABLE
    assert found.report.reasons[0] == "registration: the image holds air alone"
    assert found.report.goals == ()
    assert list(found.report.seconds) == ["register"]


def test_a_failed_gate_is_unevaluable_and_shows_what_was_computed(basis: Basis, truth: Any, day: Days) -> None:
    truth.gates = (FAILED,)
    found = evaluate_fraction(basis, day(1), History(1))
    assert found.report.verdict is Verdict.UNEVALUABLE
    assert found.report.reasons[0] == "coverage [CTV]: 60 % of the target lie outside the image."
    assert found.report.goals[0].value == pytest.approx(found.report.goals[0].planned, abs=0.05)
    assert found.carried is None


def test_a_shift_that_no_couch_makes_is_unevaluable(basis: Basis, truth: Any, day: Days) -> None:
    truth.couch = RigidTransform(np.eye(3), np.array([0.0, 0.0, 60.0]), np.zeros(3))
    report = evaluate_fraction(basis, day(1), History(1)).report
    assert report.verdict is Verdict.UNEVALUABLE
    assert "60 mm" in report.reasons[0]


def test_a_target_that_the_image_does_not_show_fails(basis: Basis, truth: Any) -> None:
    registration = truth.register(basis.case.ct, basis.case.ct, basis.isocenter_mm)
    today = basis.case.structures

    def seen_of(of: DayRegistration, structures: StructureSet) -> GateResult:
        found = registration_gates(basis, of, structures, None)
        return next(g for g in found if (g.name, g.where) == ("target-seen", "CTV"))

    assert seen_of(registration, today).passed
    seen = registration.seen.values.copy()
    seen[15:] = 0.0  # from the middle of the target on
    half = seen_of(replace(registration, seen=Volume(basis.case.ct.grid, seen)), today)
    assert not half.passed
    assert half.value == pytest.approx(50.0, abs=1.0)
    empty = replace(today, structures=tuple(replace(s, contours=()) for s in today.structures))
    assert not seen_of(registration, empty).passed


def test_a_plan_dose_that_the_engine_cannot_reproduce_makes_every_day_unevaluable(
    course_case: Case, basis: Basis, truth: Any, day: Days
) -> None:
    plan = course_case.doses[0]
    wrong = replace(plan, volume=Volume(plan.volume.grid, plan.volume.values * np.float32(1.3)))
    other = make_basis(prepare(replace(course_case, doses=(wrong,))), basis.prepare_day, basis.settings)
    report = evaluate_fraction(other, day(1), History(1)).report
    assert report.verdict is Verdict.UNEVALUABLE
    assert report.reasons[0].startswith("plan-dose [plan]: gamma")


@pytest.mark.parametrize("number", [0, 11])
def test_a_fraction_outside_the_course_is_refused_before_any_work(
    basis: Basis, truth: Any, day: Days, number: int
) -> None:
    truth.error = "nothing is registered"
    with pytest.raises(PlanError):
        evaluate_fraction(basis, day(1), History(number))


def test_robustness_on_todays_image(basis: Basis, truth: Any, day: Days) -> None:
    found = evaluate_fraction(basis, day(1), History(1), robust=True).report
    assert found.robust is not None
    assert len(found.robust.scenarios) == 29
    largest = max(np.linalg.norm(s.isocenter_shift_mm) for s in found.robust.scenarios)
    assert largest == pytest.approx(basis.settings.residual_setup_mm)
    assert list(found.seconds)[-1] == "robust"
    assert found.reasons[-1].startswith(f"With residual setup and range errors: {found.robust.verdict.value}.")


def test_a_photon_plan(photon_case: Any, settings: Any, truth: Any, day: Days) -> None:
    case = photon_case.case
    folder = [photon_case.folder]
    made = make_basis(
        prepare(case, machine_folders=folder),
        lambda of, grid: prepare(of, grid=grid, machine_folders=folder),
        settings.model_copy(update={"residual_setup_mm": 1.0}),
    )
    report = evaluate_fraction(made, day(1), History(1), robust=True).report
    for goal in report.goals:
        assert goal.value == pytest.approx(goal.planned, abs=0.1)
    assert all(abs(change.mean_mm) < 0.2 for change in report.path_changes)
    assert report.robust is not None
    assert len(report.robust.scenarios) == 15
    assert all(s.rsp_scale == 1.0 for s in report.robust.scenarios)


def test_the_store_counts_days_and_a_day_again_takes_its_own_place(
    basis: Basis, truth: Any, day: Days, tmp_path: Path
) -> None:
    course = read_course(tmp_path / "course", basis.case.key, basis.case.plan.uid)
    for number in (1, 2, 1):
        history, notices = history_of(basis, day(number), course)
        assert history.fraction == number
        assert [dose.fraction for dose in history.doses] == list(range(1, number))
        assert notices == ()
        course, changed = keep(course, evaluate_fraction(basis, day(number), history))
    assert [n.code for n in changed] == ["day-replaced", "later-days"]
    assert [stored.fraction for stored in course.days] == [1, 2]


def test_a_day_that_could_not_be_evaluated_gives_the_course_no_dose(
    basis: Basis, truth: Any, day: Days, tmp_path: Path
) -> None:
    course = read_course(tmp_path / "course", basis.case.key, basis.case.plan.uid)
    truth.gates = (FAILED,)
    course, _ = keep(course, evaluate_fraction(basis, day(1), History(1)))
    history, _ = history_of(basis, day(2), course)
    assert history.fraction == 2
    assert history.doses == ()
    assert [d.verdict for d in history.earlier] == [Verdict.UNEVALUABLE]


def test_the_replan_package_is_read_back_as_one_image_with_its_contours_dose_and_registration(
    course_dir: Path, truth: Any, day: Days, settings: Any, tmp_path: Path
) -> None:
    case = read_case(course_dir)
    made = make_basis(prepare(case), lambda of, grid: prepare(of, grid=grid), settings)
    truth.moved_mm = ALONG_MM
    report = evaluate_fraction(made, day(1), History(1)).report
    folder = tmp_path / package_name(report)
    for _ in range(2):  # again: the package of a day is replaced as a whole
        assert write_package(report, case, folder) == folder
    image = read_image(folder)
    assert image.acquired == report.acquired
    frame = image.context.frame_of_reference_uid
    assert case.dicom is not None
    assert frame != case.dicom.frame_of_reference_uid
    structures = structure_set_from(dcmread(folder / "RS.dcm"), "RS")
    assert structures.frame_of_reference_uid == frame
    assert structures.referenced_series_uid == image.context.series_uid
    target = np.concatenate(structures.by_name("CTV").contours)
    assert (target.min(axis=0) + target.max(axis=0)) / 2 == pytest.approx(ALONG_MM, abs=0.3)
    dose = read_dose(folder / "RD.dcm")
    assert dcmread(folder / "RD.dcm").FrameOfReferenceUID == frame
    assert report.dose is not None
    np.testing.assert_allclose(dose.volume.values, report.dose.volume.values, atol=1e-3)
    registration = registration_from(dcmread(folder / "REG.dcm"), "REG")
    link = next(x for x in registration.links if x.source_uid == case.dicom.frame_of_reference_uid)
    assert link.pullback.apply((0.0, 0.0, 16.0)) == pytest.approx((0.0, 0.0, 0.0), abs=0.05)
    readme = (folder / "README.txt").read_text()
    assert "RED" in readme
    assert case.dicom.patient["PatientID"] not in readme + (folder / "replan.json").read_text()
    assert not list(tmp_path.glob(".*"))


def test_a_package_takes_no_place_of_anything_else_and_needs_a_dose(
    basis: Basis, truth: Any, day: Days, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    truth.error = "no"
    report = evaluate_fraction(basis, day(1), History(1)).report
    with pytest.raises(ConfigError, match="not replaced"):
        write_package(report, basis.case, tmp_path / "mine")
    with pytest.raises(DicomError, match="could not be evaluated"):
        write_package(report, basis.case, tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_an_image_as_it_is_has_the_band_of_the_site(
    basis: Basis, truth: Any, day: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster.adaptation import workflow

    as_it_is = replace(basis, settings=basis.settings.model_copy(update={"image_method": ImageMethod.AS_IS}))
    monkeypatch.setattr(workflow.dayimage, "as_is", lambda *of: truth.images(*of)[0])
    report = evaluate_fraction(as_it_is, day(1), History(1)).report
    assert report.image_method is ImageMethod.AS_IS
    (at_dose,) = [d for d in report.goals if d.goal.metric == "D95%"]
    assert at_dose.band.image == pytest.approx(basis.settings.image_percent, rel=1e-3)
    assert at_dose.band.dose == pytest.approx(basis.settings.dose_percent, rel=1e-3)
