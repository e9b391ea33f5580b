"""Open fields in water: what must hold for any linear accelerator, and what was published for one of 6 MV."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from doseeng.beamseye import Frustum
from doseeng.cpu import cpu
from doseeng.fluence import exposures, opening_box
from doseeng.machines.library import find_photon_machine
from doseeng.machines.photonmodel import Electrons, PhotonMachine, Source
from doseeng.photonfield import FieldDose, field_of_jaws, gy_per_fluence, open_field
from doseeng.photonlevels import Algorithm

Array = np.ndarray
Fields = Callable[..., FieldDose]
PENCIL, CONES = Algorithm.PENCIL, Algorithm.COLLAPSED_CONE
DEEP_MM = np.arange(20.0, 201.0, 10.0)
each_algorithm = pytest.mark.parametrize("algorithm", Algorithm)


@pytest.fixture(scope="module")
def machine() -> PhotonMachine:
    return find_photon_machine("generic", 6.0, "STANDARD")


@pytest.fixture(scope="module")
def plain(machine: PhotonMachine) -> PhotonMachine:
    """The same spectrum from a point: nothing scattered in the head, no electrons, flat."""
    return replace(
        machine,
        head=Source((0.0, 0.0), 0.0, 20.0, 125.0),
        electrons=Electrons(0.0, 5.0, 20.0),
        softening=0.0,
        profile=np.ones_like(machine.profile),
    )


@pytest.fixture(scope="module")
def field(machine: PhotonMachine) -> Fields:
    """`field(algorithm, side_mm, ssd_mm)`: open square fields of the generic machine, each computed once."""

    @cache
    def of(algorithm: Algorithm, side_mm: float, ssd_mm: float) -> FieldDose:
        return open_field(machine, (side_mm, side_mm), ssd_mm, algorithm, cpu())

    return of


# --- how doses are read ----------------------------------------------------------------------------------------------


def test_doses_between_rays_are_linear_and_thin_out_with_the_square_of_the_distance() -> None:
    frustum = Frustum((-50.0, -40.0), 10.0, (20, 9, 11), 100.0, 5.0, (1000.0, 1000.0))
    depth, v, u = np.meshgrid(5.0 * (np.arange(20) + 0.5), frustum.v_mm, frustum.u_mm, indexing="ij")
    known = FieldDose(900.0, 1000.0, ((frustum, (100.0 - 0.3 * depth + 0.2 * v - 0.1 * u).astype(np.float32)),))
    x, y = np.array([0.0, 12.0, -31.0]), np.array([[5.0], [-22.0]])
    scale = (900.0 + 63.0) / 1000.0
    expected = (100.0 - 0.3 * 63.0 + 0.2 * y / scale - 0.1 * x / scale) / scale**2
    np.testing.assert_allclose(known.at(63.0, x, y), expected, rtol=1e-6)
    assert known.at(63.0, 51.0 * scale, 0.0) == 0.0
    assert known.at(63.0, 0.0, -40.1 * scale) == 0.0
    twice = FieldDose(900.0, 1000.0, known.parts * 2)
    np.testing.assert_allclose(twice.at(63.0, x, y), 2.0 * expected, rtol=1e-6)


def test_a_field_of_jaws_is_one_monitor_unit_of_what_was_asked(machine: PhotonMachine) -> None:
    beam = field_of_jaws(machine, (60.0, 100.0))
    (exposure,) = exposures(beam)
    assert exposure.mu == 1.0
    assert opening_box(beam, exposure) == (-30.0, 30.0, -50.0, 50.0)
    assert (beam.energy_mv, beam.source_axis_mm) == (machine.energy_mv, machine.source_axis_mm)


# --- what must hold for any machine ----------------------------------------------------------------------------------


@each_algorithm
@pytest.mark.parametrize("ssd_mm", [800.0, 1200.0])
def test_dose_follows_the_inverse_square(plain: PhotonMachine, algorithm: Algorithm, ssd_mm: float) -> None:
    """10 x 10 cm at 10 cm depth, however far the source is: only the distance changes the dose."""

    def at_ten_cm(ssd_mm: float) -> float:
        side_mm = 100.0 * plain.source_axis_mm / (ssd_mm + 100.0)
        return float(open_field(plain, (side_mm, side_mm), ssd_mm, algorithm, cpu()).at(100.0))

    assert at_ten_cm(ssd_mm) / at_ten_cm(900.0) == pytest.approx((1000.0 / (ssd_mm + 100.0)) ** 2, rel=0.004)


@each_algorithm
def test_tpr_and_depth_dose_belong_together(field: Fields, algorithm: Algorithm) -> None:
    """TPR20,10 = 1.2661 PDD20,10 - 0.0595 (IAEA TRS-398, 2000), an average over hundreds of beams of all energies."""
    tpr = field(algorithm, 100.0, 800.0).at(200.0) / field(algorithm, 100.0, 900.0).at(100.0)
    ten, twenty = field(algorithm, 100.0, 1000.0).at([100.0, 200.0])
    assert tpr == pytest.approx(1.2661 * twenty / ten - 0.0595, abs=0.008)


@each_algorithm
def test_the_reference_dose_comes_out(machine: PhotonMachine, algorithm: Algorithm) -> None:
    reference = machine.reference
    sides = (reference.field_mm, reference.field_mm)
    # On rays of another pitch and slices than those that calibrate.
    other = open_field(machine, sides, reference.ssd_mm, algorithm, cpu(), pitch_mm=2.0, slice_mm=2.0)
    found = gy_per_fluence(machine, algorithm, cpu()) * other.at(reference.depth_mm)
    assert found == pytest.approx(reference.gy_per_mu, rel=0.005)
    doubled = replace(machine, reference=replace(reference, gy_per_mu=0.02))
    assert gy_per_fluence(doubled, algorithm, cpu()) == pytest.approx(2.0 * found / other.at(reference.depth_mm))


@each_algorithm
@pytest.mark.parametrize(("pitch_mm", "slice_mm"), [(1.5, 2.5), (1.25, 1.25), (2.5, 1.5)])
def test_rays_and_slices_do_not_matter(
    machine: PhotonMachine, field: Fields, algorithm: Algorithm, pitch_mm: float, slice_mm: float
) -> None:
    for side_mm in (50.0, 100.0):
        other = open_field(machine, (side_mm, side_mm), 900.0, algorithm, cpu(), pitch_mm, slice_mm)
        depth_mm = np.arange(20.0, 201.0, 2.0)
        ratio = other.at(depth_mm) / field(algorithm, side_mm, 900.0).at(depth_mm)
        # Cones cross the rays in whole steps, which leaves ripples along the axis: 0.3 % rms, 0.8 % at the worst.
        np.testing.assert_allclose(ratio, 1.0, rtol=0.001 if algorithm is PENCIL else 0.012)
        assert ratio.mean() == pytest.approx(1.0, abs=0.003)


@each_algorithm
def test_square_fields_are_symmetric(machine: PhotonMachine, algorithm: Algorithm) -> None:
    level = replace(machine, jaws=replace(machine.jaws, y_plane_mm=machine.jaws.x_plane_mm))
    dose = open_field(level, (100.0, 100.0), 900.0, algorithm, cpu())
    x = np.arange(2.0, 90.0, 4.0)
    for depth_mm in (15.0, 100.0, 250.0):
        axis = dose.at(depth_mm)
        right, left, up, down = (dose.at(depth_mm, *at) for at in ((x, 0.0), (-x, 0.0), (0.0, x), (0.0, -x)))
        np.testing.assert_allclose(left, right, atol=1e-5 * axis)
        np.testing.assert_allclose(down, up, atol=1e-5 * axis)
        # Eight azimuths per ring do not look the same along x and y.
        np.testing.assert_allclose(up, right, atol=0.012 * axis)


@each_algorithm
def test_wider_fields_scatter_more(field: Fields, algorithm: Algorithm) -> None:
    sides = (30.0, 50.0, 100.0, 200.0)
    at = np.array([field(algorithm, side, 900.0).at([50.0, 100.0, 200.0]) for side in sides])
    assert np.all(np.diff(at, axis=0) > 0.0)
    # The deeper, the more of the dose is scattered.
    assert np.all(np.diff(at[-1] / at[0]) > 0.0)


@pytest.mark.parametrize("side_mm", [30.0, 50.0, 100.0, 200.0])
def test_both_algorithms_agree_in_water(machine: PhotonMachine, field: Fields, side_mm: float) -> None:
    pencil, cones = (
        field(algorithm, side_mm, 900.0).at(DEEP_MM) * gy_per_fluence(machine, algorithm, cpu())
        for algorithm in (PENCIL, CONES)
    )
    np.testing.assert_allclose(pencil, cones, rtol=0.015)


@each_algorithm
def test_dose_builds_up_and_falls(field: Fields, algorithm: Algorithm) -> None:
    depth_mm = np.arange(1.0, 300.0)
    dose = field(algorithm, 100.0, 1000.0).at(depth_mm)
    deepest = depth_mm[dose.argmax()]
    # 6 MV: maximum at 15 mm (BJR Supplement 25).
    assert 11.0 < deepest < 18.0
    assert 0.15 < dose[0] / dose.max() < 0.6
    assert np.all(np.diff(dose[depth_mm > 20.0]) < 0.0)


@each_algorithm
def test_dose_falls_outside_the_field(field: Fields, algorithm: Algorithm) -> None:
    for side_mm, depth_mm in ((50.0, 15.0), (50.0, 100.0), (100.0, 100.0)):
        edge = 0.5 * side_mm * (900.0 + depth_mm) / 1000.0
        dose = field(algorithm, side_mm, 900.0)
        axis = float(dose.at(depth_mm))
        away = dose.at(depth_mm, edge + np.array([4.0, 10.0, 20.0, 40.0, 80.0])) / axis
        np.testing.assert_array_less(away, [0.45, 0.22, 0.12, 0.08, 0.04])
        assert np.all(away > 0.002)
        assert np.all(np.diff(away) < 0.0)


@each_algorithm
def test_dose_outside_the_field_has_no_steps(field: Fields, algorithm: Algorithm) -> None:
    dose = field(algorithm, 50.0, 900.0)
    for depth_mm in (15.0, 100.0):
        x = np.arange(35.0, 75.0, 1.0)
        per_mm = np.diff(dose.at(depth_mm, x)) / dose.at(depth_mm)
        assert per_mm.max() < 0.001
        assert per_mm.min() > -0.005


@each_algorithm
def test_electrons_of_the_head_stay_near_the_surface(machine: PhotonMachine, algorithm: Algorithm) -> None:
    many, none = (
        open_field(replace(machine, electrons=Electrons(share, 4.0, 25.0)), (100.0, 100.0), 1000.0, algorithm, cpu())
        for share in (0.2, 0.0)
    )
    more = many.at([2.0, 10.0, 20.0, 60.0]) - none.at([2.0, 10.0, 20.0, 60.0])
    highest = none.at(15.0)
    assert 0.03 < more[0] / highest < 0.2
    assert more[1] == pytest.approx(more[0] * np.exp(-8.0 / 4.0), rel=0.5)
    assert more[2] < 0.01 * highest
    assert abs(more[3]) < 1e-4 * highest


@each_algorithm
def test_softer_photons_off_the_axis_are_lost_in_depth(machine: PhotonMachine, algorithm: Algorithm) -> None:
    soft, hard = (
        open_field(replace(machine, softening=share), (300.0, 300.0), 900.0, algorithm, cpu(), 5.0)
        for share in (1.0, 0.0)
    )
    shallow, deep = (
        (soft.at(z, 100.0 * (900.0 + z) / 1000.0) / hard.at(z, 100.0 * (900.0 + z) / 1000.0)) for z in (30.0, 250.0)
    )
    # 5.7 degrees off the axis attenuation grows by 5.9 %: over 22 cm at 0.03 to 0.05 per cm.
    assert np.log(shallow / deep) == pytest.approx(0.059 * 22.0 * 0.04, rel=0.3)
    assert soft.at(250.0) == pytest.approx(hard.at(250.0), rel=0.01)


# --- published values of 6 MV ----------------------------------------------------------------------------------------


@each_algorithm
def test_depth_doses_as_published(field: Fields, algorithm: Algorithm) -> None:
    """Three machines, 10 x 10 cm, SSD 100 (Chang et al., Med Phys 39 (2012) 6981), percent of the maximum."""
    dose = field(algorithm, 100.0, 1000.0)
    percent = 100.0 * dose.at([50.0, 100.0, 150.0, 200.0]) / dose.at(np.arange(5.0, 30.0)).max()
    np.testing.assert_allclose(percent, [86.1, 66.4, 50.4, 38.1], atol=1.0)
    # BJR Supplement 25, the average of many machines.
    np.testing.assert_allclose(percent[[1, 3]], [67.5, 39.3], rtol=0.03)


@each_algorithm
def test_output_factors_as_published(field: Fields, algorithm: Algorithm) -> None:
    """The same machines, SSD 95, 5 cm deep; 40 cm is in the computation 10 cm wider than any phantom."""
    reference = field(algorithm, 100.0, 950.0).at(50.0)
    for side_mm, factor in ((30.0, 0.880), (50.0, 0.928), (200.0, 1.067), (400.0, 1.119)):
        assert field(algorithm, side_mm, 950.0).at(50.0) / reference == pytest.approx(factor, rel=0.015)
