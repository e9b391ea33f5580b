"""The yardstick itself: scores of fields whose errors are known, cases as they lie, methods that are missing."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import registration
from benchmarks.peers.environment import PeerMissing
from benchmarks.peers.exchange import read_task, write_task
from benchmarks.peers.registration_env import OWN, Method, run_method
from benchmarks.registration_case import RegistrationCase, body_mask, read_known, read_pair, read_phases, target_centres
from benchmarks.registration_score import scores
from doseeng.grid import Grid, Volume
from doseeng.transforms import DisplacementField, voxel_centres

BALL_MM = 60.0
GRID = Grid((40, 44, 48), (4.0, 4.0, 4.0), (-94.0, -86.0, -78.0))


def known_file(folder: Path, shift_mm: tuple[float, float, float]) -> Path:
    """A ball of water whose day is shifted, in the format of the reference data; the field of view ends at z = 20."""
    points = voxel_centres(GRID)
    day, planning = (
        np.where(np.linalg.norm(points + offset, axis=-1) < BALL_MM, 0, -1000).astype(np.int16)
        for offset in (shift_mm, (0.0, 0.0, 0.0))
    )
    seen = points[..., 2] < 20.0
    landmarks = np.array([[2.0, 2.0, -22.0], [2.0, 6.0, 14.0], [6.0, 2.0, 38.0]])
    half = tuple(n // 2 for n in GRID.shape)
    np.savez(
        folder / "ball_known.npz",
        planning_hu=planning,
        daily_hu=day,
        daily_cbct_hu=np.where(seen, day, -1024).astype(np.int16),
        daily_fov=np.packbits(seen),
        spacing_mm=GRID.spacing_mm,
        origin_mm=GRID.origin_mm,
        landmarks_daily_mm=landmarks,
        landmarks_planning_mm=landmarks + shift_mm,
        pullback_mm=np.broadcast_to(shift_mm, (*half, 3)).astype(np.float16),
        pullback_stride=2,
    )
    return folder / "ball_known.npz"


def constant(case: RegistrationCase, vector_mm: tuple[float, float, float]) -> DisplacementField:
    grid = case.day.grid
    return DisplacementField(grid, np.broadcast_to(vector_mm, (*grid.shape, 3)).astype(np.float32))


@pytest.fixture
def ball(tmp_path: Path) -> tuple[RegistrationCase, RegistrationCase]:
    """CT and cone-beam CT of a ball shifted by (3, 0, 4) mm."""
    return read_known(known_file(tmp_path, (3.0, 0.0, 4.0)))


def test_the_true_field_has_no_error(ball: tuple[RegistrationCase, RegistrationCase]) -> None:
    for case in ball:
        found = scores(case, constant(case, (3.0, 0.0, 4.0)))
        assert found["inside_max_mm"] == pytest.approx(0.0, abs=1e-5)
        assert found["field_max_mm"] == pytest.approx(0.0, abs=1e-5)
        assert found["folded_percent"] == 0.0
        assert found["smallest_jacobian"] == pytest.approx(1.0)


def test_a_constant_error_is_found_everywhere(ball: tuple[RegistrationCase, RegistrationCase]) -> None:
    found = scores(ball[0], constant(ball[0], (0.0, 0.0, 0.0)))
    for key in ("inside_mean_mm", "inside_p95_mm", "inside_max_mm", "field_mean_mm", "dose_relevant_mm"):
        assert found[key] == pytest.approx(5.0, abs=1e-5)


def test_landmarks_are_sorted_by_the_field_of_view(ball: tuple[RegistrationCase, RegistrationCase]) -> None:
    _, cone_beam = ball
    assert cone_beam.landmarks is not None
    assert cone_beam.landmarks.inside.tolist() == [True, True, False]
    assert cone_beam.landmarks.core.tolist() == [True, False, False]
    # Wrong above the field of view alone, where the day's image shows nothing.
    vectors = constant(cone_beam, (3.0, 0.0, 4.0)).vectors_mm.copy()
    vectors[voxel_centres(cone_beam.day.grid)[..., 2] > 24.0] += (0.0, 10.0, 0.0)
    found = scores(cone_beam, DisplacementField(cone_beam.day.grid, vectors))
    assert found["inside_max_mm"] == pytest.approx(0.0, abs=1e-5)
    assert found["outside_mean_mm"] == pytest.approx(10.0, abs=1e-5)
    assert found["field_mean_mm"] == pytest.approx(0.0, abs=1e-5)
    assert found["field_outside_mean_mm"] > 5.0


def test_dose_relevant_error_counts_what_is_near_a_target(ball: tuple[RegistrationCase, RegistrationCase]) -> None:
    case, _ = ball
    assert case.truth is not None
    points = voxel_centres(case.truth.grid)
    x, y, z = case.targets_mm[0]
    found = {}
    for name, centre in (("near", (x, y, z)), ("far", tuple(-55.0 * case.targets_mm[0] / np.abs((x, y, z)).max()))):
        bump = np.exp(-0.5 * (np.linalg.norm(points - centre, axis=-1) / 10.0) ** 2)
        vectors = case.truth.vectors_mm + bump[..., None].astype(np.float32) * np.float32(10.0)
        found[name] = scores(case, DisplacementField(case.truth.grid, vectors))
    assert found["near"]["dose_relevant_worst_mm"] > 1.5 * found["far"]["dose_relevant_worst_mm"]


def test_folding_is_counted_in_the_body(ball: tuple[RegistrationCase, RegistrationCase]) -> None:
    case, _ = ball
    points = voxel_centres(GRID)
    vectors = np.zeros((*GRID.shape, 3), dtype=np.float32)
    # p -> -p/2 along x in a slab through the ball: volume ratio -0.5 there.
    slab = np.abs(points[..., 2]) < 10.0
    vectors[slab, 0] = -1.5 * points[slab, 0]
    found = scores(case, DisplacementField(GRID, vectors))
    share = np.mean(slab[case.body])
    assert found["folded_percent"] == pytest.approx(100.0 * share, rel=0.3)
    assert found["smallest_jacobian"] == pytest.approx(-0.5, abs=0.05)


def test_targets_lie_deep_and_apart(ball: tuple[RegistrationCase, RegistrationCase]) -> None:
    case, cone_beam = ball
    np.testing.assert_array_equal(case.targets_mm, cone_beam.targets_mm)
    assert (case.targets_mm[:, 2] < 20.0 - 20.0).all()
    assert (np.linalg.norm(np.add(case.targets_mm, (3.0, 0.0, 4.0)), axis=1) < BALL_MM - 20.0).all()
    assert len(target_centres(np.zeros(GRID.shape, dtype=bool), GRID)) == 0


def test_body_is_the_largest_part_without_holes() -> None:
    hu = np.full(GRID.shape, -1000.0, dtype=np.float32)
    hu[10:30, 10:30, 10:30] = 0.0
    hu[15:20, 15:20, 15:20] = -900.0
    hu[:, 40:42, :] = 100.0
    body = body_mask(Volume(GRID, hu))
    assert body[17, 17, 17]
    assert not body[:, 40:42].any()


def test_tasks_survive_the_file(ball: tuple[RegistrationCase, RegistrationCase], tmp_path: Path) -> None:
    task = ball[1].task()
    write_task(tmp_path / "task.npz", task)
    back = read_task(tmp_path / "task.npz")
    assert back.day.spacing_mm == GRID.spacing_mm
    assert not back.far
    np.testing.assert_array_equal(back.day.mask.astype(bool), ball[1].seen)
    np.testing.assert_array_equal(back.planning.hu, ball[1].planning.values)


def test_simpleitk_recipe_finds_the_shift(ball: tuple[RegistrationCase, RegistrationCase]) -> None:
    """The whole way through a process of its own: which way the field points, and what it cost."""
    method = Method("demons", OWN.python, "run_sitk.py", "demons")
    field, cost = run_method(method, ball[0].task())
    shell = np.array([[57.0, 0.0, -4.0], [-63.0, 0.0, -4.0], [-3.0, 0.0, 56.0], [-3.0, 0.0, -64.0]])
    normal = np.array([0, 0, 2, 2])
    along = field.at(shell)[np.arange(4), normal]
    assert along == pytest.approx([3.0, 3.0, 4.0, 4.0], abs=1.2)
    assert cost.peak_mb > 10.0


def test_missing_method_is_skipped_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known_file(tmp_path, (3.0, 0.0, 4.0))

    def nowhere() -> Path:
        raise PeerMissing("no package index here")

    monkeypatch.setattr(registration, "PEERS", (Method("absent", nowhere, "run_sitk.py"),))
    assert registration.main([str(tmp_path), "--json", "--method", "absent"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in said["results"]] == ["none", "none"]
    assert [row["reason"] for row in said["skipped"]] == ["no package index here"] * 2
    assert registration.main([str(tmp_path), "--method", "absent"]) == 0
    assert "skipped absent on ball CT: no package index here" in capsys.readouterr().out


def test_empty_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert registration.main([str(tmp_path)]) == 1
    assert "give the folder" in capsys.readouterr().err


def test_targets_are_met_or_missed_beside_the_best_elastix() -> None:
    base = {"case": "ball CBCT", "kind": "CBCT", "inside_p95_mm": 2.0, "inside_max_mm": 4.0, "folded_percent": 0.01}
    rows = [
        {**base, "method": OWN.name, "inside_mean_mm": 1.1, "wall_s": 9.0, "cpu_s": 18.0},
        {**base, "method": "elastix 16 mm", "inside_mean_mm": 1.2, "wall_s": 5.0, "cpu_s": 10.0},
        {**base, "method": "elastix 10 mm", "inside_mean_mm": 1.0, "wall_s": 60.0, "cpu_s": 110.0},
    ]
    met = {verdict["target"]: verdict["met"] for verdict in registration.targets(rows)}
    assert met["inside_mean_mm"]
    assert not met["folded_percent"]
    assert met["wall_s"]
    assert not met["inside_mean_mm of elastix 10 mm"]
    assert met["cpu_s of elastix 10 mm"]
    assert "cpu_s of elastix 16 mm" not in met


def test_reference_deformations_agree_with_their_landmarks(data_dir: Path) -> None:
    for path in sorted((data_dir / "registration").glob("*_known.npz")):
        for case in read_known(path):
            assert case.truth is not None
            found = scores(case, case.truth)
            assert found["inside_max_mm"] < 0.5
            assert found["folded_percent"] == 0.0
            assert len(case.targets_mm) == 5


def test_reference_pair_and_phases_are_read(data_dir: Path) -> None:
    folder = data_dir / "registration"
    pair = read_pair(folder / "lung_pair_landmarks.zip")
    assert scores(pair, constant(pair, (0.0, 0.0, 0.0)))["inside_mean_mm"] == pytest.approx(35.3, abs=0.1)
    phases = read_phases(folder / "synthetic_lung_phases.zip")
    assert [case.name for case in phases] == ["phase -10 mm", "phase +0 mm", "phase +10 mm"]
    for case, z in zip(phases, (-10.0, 0.0, 10.0), strict=True):
        # Day points lie z above planning points, so the pullback is -z: then nothing is left to find.
        found = scores(case, constant(case, (0.0, 0.0, -z)))
        assert found["displacement_mm"] == pytest.approx(z, abs=0.1)
        assert found["tumour_error_mm"] == pytest.approx(0.0, abs=0.1)
        assert found["dose_error_mm"] == pytest.approx(0.0, abs=0.1)
