"""Modes against the cones they were made from, by sums of their own: dose on the axis of round parallel fields."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from benchmarks.mohan import energy_fluence
from doseeng.machines.pencilmodes import modes_of
from doseeng.machines.photonmodel import Cones, Modes
from doseeng.machines.pointkernels import cones_of
from doseeng.photonphysics import water_absorption_cm2_g, water_attenuation_cm2_g

Array = np.ndarray
STEP_MM = 1.0
DEPTH_MM = STEP_MM * (np.arange(500) + 0.5)
LAG_MM = STEP_MM * np.arange(len(DEPTH_MM))
COMPARED = (DEPTH_MM > 15.0) & (DEPTH_MM < 300.0)
POLAR = 12
"""Directions within a cone; each is a straight line."""
RADII_MM = (10.0, 20.0, 40.0, 80.0, 160.0)


@dataclass(frozen=True, slots=True, eq=False)
class Beam:
    """Energy set free per mm, primary and scatter, and the kernels that carry it."""

    primary: Array
    scatter: Array
    cones: Cones
    modes: Modes


@pytest.fixture(scope="module", params=["mohan6", "mohan10", "mohan15"])
def beam(request: pytest.FixtureRequest) -> Beam:
    energy_mev, weight = energy_fluence(request.param)
    attenuation, absorption = 0.1 * water_attenuation_cm2_g(energy_mev), 0.1 * water_absorption_cm2_g(energy_mev)
    left = np.exp(-np.outer(np.arange(501.0), attenuation)) * weight
    tables = left @ absorption, left @ (attenuation - absorption)
    cones = cones_of(energy_mev, weight)
    middle = [np.interp(DEPTH_MM, np.arange(501.0), table) for table in tables]
    return Beam(*middle, cones, modes_of(cones, *tables))


def passed(per_mm: float) -> Array:
    """Share of the energy from the middle of one step that is deposited so many steps on."""
    faces = np.exp(-per_mm * np.maximum(LAG_MM[:, None] + [-0.5 * STEP_MM, 0.5 * STEP_MM], 0.0))
    return faces[:, 0] - faces[:, 1]


def of_cones(released: Array, edge_deg: Array, rows: Array, radius_mm: float) -> Array:
    """Dose on the axis of a field with a radius, as what a pencil leaves within that radius."""
    dose = np.zeros_like(released)
    edge = np.cos(np.radians(edge_deg))
    for low, high, (share, per_gcm2) in zip(edge[:-1], edge[1:], rows, strict=True):
        for cosine in low + (high - low) * (np.arange(POLAR) + 0.5) / POLAR:
            reach_mm = radius_mm * abs(cosine) / np.sqrt(1.0 - cosine**2)
            near = np.clip((reach_mm - LAG_MM) / STEP_MM + 0.5, 0.0, 1.0)
            kernel = passed(0.1 * per_gcm2 / abs(cosine)) * near
            there = released if cosine > 0 else released[::-1]
            carried = np.convolve(there, share / POLAR * kernel)[: len(released)]
            dose += carried if cosine > 0 else carried[::-1]
    return dose


def of_modes(released: Array, modes: Array, radius_mm: float) -> Array:
    """The same of modes: one Gaussian per mode and depth, as wide as everything in it is on the mean."""
    dose = np.zeros_like(released)
    for share, per_gcm2, spread in modes:
        kernel = share * passed(0.1 * per_gcm2)
        carried = np.convolve(released, kernel)[: len(released)]
        square = np.convolve(released, kernel * (LAG_MM**2 + STEP_MM**2 / 6.0))[: len(released)] / carried
        dose += carried * -np.expm1(-(radius_mm**2) / (2.0 * spread * square))
    return dose


@pytest.mark.parametrize("radius_mm", RADII_MM)
def test_modes_give_round_fields_the_dose_of_cones(beam: Beam, radius_mm: float) -> None:
    cones, modes = beam.cones, beam.modes
    parts = [
        (of_cones(freed, cones.edge_deg, rows, radius_mm), of_modes(freed, own, radius_mm))
        for freed, rows, own in (
            (beam.primary, cones.primary, modes.primary),
            (beam.scatter, cones.scatter, modes.scatter),
        )
    ]
    expected, found = (np.sum(pair, axis=0)[COMPARED] for pair in zip(*parts, strict=True))
    # Three Gaussians are not quite what electrons of 15 MV do within a centimetre.
    np.testing.assert_allclose(found, expected, rtol=0.015 if radius_mm > 10.0 else 0.02)
    # No part makes up for what the other lacks.
    for one, other in parts:
        assert np.abs((other - one)[COMPARED] / expected).max() < 0.02


def test_primary_energy_is_all_carried_and_ends_soon(beam: Beam) -> None:
    share, per_gcm2, spread = beam.modes.primary.T
    assert share.sum() == pytest.approx(1.0, abs=0.02)
    # As far along the ray as cones do on the mean: electrons of some MeV, millimetres to a centimetre.
    edge = np.cos(np.radians(beam.cones.edge_deg))
    along = 0.5 * (edge[1:] + edge[:-1]) * beam.cones.primary[:, 0] / beam.cones.primary[:, 1]
    assert (share / per_gcm2).sum() == pytest.approx(along.sum(), rel=0.1)
    assert np.all(spread > 0.0)


def test_modes_are_few_and_in_order(beam: Beam) -> None:
    for modes in (beam.modes.primary, beam.modes.scatter):
        assert modes.shape[0] <= 6
        assert np.all(np.diff(modes[:, 1]) <= 0.0)
        assert np.all(modes > 0.0)
