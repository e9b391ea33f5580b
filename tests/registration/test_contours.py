"""Contours through deformations known in closed form, and through the phases of a published phantom."""

import zipfile
from dataclasses import replace

import numpy as np
import pytest

from doseeng.dicom.files import read_file
from doseeng.dicom.rtstruct import structure_set_from
from doseeng.errors import StructureError
from doseeng.grid import Grid
from doseeng.masks import contour_planes, volume_cm3
from doseeng.structures import PhysicalOverride, Structure, StructureSet
from doseeng.transforms import DisplacementField, as_field, inverse_field, rigid_from_matrix, voxel_centres
from registration.contours import change, changes, propagated

SPACING_MM = 3.0
STILL = (0.0, 0.0, 0.0)


def constant(vector_mm):
    return DisplacementField(Grid((1, 1, 1), (1.0, 1.0, 1.0), STILL), np.float32(vector_mm).reshape(1, 1, 1, 3))


def circle(radius_mm, x_mm, y_mm, points=180):
    angle = 2 * np.pi * np.arange(points) / points
    return np.column_stack([x_mm + radius_mm * np.cos(angle), y_mm + radius_mm * np.sin(angle)])


def at(z_mm, xy):
    return np.column_stack([xy, np.full(len(xy), z_mm)])


def structure(contours, name="Lesion", kind="GTV", **others):
    return Structure(7, name, kind, tuple(contours), **others)


def sphere(radius_mm, centre_mm=(1.3, -2.1, 0.7), spacing_mm=SPACING_MM, **others):
    x, y, z = centre_mm
    first, last = np.ceil((z - radius_mm) / spacing_mm), np.floor((z + radius_mm) / spacing_mm)
    heights = spacing_mm * np.arange(first, last + 1)
    discs = [(h, np.sqrt(radius_mm**2 - (h - z) ** 2)) for h in heights]
    return structure((at(h, circle(r, x, y)) for h, r in discs if r > 0.5), **others)


def carried(one, vector_mm=STILL, **options):
    planned = StructureSet("Plan", "1.2.3", "1.2.4", (one,), "1.2.5")
    return propagated(planned, constant(vector_mm), constant(-np.asarray(vector_mm)), **options).structures[0]


WALL = [at(z, circle(r, 2.0, 3.0)) for z in 2.5 * np.arange(12) for r in (21.0, 19.0)]
"""A tube with a wall of 2 mm, as pairs of polygons: outside and hole."""
PLATE = [at(z, np.array([(0, 0), (60, 8), (60, 9.5), (0, 1.5)])) for z in 2.0 * np.arange(6)]
SHAPES = {
    "sphere of 1 cm3": sphere(6.2),
    "sphere of 0.3 cm3": sphere(4.15, spacing_mm=2.0),
    "large sphere": sphere(45.0),
    "thin wall": structure(WALL),
    "slanted plate of 1.5 mm": structure(PLATE),
    "two parts": structure([*sphere(9.0).contours, *sphere(7.0, (4.0, 5.0, 60.0)).contours]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_nothing_moved_nothing_changed(name):
    found = change(SHAPES[name], carried(SHAPES[name]))
    assert found.volume_ratio == pytest.approx(1.0, abs=0.01)
    assert np.linalg.norm(found.shift_mm) < 0.05
    assert found.mean_surface_mm < 0.1
    assert found.dice > 0.97


@pytest.mark.parametrize("vector_mm", [(4.4, -2.7, 0.0), (0.0, 0.0, -6.0), (0.3, 0.2, 3.0)])
@pytest.mark.parametrize("name", SHAPES)
def test_translation_by_whole_slices_is_exact(name, vector_mm):
    spacing = contour_planes(SHAPES[name]).spacing_mm
    vector_mm = (*vector_mm[:2], round(vector_mm[2] / 3.0) * spacing)
    found = change(SHAPES[name], carried(SHAPES[name], vector_mm))
    assert found.volume_ratio == pytest.approx(1.0, abs=0.01)
    np.testing.assert_allclose(found.shift_mm, vector_mm, atol=0.05)


@pytest.mark.parametrize("part", [0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9])
@pytest.mark.parametrize(("radius_mm", "tolerance"), [(6.2, 0.06), (15.0, 0.025), (40.0, 0.01)])
def test_translation_between_slices_keeps_volume_and_place(radius_mm, tolerance, part):
    shift = part * SPACING_MM
    found = change(sphere(radius_mm), carried(sphere(radius_mm), (0.0, 0.0, shift)))
    assert found.volume_ratio == pytest.approx(1.0, abs=tolerance)
    assert found.shift_mm[2] == pytest.approx(shift, abs=0.2)


@pytest.mark.parametrize("part", [0.2, 0.5, 0.7])
def test_sheared_wall_keeps_its_volume_between_slices(part):
    """Sections that do not overlap from slice to slice must not fade out between slices."""
    steep = structure([at(z, circle(r, 1.2 * z, 3.0)) for z in 2.5 * np.arange(12) for r in (21.0, 19.5)])
    assert change(steep, carried(steep, (0.0, 0.0, 2.5 * part))).volume_ratio == pytest.approx(1.0, abs=0.2)


def test_uniform_stretch_scales_volume_and_place():
    grid = Grid((20, 20, 20), (10.0, 10.0, 10.0), (-95.0, -95.0, -95.0))
    growth = 1.1
    pushforward = DisplacementField(grid, ((growth - 1) * voxel_centres(grid)).astype(np.float32))
    pullback = DisplacementField(grid, ((1 / growth - 1) * voxel_centres(grid)).astype(np.float32))
    ball = sphere(24.0, (10.0, -20.0, 4.0))
    today = propagated(StructureSet("", "", "", (ball,)), pushforward, pullback).structures[0]
    found = change(ball, today)
    assert found.volume_ratio == pytest.approx(growth**3, rel=0.012)
    np.testing.assert_allclose(found.shift_mm, (1.0, -2.0, 0.4), atol=0.15)


def test_rotation_turns_a_box():
    turn = np.radians(25.0)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    rigid = rigid_from_matrix(matrix)
    grid = Grid((2, 11, 11), (10.0, 10.0, 30.0), (-50.0, -50.0, 0.0))
    box = structure(at(z, np.array([(-20.0, -8.0), (20.0, -8.0), (20.0, 8.0), (-20.0, 8.0)])) for z in range(0, 30, 3))
    fields = as_field(grid, rigid), as_field(grid, rigid.inverse())
    today = propagated(StructureSet("", "", "", (box,)), *fields).structures[0]
    assert volume_cm3(today) == pytest.approx(volume_cm3(box), rel=0.01)
    farthest = max(np.linalg.norm(c[:, :2], axis=1).max() for c in today.contours)
    assert farthest == pytest.approx(np.hypot(20.0, 8.0), abs=0.6)
    direction = max(today.contours[0], key=lambda p: p[0])
    assert np.degrees(np.arctan2(direction[1], direction[0])) == pytest.approx(
        25.0 - np.degrees(np.arctan2(8, 20)), abs=3
    )


def test_surface_distance_of_a_translation():
    """The mean over a sphere of |shift . normal| is half the shift, for shifts small against the radius."""
    assert change(sphere(30.0), carried(sphere(30.0), (2.0, 0.0, 0.0))).mean_surface_mm == pytest.approx(1.0, rel=0.08)


def test_identity_survives_empty_broken_and_lost_structures():
    override = PhysicalOverride("REL_STOP_RATIO", 1.02)
    bow_tie_across = structure([np.array([(0, 0, 0), (10, 0, 4), (10, 10, 0), (0, 10, 4)], dtype=float)], "Broken")
    single = structure([at(0.0, circle(8.0, 0.0, 0.0))], "Single")
    kept = sphere(10.0, name="Target", kind="PTV", color=(1, 2, 3), overrides=(override,))
    planned = StructureSet("Plan", "1.2.3", "1.2.4", (structure((), "Empty"), bow_tie_across, single, kept), "1.2.5")
    today = propagated(planned, constant((0, 0, 3.0)), constant((0, 0, -3.0)))
    assert today.names == planned.names
    assert [s.is_empty for s in today.structures] == [True, True, True, False]
    assert {n.where: n.code for n in today.notices} == {
        "Broken": "contours-not-propagated",
        "Single": "contours-not-propagated",
    }
    assert replace(today.structures[3], contours=kept.contours).__repr__() == kept.__repr__()
    assert (today.uid, today.frame_of_reference_uid, today.referenced_series_uid) == ("", "", "")


def test_single_plane_needs_the_slice_spacing():
    disc = structure([at(0.0, circle(8.0, 0.0, 0.0))])
    today = carried(disc, (5.0, 0.0, 3.0), slice_mm=3.0)
    assert change(disc, today, slice_mm=3.0).shift_mm == pytest.approx((5.0, 0.0, 3.0), abs=0.02)


@pytest.mark.parametrize(
    ("kind", "moved"),
    [("SUPPORT", STILL), ("FIXATION", STILL), ("BOLUS", (3.3, 1.0, 2.0)), ("MARKER", (3.3, 1.0, 2.0))],
)
def test_what_does_not_deform_keeps_its_shape(kind, moved):
    box = sphere(8.0, kind=kind)
    today = carried(box, (3.3, 1.0, 2.0))
    for before, after in zip(box.contours, today.contours, strict=True):
        np.testing.assert_allclose(after - before, np.broadcast_to(moved, before.shape), atol=1e-5)


def test_implausible_volume_is_noticed():
    before = StructureSet("", "", "", (sphere(10.0, name="A"), sphere(20.0, name="B"), structure((), "C")))
    after = replace(before, structures=(sphere(14.0, name="A"), sphere(20.5, name="B"), structure((), "C")))
    found, notices = changes(before, after, volume_tolerance=0.3)
    assert [c.structure for c in found] == ["A", "B"]
    assert [(n.code, n.where) for n in notices] == [("volume-changed", "A")]


def test_a_structure_without_thickness_does_not_stop_the_others():
    disc = structure([at(0.0, circle(8.0, 0.0, 0.0))], "Disc")
    both = StructureSet("", "", "", (disc, sphere(10.0, name="Ball")))
    found, notices = changes(both, both, volume_tolerance=0.3)
    assert [c.structure for c in found] == ["Ball"]
    assert [(n.code, n.where) for n in notices] == [("change-not-measured", "Disc")]


def test_change_of_an_empty_structure_has_no_answer():
    with pytest.raises(StructureError, match="no closed contour"):
        change(sphere(10.0), structure(()))


def test_breathing_phases_carry_the_tumour(data_dir, tmp_path):
    """A Gaussian displacement of 10 mm in z takes the tumour of phase 2 to the contours of phase 3; empty ROIs stay."""
    archive = data_dir / "registration" / "synthetic_lung_phases.zip"
    if not archive.is_file():
        pytest.skip("reference data has no registration/synthetic_lung_phases.zip")
    with zipfile.ZipFile(archive) as zipped:
        names = [n for n in zipped.namelist() if "/rtss" in n and n.endswith(".dcm")]
        zipped.extractall(tmp_path, names)
    sets = [structure_set_from(read_file(tmp_path / name), name) for name in sorted(names)]
    assert len({s.frame_of_reference_uid for s in sets}) == 3
    # The planned set is the one in the middle.
    drawn = [[s for s in one.structures if not s.is_empty] for one in sets]
    tumours = [min(d, key=volume_cm3) for d in drawn]
    middle = [contour_planes(t).points_mm().mean(axis=0) for t in tumours]
    order = np.argsort([m[2] for m in middle])
    planned, upper = sets[order[1]], tumours[order[2]]
    assert sum(s.is_empty for s in planned.structures) == 29
    grid = Grid((80, 60, 60), (5.0, 5.0, 3.0), tuple(middle[order[1]] - (147.5, 147.5, 118.5)))
    away = np.linalg.norm(voxel_centres(grid) - middle[order[1]], axis=-1)
    vectors = np.zeros((*grid.shape, 3), dtype=np.float32)
    # Flat over the tumour, so that it moves by the 10 mm it is known to move by.
    vectors[..., 2] = 10.0 * np.exp(-0.5 * (np.maximum(away - 30.0, 0.0) / 25.0) ** 2)
    pushforward = DisplacementField(grid, vectors)
    today = propagated(planned, pushforward, inverse_field(pushforward, grid))
    assert [s.is_empty for s in today.structures] == [s.is_empty for s in planned.structures]
    tumour = today.by_number(tumours[order[1]].number)
    assert change(tumours[order[1]], tumour).shift_mm == pytest.approx((0.0, 0.0, 10.0), abs=0.2)
    against_truth = change(upper, tumour)
    assert np.linalg.norm(against_truth.shift_mm) < 0.5
    assert against_truth.dice > 0.95


@pytest.mark.slow
def test_structures_of_all_sizes_are_propagated_at_once():
    grid = Grid((60, 80, 100), (5.0, 5.0, 7.5), (-250.0, -200.0, -220.0))
    points = voxel_centres(grid)
    vectors = (4.0 * np.sin(points / 60.0)).astype(np.float32)
    pushforward = DisplacementField(grid, vectors)
    pullback = inverse_field(pushforward, grid)
    heights = 3.0 * np.arange(-75, 75)
    body = structure((at(z, circle(1.0, 0.0, 0.0, 400) * (210.0, 140.0)) for z in heights), "BODY", "EXTERNAL")
    lungs = [structure((at(z, circle(60.0, x, 0.0)) for z in heights[20:110]), f"Lung {x}", "ORGAN") for x in (-80, 80)]
    balls = [sphere(r, (5.0 * r - 100, 10.0, 2.0 * r), name=f"Ball {r}") for r in range(8, 44, 3)]
    planned = StructureSet("", "", "", (body, *lungs, *balls))
    today = propagated(planned, pushforward, pullback)
    found, _ = changes(planned, today, 0.5)
    assert len(found) == 15
    # The field moves by up to 4 mm per axis, and hardly differently within a structure.
    assert all(np.linalg.norm(each.shift_mm) < 4.0 * np.sqrt(3.0) for each in found)
    assert all(each.dice > 0.5 for each in found)
