"""Small cases in a library, days whose registration is known by construction, and a place to run jobs in."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import generate_uid

from cluster.adaptation import gates, workflow
from cluster.database.connection import Database, connect
from cluster.database.schema import upgrade
from cluster.executor.inprocess import InProcessExecutor
from cluster.jobs.context import JobContext
from cluster.jobs.model import Artifact, JobResult
from cluster.library.library import Library
from cluster.service.config import Site
from cluster.storage.files import FileBlobs
from cluster.workflows import adaptation
from doseeng.case import Case, DicomContext
from doseeng.dicom.ct import write_ct
from doseeng.errors import RegistrationError
from doseeng.grid import Volume
from doseeng.transforms import RigidTransform, as_field, identity_transform, inverse_field, warped
from registration.result import DayRegistration, GateResult

PLAN = "1.2.826.0.1.3680043.10.4711.1"
FIRST = datetime(2025, 1, 6, 8, 30)
PASSED = GateResult("jacobian", "CTV", 0.9, 0.2, "", True, "smallest local volume ratio 0.9")


@dataclass
class Truth:
    """What the faked registration answers: all tissue lies so far from where it was planned; error: raised instead."""

    moved_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    error: str = ""

    def register(self, planning: Volume, day: Volume, isocenter_mm: Any, *_: Any, **__: Any) -> DayRegistration:
        if self.error:
            raise RegistrationError(self.error)
        back = RigidTransform(np.eye(3), -np.asarray(self.moved_mm), np.zeros(3))
        pullback = as_field(planning.grid, back)
        seen = Volume(planning.grid, np.ones(planning.grid.shape))
        still = identity_transform()
        pushforward = inverse_field(pullback, planning.grid)
        return DayRegistration(still, still, pullback, pushforward, day, seen, planning, {"rigid": 0.1})

    def images(self, planning: Volume, registration: DayRegistration) -> tuple[Volume, Volume]:
        virtual = warped(planning, registration.pullback, -1000.0)
        return virtual, virtual


@pytest.fixture
def truth(monkeypatch: pytest.MonkeyPatch) -> Truth:
    """Change it to change what the next day shows. Spares the seconds that the pictures of a page take, too."""
    told = Truth()
    monkeypatch.setattr(workflow.pipeline, "register_day", told.register)
    monkeypatch.setattr(workflow.dayimage, "virtual_and_corrected", told.images)
    monkeypatch.setattr(gates, "registration_gates", lambda *_: (PASSED,))

    def page(_report: Any, _case: Any, path: Path) -> Path:
        path.write_text("<html>")
        return path

    monkeypatch.setattr(adaptation, "write_fraction_report", page)
    return told


@dataclass
class Hospital:
    """A site with a library. stages: what jobs told of their progress. days: series UIDs of images, a day apart."""

    library: Library
    site: Site
    folder: Path
    days: tuple[str, ...] = ()
    stages: list[str] = field(default_factory=list)

    @property
    def blobs(self) -> FileBlobs:
        store = self.library.blobs(self.site.name)
        assert isinstance(store, FileBlobs)
        return store

    def context(
        self, *earlier: JobResult, progress: Callable[[str, int, int], None] | None = None, executor: Any = None
    ) -> JobContext:
        """A place for one job, after `earlier` ones of its lane."""
        scratch = self.folder / f"scratch-{generate_uid()}"
        scratch.mkdir()
        tell = progress or (lambda stage, _done, _total: self.stages.append(stage))
        artifacts = tuple(result.artifacts for result in earlier)
        return JobContext(self.blobs, executor or InProcessExecutor(), scratch, tell, artifacts)

    def data(self, result: JobResult, name: str) -> bytes:
        """The bytes of an artifact."""
        return self.blobs.get(artifact(result, name).sha256)


def artifact(result: JobResult, name: str) -> Artifact:
    """The one of that name."""
    (found,) = (a for a in result.artifacts if a.name == name)
    return found


@pytest.fixture(scope="session")
def course_case(water_case: Any) -> Case:
    """The water case in 10 fractions."""
    beams = tuple(replace(beam, fractions=10, spot_mu=beam.spot_mu / 10) for beam in water_case.case.plan.proton_beams)
    case: Case = replace(water_case.case, plan=replace(water_case.case.plan, beams=beams))
    return case


@pytest.fixture(scope="session")
def filled(
    water_case: Any, course_case: Case, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Library, tuple[str, ...]]:
    """A library of site "north" with the case and three days of the patient; tests only add to it."""
    folder = tmp_path_factory.mktemp("hospital")
    database: Database = connect(f"sqlite:///{folder / 'doseeng.db'}")
    upgrade(database)
    library = Library(database, lambda site: FileBlobs(folder / "blobs" / site))
    for path in sorted(water_case.write(folder / "case", course_case).glob("*.dcm")):
        library.receive("north", path)
    days = []
    for number in range(3):
        image = folder / f"day{number}"
        image.mkdir()
        owner = {"PatientName": "Quatermain^Zebulon", "PatientID": "QZ-4711"}
        context = DicomContext(str(generate_uid()), owner, {"StudyInstanceUID": str(generate_uid())})
        written = write_ct(image, course_case.ct, context, acquired=FIRST + timedelta(days=number))
        days.append(written.series_uid)
        for path in sorted(image.glob("*.dcm")):
            library.receive("north", path)
    return library, tuple(days)


@pytest.fixture
def hospital(filled: tuple[Library, tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hospital:
    """The site "north", with no machines installed for this user."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("DOSEENG_MACHINES", raising=False)
    return Hospital(filled[0], Site(name="north"), tmp_path, filled[1])
