"""Water-equivalent paths to the distal edge of the target, in boxes and cylinders whose answer is known."""

import time
from dataclasses import replace

import numpy as np
import pytest

from doseeng.case import Case
from doseeng.errors import GeometryError, StructureError
from doseeng.grid import Grid, Volume
from doseeng.materials import read_hu_table
from doseeng.plan import PhotonBeam, Plan, ProtonBeam
from doseeng.preparation import Prepared, prepare
from doseeng.structures import Structure, StructureSet
from doseeng.waterpath import PathChange, path_changes

GRID = Grid((60, 96, 96), (2.5, 2.5, 3.0), (-118.75, -118.75, -88.5))
X, Y, Z = (a[..., 0] for a in np.split(np.stack(np.meshgrid(
    *(o + s * np.arange(n) for o, s, n in zip(GRID.origin_mm, GRID.spacing_mm, GRID.shape[::-1], strict=True)),
    indexing="ij",
), axis=-1).transpose(2, 1, 0, 3), 3, axis=-1))  # fmt: skip
AIR = -1000.0
TABLE = read_hu_table()


def rsp(hu: float) -> float:
    return float(TABLE.rsp[round(hu) + 1024])


def water_box(hu: float = 0.0) -> np.ndarray:
    """200 mm of something from y = -100 to 100, across x and z the whole image."""
    return np.where(np.abs(Y) < 100.0, hu, AIR)


def box(centre: tuple[float, float, float], half: tuple[float, float, float]) -> Structure:
    square = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]) * half[:2] + centre[:2]
    planes = centre[2] + np.arange(-half[2] + 1.5, half[2], 3.0)
    return Structure(1, "CTV", "CTV", tuple(np.column_stack([square, np.full(4, z)]) for z in planes))


def proton(gantry_deg: float = 0.0, number: int = 1) -> ProtonBeam:
    one = np.ones(1)
    return ProtonBeam(
        number, f"F{number}", "generic-pbs", (0.0, 0.0, 0.0), gantry_deg, 0.0, np.zeros((1, 2)), 100 * one, one
    )


def photon(gantry_deg: tuple[float, float]) -> PhotonBeam:
    jaw, still = np.tile([-50.0, 50.0], (2, 1)), np.zeros(2)
    fixed = (3, "X", "generic-6mv", 6.0, "STANDARD", "DYNAMIC", 1000.0, 100.0)
    return PhotonBeam(*fixed, np.array([0.0, 1.0]), np.zeros((2, 3)), np.array(gantry_deg), still, still, jaw, jaw)


def prepared(hu: np.ndarray, *beams: ProtonBeam | PhotonBeam, grid: Grid = GRID) -> Prepared:
    plan = Plan("water", "1.2.3", "HFS", beams or (proton(),))
    return prepare(Case("water", Volume(grid, hu), StructureSet("", "", "", ()), plan), grid=grid)


def only_change(before: Prepared, after: Prepared, planned: Structure, today: Structure | None = None) -> PathChange:
    (change,) = path_changes(before, after, planned, today or planned)
    return change


SIZE = (18.75, 20.0, 21.0)
"""Rays lie 2.5 mm apart: none leaves through a side of the box instead of its far face."""
CTV = box((0.0, 0.0, 0.0), SIZE)


def test_nothing_changes_where_nothing_changed() -> None:
    same = prepared(water_box(), proton(), proton(90.0, 2))
    for number, change in enumerate(path_changes(same, same, CTV, CTV), start=1):
        assert (change.beam_number, change.beam_name) == (number, f"F{number}")
        assert (change.mean_mm, change.p05_mm, change.p95_mm, change.worst_mm) == (0.0, 0.0, 0.0, 0.0)


def test_a_slab_in_front_adds_its_excess_over_water() -> None:
    hu = water_box()
    hu[(Y > -80.0) & (Y < -60.0)] = 1000.0
    change = only_change(prepared(water_box()), prepared(hu), CTV)
    expected = 20.0 * (rsp(1000.0) - 1.0)
    assert expected > 5.0
    assert change.mean_mm == pytest.approx(expected, abs=0.05)
    assert change.p05_mm == pytest.approx(change.p95_mm, abs=0.05)


def test_a_slab_behind_the_target_is_not_seen() -> None:
    hu = water_box()
    hu[(Y > 40.0) & (Y < 60.0)] = 1000.0
    assert only_change(prepared(water_box()), prepared(hu), CTV).worst_mm == 0.0


def test_the_density_of_all_that_lies_in_front_counts() -> None:
    change = only_change(prepared(water_box()), prepared(water_box(60.0)), CTV)
    # 100 mm of box before the isocentre plane, 20 mm to the far side of the target.
    assert change.mean_mm == pytest.approx(120.0 * (rsp(60.0) - rsp(0.0)), abs=0.1)
    photons = only_change(prepared(water_box(), photon((0.0, 0.0))), prepared(water_box(60.0), photon((0.0, 0.0))), CTV)
    electrons = prepared(water_box(60.0), photon((0.0, 0.0))).maps[0].electron_density.values
    assert photons.mean_mm == pytest.approx(120.0 * (electrons.max() - 1.0), abs=0.1)


@pytest.mark.parametrize("shift_mm", [-6.0, 4.0, 7.0])
def test_a_target_that_moves_along_the_beam_changes_its_depth_by_as_much(shift_mm: float) -> None:
    water = prepared(water_box(), proton(), proton(180.0, 2))
    along, against = path_changes(water, water, CTV, box((0.0, shift_mm, 0.0), SIZE))
    assert along.mean_mm == pytest.approx(shift_mm, abs=0.3)
    assert against.mean_mm == pytest.approx(-shift_mm, abs=0.3)
    # Trilinear voxels round the edges of a box by a third of a voxel.
    assert abs(along.worst_mm) == pytest.approx(abs(shift_mm), abs=0.85)


def test_water_lost_at_the_surface_is_missing_in_the_path() -> None:
    hu = np.where(Y < -90.0, AIR, water_box())
    # The surfaces at -100 and -90 lie between voxel centres, where both images blend alike.
    assert only_change(prepared(water_box()), prepared(hu), CTV).mean_mm == pytest.approx(-10.0, abs=0.05)


def test_air_in_front_of_the_patient_does_not_count() -> None:
    shifted = np.where(np.abs(Y + 10.0) < 100.0, 0.0, AIR)
    change = only_change(prepared(water_box()), prepared(shifted), CTV, box((0.0, -10.0, 0.0), SIZE))
    assert change.worst_mm == pytest.approx(0.0, abs=0.25)


def test_rays_diverge_from_the_source() -> None:
    wide = box((0.0, 0.0, 0.0), (60.0, 10.0, 60.0))
    hu = water_box()
    hu[(X > 45.0) & (Y > -100.0) & (Y < -80.0)] = 1000.0
    beam = photon((0.0, 0.0))
    change = only_change(prepared(water_box(), beam), prepared(hu, beam), wide)
    # At 90 mm before the isocentre of a source at 1000 mm, the edge at 45 mm is on the ray through 49.5 mm.
    share = change.mean_mm / change.p95_mm
    assert share == pytest.approx((60.0 - 49.5) / 120.0, abs=0.015)
    assert share < (60.0 - 45.0) / 120.0 - 0.02


def test_an_arc_is_looked_at_from_all_its_sides() -> None:
    radius = np.hypot(X, Y)
    thick, thin = (np.where(radius < r, 0.0, AIR) for r in (100.0, 92.5))
    arc = photon((-170.0, 170.0))
    small = box((0.0, 0.0, 0.0), (8.6, 8.6, 21.0))
    change = only_change(prepared(thick, arc), prepared(thin, arc), small)
    assert change.mean_mm == pytest.approx(-7.5, abs=0.3)
    half = np.where((X > 0) & (radius > 92.5), AIR, thick)
    assert only_change(prepared(thick, arc), prepared(half, arc), small).mean_mm == pytest.approx(-3.75, abs=0.4)
    still = photon((90.0, 90.0))
    assert only_change(prepared(thick, still), prepared(half, still), small).mean_mm == pytest.approx(-7.5, abs=0.3)


def test_the_images_may_have_different_grids() -> None:
    other = Grid((90, 120, 120), (2.0, 2.0, 2.0), (-119.0, -119.0, -89.0))
    y = other.origin_mm[1] + 2.0 * np.arange(120)
    hu = np.broadcast_to(np.where(np.abs(y) < 100.0, 0.0, AIR)[None, :, None], other.shape)
    change = only_change(prepared(water_box()), prepared(hu, grid=other), CTV)
    assert change.worst_mm == pytest.approx(0.0, abs=0.5)


def test_without_a_common_ray_there_is_no_number() -> None:
    water = prepared(water_box())
    change = only_change(water, water, CTV, box((70.0, 0.0, 0.0), SIZE))
    assert np.isnan([change.mean_mm, change.p05_mm, change.p95_mm, change.worst_mm]).all()


def test_a_target_that_is_not_there_is_an_error() -> None:
    water = prepared(water_box())
    with pytest.raises(GeometryError, match=r"target 'CTV' lies outside the image .* one frame"):
        only_change(water, water, CTV, box((900.0, 0.0, 0.0), SIZE))
    with pytest.raises(StructureError, match="'CTV'"):
        only_change(water, water, CTV, replace(CTV, contours=()))


def test_three_fields_take_well_under_two_seconds() -> None:
    water = prepared(water_box(), *(proton(angle, n) for n, angle in enumerate((0.0, 45.0, 90.0), start=1)))
    path_changes(water, water, CTV, CTV)
    start = time.perf_counter()
    path_changes(water, water, CTV, CTV)
    assert time.perf_counter() - start < 2.0
