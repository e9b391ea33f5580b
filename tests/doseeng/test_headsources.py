"""Focal spot and extra-focal source against what their geometry says."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import erf

from doseeng.errors import MachineError
from doseeng.fluence import FluenceMaps, exposures, fluence_maps
from doseeng.machines.photonmodel import PhotonMachine, Source
from doseeng.plan import PhotonBeam

Make = Callable[..., PhotonBeam]
SHARE, SIGMA_MM, PLANE_MM = 0.1, 20.0, 120.0
WIDE = (-200.0, 200.0)


def maps(beam: PhotonBeam, machine: PhotonMachine, u: np.ndarray, v: np.ndarray) -> FluenceMaps:
    """Of one exposure of 100 MU, over its monitor units."""
    (exposure,) = exposures(beam)
    found = fluence_maps(beam, exposure, machine, u, v)
    return FluenceMaps(found.focal / 100.0, found.extrafocal / 100.0)


def with_spot(machine: PhotonMachine, x: float, y: float) -> PhotonMachine:
    return replace(machine, head=replace(machine.head, focal_mm=(x, y)))


def with_scatter(machine: PhotonMachine) -> PhotonMachine:
    return replace(machine, head=Source((0.0, 0.0), SHARE, SIGMA_MM, PLANE_MM))


def width_80_20(x: np.ndarray, profile: np.ndarray) -> float:
    order = np.argsort(profile)
    return abs(float(np.diff(np.interp((0.2, 0.8), profile[order], x[order]))[0]))


@pytest.mark.parametrize(("collimator", "across"), [(0.0, 1.5), (90.0, 3.0), (45.0, np.sqrt((1.5**2 + 3.0**2) / 2))])
def test_the_penumbra_is_that_of_the_focal_spot(
    linac: PhotonMachine, beam_of: Make, collimator: float, across: float
) -> None:
    """An edge 400 mm from a spot of 1 mm is blurred by 1 * 600 / 400 = 1.5 mm; 80 to 20 % of it are 1.683 sigma."""
    machine = with_spot(replace(linac, jaws=replace(linac.jaws, y_plane_mm=400.0)), 1.0, 2.0)
    x = np.arange(-40.0, 40.1, 0.25)
    beam = beam_of((0.0, 200.0), WIDE, collimator_deg=np.full(2, collimator))
    found = maps(beam, machine, x, np.array([-0.25, 0.0, 0.25])).focal
    edge = np.abs(x) < 12.0
    assert width_80_20(x[edge], found[1, edge]) == pytest.approx(1.683 * across, rel=0.01)


@pytest.mark.parametrize("pitch", [0.5, 2.0, 5.0])
def test_blur_keeps_area_and_adds_its_variance(linac: PhotonMachine, beam_of: Make, pitch: float) -> None:
    """A slit of 1 mm at 0.3 mm: mean and variance of the blurred map, pixels wider or narrower than the blur."""
    machine = with_spot(linac, 0.8, 0.8)
    x = pitch * np.arange(-round(40 / pitch), round(40 / pitch) + 1)
    beam = beam_of((-0.2, 0.8), WIDE)
    sharp, blurred = (maps(beam, m, x, np.array([-1.0, 0.0, 1.0])).focal[1].astype(float) for m in (linac, machine))
    assert blurred.sum() * pitch == pytest.approx(1.0, rel=1e-5)

    def moments(profile: np.ndarray) -> tuple[float, float]:
        mean = (profile * x).sum() / profile.sum()
        return mean, (profile * (x - mean) ** 2).sum() / profile.sum()

    assert moments(blurred)[0] == pytest.approx(moments(sharp)[0], abs=1e-4)
    assert moments(blurred)[1] - moments(sharp)[1] == pytest.approx((0.8 * 600 / 400) ** 2, rel=1e-3)


def test_maps_do_not_depend_on_where_they_end(linac: PhotonMachine, beam_of: Make) -> None:
    leaves = np.random.default_rng(2).uniform(5.0, 40.0, (1, 2, 20))[[0, 0]] * np.array([-1.0, 1.0])[:, None]
    machine = with_spot(with_scatter(linac), 2.0, 2.0)
    beam = beam_of((-30.0, 30.0), (-40.0, 40.0), leaves)
    u, v = np.arange(-60.0, 61.0, 3.0), np.arange(-54.0, 55.0, 3.0)
    large, small = maps(beam, machine, u, v), maps(beam, machine, u[5:16], v[7:14])
    np.testing.assert_allclose(small.focal, large.focal[7:14, 5:16], atol=1e-6)
    np.testing.assert_allclose(small.extrafocal, large.extrafocal[7:14, 5:16], atol=2e-4 * SHARE)


def test_an_open_machine_shows_all_of_the_extrafocal_source(linac: PhotonMachine, beam_of: Make) -> None:
    x = np.array([-20.0, 0.0, 20.0])
    leaves = np.broadcast_to(np.array([-200.0, 200.0])[:, None], (2, 2, 20))
    for beam in (beam_of(WIDE, WIDE), beam_of(WIDE, (-50.0, 50.0), leaves)):
        found = maps(beam, with_scatter(linac), x, x).extrafocal
        assert found.max() <= SHARE * (1.0 + 1e-6)
    np.testing.assert_allclose(maps(beam_of(WIDE, WIDE), with_scatter(linac), x, x).extrafocal, SHARE, rtol=1e-4)


def test_a_half_blocked_field_shows_half_of_the_source_on_the_axis(linac: PhotonMachine, beam_of: Make) -> None:
    x = np.array([-5.0, 0.0, 5.0])
    by_jaw = maps(beam_of((0.0, 200.0), WIDE), with_scatter(linac), x, x).extrafocal
    assert by_jaw[1, 1] == pytest.approx(0.5 * SHARE, rel=1e-4)
    # Leaves, of which the opaque space beyond the outermost hides nothing of a narrow source.
    leaves = np.broadcast_to(np.array([0.0, 200.0])[:, None], (2, 2, 20))
    narrow = replace(linac, head=Source((0.0, 0.0), SHARE, 5.0, PLANE_MM))
    by_leaf = maps(beam_of(WIDE, WIDE, leaves), narrow, x, x).extrafocal
    assert by_leaf[1, 1] == pytest.approx(0.5 * SHARE, rel=1e-4)


def test_rays_from_the_extrafocal_source_through_jaws_and_leaves(linac: PhotonMachine, beam_of: Make) -> None:
    """Lines from every point of the source to points of the isocentre plane, tested in the planes of collimators."""
    jaw_x, jaw_y, leaf = (-35.0, 25.0), (-30.0, 40.0), (-15.0, 30.0)
    leaves = np.broadcast_to(np.array(leaf)[:, None], (2, 2, 20))
    machine = replace(with_scatter(linac), leaves=(replace(linac.leaves[0], plane_mm=510.0),))
    u, v = np.array([-40.0, 0.0, 40.0]), np.array([-30.0, 0.0, 30.0])
    found = maps(beam_of(jaw_x, jaw_y, leaves), machine, u, v).extrafocal

    s = np.linspace(-100.0, 100.0, 20001)
    weight = np.exp(-0.5 * (s / SIGMA_MM) ** 2)
    weight /= weight.sum()

    def seen(p: float, *openings: tuple[float, tuple[float, float]]) -> float:
        free = np.ones_like(s, dtype=bool)
        for plane, (low, high) in openings:
            at_plane = s + (p - s) * (plane - PLANE_MM) / (1000.0 - PLANE_MM)
            free &= (at_plane > low * plane / 1000.0) & (at_plane < high * plane / 1000.0)
        return float(weight[free].sum())

    along_u = [seen(p, (400.0, jaw_x), (510.0, leaf)) for p in u]
    along_v = [seen(p, (320.0, jaw_y), (510.0, (-50.0, 50.0))) for p in v]
    # Leaf ends inside a cell of 5 mm are smeared over it.
    np.testing.assert_allclose(found, SHARE * np.outer(along_v, along_u), atol=0.004 * SHARE)


@pytest.mark.parametrize("side", [30.0, 60.0, 120.0, 400.0])
def test_output_grows_with_the_field_as_more_of_the_source_is_seen(
    linac: PhotonMachine, beam_of: Make, side: float
) -> None:
    """On the axis, jaws at c show erf(h / (sqrt(2) beta sigma)) of each direction, beta = 1000 (1000 - c) / (c 880)."""
    jaw = (-0.5 * side, 0.5 * side)
    found = maps(beam_of(jaw, jaw), with_scatter(linac), np.array([-1.0, 0.0, 1.0]), np.array([-1.0, 0.0, 1.0]))
    expected = SHARE
    for plane in (400.0, 320.0):
        beta = 1000.0 * (1000.0 - plane) / (plane * 880.0)
        expected *= erf(0.5 * side / (np.sqrt(2.0) * beta * SIGMA_MM))
    assert found.extrafocal[1, 1] == pytest.approx(expected, rel=1e-5)


def test_jaws_let_through_extrafocal_photons(linac: PhotonMachine, beam_of: Make) -> None:
    machine = replace(with_scatter(linac), jaws=replace(linac.jaws, transmission=0.02))
    x = np.array([-1.0, 0.0, 1.0])
    found = maps(beam_of((100.0, 200.0), (100.0, 200.0)), machine, x - 150.0, x - 150.0).extrafocal
    np.testing.assert_allclose(found, SHARE * 0.02**2, rtol=1e-3)


def test_a_collimator_above_the_extrafocal_source_is_refused(linac: PhotonMachine, beam_of: Make) -> None:
    machine = replace(linac, head=Source((0.0, 0.0), SHARE, SIGMA_MM, 330.0))
    with pytest.raises(MachineError, match="collimator 320 mm from the target; expected it between the extra-focal"):
        maps(beam_of(WIDE, WIDE), machine, np.array([-1.0, 1.0]), np.array([-1.0, 1.0]))
