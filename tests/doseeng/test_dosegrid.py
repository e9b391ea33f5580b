"""The dose grid against the image: what leaves it is named with how far."""

from dataclasses import replace

import numpy as np
import pytest

from doseeng.case import Case
from doseeng.dosegrid import grid_notices
from doseeng.grid import Grid, Volume
from doseeng.plan import Plan, ProtonBeam
from doseeng.structures import StructureSet

IMAGE = Grid((10, 20, 20), (3.0, 3.0, 5.0), (-28.5, -28.5, -22.5))


@pytest.fixture
def case() -> Case:
    one = np.ones(1)
    beam = ProtonBeam(1, "B", "m", (0.0, 0.0, 0.0), 0.0, 0.0, np.zeros((1, 2)), 100.0 * one, one)
    plan = Plan("P", "1.2", "HFS", (beam,))
    return Case("c", Volume(IMAGE, np.zeros(IMAGE.shape)), StructureSet("S", "1.3", "1.4", ()), plan)


def around(first_mm: float, last_mm: float) -> Grid:
    """Cubes of 3 mm whose outer faces along x lie at first_mm and last_mm; along y and z inside the image."""
    count = round((last_mm - first_mm) / 3.0)
    return Grid((5, 5, count), (3.0, 3.0, 3.0), (first_mm + 1.5, -6.0, -6.0))


def test_a_grid_within_the_image_is_no_news(case: Case) -> None:
    assert grid_notices(case, IMAGE) == ()
    assert grid_notices(case, around(-30.0, 30.0)) == ()
    # Half a voxel of a grid that was rounded up holds no voxel centre.
    assert grid_notices(case, around(-31.4, 28.6)) == ()


@pytest.mark.parametrize(("first", "last", "told"), [(-36.0, 30.0, "6.0 mm"), (-30.0, 39.0, "9.0 mm")])
def test_a_grid_that_leaves_the_image_is_named_with_how_far(case: Case, first: float, last: float, told: str) -> None:
    (notice,) = grid_notices(case, around(first, last))
    assert (notice.code, notice.where) == ("dose-grid-leaves-image", "CT")
    assert f"up to {told} past the image; air is assumed there" in notice.message


def test_a_turned_image_is_measured_along_its_own_axes(case: Case) -> None:
    # i along -y and j along x: its box in the patient is the same, and so is what leaves it.
    turned = Grid(IMAGE.shape, IMAGE.spacing_mm, (-28.5, 28.5, -22.5), [[0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    other = replace(case, ct=Volume(turned, np.zeros(turned.shape)))
    assert grid_notices(other, around(-30.0, 30.0)) == ()
    assert "6.0 mm" in grid_notices(other, around(-36.0, 30.0))[0].message
