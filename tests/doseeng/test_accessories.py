"""Wedges and blocks: orientation, tables found by name or angle, the golden table of dynamic wedges, block outlines."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from doseeng.accessories import block_cover, golden_dose, swept, towards_toe, wedge_factor
from doseeng.aperture import motion_between
from doseeng.errors import MachineError, PlanError
from doseeng.fluence import exposures, fluence_maps
from doseeng.machines.photonmodel import PhotonMachine, WedgeModel
from doseeng.plan import Block, PhotonBeam, Wedge

Make = Callable[..., PhotonBeam]
STEEL = WedgeModel("W30", 30.0, np.array([-100.0, 100.0]), np.array([0.3, 0.9]))
X = np.arange(-60.0, 61.0, 2.0)


def wedge(
    kind: str = "STANDARD", name: str = "W30", angle: float = 30.0, turned: float = 0.0, inside: tuple = (True, True)
) -> Wedge:
    return Wedge(name, kind, angle, turned, np.array(inside))


@pytest.mark.parametrize(
    ("turned", "toe"), [(0.0, (0.0, 1.0)), (90.0, (-1.0, 0.0)), (180.0, (0.0, -1.0)), (270.0, (1.0, 0.0))]
)
def test_the_toe_turns_counter_clockwise_from_plus_y(turned: float, toe: tuple[float, float]) -> None:
    """IEC 61217: positive rotation about +Z, which points to the source."""
    u, v = np.array([0.0, 7.0]), np.array([0.0, 7.0])
    expected = toe[0] * u + toe[1] * v[:, None]
    np.testing.assert_allclose(towards_toe(wedge(turned=turned), u, v), expected, atol=1e-9)


def test_more_passes_at_the_toe(linac: PhotonMachine, beam_of: Make) -> None:
    machine = replace(linac, wedges=(STEEL,), head=replace(linac.head, scatter_share=0.1))
    open_ = beam_of((-50.0, 50.0), (-50.0, 50.0))
    beam = beam_of((-50.0, 50.0), (-50.0, 50.0), wedges=(wedge(turned=180.0),))
    with_it, without = (fluence_maps(b, exposures(b)[0], machine, X, X) for b in (beam, open_))
    expected = 0.6 - 0.003 * X[:, None]
    np.testing.assert_allclose(with_it.focal, without.focal * expected, rtol=1e-5)
    np.testing.assert_allclose(with_it.extrafocal, without.extrafocal * expected, rtol=1e-5)


def test_a_motorized_wedge_counts_while_it_is_in(linac: PhotonMachine, beam_of: Make) -> None:
    """30 MU behind it, 70 MU without."""
    machine = replace(linac, wedges=(STEEL,))
    moving = wedge("MOTORIZED", inside=(True, False, False, False))
    beam = beam_of(
        (-50.0, 50.0),
        (-50.0, 50.0),
        fraction=(0.0, 0.3, 0.3, 1.0),
        wedges=(replace(moving, inside=np.array([True, True, False, False])),),
    )
    (exposure,) = exposures(beam)
    found = fluence_maps(beam, exposure, machine, X, X).focal
    assert found[30, 30] == pytest.approx(30.0 * 0.6 + 70.0)
    assert found[45, 30] == pytest.approx(30.0 * (0.6 + 0.003 * 30.0) + 70.0)
    with pytest.raises(PlanError, match="wedge 'W30' moves in or out between control points 0 and 1 while"):
        replace(beam, wedges=(moving,))


def test_wedges_are_found_by_name_and_else_by_angle(linac: PhotonMachine) -> None:
    other = replace(STEEL, id="other", angle_deg=45.0, transmission=np.array([0.1, 0.1]))
    machine = replace(linac, wedges=(STEEL, other))
    v = np.array([0.0, 1.0])
    assert wedge_factor(wedge(name="w30", angle=45.0), machine, "beam", v, v)[0, 0] == pytest.approx(0.6)
    assert wedge_factor(wedge(name="plan's", angle=45.0), machine, "beam", v, v)[0, 0] == pytest.approx(0.1)
    with pytest.raises(
        MachineError, match=r"beam: uses wedge 'W60' of 60 degrees, which stands for 0 .*'W30' \(30 deg"
    ):
        wedge_factor(wedge(name="W60", angle=60.0), machine, "beam", v, v)
    twice = replace(machine, wedges=(STEEL, replace(other, angle_deg=30.0)))
    with pytest.raises(MachineError, match="stands for 2 wedges"):
        wedge_factor(wedge(name="plan's"), twice, "beam", v, v)


@pytest.mark.parametrize(
    ("energy", "table"),
    [
        (6.0, {-200: 0.150691, -100: 0.430453, -50: 0.707274, 0: 1.145206, 50: 1.831381, 100: 2.897577}),
        (10.0, {-200: 0.195441, -100: 0.486525, -50: 0.746266, 0: 1.128016, 50: 1.683978, 100: 2.487244}),
    ],
)
def test_the_golden_table_is_the_published_one(linac: PhotonMachine, energy: float, table: dict[int, float]) -> None:
    found = golden_dose(np.array(list(table), dtype=float), replace(linac, energy_mv=energy), "beam")
    published = np.array(list(table.values()))
    np.testing.assert_allclose(found, published / table[0], rtol=1e-5)


def test_an_isodose_behind_the_golden_table_is_straight_at_sixty_degrees(linac: PhotonMachine) -> None:
    """Depth dose exp(-m z) over the square of the distance, 1 m to the surface, 10 cm deep on the axis."""
    y = np.linspace(-50.0, 50.0, 11)
    depth = 100.0 + y * np.sqrt(3.0)
    along = np.exp(-0.0036710 * depth) / (1000.0 + depth) ** 2
    dose = golden_dose(y, linac, "beam") * along
    np.testing.assert_allclose(dose, dose[5], rtol=1e-9)


@pytest.mark.parametrize(("turned", "toe"), [(0.0, 1.0), (180.0, -1.0), (-180.0, -1.0), (360.0, 1.0)])
def test_a_dynamic_wedge_gives_every_point_its_share_of_the_table(
    linac: PhotonMachine, beam_of: Make, turned: float, toe: float
) -> None:
    """A point is open until the jaw passes it: MU x T(y) / T(end), T = w G60 + (1 - w) G60(0), w = tan / tan 60."""
    jaw = np.sort(toe * np.array([-70.0, 60.0]))
    edw = wedge("DYNAMIC", "EDW30IN", 30.0, turned)
    beam = beam_of((-20.0, 20.0), jaw, wedges=(edw,))
    v = np.arange(-80.0, 80.1, 2.5)
    found = fluence_maps(beam, exposures(beam)[0], linac, np.array([-1.0, 1.0]), v).focal[:, 0]
    y = toe * v
    share = np.tan(np.radians(30.0)) / np.tan(np.radians(60.0))
    table = share * golden_dose(np.minimum(y, 55.0), linac, "") + (1.0 - share)
    end = share * golden_dose(np.array([55.0]), linac, "")[0] + (1.0 - share)
    inside = (y > -68.0) & (y < 58.0)
    np.testing.assert_allclose(found[inside], 100.0 * (table / end)[inside], rtol=2e-3)
    assert found[(y < -72.0) | (y > 62.0)].max() == pytest.approx(0.0, abs=1e-6)


def test_a_swept_jaw_gives_all_monitor_units(linac: PhotonMachine, beam_of: Make) -> None:
    beam = beam_of((-50.0, 50.0), (-100.0, 95.0))
    motions = swept(motion_between(beam, 0, 0.0, 1.0, 80.0), wedge("DYNAMIC", "EDW60OUT", 60.0), linac, "beam")
    assert sum(motion.mu for motion in motions) == pytest.approx(80.0)
    np.testing.assert_allclose(motions[0].jaw_y_mm, [[-100.0, 95.0]] * 2)
    np.testing.assert_allclose(motions[-1].jaw_y_mm[1], [90.0, 95.0])
    # The field is open for the published T(-10 cm) / T(9 cm) of the monitor units.
    assert motions[0].mu == pytest.approx(80.0 * 0.430453 / 2.645597, rel=1e-4)


def test_a_machine_brings_its_own_table(linac: PhotonMachine) -> None:
    own = WedgeModel("edw60", 60.0, np.array([-200.0, 100.0]), np.array([1.0, 4.0]))
    machine = replace(linac, wedges=(own,), energy_mv=18.0)
    np.testing.assert_allclose(golden_dose(np.array([-100.0, 0.0]), machine, ""), [2.0, 3.0])


@pytest.mark.parametrize(
    ("edw", "jaw_y", "message"),
    [
        (wedge("DYNAMIC", "VW30"), (-50.0, 50.0), "dynamic wedge 'VW30' is not supported; of wedges made by a moving"),
        (wedge("DYNAMIC", "EDW30", turned=90.0), (-50.0, 50.0), "orientation of 90 degrees; expected 0 or 180"),
        (wedge("DYNAMIC", "EDW30"), (-50.0, 120.0), "Y jaws -50 and 120 mm"),
        (wedge("DYNAMIC", "EDW30"), (-3.0, 1.0), "a gap above 5 mm"),
        (wedge("DYNAMIC", "EDW70", 70.0), (-50.0, 50.0), "angle of 70 degrees"),
        (wedge("DYNAMIC", "EDW30"), [(-50.0, 50.0), (-40.0, 50.0)], "while jaws or leaves move"),
    ],
)
def test_dynamic_wedges_that_cannot_be_computed(
    linac: PhotonMachine, beam_of: Make, edw: Wedge, jaw_y: object, message: str
) -> None:
    beam = beam_of((-50.0, 50.0), jaw_y, wedges=(edw,))
    with pytest.raises(PlanError, match=message) as error:
        fluence_maps(beam, exposures(beam)[0], linac, X, X)
    assert "beam 1 'field'" in str(error.value)


def test_energies_without_a_golden_table_are_refused(linac: PhotonMachine, beam_of: Make) -> None:
    for machine in (replace(linac, energy_mv=15.0), replace(linac, fluence_mode="FFF")):
        with pytest.raises(MachineError, match=r"no golden table for .* MV .*add it to machine 'linac' as the wedge"):
            golden_dose(X, machine, "beam")
    falling = WedgeModel("EDW60", 60.0, np.array([-200.0, 100.0]), np.array([4.0, 1.0]))
    machine = replace(linac, wedges=(falling,))
    motion = motion_between(beam_of((-50.0, 50.0), (-50.0, 50.0)), 0, 0.0, 1.0, 1.0)
    with pytest.raises(MachineError, match="must rise towards the toe"):
        swept(motion, wedge("DYNAMIC", "EDW60", 60.0), machine, "beam")


def block(kind: str, transmission: float = 0.05, **changes: object) -> Block:
    """A triangle of 20 x 30 mm."""
    made = Block("B", kind, np.array([(-10.0, -10.0), (10.0, -10.0), (-10.0, 20.0)]), transmission, True, 650.0)
    return replace(made, **changes)


@pytest.mark.parametrize(("kind", "inside", "outside"), [("SHIELDING", 0.05, 1.0), ("APERTURE", 1.0, 0.05)])
def test_a_block_covers_the_area_of_its_outline(kind: str, inside: float, outside: float) -> None:
    edge = np.arange(-40.0, 41.0, 1.7)
    found = block_cover(block(kind), edge, edge)
    total = (len(edge) - 1) ** 2 * 1.7**2
    assert found.sum() * 1.7**2 == pytest.approx(300.0 * inside + (total - 300.0) * outside, rel=1e-6)
    assert found[np.searchsorted(edge, -5.0) - 1, np.searchsorted(edge, -5.0) - 1] == pytest.approx(inside)
    assert found[0, 0] == pytest.approx(outside)


def test_blocks_and_their_tray_weaken_both_sources(linac: PhotonMachine, beam_of: Make) -> None:
    machine = replace(linac, head=replace(linac.head, scatter_share=0.1))
    open_ = beam_of((-50.0, 50.0), (-50.0, 50.0))
    blocked = replace(open_, blocks=(block("SHIELDING"),), block_tray_factor=0.97)
    with_it, without = (fluence_maps(b, exposures(b)[0], machine, X, X) for b in (blocked, open_))
    for found, free in ((with_it.focal, without.focal), (with_it.extrafocal, without.extrafocal)):
        # (-6, -6) lies under the block, (30, 30) beside it.
        assert found[27, 27] / free[27, 27] == pytest.approx(0.97 * 0.05, rel=1e-4)
        assert found[45, 45] / free[45, 45] == pytest.approx(0.97, rel=1e-4)


def test_the_edge_of_a_block_is_blurred_less_as_it_is_nearer(linac: PhotonMachine, beam_of: Make) -> None:
    """Its tray is 650 mm from a spot of 2 mm: sigma 2 * 350 / 650."""
    machine = replace(linac, head=replace(linac.head, focal_mm=(2.0, 2.0)))
    square = np.array([(-60.0, -60.0), (0.0, -60.0), (0.0, 60.0), (-60.0, 60.0)])
    beam = beam_of(blocks=(block("SHIELDING", 0.0, polygon_mm=square),))
    x = np.arange(-8.0, 8.1, 0.1)
    profile = fluence_maps(beam, exposures(beam)[0], machine, x, np.array([-0.1, 0.0, 0.1])).focal[1] / 100.0
    width = np.interp(0.8, profile, x) - np.interp(0.2, profile, x)
    assert width == pytest.approx(1.683 * 2.0 * 350.0 / 650.0, rel=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"polygon_mm": np.zeros((2, 2))}, "expected .* at least three points"),
        ({"polygon_mm": np.full((3, 2), np.nan)}, "outline must lie within 400 mm"),
        ({"transmission": 1.5}, "transmission of 1.5"),
        ({"tray_mm": 65.0}, "tray 65 mm from the source; expected at least 100 mm"),
    ],
)
def test_blocks_that_make_no_sense_are_refused(change: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        block("SHIELDING", **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": (block("APERTURE"), block("APERTURE"))}, "more than one aperture block: 'B', 'B'"),
        ({"blocks": (block("SHIELDING", tray_mm=1000.0),)}, "tray 1000 mm from the source, beyond the isocentre"),
        ({"block_tray_factor": 1.2}, "block tray factor of 1.2"),
        ({"wedges": (wedge(inside=(True,)),)}, "wedge 'W30' is stated for"),
    ],
)
def test_beams_whose_accessories_make_no_sense_are_refused(beam_of: Make, change: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        beam_of(**change)


def test_wedge_angles_that_make_no_sense_are_refused() -> None:
    with pytest.raises(PlanError, match="wedge 'W30': has an angle of 0"):
        wedge(angle=0.0)
