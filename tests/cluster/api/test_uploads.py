"""What strangers send: everything is taken that is DICOM, and nothing else does any harm."""

import io
import os
import stat
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.api import archives, intake
from cluster.api.uploads import LEFT_S, remove_left
from tests.cluster.api.making import Service, zipped
from tests.cluster.api.test_dicomweb import uid

ZIP = {"Content-Type": "application/zip"}


@pytest.fixture(scope="module")
def small(service_of: Callable[..., Service]) -> Service:
    """A service that takes requests of 1 MB."""
    return service_of(upload_mb=1)


@pytest.fixture(scope="module")
def a_slice(case_folder: Path) -> bytes:
    return next(iter(sorted(case_folder.rglob("*.dcm")))).read_bytes()


def archive(*entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as made:
        for name, content in entries:
            made.writestr(name, content)
    return data.getvalue()


def sent(service: Service, data: bytes, kind: str = "application/zip"):
    return service.ask("planner", "POST", "/objects", content=data, headers={"Content-Type": kind})


def left_over(service: Service) -> list[Path]:
    return list((service.services.config.data / "uploads").iterdir())


def outside(service: Service) -> set[Path]:
    folder = service.services.config.data
    return {path for path in folder.parent.rglob("*") if folder not in path.parents}


def test_one_object_twice(service: Service, a_slice: bytes) -> None:
    first = sent(service, a_slice, "application/dicom").json()["accepted"]
    again = sent(service, a_slice, "application/dicom").json()["accepted"]
    assert [entry["is_new"] for entry in (*first, *again)] == [True, False]
    assert left_over(service) == []


def test_form_with_archive_and_objects(service: Service, case_folder: Path, a_slice: bytes) -> None:
    files = [
        ("file", ("DOE^JANE.dcm", a_slice, "application/dicom")),
        ("file", ("all.zip", zipped(case_folder), "application/zip")),
        ("file", ("readme.txt", b"hello", "text/plain")),
    ]
    answer = service.ask("planner", "POST", "/objects", files=files)
    assert answer.status_code == 200
    found = answer.json()
    assert {(entry["part"], entry["entry"] > 0) for entry in found["accepted"]} == {(1, False), (2, True)}
    (refused,) = found["refused"]
    assert (refused["part"], refused["entry"]) == (3, 0)
    assert "DICM" in refused["reason"]
    assert "JANE" not in answer.text


def test_several_archives_in_small_groups(service: Service, case_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "GROUP_FILES", 2)
    slices = [path.read_bytes() for path in sorted(case_folder.rglob("*.dcm"))[:5]]
    one, other = archive(*((str(n), data) for n, data in enumerate(slices[:3]))), archive(("x", slices[3]), ("y", b"?"))
    files = [("file", ("a", data, "application/zip")) for data in (one, other, slices[4])]
    found = service.ask("planner", "POST", "/objects", files=files).json()
    assert [(entry["part"], entry["entry"]) for entry in found["accepted"]] == [(1, 1), (1, 2), (1, 3), (2, 1), (3, 0)]
    assert [entry["sop_uid"] for entry in found["accepted"]] == [uid(data) for data in slices]
    assert [(entry["part"], entry["entry"]) for entry in found["refused"]] == [(2, 2)]
    assert left_over(service) == []


def test_names_of_entries_lead_nowhere(service: Service, a_slice: bytes) -> None:
    before = outside(service)
    names = ("../../../escaped.dcm", "/tmp/escaped.dcm", "C:\\escaped.dcm", "a/../../escaped.dcm", "x\x00y")
    answer = sent(service, archive(*((name, a_slice) for name in names)))
    assert answer.status_code == 200
    assert len(answer.json()["accepted"]) == len(names)
    assert outside(service) == before
    assert left_over(service) == []


def test_links_and_archives_in_archives_are_refused(service: Service, a_slice: bytes) -> None:
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    inner = archive(("a.dcm", a_slice))
    answer = sent(service, archive((link, b"/etc/passwd"), ("inner.zip", inner), ("good.dcm", a_slice)))
    assert answer.status_code == 200
    assert [entry["entry"] for entry in answer.json()["accepted"]] == [3]
    link_said, inner_said = (entry["reason"] for entry in answer.json()["refused"])
    assert "link" in link_said
    assert "archive in an archive" in inner_said


def test_dicom_that_begins_like_an_archive_is_dicom(service: Service, a_slice: bytes) -> None:
    polyglot = b"PK\x03\x04" + a_slice[4:]
    found = sent(service, archive(("a.dcm", polyglot))).json()
    # The same object with another preamble: other bytes under the same UID.
    assert "other content" in found["detail"]


def test_bomb_is_refused_before_it_is_unpacked(small: Service) -> None:
    answer = sent(small, archive(*((f"{n}", bytes(2**20)) for n in range(5))))
    assert answer.status_code == 413
    assert "unpacks to" in answer.json()["detail"]
    assert left_over(small) == []


def test_ratio_counts_beyond_what_is_harmless(
    service: Service, a_slice: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = archive(("a", bytes(2**21)))
    monkeypatch.setattr(archives, "RATIO_COUNTS_FROM", 2**20)
    answer = sent(service, bomb)
    assert answer.status_code == 413
    assert "times its size" in answer.json()["detail"]


def test_too_many_entries(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_ENTRIES", 3)
    answer = sent(service, archive(*((f"{n}", b"") for n in range(4))))
    assert answer.status_code == 413
    assert "4 entries" in answer.json()["detail"]


def test_directory_is_not_read_when_it_is_huge(service: Service) -> None:
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 0xFFFFFF0, 0, 0)
    assert sent(service, b"PK\x03\x04" + bytes(200) + end).status_code == 413


def test_zip64_directories_are_refused(service: Service) -> None:
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 46, 0, 0)
    answer = sent(service, b"PK\x03\x04" + bytes(200) + locator + end)
    assert answer.status_code == 413
    assert "ZIP64" in answer.json()["detail"]


def test_overlapping_entries_are_refused(service: Service, a_slice: bytes) -> None:
    data = bytearray(archive(("a", a_slice), ("b", a_slice)))
    second = data.rindex(b"PK\x01\x02")
    data[second + 42 : second + 46] = struct.pack("<L", 0)  # its local header is the first one's
    answer = sent(service, bytes(data))
    assert answer.status_code == 422
    assert "overlap" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("cut", "said"), [(lambda data: data[:-30], "no directory"), (lambda data: data[:200] + data[400:], "")]
)
def test_damaged_archives(service: Service, a_slice: bytes, cut: Callable[[bytes], bytes], said: str) -> None:
    answer = sent(service, cut(archive(("a", a_slice), ("b", a_slice))))
    assert answer.status_code == 422
    assert answer.json()["error"] == "DicomError"
    assert said in answer.json()["detail"]


def test_encrypted_and_oddly_packed_entries(service: Service, a_slice: bytes) -> None:
    data = bytearray(archive(("a", a_slice), ("b", a_slice)))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + at] |= 1
    found = sent(service, bytes(data)).json()
    assert "encrypted" in found["refused"][0]["reason"]
    odd = sent(service, archive(("a", a_slice), method=zipfile.ZIP_LZMA))
    assert "unusual" in odd.json()["detail"]


def test_truncated_object(service: Service, a_slice: bytes) -> None:
    answer = sent(service, a_slice[: len(a_slice) // 2], "application/dicom")
    assert answer.status_code in (200, 422)  # a cut pixel may be read, and is refused where it is needed
    answer = sent(service, a_slice[:200], "application/dicom")
    assert (answer.status_code, answer.json()["error"]) == (422, "DicomError")


@pytest.mark.parametrize("kind", ["", "text/plain", "application/json", "application/x-tar", "multipart/mixed"])
def test_wrong_content_type(service: Service, a_slice: bytes, kind: str) -> None:
    assert sent(service, a_slice, kind).status_code == 415


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=x", b"no boundary anywhere"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Type: application/dicom\r\n\r\ncut off"),
        ("multipart/form-data; boundary=x", b""),
    ],
)
def test_forms_that_are_none(service: Service, kind: str, body: bytes) -> None:
    assert sent(service, body, kind).status_code == 400
    assert left_over(service) == []


def test_nothing_sent(service: Service) -> None:
    answer = sent(service, b"")
    assert answer.status_code == 422
    assert "no file" in answer.json()["detail"]


def test_uploads_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    for name, age_s in (("old", 2 * LEFT_S), ("new", 0.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part-1").write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    remove_left(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_too_large_as_said_and_as_sent(small: Service) -> None:
    assert sent(small, bytes(2**20 + 1)).status_code == 413
    answer = small.ask("planner", "POST", "/objects", content=iter([bytes(2**19)] * 3), headers=ZIP)
    assert answer.status_code == 413
    assert left_over(small) == []


def test_requests_that_upload_nothing_are_small(service: Service) -> None:
    answer = service.ask(
        "planner", "POST", "/jobs", content=b" " * (5 * 2**20), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413


def test_what_is_received_is_written_down(service: Service, a_slice: bytes) -> None:
    sent(service, a_slice, "application/dicom")
    row = service.ask("admin", "GET", "/audit?action=object-receive&limit=1").json()[0]
    assert row["details"]["objects"] == 1
    assert row["details"]["series"] == [row["object_id"]]
