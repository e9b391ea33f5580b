"""Beams in numbers, what is unusual in them, images that end in the field, and couches."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from doseeng.dicom.rtplan import plan_from
from doseeng.errors import MachineError, Notice
from doseeng.grid import Grid, Volume
from doseeng.machines.photonmodel import PhotonMachine, WedgeModel
from doseeng.photonchecks import beam_checks, couch_check, field_summary, image_end_checks, open_areas_cm2
from doseeng.plan import Block, Mlc, PhotonBeam, Wedge
from doseeng.structures import Structure, StructureSet

Make = Callable[..., PhotonBeam]
FIELD = {"jaw_x": (-50.0, 50.0), "jaw_y": (-40.0, 30.0)}


def gaps(*ends: tuple[float, float]) -> np.ndarray:
    """(n_cp, 2, 20): all pairs of a control point at the same ends."""
    return np.array(ends)[:, :, None] * np.ones(20)


def codes(notices: tuple[Notice, ...]) -> list[str]:
    return [notice.code for notice in notices]


def test_summary_of_an_open_field(beam_of: Make) -> None:
    found = field_summary(beam_of(**FIELD))
    assert (found.control_points, found.mu, found.smallest_mu, found.largest_mu) == (2, 100.0, 100.0, 100.0)
    assert (found.width_x_mm, found.width_y_mm, found.open_cm2) == (100.0, 70.0, 70.0)
    assert found.equivalent_square_mm == pytest.approx(4 * 7000 / 340)
    assert (found.jaw_x_mm, found.jaw_y_mm, found.leaf_mm) == ((-50.0, 50.0), (-40.0, 30.0), None)
    assert (found.arc_deg, found.mu_per_deg) == (0.0, None)


def test_summary_of_an_arc(beam_of: Make) -> None:
    """Two steps of 4 degrees with 25 and 75 MU, then 10 degrees without any."""
    gantry = np.array([350.0, 354.0, 358.0, 368.0])
    leaves = gaps((-10, 10), (-30, 20), (-5, 5), (-5, 5))
    found = field_summary(beam_of(**FIELD, leaves=leaves, fraction=(0, 0.25, 1, 1), gantry_deg=gantry))
    assert (found.control_points, found.smallest_mu, found.largest_mu) == (4, 25.0, 75.0)
    assert (found.arc_deg, found.mu_per_deg) == (18.0, 18.75)
    assert (found.width_x_mm, found.width_y_mm, found.leaf_mm) == (50.0, 70.0, (-30.0, 20.0))
    assert found.open_cm2 == pytest.approx(5.0 * 7.0)


def test_open_areas(beam_of: Make) -> None:
    leaves = gaps((-60.0, -45.0), (0.0, 7.0))
    leaves[1, :, :10] = 3.0
    np.testing.assert_allclose(open_areas_cm2(beam_of(**FIELD, leaves=leaves)), [0.5 * 7.0, 0.7 * 3.0])
    boundary = np.linspace(-50.0, 50.0, 21)
    along_y = beam_of((-40.0, 30.0), (-50.0, 50.0), (Mlc("Y", boundary, leaves),))
    np.testing.assert_allclose(open_areas_cm2(along_y), [0.5 * 7.0, 0.7 * 3.0])
    layers = Mlc("X", boundary, gaps((-30, 20), (-30, 20))), Mlc("X", boundary + 2.5, gaps((-10, 60), (25, 60)))
    wide = (-np.inf, np.inf)
    np.testing.assert_allclose(open_areas_cm2(beam_of(wide, wide, layers)), [3.0 * 9.75, 0.0])
    assert field_summary(beam_of(wide, wide, layers)).jaw_x_mm is None


def test_an_ordinary_beam_passes(linac: PhotonMachine, beam_of: Make) -> None:
    assert beam_checks(beam_of(**FIELD, leaves=gaps((-20, 20), (-30, 30))), linac) == ()


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"jaw_x": (-250.0, 250.0)}, "field-too-large", "is 500 mm wide"),
        ({**FIELD, "leaves": gaps((-210, 0), (-20, 20))}, "leaf-out-of-reach", "end between -210 and 20 mm"),
        ({**FIELD, "leaves": gaps((-20, 20), (160, 170))}, "leaf-out-of-reach", "up to 160 mm across"),
        ({**FIELD, "gantry_deg": np.array([0.0, 4.0])}, "many-mu-per-degree", "gives up to 25.0 MU per degree"),
        (
            {**FIELD, "leaves": gaps((0, 9), (0, 9), (5, 5), (5, 5)), "fraction": (0, 0.7, 0.7, 1),
             "gantry_deg": np.array([0.0, 0.0, 20.0, 20.0])},
            "closed-field",
            "gives 30.0 of 100.0 MU with all leaves or jaws closed",
        ),
    ],
)  # fmt: skip
def test_what_is_unusual_is_named(linac: PhotonMachine, beam_of: Make, changes: dict, code: str, message: str) -> None:
    (notice,) = beam_checks(beam_of(**changes), linac)
    assert (notice.code, notice.where) == (code, "beam 1 'field'")
    assert message in notice.message


def test_wedges(linac: PhotonMachine, beam_of: Make) -> None:
    model = WedgeModel("W30", 30.0, np.array([-100.0, 35.0]), np.array([0.3, 0.9]))
    machine = replace(linac, wedges=(model,))
    inside = np.ones(2, dtype=bool)

    def checked(wedge: Wedge, machine: PhotonMachine = machine) -> tuple[Notice, ...]:
        return beam_checks(beam_of(**FIELD, wedges=(wedge,)), machine)

    assert checked(Wedge("W30", "STANDARD", 30.0, 0.0, inside)) == ()
    (notice,) = checked(Wedge("W30", "STANDARD", 30.0, 180.0, inside))
    assert notice.code == "field-beyond-wedge"
    assert "open from -30 to 40 mm along wedge 'W30', which is known from -100 to 35 mm" in notice.message
    with pytest.raises(MachineError, match="uses wedge 'W60'"):
        checked(Wedge("W60", "STANDARD", 60.0, 180.0, inside))
    dynamic = Wedge("EDW30IN", "DYNAMIC", 30.0, 0.0, inside)
    assert codes(checked(dynamic)) == ["golden-wedge-table"]
    assert checked(dynamic, replace(linac, wedges=(replace(model, id="EDW60"),))) == ()


def test_blocks(linac: PhotonMachine, beam_of: Make) -> None:
    outline = np.array([(0.0, 0.0), (10.0, 0.0), (0.0, 10.0)])
    block = Block("B1", "SHIELDING", outline, 0.05, True, 650.0)
    assert beam_checks(beam_of(**FIELD, blocks=(block,), block_tray_factor=0.97), linac) == ()
    straight = beam_of(**FIELD, blocks=(replace(block, divergent=False),))
    assert codes(beam_checks(straight, linac)) == ["block-tray-left-out", "block-edges-not-divergent"]


def slab(length_mm: float, density: float = 1.0) -> Volume:
    """30 x 30 cm across, from z = 0 on in slices of 5 mm."""
    n = round(length_mm / 5.0)
    return Volume(Grid((n, 60, 60), (5.0, 5.0, 5.0), (-147.5, -147.5, 2.5)), np.full((n, 60, 60), density))


@pytest.mark.parametrize(
    ("z_mm", "density", "ends"),
    [
        # From the front, 15 cm of tissue: at y = -40 mm a ray ends at -46 mm and at 30 mm at 34.5 mm.
        (100.0, 1.0, ""),
        (44.0, 1.0, "its first slice"),
        (47.0, 1.0, ""),
        (166.0, 1.0, "its last slice"),
        (44.0, 0.01, ""),
    ],
)
def test_images_that_end_in_the_field(beam_of: Make, z_mm: float, density: float, ends: str) -> None:
    beam = beam_of(**FIELD, isocenter_mm=np.tile([0.0, 0.0, z_mm], (2, 1)))
    found = image_end_checks(beam, slab(200.0, density), "HFS")
    assert codes(found) == ["image-ends-in-field"] * bool(ends)
    assert all(ends in notice.message for notice in found)


def test_the_field_turns_with_the_collimator(beam_of: Make) -> None:
    place = np.tile([0.0, 0.0, 50.0], (2, 1))
    for angle, hit in ((0.0, False), (90.0, True)):
        beam = beam_of(**FIELD, isocenter_mm=place, collimator_deg=np.full(2, angle))
        assert bool(image_end_checks(beam, slab(200.0), "HFS")) == hit


def test_a_beam_along_the_patient_meets_the_end(beam_of: Make) -> None:
    beam = beam_of(
        **FIELD,
        isocenter_mm=np.tile([0.0, 0.0, 100.0], (2, 1)),
        gantry_deg=np.full(2, 90.0),
        couch_deg=np.full(2, 90.0),
    )
    (notice,) = image_end_checks(beam, slab(200.0), "HFS")
    assert "its first and last slice" in notice.message


def test_couches() -> None:
    contour = (np.array([(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)]),)
    support, empty = Structure(1, "Couch", "SUPPORT", contour), Structure(2, "Rail", "SUPPORT", ())
    assert couch_check(StructureSet("s", "1", "2", (support, empty))).code == "couch-in"
    assert "'Couch' are part" in couch_check(StructureSet("s", "1", "2", (support, empty))).message
    assert couch_check(StructureSet("s", "1", "2", (empty,))).code == "couch-out"
    assert couch_check(None).code == "couch-out"


def test_a_real_arc(linac: PhotonMachine, unzipped: Callable[[str], Path]) -> None:
    (path,) = (unzipped("alderson_vmat") / "RTPLAN").glob("*.dcm")
    (arc,) = plan_from(pydicom.dcmread(path), "rp.dcm")[0].photon_beams
    assert beam_checks(arc, linac) == ()
    found = field_summary(arc)
    assert (found.control_points, found.mu, found.arc_deg) == (76, 390.0, 300.0)
    assert 1.0 < found.mu_per_deg < 5.0
    assert 5.0 < found.open_cm2 < 40.0
