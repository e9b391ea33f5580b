"""Days of the water case whose registration is known by construction; registration itself is tested elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.adaptation import gates, workflow
from cluster.adaptation.basis import Basis, make_basis
from cluster.adaptation.settings import AdaptSettings, site_settings
from doseeng.case import Case, DicomContext
from doseeng.dicom.ct import CtSeries
from doseeng.dicom.day import DayImage
from doseeng.engine import prepare
from doseeng.errors import RegistrationError
from doseeng.grid import Volume
from doseeng.transforms import RigidTransform, as_field, identity_transform, inverse_field, warped
from registration.result import DayRegistration, GateResult

FIRST = datetime(2025, 1, 6, 8, 30)
PASSED = GateResult("jacobian", "CTV", 0.9, 0.2, "", True, "smallest local volume ratio 0.9")


@dataclass
class Truth:
    """What the faked registration and gates answer.

    moved_mm: all tissue lies so far from where it was planned. couch: day -> treatment. image: HU for dose instead of
    the moved planning CT. error: raised instead. gates: what the registration's own gates say.
    """

    moved_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    couch: RigidTransform = field(default_factory=identity_transform)
    image: Volume | None = None
    other: Volume | None = None
    error: str = ""
    gates: tuple[GateResult, ...] = (PASSED,)

    def register(self, planning: Volume, day: Volume, isocenter_mm: Any, *_: Any, **__: Any) -> DayRegistration:
        if self.error:
            raise RegistrationError(self.error)
        back = RigidTransform(np.eye(3), -np.asarray(self.moved_mm), np.zeros(3))
        pullback = as_field(planning.grid, back)
        seen = Volume(planning.grid, np.ones(planning.grid.shape))
        pushforward = inverse_field(pullback, planning.grid)
        return DayRegistration(self.couch, self.couch, pullback, pushforward, day, seen, planning, {"rigid": 0.1})

    def images(self, planning: Volume, registration: DayRegistration) -> tuple[Volume, Volume]:
        virtual = self.image or warped(planning, registration.pullback, -1000.0)
        return virtual, self.other or virtual


@pytest.fixture
def truth(monkeypatch: pytest.MonkeyPatch) -> Truth:
    """Change it to change what the next evaluation finds."""
    told = Truth()
    monkeypatch.setattr(workflow.pipeline, "register_day", told.register)
    monkeypatch.setattr(workflow.dayimage, "virtual_and_corrected", told.images)
    monkeypatch.setattr(gates, "registration_gates", lambda *_: told.gates)
    return told


def fractionated(case: Case, fractions: int = 10) -> Case:
    """The same course dose in more fractions."""
    beams = tuple(
        replace(beam, fractions=fractions, spot_mu=beam.spot_mu / fractions) for beam in case.plan.proton_beams
    )
    return replace(case, plan=replace(case.plan, beams=beams))


@pytest.fixture(scope="session")
def course_case(water_case: Any) -> Case:
    """The water case in 10 fractions."""
    return fractionated(water_case.case)


@pytest.fixture(scope="session")
def settings() -> AdaptSettings:
    """Of the default site, with few deformations."""
    return site_settings().model_copy(update={"perturbed_deformations": 4})


@pytest.fixture(scope="session")
def basis(course_case: Case, settings: AdaptSettings) -> Basis:
    return make_basis(prepare(course_case), lambda case, grid: prepare(case, grid=grid), settings)


@pytest.fixture
def day(course_case: Case) -> Callable[[int], DayImage]:
    """`day(2)`: an image of the second day; what it shows does not matter, since its registration is faked."""

    def made(number: int) -> DayImage:
        acquired = FIRST + timedelta(days=number - 1)
        context = DicomContext("1.2.3", series_uid=f"1.2.3.{number}")
        return DayImage(CtSeries(course_case.ct, "HFS", context, acquired=acquired), acquired)

    return made


@pytest.fixture(scope="session")
def course_dir(water_case: Any, course_case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The case as DICOM."""
    folder: Path = water_case.write(tmp_path_factory.mktemp("course") / "case", course_case)
    return folder
