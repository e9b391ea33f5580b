"""Commissioning finds a machine again from what a water phantom would measure of it: doses, not parameters, count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

from doseeng.cpu import cpu
from doseeng.errors import MachineError, Notice
from doseeng.machines.library import find_photon_machine
from doseeng.machines.photoncommission import Residual, commission_photon, residuals, with_spectrum
from doseeng.machines.photonfile import photon_machine_text
from doseeng.machines.photonmodel import Electrons, PhotonMachine, Source
from doseeng.machines.scandata import OutputFactor, Scan
from doseeng.machines.scans import Measurements
from doseeng.photonfield import FieldDose, gy_per_fluence, open_field
from doseeng.photonlevels import Algorithm

Array = np.ndarray
SSD_MM = 900.0
DEPTHS_MM = np.concatenate([np.arange(2.0, 20.0, 3.0), np.arange(20.0, 300.0, 20.0)])
UNIT = 0.37
"""Scans are in any unit."""


@dataclass(frozen=True, slots=True, eq=False)
class Commissioned:
    """A machine, what is measured of it, and what commissioning makes of that."""

    truth: PhotonMachine
    start: PhotonMachine
    measured: Measurements
    found: PhotonMachine
    residuals: tuple[Residual, ...]
    notices: tuple[Notice, ...]
    stages: list[tuple[str, int, int]]


def field_of(machine: PhotonMachine, side_mm: float, ssd_mm: float = SSD_MM, pitch_mm: float = 2.5) -> FieldDose:
    return open_field(machine, (side_mm, side_mm), ssd_mm, Algorithm.COLLAPSED_CONE, cpu(), pitch_mm)


def measure(machine: PhotonMachine) -> Measurements:
    """A depth dose, two profiles, three output factors."""
    ten, wide = field_of(machine, 100.0), field_of(machine, 160.0, pitch_mm=1.5)
    # Penumbras are measured by a small detector: on finer rays than any fit uses.
    fine = field_of(machine, 100.0, pitch_mm=1.25)
    near, far = np.arange(-75.0, 76.0, 1.5), np.arange(-110.0, 111.0, 5.0)
    scans = (
        Scan("depth", (100.0, 100.0), SSD_MM, None, DEPTHS_MM, UNIT * ten.at(DEPTHS_MM), "d10.csv"),
        Scan("profile-x", (100.0, 100.0), SSD_MM, 100.0, near, fine.at(100.0, near), "x10.csv"),
        Scan("profile-y", (160.0, 160.0), SSD_MM, 50.0, far, wide.at(50.0, 0.0, far), "y16.csv"),
    )
    factors = tuple(
        OutputFactor((s, s), float(field_of(machine, s).at(100.0) / ten.at(100.0)), SSD_MM, 100.0)
        for s in (40.0, 60.0, 160.0)
    )
    return Measurements(scans, factors)


@pytest.fixture(scope="module")
def start() -> PhotonMachine:
    return replace(find_photon_machine("generic", 6.0, "STANDARD"), name="start")


@pytest.fixture(scope="module")
def commissioned(start: PhotonMachine) -> Commissioned:
    """A machine that is softer, with a horn, a wider spot, more scatter from the head and more electrons."""
    truth = replace(
        with_spectrum(start, 1.1, 2.9),
        name="truth",
        profile_mm=np.arange(0.0, 301.0, 50.0),
        profile=np.array([1.0, 1.03, 1.05, 1.06, 1.04, 1.0, 0.95]),
        head=Source((1.6, 1.6), 0.13, 30.0, 125.0),
        electrons=Electrons(0.3, 8.0, 25.0),
    )
    measured, stages = measure(truth), []
    found, left, notices = commission_photon(measured, start, lambda *stage: stages.append(stage), cpu())
    return Commissioned(truth, start, measured, found, left, notices, stages)


@pytest.fixture(scope="module")
def fields(commissioned: Commissioned) -> Callable[[str, float], FieldDose]:
    """`fields("truth", side_mm)`: fields that were not measured, at another distance."""

    @cache
    def of(which: str, side_mm: float) -> FieldDose:
        return field_of(getattr(commissioned, which), side_mm, 950.0)

    return of


@pytest.mark.parametrize("side_mm", [40.0, 70.0, 150.0])
def test_doses_that_were_not_measured_come_out(
    commissioned: Commissioned, fields: Callable[[str, float], FieldDose], side_mm: float
) -> None:
    """Absolute: at the reference both machines give the dose they are calibrated to."""
    gy = {
        name: gy_per_fluence(getattr(commissioned, name), Algorithm.COLLAPSED_CONE, cpu())
        for name in ("truth", "found")
    }
    depth_mm = np.arange(20.0, 251.0, 10.0)
    dose = {name: gy[name] * fields(name, side_mm).at(depth_mm) for name in gy}
    np.testing.assert_allclose(dose["found"], dose["truth"], rtol=0.007)
    start = gy_per_fluence(commissioned.start, Algorithm.COLLAPSED_CONE, cpu()) * fields("start", side_mm).at(depth_mm)
    assert np.abs(start / dose["truth"] - 1.0).max() > 0.02


def test_build_up_comes_out(fields: Callable[[str, float], FieldDose]) -> None:
    depth_mm = np.arange(2.0, 20.0, 2.0)
    found, truth, start = (fields(name, 150.0).at(depth_mm) / fields(name, 150.0).at(50.0) for name in
                           ("found", "truth", "start"))  # fmt: skip
    np.testing.assert_allclose(found, truth, atol=0.02)
    assert np.abs(start - truth).max() > 0.06


def test_the_open_beam_comes_out(fields: Callable[[str, float], FieldDose]) -> None:
    x = np.arange(0.0, 60.0, 5.0)
    for depth_mm in (30.0, 200.0):
        across = {name: fields(name, 150.0).at(depth_mm, x) for name in ("found", "truth")}
        np.testing.assert_allclose(
            across["found"] / across["found"][0], across["truth"] / across["truth"][0], atol=0.007
        )


def penumbra_mm(machine: PhotonMachine, depth_mm: float) -> float:
    """From 80 to 20 % of the axis, 7 x 7 cm."""
    x = np.arange(20.0, 60.0, 0.1)
    field = field_of(machine, 70.0, pitch_mm=1.25)
    away = field.at(depth_mm, x) / field.at(depth_mm)
    return float(np.ptp(np.interp([-0.8, -0.2], -away, x)))


@pytest.mark.parametrize("depth_mm", [50.0, 100.0])
def test_penumbras_come_out(commissioned: Commissioned, depth_mm: float) -> None:
    truth = penumbra_mm(commissioned.truth, depth_mm)
    assert penumbra_mm(commissioned.found, depth_mm) == pytest.approx(truth, abs=0.3)
    assert penumbra_mm(commissioned.start, depth_mm) < truth - 0.6


def test_residuals_say_how_well_it_fits(commissioned: Commissioned) -> None:
    assert [r.what for r in commissioned.residuals] == [
        "depth dose 100 x 100 mm",
        "profile-x 100 x 100 mm, 100 mm deep",
        "profile-y 160 x 160 mm, 50 mm deep",
        *(f"output factor {s} x {s} mm" for s in (40, 60, 160)),
    ]
    assert all(abs(r.worst_percent) < 0.8 and r.rms_percent <= abs(r.worst_percent) for r in commissioned.residuals)
    assert [r.penumbra_mm is None for r in commissioned.residuals] == [True, False, False, True, True, True]
    assert all(abs(r.penumbra_mm) < 0.3 for r in commissioned.residuals if r.penumbra_mm is not None)
    before = residuals(commissioned.start, commissioned.measured, cpu())
    assert all(abs(b.worst_percent) > abs(a.worst_percent) for a, b in zip(commissioned.residuals, before, strict=True))


def test_what_is_not_measured_stays_and_everything_measured_is_fitted(commissioned: Commissioned) -> None:
    found, start = commissioned.found, commissioned.start
    assert commissioned.notices == ()
    assert (found.name, found.reference, found.jaws) == (start.name, start.reference, start.jaws)
    assert (found.leaves, found.wedges, found.softening) == (start.leaves, start.wedges, start.softening)
    assert found.head.scatter_plane_mm == start.head.scatter_plane_mm
    stages = [stage for stage, _, _ in commissioned.stages]
    assert stages == [
        "spectrum", "profile of the open beam", "focal spot", "extra-focal source", "contaminant electrons",
    ]  # fmt: skip
    assert [(done, of) for _, done, of in commissioned.stages] == [(n, 5) for n in range(5)]
    # Modes follow from the new spectrum: both algorithms are calibrated and agree.
    pencil, cones = (
        gy_per_fluence(found, a, cpu()) * open_field(found, (100.0, 100.0), 1000.0, a, cpu()).at([50.0, 100.0, 200.0])
        for a in Algorithm
    )
    np.testing.assert_allclose(pencil, cones, rtol=0.015)


# --- little is measured ----------------------------------------------------------------------------------------------


def one_depth_dose(machine: PhotonMachine, depth_mm: Array) -> Scan:
    dose = field_of(machine, 100.0, 1000.0).at(depth_mm)
    return Scan("depth", (100.0, 100.0), 1000.0, None, depth_mm, dose, "d.csv")


def test_notices_name_what_is_kept(start: PhotonMachine) -> None:
    truth = with_spectrum(start, 1.0, 2.0)
    before = Notice("wedged-scan-left-out", "w.csv", "has a wedge")
    measured = Measurements((one_depth_dose(truth, np.arange(20.0, 260.0, 20.0)),), (), (before,))
    found, left, notices = commission_photon(measured, start, backend=cpu())
    assert notices[0] is before
    assert [(n.code, n.where) for n in notices[1:]] == [
        ("kept-from-start", what)
        for what in ("profile of the open beam", "focal spot", "extra-focal source", "contaminant electrons")
    ]
    assert all("taken from 'start'" in n.message for n in notices[1:])
    assert (found.head, found.electrons) == (start.head, start.electrons)
    np.testing.assert_array_equal(found.profile, start.profile)
    assert len(left) == 1
    assert abs(left[0].worst_percent) < 0.5
    # A machine made so can be written, and is the same when made again.
    again, *_ = commission_photon(measured, start, backend=cpu())
    assert photon_machine_text(again) == photon_machine_text(found)


def test_a_profile_that_ends_inside_the_field_decides_no_focal_spot(start: PhotonMachine) -> None:
    x = np.arange(-60.0, 61.0, 20.0)
    scan = Scan("profile-x", (200.0, 200.0), SSD_MM, 100.0, x, field_of(start, 200.0).at(100.0, x), "x.csv")
    measured = Measurements((one_depth_dose(start, np.arange(20.0, 260.0, 40.0)), scan), ())
    found, _, notices = commission_photon(measured, start, backend=cpu())
    assert found.head.focal_mm == start.head.focal_mm
    assert "focal spot" in [n.where for n in notices]


def test_without_a_depth_dose_there_is_no_machine(start: PhotonMachine) -> None:
    x = np.arange(-75.0, 76.0, 5.0)
    scan = Scan("profile-x", (100.0, 100.0), SSD_MM, 100.0, x, np.ones_like(x), "x.csv")
    with pytest.raises(MachineError, match=r"no depth dose .*spectrum cannot be found"):
        commission_photon(Measurements((scan,), ()), start)
    shallow = Scan("depth", (100.0, 100.0), SSD_MM, None, np.array([2.0, 8.0, 15.0]), np.ones(3), "d.csv")
    with pytest.raises(MachineError, match=r"no depth dose(.|\n)*d\.csv"):
        commission_photon(Measurements((shallow,), ()), start)


def test_spectra_have_the_shape_they_are_given(start: PhotonMachine) -> None:
    machine = with_spectrum(start, 2.0, 3.0)
    energy, weight = machine.spectrum_mev, machine.spectrum_weight
    assert weight.sum() == pytest.approx(1.0)
    assert 0.0 < energy[0] < energy[-1] < machine.energy_mv
    # E^a (1 - E)^b has its mean at (a + 1) / (a + b + 2).
    assert energy @ weight == pytest.approx(machine.energy_mv * 3.0 / 7.0, rel=1e-3)
    assert machine.cones.primary[:, 0].sum() == pytest.approx(1.0)
