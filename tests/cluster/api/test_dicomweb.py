"""STOW-RS: requests and responses as DICOM PS3.18 section 10.5 has them."""

from pathlib import Path

import httpx
import pydicom
import pytest
from pydicom.dataset import Dataset

from tests.cluster.api.making import Service

STUDY = "1.2.826.0.1.3680043.10.4711.77"


@pytest.fixture(scope="module")
def objects(case_folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(case_folder.rglob("*.dcm"))[:3]]


def related(*parts: bytes, kind: str = "application/dicom") -> bytes:
    body = b""
    for part in parts:
        body += b"--XX\r\nContent-Type: " + kind.encode() + b"\r\n\r\n" + part + b"\r\n"
    return body + b"--XX--\r\n"


def stored(
    service: Service, body: bytes, path: str = "/dicomweb/studies", kind: str = "application/dicom"
) -> httpx.Response:
    headers = {"Content-Type": f'multipart/related; type="{kind}"; boundary=XX'}
    return service.ask("planner", "POST", path, content=body, headers=headers)


def dataset(answer: httpx.Response) -> Dataset:
    assert answer.headers["content-type"] == "application/dicom+json"
    return Dataset.from_json(answer.json())


def uid(data: bytes) -> str:
    return str(pydicom.dcmread(pydicom.filebase.DicomBytesIO(data), stop_before_pixels=True).SOPInstanceUID)


def test_all_are_stored(service: Service, objects: list[bytes]) -> None:
    answer = stored(service, related(*objects))
    assert answer.status_code == 200
    found = dataset(answer)
    assert [item.ReferencedSOPInstanceUID for item in found.ReferencedSOPSequence] == [uid(data) for data in objects]
    assert "FailedSOPSequence" not in found
    assert found.RetrieveURL == ""


def test_some_are_stored(service: Service, objects: list[bytes]) -> None:
    answer = stored(service, related(objects[0], b"no DICOM"))
    assert answer.status_code == 202
    found = dataset(answer)
    assert len(found.ReferencedSOPSequence) == 1
    assert found.OtherFailuresSequence[0].FailureReason == 0xC000


def test_objects_of_another_study_are_refused(service: Service, objects: list[bytes]) -> None:
    answer = stored(service, related(*objects), f"/dicomweb/studies/{STUDY}")
    assert answer.status_code == 409
    failed = dataset(answer).FailedSOPSequence
    assert [item.FailureReason for item in failed] == [0xA900] * 3
    assert {item.ReferencedSOPInstanceUID for item in failed} == {uid(data) for data in objects}
    study = str(pydicom.dcmread(pydicom.filebase.DicomBytesIO(objects[0]), stop_before_pixels=True).StudyInstanceUID)
    assert stored(service, related(*objects), f"/dicomweb/studies/{study}").status_code == 200


def test_other_bytes_under_a_known_uid_are_refused(service: Service, objects: list[bytes]) -> None:
    stored(service, related(objects[0]))
    answer = stored(service, related(b"\1" + objects[0][1:]))
    assert answer.status_code == 409
    assert dataset(answer).FailedSOPSequence[0].FailureReason == 0x0110


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (related(b"x", kind="text/plain"), "application/dicom", 409),
        (related(b"x"), "application/dicom+json", 415),
        (b"--XX--\r\n", "application/dicom", 400),
        (b"", "application/dicom", 400),
    ],
)
def test_what_is_no_store_request(service: Service, body: bytes, kind: str, status: int) -> None:
    assert stored(service, body, kind=kind).status_code == status
