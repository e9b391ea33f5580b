"""Every quality gate passes on a right registration and fails on the wrong one it is there for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from doseeng.case import Case
from doseeng.errors import RegistrationError
from doseeng.grid import Grid, Volume
from doseeng.plan import PhotonBeam, Plan, ProtonBeam
from doseeng.structures import Structure, StructureSet
from doseeng.transforms import (
    DisplacementField,
    RigidTransform,
    identity_transform,
    inverse_field,
    jacobian_determinant,
    voxel_centres,
    warped,
)
from registration import contours, gates
from registration.gatecoverage import beam_paths
from registration.gatesettings import GateLimits, read_limits
from registration.result import DayRegistration, GateResult

Array = npt.NDArray[np.float64]

GRID = Grid((40, 52, 64), (3.0, 3.0, 3.0), (-94.5, -76.5, -58.5))
POINTS = voxel_centres(GRID)
TARGET_MM = np.array([12.0, -6.0, 3.0])
TARGET_RADIUS_MM = 15.0
ORGAN_MM = np.array([-30.0, 10.0, -10.0])
ORGAN_RADIUS_MM = 18.0
BONES_MM = ((0.0, 42.0, -30.0), (0.0, 42.0, 30.0))
COUCH_MM = np.array([4.0, -2.0, 6.0])
LIMITS = read_limits()


def ball(centre: Array, radius_mm: float) -> npt.NDArray[np.bool_]:
    """Voxels within a radius."""
    return np.linalg.norm(POINTS - centre, axis=-1) < radius_mm


def body() -> npt.NDArray[np.bool_]:
    """An elliptical cylinder along z."""
    return (POINTS[..., 0] / 78.0) ** 2 + (POINTS[..., 1] / 60.0) ** 2 < 1.0


def patient(seed: int = 1) -> Volume:
    """Soft tissue with structures of 1 to 2 cm, a denser target and two bones, in air."""
    grain = gaussian_filter(np.random.default_rng(seed).standard_normal(GRID.shape), 2.5)
    hu = 40.0 + 50.0 * grain / grain.std()
    hu[ball(TARGET_MM, TARGET_RADIUS_MM)] += 80.0
    for bone in BONES_MM:
        hu[np.abs(POINTS - bone).max(axis=-1) < 12.0] = 600.0
    return Volume(GRID, np.where(body(), hu, -1000.0).astype(np.float32))


def bump(amount_mm: float, centre: Array, width_mm: float = 18.0) -> DisplacementField:
    """A smooth displacement along z around a point."""
    near = np.exp(-0.5 * ((POINTS - centre) ** 2).sum(axis=-1) / width_mm**2)
    return field(amount_mm * near[..., None] * np.array([0.0, 0.0, 1.0]))


def field(vectors_mm: Array) -> DisplacementField:
    return DisplacementField(GRID, np.broadcast_to(vectors_mm, (*GRID.shape, 3)).astype(np.float32))


def registered(
    pullback: DisplacementField, truth: DisplacementField, planning: Volume | None = None
) -> DayRegistration:
    """A registration that found `pullback` where `truth` is right, of a noisy day with another gain."""
    image = planning or patient()
    noise = np.random.default_rng(3).standard_normal(GRID.shape)
    day = (warped(image, truth, -1000.0).values + 1000.0) * 0.97 - 1000.0 + 20.0 * noise
    couch = RigidTransform(np.eye(3), COUCH_MM, np.zeros(3))
    return DayRegistration(
        rigid=couch,
        couch=couch,
        pullback=pullback,
        pushforward=inverse_field(pullback, GRID),
        day=Volume(GRID, day.astype(np.float32)),
        seen=Volume(GRID, np.ones(GRID.shape, np.float32)),
        planning=patient(),
    )


def sphere(number: int, name: str, kind: str, centre: Array, radius_mm: float) -> Structure:
    """Circles every 3 mm."""
    angle = np.linspace(0.0, 2.0 * np.pi, 40, endpoint=False)
    found = []
    for z in np.arange(-58.5, 60.0, 3.0):
        if abs(z - centre[2]) < radius_mm:
            radius = np.sqrt(radius_mm**2 - (z - centre[2]) ** 2)
            x, y = centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)
            found.append(np.column_stack([x, y, np.full(len(angle), z)]))
    return Structure(number, name, kind, tuple(found))


def structures(*made: Structure) -> StructureSet:
    return StructureSet("set", "", "", made)


def proton(gantry_deg: float) -> ProtonBeam:
    isocenter = (float(TARGET_MM[0]), float(TARGET_MM[1]), float(TARGET_MM[2]))
    spot = (np.zeros((1, 2)), np.full(1, 100.0), np.ones(1))
    return ProtonBeam(1, "A", "generic", isocenter, gantry_deg, 0.0, *spot)


def case(gantry_deg: float = 90.0, *planned: Structure) -> Case:
    """A proton beam from the patient's left (90 degrees) to the target."""
    made = planned or (
        sphere(1, "CTV", "CTV", TARGET_MM, TARGET_RADIUS_MM),
        sphere(2, "Organ", "ORGAN", ORGAN_MM, ORGAN_RADIUS_MM),
        sphere(3, "Ring", "CONTROL", ORGAN_MM, ORGAN_RADIUS_MM),
    )
    return Case("case", patient(), structures(*made), Plan("plan", "", "HFS", (proton(gantry_deg),)))


def judged(registration: DayRegistration, of: Case | None = None, **others: object) -> tuple[GateResult, ...]:
    """All gates, with the structures propagated by the registration."""
    planned = of or case()
    today = contours.propagated(planned.structures, registration.pushforward, registration.pullback, 3.0)
    return gates.evaluate(registration, planned, today, **others)  # type: ignore[arg-type]


def failed(found: Sequence[GateResult]) -> set[str]:
    """Names of failed gates; every one of them says what to do in one line, and never "nan"."""
    for gate in found:
        assert ";" in gate.message or gate.passed, gate
        assert "nan" not in gate.message, gate
        assert "\n" not in gate.message, gate
    return {gate.name for gate in found if not gate.passed}


def value(found: Sequence[GateResult], name: str) -> float:
    (gate,) = [gate for gate in found if gate.name == name]
    return gate.value


TRUTH = bump(6.0, TARGET_MM, 25.0)


@pytest.fixture(scope="module")
def right() -> DayRegistration:
    return registered(TRUTH, TRUTH)


def test_a_right_registration_passes_every_gate(right: DayRegistration) -> None:
    """All that need nobody to draw, each once per structure, beam or image."""
    found = judged(right)
    assert failed(found) == set()
    names = {gate.name for gate in found}
    drawn = {"contour-dice", "contour-distance", "landmark-mean", "landmark-max"}
    keys = {f.name for f in fields(GateLimits)}
    listed = {key.removesuffix("_mm").removesuffix("_percent").removesuffix("_hu").removesuffix("_deg") for key in keys}
    assert names | drawn == {name.replace("_", "-") for name in listed}
    assert len({(gate.name, gate.where) for gate in found}) == len(found)
    assert all(gate.relation in ("<=", ">=") and np.isfinite(gate.limit) for gate in found)


def test_a_smooth_wrong_field_is_found_out(right: DayRegistration) -> None:
    """14 mm off around the target with a positive Jacobian: only the images tell."""
    wrong = registered(bump(-8.0, TARGET_MM, 25.0), TRUTH)
    assert jacobian_determinant(wrong.pullback).values.min() > 0.5
    found = judged(wrong)
    assert {"similarity-target", "restart-target", "restart-path"} <= failed(found)
    assert "folding" not in failed(found)
    assert value(judged(right), "restart-target") < 2.0 < 5.0 < value(found, "restart-target")


def test_an_error_at_an_organ_alone_is_found_there(right: DayRegistration) -> None:
    vectors = TRUTH.vectors_mm + bump(12.0, ORGAN_MM, 12.0).vectors_mm
    found = judged(registered(field(vectors), TRUTH))
    assert "restart-organ" in failed(found)
    assert "restart-target" not in failed(found)


def test_another_patient_agrees_nowhere() -> None:
    found = judged(registered(TRUTH, TRUTH, patient(seed=9)))
    assert {"similarity-target", "similarity-organ", "restart-target"} <= failed(found)


def test_an_image_that_lies_beside_agrees_nowhere() -> None:
    found = judged(registered(field(np.zeros(3)), field(np.array([12.0, 6.0, 0.0]))))
    assert {"similarity-body", "restart-body"} <= failed(found)


def test_another_body_does_not_overlap(right: DayRegistration) -> None:
    """A body 20 mm narrower: its tissue lies where the deformed planning CT has tissue, but not everywhere."""
    slim = np.where(np.abs(POINTS[..., 0]) < 60.0, right.day.values, -1000.0)
    assert "tissue-overlap-dice" in failed(judged(replace(right, day=Volume(GRID, slim.astype(np.float32)))))


def test_folding() -> None:
    wave = 20.0 * np.exp(-0.5 * ((POINTS - TARGET_MM) ** 2).sum(axis=-1) / 20.0**2)
    folded = wave * np.sin(2.0 * np.pi * (POINTS[..., 0] - TARGET_MM[0]) / 30.0)
    found = judged(registered(field(folded[..., None] * np.array([1.0, 0.0, 0.0])), TRUTH))
    assert {"folding", "inverse-consistency"} <= failed(found)
    assert value(found, "folding") < 0.0


def test_inverse_consistency_is_the_largest_distance(right: DayRegistration) -> None:
    """A pushforward 3 mm beside the inverse."""
    beside = DisplacementField(GRID, right.pushforward.vectors_mm + np.float32([3.0, 0.0, 0.0]))
    found = judged(replace(right, pushforward=beside))
    assert "inverse-consistency" in failed(found)
    assert value(found, "inverse-consistency") == pytest.approx(3.0, abs=0.2)


@pytest.mark.parametrize(("scale", "ratio"), [(0.75, 1 / 0.75**3), (1.3, 1.3**3)])
def test_volume_change_is_symmetric(right: DayRegistration, scale: float, ratio: float) -> None:
    """A pullback that scales by 0.75 says that everything has grown to 1 / 0.75 in each direction."""
    scaled = replace(right, pullback=field((scale - 1.0) * (POINTS - TARGET_MM)))
    today = contours.propagated(case().structures, right.pushforward, right.pullback, 3.0)
    found = gates.evaluate(scaled, case(), today)
    assert {"volume-change-organ", "volume-change-local"} <= failed(found)
    by_where = {gate.where: gate.value for gate in found if gate.name == "volume-change-organ"}
    assert by_where["CTV"] == pytest.approx(ratio, rel=0.01)
    assert value(found, "volume-change-local") == pytest.approx(ratio, rel=0.01)


def test_bones_may_turn_but_not_bend(right: DayRegistration) -> None:
    turn = Rotation.from_euler("z", 4.0, degrees=True).as_matrix()
    turned = field(POINTS @ turn.T - POINTS)
    still = replace(right, pullback=turned, pushforward=inverse_field(turned, GRID))
    assert value(judged(still), "bone-rigidity") < 0.1
    bent = field((0.15 * (POINTS[..., 2] - BONES_MM[1][2]) ** 2)[..., None] * np.array([1.0, 0.0, 0.0]))
    found = gates.evaluate(replace(right, pushforward=bent), case(), case().structures)
    assert "bone-rigidity" in failed(found)


def test_bones_that_the_day_does_not_show_are_not_judged(right: DayRegistration) -> None:
    shown = (POINTS[..., 1] < 20.0).astype(np.float32)
    assert "bone-rigidity" not in {gate.name for gate in judged(replace(right, seen=Volume(GRID, shown)))}


@pytest.mark.parametrize(("edge_mm", "share"), [(200.0, 100.0), (12.0, 50.0)])
def test_share_of_the_target_in_view(right: DayRegistration, edge_mm: float, share: float) -> None:
    shown = (POINTS[..., 0] < edge_mm).astype(np.float32)
    found = judged(replace(right, seen=Volume(GRID, shown)))
    assert value(found, "target-seen") == pytest.approx(share, abs=8.0)
    assert ("target-seen" in failed(found)) == (share < 98.0)


def test_a_target_out_of_view_fails_without_numbers(right: DayRegistration) -> None:
    shown = (POINTS[..., 0] < -40.0).astype(np.float32)
    found = judged(replace(right, seen=Volume(GRID, shown)))
    assert {"target-seen", "similarity-target", "restart-target"} <= failed(found)
    (similar,) = [gate for gate in found if gate.name == "similarity-target"]
    assert np.isnan(similar.value)
    assert similar.message.startswith("could not be measured")


@pytest.mark.parametrize("planned", [Structure(1, "CTV", "CTV", ()), sphere(1, "Organ", "ORGAN", ORGAN_MM, 18.0)])
def test_without_a_target_nothing_is_trusted(right: DayRegistration, planned: Structure) -> None:
    assert "target-seen" in failed(judged(right, case(90.0, planned)))


def test_an_organ_out_of_view_is_not_judged(right: DayRegistration) -> None:
    shown = (POINTS[..., 0] > -5.0).astype(np.float32)
    found = judged(replace(right, seen=Volume(GRID, shown)))
    assert not {"similarity-organ", "restart-organ"} & {gate.name for gate in found}


def test_organs_are_those_asked_for(right: DayRegistration) -> None:
    def looked_at(**asked: object) -> set[str]:
        return {gate.where for gate in judged(right, **asked) if gate.name == "similarity-organ"}

    assert looked_at() == {"Organ"}
    assert looked_at(organs=("Ring",)) == {"Ring"}
    assert looked_at(organs=()) == set()


def test_the_way_of_the_beam_must_be_seen(right: DayRegistration) -> None:
    """From the left the view ends just beside the target; from the right it shows the whole way."""
    shown = replace(right, seen=Volume(GRID, (POINTS[..., 0] < TARGET_MM[0] + 18.0).astype(np.float32)))
    assert "path-seen" in failed(judged(shown, case(90.0)))
    assert value(judged(shown, case(270.0)), "path-seen") == pytest.approx(100.0)


def arc(gantry_deg: tuple[float, ...]) -> PhotonBeam:
    count = len(gantry_deg)
    still, jaws = np.zeros(count), np.tile([-50.0, 50.0], (count, 1))
    given = np.linspace(0.0, 1.0, count)
    where = (np.zeros((count, 3)), np.array(gantry_deg), still, still, jaws, jaws)
    return PhotonBeam(1, "arc", "linac", 6.0, "STANDARD", "DYNAMIC", 1000.0, 100.0, given, *where)


@pytest.mark.parametrize(("gantry", "share"), [((90.0, 90.0), 1 / 3), ((270.0, 270.0), 1.0), ((0.0, 180.0), None)])
def test_path_share_of_water(gantry: tuple[float, ...], share: float | None) -> None:
    """A box of water whose last 40 of 60 mm towards +x are not seen; an arc sees what its angles see."""
    grid = Grid((20, 40, 40), (3.0, 3.0, 3.0), (-58.5, -58.5, -28.5))
    points = voxel_centres(grid)
    hu = np.zeros(grid.shape, dtype=np.float32)
    inside, target = np.ones(grid.shape, dtype=bool), np.abs(points).max(axis=-1) < 2.0
    (path,) = beam_paths(Plan("p", "", "HFS", (arc(gantry),)), target, inside, points[..., 0] < 20.0, hu, grid)
    if share is None:
        (side,) = beam_paths(
            Plan("p", "", "HFS", (arc((90.0, 90.0)),)), target, inside, points[..., 0] < 20.0, hu, grid
        )
        assert side.seen < path.seen < 1.0
    else:
        assert path.seen == pytest.approx(share, abs=0.05)
        assert path.region[:, :, 20 if gantry[0] == 270.0 else 0].sum() < path.region.sum()


@pytest.mark.parametrize(("bias", "fails"), [(0.0, False), (40.0, True), (-60.0, True)])
def test_air_has_its_number(right: DayRegistration, bias: float, fails: bool) -> None:
    found = judged(replace(right, day=Volume(GRID, right.day.values + np.float32(bias))))
    assert ("air-level" in failed(found)) == fails
    assert value(found, "air-level") == pytest.approx(abs(bias), abs=2.0)


def test_air_that_is_not_seen_is_not_judged(right: DayRegistration) -> None:
    found = judged(replace(right, seen=Volume(GRID, body().astype(np.float32))))
    assert "air-level" not in {gate.name for gate in found}


def test_large_corrections_are_no_cone_beam_artefact(right: DayRegistration) -> None:
    """150 HU in tissue are corrected, and the size of the correction is told; 600 HU are no longer."""
    tight = replace(LIMITS, correction_hu=100.0)
    assert "correction" not in failed(judged(right, limits=tight))
    darker = Volume(GRID, np.where(body(), right.day.values - 150.0, right.day.values))
    found = judged(replace(right, day=darker), limits=tight)
    assert failed(found) == {"correction"}
    assert value(found, "correction") == pytest.approx(180.0, abs=30.0)
    broken = Volume(GRID, np.where(body(), right.day.values + 600.0, right.day.values))
    assert "residual" in failed(judged(replace(right, day=broken)))


def test_no_patient_is_set_up_at_a_right_angle(right: DayRegistration) -> None:
    turn = Rotation.from_euler("z", 90.0, degrees=True).as_matrix()
    found = judged(replace(right, rigid=RigidTransform(turn, np.zeros(3), np.zeros(3))))
    assert failed(found) == {"rotation"}
    assert value(found, "rotation") == pytest.approx(90.0)


def drawn_on_the_day(today: StructureSet, off_mm: tuple[float, float, float]) -> StructureSet:
    """Contours as a person draws them in the frame of the day, off by so much."""
    back = RigidTransform(np.eye(3), COUCH_MM, np.zeros(3)).inverse()
    made = [replace(s, contours=tuple(back.apply(c + np.array(off_mm)) for c in s.contours)) for s in today.structures]
    return replace(today, structures=tuple(made))


@pytest.mark.parametrize(("off_mm", "fails"), [(0.0, False), (1.0, False), (12.0, True)])
def test_contours_of_the_day(right: DayRegistration, off_mm: float, fails: bool) -> None:
    """Drawn in the frame of the day, they meet the propagated ones through the couch."""
    today = contours.propagated(case().structures, right.pushforward, right.pullback, 3.0)
    found = gates.evaluate(right, case(), today, drawn_on_the_day(today, (off_mm, 0.0, 0.0)))
    compared = {gate.where for gate in found if gate.name == "contour-dice"}
    assert compared == {"CTV", "Organ", "Ring"}
    names = {"contour-dice", "contour-distance"}
    assert failed(found) == (names if fails else set())


def test_contours_that_cannot_be_compared(right: DayRegistration) -> None:
    """A propagated contour that is lost fails; one the view cuts, or that is not propagated at all, is left out."""
    today = contours.propagated(case().structures, right.pushforward, right.pullback, 3.0)
    drawn = drawn_on_the_day(structures(*today.structures, sphere(9, "New", "ORGAN", ORGAN_MM, 9.0)), (0.0, 0.0, 0.0))
    lost = replace(today, structures=(*today.structures[:2], replace(today.structures[2], contours=())))
    cut = replace(right, seen=Volume(GRID, (POINTS[..., 0] > ORGAN_MM[0]).astype(np.float32)))
    found = [g for g in gates.evaluate(cut, case(), lost, drawn) if g.name == "contour-distance"]
    assert [(gate.where, gate.passed) for gate in found] == [("CTV", True), ("Ring", False)]
    assert "Ring" in found[1].message


def test_landmarks_go_through_couch_and_deformation(right: DayRegistration) -> None:
    today = np.array([TARGET_MM, ORGAN_MM, [20.0, 20.0, 20.0]])
    planned = TRUTH.apply(today)
    exact = judged(right, landmarks=gates.Landmarks(planned, today - COUCH_MM))
    assert failed(exact) == set()
    assert value(exact, "landmark-max") == pytest.approx(0.0, abs=1e-3)
    one_off = planned + np.array([[9.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.5, 0.0]])
    found = judged(right, landmarks=gates.Landmarks(one_off, today - COUCH_MM))
    assert failed(found) == {"landmark-mean", "landmark-max"}
    assert value(found, "landmark-mean") == pytest.approx(3.5, abs=1e-3)
    with pytest.raises(RegistrationError, match="equal lists of points"):
        gates.Landmarks(planned, today[:2])


def test_shift_of_the_couch_changes_no_gate(right: DayRegistration) -> None:
    """What the couch corrects is no matter of the registration's quality."""
    elsewhere = replace(right, rigid=identity_transform(), couch=identity_transform())
    assert [gate.value for gate in judged(elsewhere)] == [gate.value for gate in judged(right)]


def test_targets_that_were_empty_in_the_plan_are_no_finding(right: DayRegistration) -> None:
    """Exports carry empty ROIs of every kind."""
    target, unused = case().structures.structures[0], Structure(99, "PTV unused", "PTV", ())
    found = judged(right, case(90.0, target, unused))
    assert not [gate for gate in found if gate.where == unused.name]
    assert not failed(found)
