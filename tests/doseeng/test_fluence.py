"""Which geometries a beam is computed in, the box of its opening, and what its fluence maps add up to."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from doseeng.dicom.rtplan import plan_from
from doseeng.errors import GeometryError, MachineError
from doseeng.fluence import Exposure, exposures, fluence_maps, opening_box
from doseeng.machines.photonmodel import LeafModel, PhotonMachine
from doseeng.plan import Mlc, PhotonBeam

Make = Callable[..., PhotonBeam]
X = np.arange(-60.0, 61.0, 2.5)
FIELD = {"jaw_x": (-50.0, 50.0), "jaw_y": (-40.0, 40.0)}
# Elekta Agility, Varian Millennium 120.
AGILITY = LeafModel("Agility", ((80, 5.0),), 340.0, 0.004, 0.001, 0.2, 0.3)
MILLENNIUM = LeafModel("Millennium", ((10, 10.0), (40, 5.0), (10, 10.0)), 510.0, 0.014, 0.003, 0.8, 0.4)


def whole(beam: PhotonBeam, machine: PhotonMachine, u: np.ndarray = X, v: np.ndarray = X) -> np.ndarray:
    """(n_v, n_u) focal map of all exposures."""
    return np.sum([fluence_maps(beam, e, machine, u, v).focal for e in exposures(beam)], axis=0, dtype=float)


def gaps(*ends: tuple[float, float]) -> np.ndarray:
    """(n_cp, 2, 20): all pairs of a control point at the same ends."""
    return np.broadcast_to(np.array(ends)[:, :, None], (len(ends), 2, 20))


def test_a_static_beam_is_one_exposure(beam_of: Make) -> None:
    (exposure,) = exposures(beam_of(**FIELD, gantry_deg=np.full(2, 270.0), couch_deg=np.full(2, 10.0)))
    assert (exposure.gantry_deg, exposure.couch_deg, exposure.collimator_deg) == (270.0, 10.0, 0.0)
    assert (exposure.mu, exposure.isocenter_mm, len(exposure.intervals)) == (100.0, (0.0, 0.0, 0.0), 1)


def test_segments_without_meterset_are_left_out(linac: PhotonMachine, beam_of: Make) -> None:
    """Step and shoot: leaves move at 0.4 and 0.9 of the meterset, when the beam is off."""
    leaves = gaps((-30, 0), (-30, 0), (-10, 20), (-10, 20), (0, 40), (0, 40))
    beam = beam_of(**FIELD, leaves=leaves, fraction=(0.0, 0.4, 0.4, 0.9, 0.9, 1.0))
    (exposure,) = exposures(beam)
    assert [round(interval.mu, 9) for interval in exposure.intervals] == [40.0, 50.0, 10.0]
    found = whole(beam, linac)[24]
    for u, expected in ((-20.0, 40.0), (-5.0, 90.0), (5.0, 60.0), (15.0, 60.0), (30.0, 10.0), (45.0, 0.0)):
        assert found[np.searchsorted(X, u)] == pytest.approx(expected)


def test_a_sliding_window_is_one_exposure(beam_of: Make) -> None:
    leaves = gaps(*((x, x + 10.0) for x in range(-50, 50, 10)))
    (exposure,) = exposures(beam_of(**FIELD, leaves=leaves, fraction=np.linspace(0, 1, 10)))
    assert len(exposure.intervals) == 9
    assert exposure.mu == pytest.approx(100.0)


def test_angles_used_again_make_no_new_exposure(beam_of: Make) -> None:
    """There, and back after a gantry turn without meterset; 360 degrees is 0."""
    gantry = np.array([0.0, 0.0, 90.0, 90.0, 360.0, 360.0])
    beam = beam_of(**FIELD, fraction=(0.0, 0.3, 0.3, 0.6, 0.6, 1.0), gantry_deg=gantry)
    found = exposures(beam)
    assert [(e.gantry_deg, round(e.mu, 9), len(e.intervals)) for e in found] == [(0.0, 70.0, 2), (90.0, 30.0, 1)]


def test_an_arc_is_split_into_steps_of_at_most_five_degrees(beam_of: Make) -> None:
    """20 degrees with a quarter of the meterset, 4 degrees with the rest; the collimator turns along."""
    gantry, collimator = np.array([350.0, 370.0, 374.0]), np.array([10.0, 20.0, 20.0])
    beam = beam_of(**FIELD, fraction=(0.0, 0.25, 1.0), gantry_deg=gantry, collimator_deg=collimator)
    found = exposures(beam)
    np.testing.assert_allclose([e.gantry_deg for e in found], [352.5, 357.5, 362.5, 367.5, 372.0])
    np.testing.assert_allclose([e.collimator_deg for e in found], [11.25, 13.75, 16.25, 18.75, 20.0])
    np.testing.assert_allclose([e.mu for e in found], [6.25] * 4 + [75.0])
    assert [(i.start, i.stop) for e in found for i in e.intervals] == [
        (0, 0.25),
        (0.25, 0.5),
        (0.5, 0.75),
        (0.75, 1),
        (0, 1),
    ]


def test_a_couch_that_moves_along_is_taken_halfway(beam_of: Make) -> None:
    isocenter = np.array([(0.0, 0.0, 0.0), (0.0, 0.0, 10.0)])
    (exposure,) = exposures(beam_of(**FIELD, isocenter_mm=isocenter))
    assert exposure.isocenter_mm == (0.0, 0.0, 5.0)


def test_parts_of_an_arc_add_up_to_its_leaf_motion(linac: PhotonMachine, beam_of: Make) -> None:
    """Split or not, the maps hold the same monitor units in the same places."""
    leaves = gaps((-50.0, -20.0), (10.0, 45.0))
    still = beam_of(**FIELD, leaves=leaves)
    arc = beam_of(**FIELD, leaves=leaves, gantry_deg=np.array([0.0, 24.0]))
    assert len(exposures(arc)) == 5
    np.testing.assert_allclose(whole(arc, linac), whole(still, linac), atol=1e-4)


def box(beam: PhotonBeam) -> tuple[float, float, float, float]:
    (exposure,) = exposures(beam)
    return opening_box(beam, exposure)


def test_the_opening_box_of_jaws_and_leaves(beam_of: Make) -> None:
    assert box(beam_of(**FIELD)) == (-50.0, 50.0, -40.0, 40.0)
    assert box(beam_of([(-50.0, 10.0), (-20.0, 60.0)], (-40.0, 40.0))) == (-50.0, 60.0, -40.0, 40.0)
    leaves = gaps((-30.0, 20.0), (-60.0, 35.0)).copy()
    assert box(beam_of(**FIELD, leaves=leaves)) == (-50.0, 35.0, -40.0, 40.0)
    leaves[:, :, :8] = leaves[:, :, 15:] = 0.0
    assert box(beam_of(**FIELD, leaves=leaves)) == (-50.0, 35.0, -10.0, 25.0)
    boundary = np.linspace(-50.0, 50.0, 21)
    along_y = (Mlc("Y", boundary, leaves),)
    assert box(beam_of((-40.0, 40.0), (-50.0, 50.0), along_y)) == (-10.0, 25.0, -50.0, 35.0)


def test_layers_limit_each_other_without_jaws(beam_of: Make) -> None:
    boundary = np.linspace(-50.0, 50.0, 21)
    layers = (
        Mlc("X", boundary, gaps((-30.0, 20.0), (-30.0, 20.0))),
        Mlc("X", boundary + 2.5, gaps((-10.0, 60.0), (-10.0, 60.0))),
    )
    assert box(beam_of((-np.inf, np.inf), (-np.inf, np.inf), layers)) == (-10.0, 20.0, -47.5, 50.0)


def test_a_closed_field_has_no_box(linac: PhotonMachine, beam_of: Make) -> None:
    beam = beam_of(**FIELD, leaves=gaps((5.0, 5.0), (5.0, 5.0)))
    assert box(beam) == (0.0, 0.0, 0.0, 0.0)
    assert whole(beam, linac).max() == 0.0


def test_an_open_field_has_the_monitor_units_and_the_profile(linac: PhotonMachine, beam_of: Make) -> None:
    machine = replace(linac, profile_mm=np.array([0.0, 100.0]), profile=np.array([1.0, 1.1]))
    v = np.array([-20.0, 0.0, 20.0])
    found = whole(beam_of((-200.0, 200.0), (-200.0, 200.0)), machine, X, v)
    np.testing.assert_allclose(found, 100.0 * (1.0 + 0.001 * np.hypot(X, v[:, None])), rtol=1e-6)


def test_the_collimator_angle_turns_the_geometry_and_not_the_map(linac: PhotonMachine, beam_of: Make) -> None:
    straight = beam_of(**FIELD)
    turned = beam_of(**FIELD, collimator_deg=np.full(2, 30.0))
    np.testing.assert_array_equal(whole(turned, linac), whole(straight, linac))
    assert exposures(turned)[0].collimator_deg == 30.0


def test_coarse_maps_are_averages_of_fine_ones(linac: PhotonMachine, beam_of: Make) -> None:
    leaves = np.sort(np.random.default_rng(4).uniform(-45.0, 45.0, (2, 2, 20)), axis=1)
    beam = beam_of(**FIELD, leaves=leaves)
    fine_x = np.arange(-58.75, 60.0, 2.5)
    fine = whole(beam, linac, fine_x, fine_x)
    coarse = whole(beam, linac, fine_x.reshape(-1, 4).mean(axis=1), fine_x.reshape(-1, 4).mean(axis=1))
    np.testing.assert_allclose(coarse, fine.reshape(12, 4, 12, 4).mean(axis=(1, 3)), atol=1e-4)


def test_machine_and_plan_must_have_the_same_axis(linac: PhotonMachine, beam_of: Make) -> None:
    beam = beam_of(**FIELD, source_axis_mm=1500.0)
    with pytest.raises(
        MachineError, match="beam 1 'field': has its isocentre 1500 mm from the source, but machine 'linac'"
    ):
        whole(beam, linac)


@pytest.mark.parametrize("bad", [[0.0], [0.0, 1.0, 3.0], [1.0, 0.0], [0.0, np.nan]])
def test_pixels_must_be_equally_spaced(linac: PhotonMachine, beam_of: Make, bad: list[float]) -> None:
    with pytest.raises(GeometryError, match="equally spaced"):
        whole(beam_of(**FIELD), linac, X, np.array(bad))


def read(path: Path) -> tuple[PhotonBeam, ...]:
    return plan_from(pydicom.dcmread(path), path.name)[0].photon_beams


def maps_around(beam: PhotonBeam, machine: PhotonMachine) -> tuple[list[Exposure], np.ndarray, float]:
    """Exposures, their focal maps on pixels of 2 mm around the beam's opening, and the area of a pixel."""
    found = list(exposures(beam))
    boxes = np.array([opening_box(beam, exposure) for exposure in found])
    u = np.arange(boxes[:, 0].min() - 21.0, boxes[:, 1].max() + 21.0, 2.0)
    v = np.arange(boxes[:, 2].min() - 21.0, boxes[:, 3].max() + 21.0, 2.0)
    return found, np.array([fluence_maps(beam, exposure, machine, u, v).focal for exposure in found]), 4.0


def open_mm2(beam: PhotonBeam, control_point: int) -> float:
    """Area between the leaves of one layer along X that the jaws leave open."""
    (mlc,) = beam.mlcs
    low, high = beam.jaw_x_mm[control_point]
    along = np.minimum(mlc.leaf_mm[control_point, 1], high) - np.maximum(mlc.leaf_mm[control_point, 0], low)
    low, high = beam.jaw_y_mm[control_point]
    across = np.minimum(mlc.leaf_boundary_mm[1:], high) - np.maximum(mlc.leaf_boundary_mm[:-1], low)
    return float((np.clip(along, 0, None) * np.clip(across, 0, None)).sum())


def test_an_elekta_arc(linac: PhotonMachine, unzipped: Callable[[str], Path]) -> None:
    (path,) = (unzipped("alderson_vmat") / "RTPLAN").glob("*.dcm")
    (arc,) = read(path)
    machine = replace(
        linac,
        leaves=(replace(AGILITY, transmission=0.0, interleaf_transmission=0.0, tip_offset_mm=0.0, tongue_mm=0.0),),
    )
    found, maps, pixel = maps_around(arc, machine)
    assert [e.gantry_deg for e in found] == pytest.approx(np.arange(212.0, 509.0, 4.0))
    assert sum(e.mu for e in found) == pytest.approx(390.0)
    # Leaves move little between control points, so the mean area is that of both ends.
    areas = np.array([open_mm2(arc, n) for n in range(76)])
    mu = np.array([e.mu for e in found])
    np.testing.assert_allclose(maps.sum(axis=(1, 2)) * pixel / mu, 0.5 * (areas[1:] + areas[:-1]), rtol=2e-3)
    assert np.max(maps / mu[:, None, None]) == pytest.approx(1.0, abs=1e-5)


def test_sliding_windows(linac: PhotonMachine, unzipped: Callable[[str], Path]) -> None:
    machine = replace(linac, leaves=(MILLENNIUM, AGILITY), jaws=replace(linac.jaws, transmission=0.005))
    for beam in read(unzipped("breast_imrt_embedded_dvh") / "rtplan.dcm"):
        (exposure,), (found,), _ = maps_around(beam, machine)
        assert exposure.mu == pytest.approx(beam.meterset_mu)
        assert len(exposure.intervals) == len(beam.gantry_deg) - 1
        assert found.min() == pytest.approx(0.014 * 0.005**2 * exposure.mu, rel=1e-3)
        assert 0.4 * exposure.mu < found.max() < exposure.mu
