"""Three treatment days of the demo patient: cone-beam images made from the planning CT by changes known at every point.

* good: set up 4 mm and 1 degree off, another breath; nothing that matters
* drift: the tumour has moved by 8 mm and the flanks have lost 9 mm: the plan misses
* truncated: set up 60 mm off, in a short and narrow scan that misses most of the target: nobody can tell

The frame of a day has the axes and, but for the error of the setup, the origin of the planning CT. The scanner turns
about the isocentre in the tumour, so that the far flank of the patient lies outside its field of view.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from pydicom.uid import generate_uid
from scipy.spatial.transform import Rotation

from cluster.demo.anatomy import GTV_CENTRE, Anatomy
from cluster.demo.case import PATIENT_ID, PATIENT_NAME
from cluster.demo.conebeam import FieldOfView, Look, cone_beam
from cluster.demo.motion import Motion, pullback
from cluster.demo.phantom import AIR, GRID, make_anatomy, make_ct, make_structures
from cluster.demo.shapes import Triple
from cluster.demo.treatment import PATIENT_POSITION
from doseeng.case import DicomContext
from doseeng.dicom.ct import write_ct
from doseeng.grid import Volume
from doseeng.structures import Structure
from doseeng.transforms import DisplacementField, RigidTransform, as_field, warped

SEED: Final = 20250106
OUTSIDE_LEVEL: Final = -100.0
"""Level of organs beyond the planning CT: nothing is there."""


@dataclass(frozen=True, slots=True)
class DaySpec:
    """What a day is made of. setup_mm, setup_deg: error of the setup, a shift and a rotation vector (patient axes)."""

    name: str
    acquired: datetime
    setup_mm: Triple
    setup_deg: Triple
    motion: Motion
    view: FieldOfView
    look: Look


@dataclass(frozen=True, slots=True, eq=False)
class DemoDay:
    """A day and the truth about it.

    image: HU of today's patient in the frame and on the grid of the scan, untruncated; cbct: what the scanner shows of
    it. ct: today's patient in the treatment frame on the planning grid: what the dose of the day is to be computed on.
    pullback: treatment points -> planning points. setup: treatment points -> day points, so that the couch correction
    in search is its inverse, and a point d of the day lies at pullback(setup^-1(d)) on the planning CT.
    """

    name: str
    acquired: datetime
    image: Volume
    cbct: Volume
    ct: Volume
    pullback: DisplacementField
    setup: RigidTransform


DAYS: Final = (
    DaySpec(
        "good",
        datetime(2025, 1, 6, 9, 15),
        (2.5, -1.5, 2.5),
        (0.5, 0.7, -0.5),
        Motion(tumour_mm=(0.5, 0.0, -1.0), breath_mm=3.0, wave_mm=0.6, seed=1),
        FieldOfView(GTV_CENTRE),
        Look(),
    ),
    DaySpec(
        "drift",
        datetime(2025, 1, 7, 9, 10),
        (-1.5, 2.0, -3.0),
        (-0.3, 0.4, 0.3),
        Motion(tumour_mm=(0.0, -4.0, 7.0), breath_mm=-3.0, flank_mm=9.0, wave_mm=0.6, seed=2),
        FieldOfView(GTV_CENTRE),
        Look(gain=0.95, offset_hu=-5.0, cupping_hu=80.0),
    ),
    DaySpec(
        "truncated",
        datetime(2025, 1, 8, 9, 20),
        (35.0, -20.0, 45.0),
        (1.0, -2.0, 1.5),
        Motion(breath_mm=2.0, wave_mm=0.6, seed=3),
        FieldOfView(GTV_CENTRE, diameter_mm=250.0, length_mm=75.0),
        Look(cupping_hu=90.0, streak_hu=25.0, noise_hu=35.0),
    ),
)


def write_demo_days(folder: Path) -> tuple[Path, ...]:
    """Write the three days as CT series into folders of their own below `folder`; returns them in order of time.

    They belong to the patient of `write_demo_case`, have frames of reference of their own, and are the same every time.
    """
    written = []
    for number, spec in enumerate(DAYS, start=1):
        path = folder / f"day-{number}"
        path.mkdir(parents=True, exist_ok=True)
        cbct = demo_day(spec.name).cbct
        write_ct(path, cbct, _context(spec, cbct.grid.shape[0]), PATIENT_POSITION, acquired=spec.acquired)
        written.append(path)
    return tuple(written)


def demo_day(name: str) -> DemoDay:
    """One of DAYS by name, with its truth; the same every time."""
    spec = next(spec for spec in DAYS if spec.name == name)
    return make_day(planning_ct(), spec, np.random.default_rng((SEED, DAYS.index(spec))))


@cache
def planning_ct() -> Volume:
    """The planning CT of the demo case."""
    return make_ct(make_anatomy(), GRID)


def make_day(planning: Volume, spec: DaySpec, rng: np.random.Generator) -> DemoDay:
    """A day of the patient on `planning`, a CT along the patient axes. rng: for what the scanner adds."""
    field = pullback(spec.motion, planning.grid)
    turn = Rotation.from_rotvec(spec.setup_deg, degrees=True).as_matrix()
    setup = RigidTransform(turn, np.array(spec.setup_mm), np.array(spec.view.centre_mm))
    image = warped(planning, as_field(spec.view.grid, setup.inverse(), field), AIR)
    cbct = cone_beam(image, spec.view, spec.look, rng)
    return DemoDay(spec.name, spec.acquired, image, cbct, warped(planning, field, AIR), field, setup)


def true_structures(day: DemoDay) -> tuple[Structure, ...]:
    """The contours of the demo case as today's organs have them, in the treatment frame."""
    anatomy = make_anatomy()
    moved = {
        field.name: warped(Volume(GRID, getattr(anatomy, field.name)), day.pullback, OUTSIDE_LEVEL).values
        for field in fields(Anatomy)
    }
    return make_structures(Anatomy(**moved), GRID)


def _context(spec: DaySpec, slices: int) -> DicomContext:
    return DicomContext(
        frame_of_reference_uid=_uid(spec, "frame of reference"),
        patient={"PatientName": PATIENT_NAME, "PatientID": PATIENT_ID, "PatientBirthDate": "", "PatientSex": "O"},
        study={
            "StudyInstanceUID": _uid(spec, "study"),
            "StudyDate": spec.acquired.strftime("%Y%m%d"),
            "StudyTime": spec.acquired.strftime("%H%M%S"),
            "StudyID": "2",
            "StudyDescription": "synthetic cone-beam CT",
        },
        series_uid=_uid(spec, "series"),
        image_sop_instance_uids=tuple(_uid(spec, f"slice {k}") for k in range(slices)),
    )


def _uid(spec: DaySpec, what: str) -> str:
    return str(generate_uid(entropy_srcs=["doseeng demo day 1", spec.name, what]))
