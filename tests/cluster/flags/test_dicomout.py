"""Results to an archive: what it asked for, images first, the same objects each time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, EncapsulatedPDFStorage, RTDoseStorage
from pynetdicom import AE, evt

from cluster.database.connection import Database
from cluster.flags.dicomout import wanted
from cluster.flags.worklist import Worklist
from cluster.jobs.model import Artifact, JobKind
from cluster.storage.files import FileBlobs
from doseeng.dicom.writing import new_context, new_dataset, save
from tests.cluster.flags.making import Clinic, config_of, hurry

NAMES = ("RD.dcm", "PDF.dcm", "CT/0002.dcm", "CT/0001.dcm", "result.json")
CLASSES = {"RD.dcm": RTDoseStorage, "PDF.dcm": EncapsulatedPDFStorage}


class Archive:
    """A storage SCP. statuses: of the next answers, then success."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str]] = []
        self.callers: set[str] = set()
        self.statuses: list[int] = []
        ae = AE("PACS")
        for uid in (CTImageStorage, *CLASSES.values()):
            ae.add_supported_context(uid)
        self.server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self.store)])

    def store(self, event: Any) -> int:
        self.received.append((event.dataset.SOPClassUID, event.dataset.SOPInstanceUID))
        self.callers.add(event.assoc.requestor.ae_title)
        return self.statuses.pop(0) if self.statuses else 0x0000

    def destination(self, **more: Any) -> dict[str, Any]:
        port = self.server.server_address[1]
        return {"name": "pacs", "kind": "dicom", "host": "127.0.0.1", "port": port, "ae_title": "PACS", **more}


@pytest.fixture
def archive() -> Iterator[Archive]:
    found = Archive()
    yield found
    found.server.shutdown()


@pytest.fixture
def blobs(tmp_path: Path) -> FileBlobs:
    return FileBlobs(tmp_path / "blobs")


@pytest.fixture
def artifacts(tmp_path: Path, blobs: FileBlobs) -> tuple[Artifact, ...]:
    context, kept = new_context(), []
    for name in NAMES:
        path = tmp_path / name.replace("/", "-")
        if name.endswith(".dcm"):
            save(_object(CLASSES.get(name, CTImageStorage), context), path)
        else:
            path.write_text("{}")
        blob = blobs.put(path)
        kept.append(Artifact(name, "application/dicom", blob.sha256, blob.size))
    return tuple(kept)


def _object(sop_class: str, context: Any) -> Dataset:
    return new_dataset(sop_class, context, "OT")


def test_what_a_destination_takes_images_first(artifacts: tuple[Artifact, ...]) -> None:
    assert [a.name for a in wanted(artifacts, ["RTDOSE", "SR"])] == ["RD.dcm"]
    assert [a.name for a in wanted(artifacts, ["PDF", "CT"])] == ["CT/0001.dcm", "CT/0002.dcm", "PDF.dcm"]


def test_green_results_arrive_from_the_title_of_the_site(
    sqlite_database: Database, archive: Archive, blobs: FileBlobs, artifacts: tuple[Artifact, ...]
) -> None:
    config = config_of(archive.destination(objects=["RTDOSE", "CT"]))
    clinic = Clinic(sqlite_database, config, lambda site: blobs)
    clinic.end("GREEN", artifacts=artifacts)
    assert clinic.outbox.send_due() == 1
    assert [sop_class for sop_class, _ in archive.received] == [CTImageStorage, CTImageStorage, RTDoseStorage]
    assert archive.callers == {"NORTH"}


def test_what_was_refused_comes_again_with_the_same_uids(
    sqlite_database: Database, archive: Archive, blobs: FileBlobs, artifacts: tuple[Artifact, ...]
) -> None:
    archive.statuses += [0x0000, 0xA700]
    clinic = Clinic(sqlite_database, config_of(archive.destination(objects=["RTDOSE", "PDF"])), lambda site: blobs)
    clinic.end("RED", artifacts=artifacts)
    assert clinic.outbox.send_due() == 0
    (message,) = Worklist(sqlite_database).open("north")[0].messages
    assert "A700" in message.error
    hurry(sqlite_database)
    assert clinic.outbox.send_due() == 1
    assert archive.received[:2] == archive.received[2:]
    assert len(set(archive.received)) == 2


def test_a_job_that_left_nothing_wanted_is_done_with(sqlite_database: Database, archive: Archive) -> None:
    clinic = Clinic(sqlite_database, config_of(archive.destination()), lambda site: None)
    clinic.end("", kind=JobKind.DOSE)
    assert clinic.outbox.send_due() == 1
    assert archive.received == []
