"""Jaws and leaves in motion against open areas, closed forms and fine sampling in time."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doseeng.aperture import collimators, motion_between, transmission_map
from doseeng.errors import MachineError
from doseeng.machines.photonmodel import LeafModel, PhotonMachine
from doseeng.plan import Mlc, PhotonBeam

Make = Callable[..., PhotonBeam]
# 2.3 mm pixels that no leaf boundary coincides with.
U_EDGE = -60.3 + 2.3 * np.arange(54)
V_EDGE = -55.1 + 2.3 * np.arange(50)
PIXEL_MM2 = 2.3**2
FEW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
REAL = {"transmission": 0.015, "interleaf_transmission": 0.006, "tip_offset_mm": 0.4, "tongue_mm": 0.7}


def whole(beam: PhotonBeam, machine: PhotonMachine, u_edge: np.ndarray = U_EDGE, v_edge: np.ndarray = V_EDGE):
    """(n_v, n_u) of the whole beam, over its monitor units."""
    mu = np.diff(beam.meterset_fraction)
    motions = [motion_between(beam, n, 0.0, 1.0, share) for n, share in enumerate(mu)]
    return transmission_map(collimators(beam, machine), motions, u_edge, v_edge)


def with_leaves(machine: PhotonMachine, **changes: float) -> PhotonMachine:
    return replace(machine, leaves=tuple(replace(leaf, **changes) for leaf in machine.leaves))


def random_leaves(seed: int, control_points: int, pairs: int = 20) -> np.ndarray:
    """Leaves anywhere, a third of the pairs closed."""
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.uniform(-58.0, 58.0, (control_points, 2, pairs)), axis=1)
    ends[:, 1, ::3] = ends[:, 0, ::3]
    return ends


def sampled(beam: PhotonBeam, machine: PhotonMachine, moments: int) -> np.ndarray:
    """The mean of still pictures of the first interval."""
    stills = []
    for moment in (np.arange(moments) + 0.5) / moments:
        motion = motion_between(beam, 0, moment, moment, 1.0 / moments)
        stills.append(transmission_map(collimators(beam, machine), [motion], U_EDGE, V_EDGE))
    return np.sum(stills, axis=0)


@FEW
@given(seed=st.integers(0, 10**6), x=st.floats(-50, 20), width=st.floats(0, 60), y=st.floats(-60, 20))
def test_the_sum_of_a_map_is_the_open_area(
    linac: PhotonMachine, beam_of: Make, seed: int, x: float, width: float, y: float
) -> None:
    leaves = random_leaves(seed, 1)[[0, 0]]
    beam = beam_of((x, x + width), (y, y + 40.0), leaves)
    area = 0.0
    for pair in range(20):
        along = min(leaves[0, 1, pair], x + width) - max(leaves[0, 0, pair], x)
        across = min(-45.0 + 5 * pair, y + 40.0) - max(-50.0 + 5 * pair, y)
        area += max(along, 0.0) * max(across, 0.0)
    found = whole(beam, linac)
    assert found.sum() * PIXEL_MM2 == pytest.approx(area, abs=1e-6)
    assert found.min() >= -1e-12
    assert found.max() <= 1 + 1e-12


def test_partly_covered_pixels(linac: PhotonMachine, beam_of: Make) -> None:
    beam = beam_of((-3.0, 7.0), (-2.0, 5.0))
    edge = np.array([-10.0, -5.0, 0.0, 5.0, 10.0])
    u, v = np.array([0.0, 0.6, 1.0, 0.4]), np.array([0.0, 0.4, 1.0, 0.0])
    np.testing.assert_allclose(whole(beam, linac, edge, edge), np.outer(v, u), atol=1e-12)


def test_a_leaf_that_crosses_a_pixel(linac: PhotonMachine, beam_of: Make) -> None:
    """The upper bank runs from -10 to 30 mm: a point at u is open for (30 - u) / 40 of the time."""
    leaves = np.full((2, 2, 20), -40.0)
    leaves[0, 1], leaves[1, 1] = -10.0, 30.0
    edge = np.linspace(-50.0, 50.0, 11)
    centre = 0.5 * (edge[1:] + edge[:-1])
    found = whole(beam_of(leaves=leaves), linac, edge, np.array([-50.0, 0.0, 50.0]))
    expected = np.where(centre < -40, 0.0, np.clip((30.0 - centre) / 40.0, 0.0, 1.0))
    np.testing.assert_allclose(found, np.stack([expected] * 2), atol=1e-12)


def test_a_sliding_window_gives_its_gap_over_its_speed(linac: PhotonMachine, beam_of: Make) -> None:
    """A gap of 8 mm that crosses 80 mm opens every point on its way for a tenth of the time."""
    leaves = np.empty((2, 2, 20))
    leaves[:, 0], leaves[:, 1] = [[-44.0], [36.0]], [[-36.0], [44.0]]
    found = whole(beam_of(leaves=leaves), linac, U_EDGE, np.array([-20.0, 0.0, 20.0]))
    middle = (U_EDGE[:-1] > -36.0) & (U_EDGE[1:] < 36.0)
    np.testing.assert_allclose(found[:, middle], 0.1, atol=1e-12)
    assert found.sum() * 2.3 / 2 == pytest.approx(8.0)


@FEW
@given(seed=st.integers(0, 10**6))
def test_moving_leaves_and_jaws_are_averaged_over_time(linac: PhotonMachine, beam_of: Make, seed: int) -> None:
    """Leaves cross each other, their neighbours and jaws in any order."""
    rng = np.random.default_rng(seed)
    jaws = np.sort(rng.uniform(-50.0, 50.0, (2, 2)), axis=1)
    beam = beam_of(jaws, (-31.7, 28.4), random_leaves(seed + 1, 2))
    machine = replace(with_leaves(linac, **REAL), jaws=replace(linac.jaws, transmission=0.01))
    np.testing.assert_allclose(whole(beam, machine), sampled(beam, machine, 400), atol=3e-3)


def test_jaws_that_move_across_moving_leaves(linac: PhotonMachine, beam_of: Make) -> None:
    beam = beam_of((-40.0, 40.0), [(-40.0, -10.0), (-20.0, 35.0)], random_leaves(5, 2))
    machine = with_leaves(linac, **REAL)
    np.testing.assert_allclose(whole(beam, machine), sampled(beam, machine, 500), atol=4e-3)


def test_what_closed_collimators_let_through(linac: PhotonMachine, beam_of: Make) -> None:
    machine = replace(with_leaves(linac, **REAL), jaws=replace(linac.jaws, transmission=0.01))
    closed = np.full((2, 2, 20), -100.0)
    # Pixels of 0.1 mm: the sides of leaves are 0.7 mm wide on either side of a boundary.
    v_edge = np.linspace(-26.0, 0.0, 261)
    beam = beam_of((-20.0, 20.0), (-20.0, 20.0), closed)
    found = whole(beam, machine, np.array([-60.0, -20.0, 20.0]), v_edge)
    inside, v = found[:, 1], v_edge[:-1] + 0.05
    side = np.abs(v - 5.0 * np.rint(v / 5.0)) < 0.7
    leaf = 0.015 + 0.006 * side
    np.testing.assert_allclose(inside, np.where(v > -20.0, leaf, 0.01 * leaf), rtol=1e-9)
    np.testing.assert_allclose(found[:, 0], 0.01 * inside, rtol=1e-9)


def test_tongue_and_groove(linac: PhotonMachine, beam_of: Make) -> None:
    """Pairs 9 and 10 meet at v = 0. Opened one after the other, the strip between them is always half covered."""
    shut, open_ = (-100.0, -100.0), (-20.0, 20.0)
    machine = with_leaves(linac, transmission=0.01, tongue_mm=0.5)
    v_edge = np.arange(-6.0, 6.1, 0.25)
    v = v_edge[:-1] + 0.125

    def at_axis(*pairs: int) -> np.ndarray:
        leaves = np.empty((2, 2, 20))
        leaves[:] = np.array(shut)[:, None]
        leaves[:, :, list(pairs)] = np.array(open_)[:, None]
        return whole(beam_of(leaves=leaves), machine, np.array([-1.0, 0.0, 1.0]), v_edge)[:, 0]

    together, apart = at_axis(9, 10), 0.5 * (at_axis(9) + at_axis(10))
    np.testing.assert_allclose(together[np.abs(v) < 4.5], 1.0)
    strip = np.abs(v) < 0.5
    np.testing.assert_allclose(apart[strip], 0.1)
    np.testing.assert_allclose(apart[(np.abs(v) > 0.5) & (np.abs(v) < 4.5)], 0.505)
    # Towards closed neighbours the sides are half covered as well.
    np.testing.assert_allclose(together[(np.abs(v) > 4.5) & (np.abs(v) < 5.5)], 0.1)


def test_leaf_tips_open_closed_pairs_too(linac: PhotonMachine, beam_of: Make) -> None:
    machine = with_leaves(linac, tip_offset_mm=0.6)
    closed = np.full((2, 2, 20), 3.0)
    found = whole(beam_of(leaves=closed), machine)
    assert found.sum() * PIXEL_MM2 == pytest.approx(1.2 * 100.0)


def test_leaves_along_y_are_leaves_along_x_turned(linac: PhotonMachine, beam_of: Make) -> None:
    boundary, leaves = np.linspace(-50.0, 50.0, 21), random_leaves(3, 2)
    machine = with_leaves(linac, **REAL)
    jaws = [(-30.0, 10.0), (-25.0, 31.0)], (-42.0, 38.0)
    along_x = whole(beam_of(*jaws, (Mlc("X", boundary, leaves),)), machine)
    along_y = whole(beam_of(*jaws[::-1], (Mlc("Y", boundary, leaves),)), machine, V_EDGE, U_EDGE)
    np.testing.assert_allclose(along_y, along_x.T, atol=1e-12)


def halcyon(machine: PhotonMachine) -> PhotonMachine:
    upper = replace(machine.leaves[0], id="upper", widths=((9, 10.0),), **REAL)
    return replace(machine, leaves=(upper, replace(upper, id="lower", widths=((8, 10.0),), plane_mm=450.0)))


def layers(seed: int, control_points: int) -> tuple[Mlc, Mlc]:
    """Two layers without jaws, staggered by half a leaf."""
    return (
        Mlc("X", np.linspace(-45.0, 45.0, 10), random_leaves(seed, control_points, 9)),
        Mlc("X", np.linspace(-40.0, 40.0, 9), random_leaves(seed + 1, control_points, 8)),
    )


def test_two_layers_let_through_the_product_of_both(linac: PhotonMachine, beam_of: Make) -> None:
    machine, mlcs = halcyon(linac), layers(7, 2)
    still = tuple(Mlc("X", mlc.leaf_boundary_mm, mlc.leaf_mm[[0, 0]]) for mlc in mlcs)
    wide = (-np.inf, np.inf)
    edges = np.arange(-60.0, 60.1, 0.25), np.arange(-50.0, 50.1, 0.25)
    both = whole(beam_of(wide, wide, still), machine, *edges)
    upper, lower = (whole(beam_of(wide, wide, (mlc,)), machine, *edges) for mlc in still)
    # In pixels that no edge crosses, an average of products is a product of averages.
    sharp = [
        np.isin(layer.round(9), np.array([1.0, 0.015, 0.021, np.sqrt(0.015)]).round(9)) for layer in (upper, lower)
    ]
    sharp_both = sharp[0] & sharp[1]
    assert sharp_both.mean() > 0.9
    np.testing.assert_allclose(both[sharp_both], (upper * lower)[sharp_both], rtol=1e-9)


def test_two_moving_layers_are_averaged_over_time(linac: PhotonMachine, beam_of: Make) -> None:
    wide = (-np.inf, np.inf)
    beam, machine = beam_of(wide, wide, layers(11, 2)), halcyon(linac)
    np.testing.assert_allclose(whole(beam, machine), sampled(beam, machine, 400), atol=3e-3)


def test_parts_of_an_interval_add_up(linac: PhotonMachine, beam_of: Make) -> None:
    beam = beam_of((-30.0, 40.0), (-31.0, 30.0), random_leaves(1, 2))
    parts = [motion_between(beam, 0, start, start + 0.25, 0.25) for start in (0.0, 0.25, 0.5, 0.75)]
    together = transmission_map(collimators(beam, linac), parts, U_EDGE, V_EDGE)
    np.testing.assert_allclose(together, whole(beam, linac), atol=1e-12)


def test_leaves_are_found_by_their_widths(linac: PhotonMachine, beam_of: Make) -> None:
    other = LeafModel("mixed", ((2, 10.0), (16, 5.0), (2, 10.0)), 510.0, 0.01, 0.0, 0.5, 0.3)
    machine = replace(linac, leaves=(linac.leaves[0], other))
    boundary = np.array([-60.0, -50.0, *np.arange(-40.0, 41.0, 5.0), 50.0, 60.03])
    beam = beam_of(leaves=(Mlc("X", boundary, np.zeros((2, 2, 20))),))
    assert collimators(beam, machine).models == (other,)
    with pytest.raises(MachineError, match=r"2 x 10 mm, 16 x 5 mm, 1 x 10 mm, 1 x 10.03 mm.*'20 x 5 mm': 20 x 5 mm"):
        collimators(beam, linac)
    with pytest.raises(MachineError, match="machine 'linac' has no leaves"):
        collimators(beam, replace(linac, leaves=()))
