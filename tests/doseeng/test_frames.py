"""IEC 61217 frames for every patient position, against directions written down by hand.

A viewer stands at the foot of the table and faces the gantry: fixed +X is to his right, +Y towards the gantry, +Z up.
Head first: the patient's superior points towards the gantry (+Y); feet first: away from it (-Y). Supine: anterior up,
so posterior points to -Z; prone: posterior up; decubitus left (right): the left (right) side down. The third direction
follows from left x posterior = superior, for example head first supine: left = posterior x superior = (-Z) x Y = +X,
the patient's left is on the viewer's right; head first decubitus left: posterior = superior x left = Y x (-Z) = -X, he
turns his back to the viewer's left and looks to the right.

The gantry turns clockwise for this viewer: at 0 the source is up, at 90 on his right (+X), at 180 below, at 270 on his
left. The couch turns counter-clockwise seen from above: at 90 what pointed to the gantry points to his left (-X).
"""

import numpy as np
import pytest

from doseeng.errors import GeometryError
from doseeng.grid import (
    PATIENT_POSITIONS,
    beam_frame,
    fixed_to_gantry,
    gantry_to_collimator,
    patient_to_fixed,
)

LEFT, RIGHT = (1, 0, 0), (-1, 0, 0)
POSTERIOR, ANTERIOR = (0, 1, 0), (0, -1, 0)
SUPERIOR, INFERIOR = (0, 0, 1), (0, 0, -1)

# Which patient direction points up, to the viewer's right, and towards the gantry, couch at 0.
ON_TABLE = {
    "HFS": (ANTERIOR, LEFT, SUPERIOR),
    "HFP": (POSTERIOR, RIGHT, SUPERIOR),
    "HFDL": (RIGHT, ANTERIOR, SUPERIOR),
    "HFDR": (LEFT, POSTERIOR, SUPERIOR),
    "FFS": (ANTERIOR, RIGHT, INFERIOR),
    "FFP": (POSTERIOR, LEFT, INFERIOR),
    "FFDL": (RIGHT, POSTERIOR, INFERIOR),
    "FFDR": (LEFT, ANTERIOR, INFERIOR),
}
ISOCENTER = np.array([12.0, -34.0, 56.0])


def negative(direction: tuple[int, int, int]) -> np.ndarray:
    return -np.array(direction)


def source_direction(position: str, gantry_deg: float, couch_deg: float = 0.0) -> np.ndarray:
    """Unit vector from isocentre to source in patient axes."""
    frame = beam_frame(ISOCENTER, gantry_deg, couch_deg, position)
    return (frame.to_patient((0.0, 0.0, 1000.0)) - ISOCENTER) / 1000.0


def test_the_table_covers_all_positions() -> None:
    assert set(PATIENT_POSITIONS) == set(ON_TABLE)


@pytest.mark.parametrize("position", ON_TABLE)
def test_patient_directions_on_the_table(position: str) -> None:
    up, right, towards_gantry = ON_TABLE[position]
    to_fixed = patient_to_fixed(position)
    np.testing.assert_array_equal(to_fixed @ up, (0, 0, 1))
    np.testing.assert_array_equal(to_fixed @ right, (1, 0, 0))
    np.testing.assert_array_equal(to_fixed @ towards_gantry, (0, 1, 0))


@pytest.mark.parametrize("position", ON_TABLE)
def test_source_and_scan_axes_at_the_four_gantry_angles(position: str) -> None:
    up, right, towards_gantry = ON_TABLE[position]
    # Source direction and gantry +X: 0 up/right, 90 right/down, 180 down/left, 270 left/up. Gantry +Y never moves.
    expected = {
        0: (up, right),
        90: (right, negative(up)),
        180: (negative(up), negative(right)),
        270: (negative(right), up),
        360: (up, right),
        -90: (negative(right), up),
    }
    for angle, (source, gantry_x) in expected.items():
        np.testing.assert_array_equal(source_direction(position, angle), source, err_msg=f"gantry {angle}")
        axes = beam_frame(ISOCENTER, angle, 0.0, position).axes
        np.testing.assert_array_equal(axes[0], gantry_x)
        np.testing.assert_array_equal(axes[1], towards_gantry)


@pytest.mark.parametrize("position", ON_TABLE)
def test_oblique_gantry(position: str) -> None:
    # 30 degrees clockwise from the top: cos 30 up and sin 30 to the right.
    up, right, _ = ON_TABLE[position]
    expected = np.sqrt(0.75) * np.array(up) + 0.5 * np.array(right)
    np.testing.assert_allclose(source_direction(position, 30.0), expected, atol=1e-12)


@pytest.mark.parametrize("position", ON_TABLE)
def test_couch_turns_the_patient_counter_clockwise_seen_from_above(position: str) -> None:
    up, right, towards_gantry = (np.array(d) for d in ON_TABLE[position])
    at_90, at_270 = patient_to_fixed(position, 90.0), patient_to_fixed(position, 270.0)
    np.testing.assert_array_equal(at_90 @ towards_gantry, (-1, 0, 0))
    np.testing.assert_array_equal(at_90 @ right, (0, 1, 0))
    np.testing.assert_array_equal(at_90 @ up, (0, 0, 1))
    np.testing.assert_array_equal(at_270 @ towards_gantry, (1, 0, 0))
    np.testing.assert_array_equal(at_270 @ right, (0, -1, 0))
    # 20 degrees: what pointed to the gantry turns to the viewer's left by 20 degrees.
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    np.testing.assert_allclose(patient_to_fixed(position, 20.0) @ towards_gantry, (-s, c, 0), atol=1e-12)


@pytest.mark.parametrize(
    ("couch", "expected"),
    [(0, LEFT), (90, INFERIOR), (270, SUPERIOR), (180, RIGHT)],
)
def test_lateral_beam_of_a_supine_patient_with_the_couch_turned(couch: float, expected: tuple) -> None:
    # Gantry 90 comes from the viewer's right; with the couch at 90 the head points to his left, so it meets the feet.
    np.testing.assert_array_equal(source_direction("HFS", 90.0, couch), expected)


def test_couch_does_not_move_a_vertical_beam() -> None:
    np.testing.assert_allclose(source_direction("HFS", 0.0, 77.0), ANTERIOR, atol=1e-12)


def test_vertex_beam_by_hand() -> None:
    # Couch 270 brings the head to the viewer's right; gantry 60 comes from there, 60 degrees off the vertical.
    expected = 0.5 * np.array(ANTERIOR) + np.sqrt(0.75) * np.array(SUPERIOR)
    np.testing.assert_allclose(source_direction("HFS", 60.0, 270.0), expected, atol=1e-12)


@pytest.mark.parametrize("gantry", [0.0, 37.0, 90.0, 250.0])
def test_reference_data_convention(gantry: float) -> None:
    # As the Monte Carlo data state it for HFS, couch 0: spot +x is (cos G, sin G, 0), +y is (0, 0, 1).
    c, s = np.cos(np.radians(gantry)), np.sin(np.radians(gantry))
    axes = beam_frame(ISOCENTER, gantry).axes
    np.testing.assert_allclose(axes, [(c, s, 0), (0, 0, 1), (s, -c, 0)], atol=1e-12)


def test_collimator_turns_counter_clockwise_seen_from_the_source() -> None:
    # From the source, looking down -Z with gantry +Y up, +X is on the right; 90 degrees brings collimator +X to +Y.
    np.testing.assert_array_equal(gantry_to_collimator(90.0) @ (0, 1, 0), (1, 0, 0))
    np.testing.assert_array_equal(gantry_to_collimator(90.0) @ (1, 0, 0), (0, -1, 0))
    c, s = np.cos(np.radians(10)), np.sin(np.radians(10))
    np.testing.assert_allclose(gantry_to_collimator(10.0) @ (c, s, 0), (1, 0, 0), atol=1e-12)
    np.testing.assert_array_equal(gantry_to_collimator(33.0) @ (0, 0, 1), (0, 0, 1))


@pytest.mark.parametrize("position", ON_TABLE)
@pytest.mark.parametrize(("gantry", "couch"), [(0.0, 0.0), (33.0, 0.0), (121.0, 12.5), (270.0, 300.0)])
def test_rotations_are_proper_and_points_round_trip(position: str, gantry: float, couch: float) -> None:
    frame = beam_frame(ISOCENTER, gantry, couch, position)
    np.testing.assert_allclose(frame.axes @ frame.axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(frame.axes) == pytest.approx(1.0)
    points = np.random.default_rng(3).normal(0, 100, (5, 2, 3))
    np.testing.assert_allclose(frame.to_patient(frame.from_patient(points)), points, atol=1e-10)
    np.testing.assert_allclose(frame.from_patient(ISOCENTER), 0.0)
    np.testing.assert_allclose(np.linalg.norm(frame.from_patient(points), axis=-1),
                               np.linalg.norm(points - ISOCENTER, axis=-1))  # fmt: skip


def test_source_position_in_patient_coordinates() -> None:
    frame = beam_frame(ISOCENTER, 270.0, 0.0, "FFS")
    # Feet first supine: the viewer's left is the patient's left; the source at 270 is there, 2000 mm away.
    np.testing.assert_allclose(frame.to_patient((0, 0, 2000.0)), ISOCENTER + np.array((2000.0, 0.0, 0.0)))


def test_right_angles_are_exact() -> None:
    for angle in (0, 90, 180, 270, 360, 450, -90, -180):
        assert set(np.unique(np.abs(fixed_to_gantry(angle)))) == {0.0, 1.0}


@pytest.mark.parametrize("position", ["", "hfs", "SITTING", "HF"])
def test_unknown_positions_are_refused(position: str) -> None:
    with pytest.raises(GeometryError, match=r"patient position.*HFS, HFP"):
        patient_to_fixed(position)
