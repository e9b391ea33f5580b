"""Bytes of any kind come in: DICOM objects are kept once, the rest is refused by name of what is wrong with it."""

import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian
from sqlalchemy import func, select

from cluster.database.connection import Database
from cluster.database.tables import InstanceRow
from cluster.library import header
from cluster.library.entries import Received
from cluster.library.intake import Refused
from cluster.library.library import Library
from cluster.storage.files import FileBlobs
from doseeng.dicom.inventory import patient_key
from doseeng.errors import DicomError, DoseengError, JobError

NOISE_FILES = 300


def changed(path: Path, **values: Any) -> bytes:
    """The object with other values; None takes an attribute away."""
    dataset = dcmread(path)
    for keyword, value in values.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    written = BytesIO()
    dataset.save_as(written)
    return written.getvalue()


def test_an_object_is_kept_and_known(library: Library, case_dir: Path) -> None:
    data = (case_dir / "rp.dcm").read_bytes()
    got = library.receive("north", data, calling_ae="SCANNER")
    assert got.is_new
    assert got.patient_key == patient_key("QZ-4711")
    assert got.modality == "RTPLAN"
    assert library.data("north", got.sop_uid) == data
    (plan,) = library.plans("north")
    assert (plan.plan_uid, plan.label, plan.patient_key) == (got.sop_uid, "W1", got.patient_key)
    (series,) = library.series("north")
    assert (series.calling_ae, series.instances, series.manufacturer) == ("SCANNER", 1, "doseeng")


def test_the_same_again_changes_nothing(database: Database, blobs_of: Any, case_dir: Path) -> None:
    library = Library(database, blobs_of)
    first = library.receive("north", case_dir / "CT.0001.dcm")
    again = library.receive("north", (case_dir / "CT.0001.dcm").read_bytes())
    assert (first.is_new, again.is_new) == (True, False)
    assert first.sha256 == again.sha256
    assert len(library.instances("north")) == 1


def test_other_bytes_under_a_taken_uid_are_refused(library: Library, case_dir: Path) -> None:
    first = library.receive("north", case_dir / "CT.0001.dcm")
    with pytest.raises(DicomError, match=r"received before with other content.*the first one stays"):
        library.receive("north", changed(case_dir / "CT.0001.dcm", SeriesDescription="other"))
    assert library.data("north", first.sop_uid) == (case_dir / "CT.0001.dcm").read_bytes()
    # What one site has is nothing to another.
    assert library.receive("south", changed(case_dir / "CT.0001.dcm", SeriesDescription="other")).is_new


def test_two_senders_of_one_object_make_one_entry(database: Database, blobs_of: Any, case_dir: Path) -> None:
    library = Library(database, blobs_of)
    files = sorted(case_dir.glob("CT.*.dcm"))[:6]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda path: library.receive("north", path), files * 3))
    assert sum(one.is_new for one in got) == len(files)
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(InstanceRow)) == len(files)


def test_many_at_once_are_judged_one_by_one(database: Database, blobs_of: Any, case_dir: Path) -> None:
    library = Library(database, blobs_of)
    image, plan = case_dir / "CT.0001.dcm", case_dir / "rp.dcm"
    other = changed(image, SeriesDescription="other")
    told: list[list[Received]] = []
    intake = library.intake("north", calling_ae="CT1", on_received=lambda _, received: told.append(list(received)))
    found = intake.take([image, other, b"nothing", plan, image.read_bytes()])
    assert [getattr(one, "is_new", None) for one in found] == [True, None, None, True, False]
    assert "received before with other content" in found[1].reason  # type: ignore[union-attr]
    assert (found[1].sop_uid, found[2].sop_uid) == (found[0].sop_uid, "")  # type: ignore[union-attr]
    assert told == [[one for one in found if isinstance(one, Received)]]
    assert {entry.sha256 for entry in library.instances("north")} == {found[0].sha256, found[3].sha256}  # type: ignore[union-attr]
    assert [isinstance(one, Refused) for one in intake.take([other, image])] == [True, False]
    assert intake.take([b"nothing"]) == [found[2]]
    assert intake.take([]) == []


def test_objects_of_another_study_are_refused(library: Library, case_dir: Path) -> None:
    (found,) = library.intake("north", study_uid="1.2.3").take([case_dir / "rp.dcm"])
    assert isinstance(found, Refused)
    assert found.is_of_other_study
    assert library.instances("north") == []


def test_what_belongs_to_objects_is_written_with_them_or_not_at_all(
    database: Database, blobs_of: Any, case_dir: Path
) -> None:
    library = Library(database, blobs_of)

    def fail(*_: object) -> None:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        library.intake("north", on_received=fail).take([case_dir / "rp.dcm"])
    assert library.instances("north") == []


def test_many_senders_of_the_same_objects_make_one_entry_each(
    database: Database, blobs_of: Any, case_dir: Path
) -> None:
    library = Library(database, blobs_of)
    files = sorted(case_dir.glob("CT.*.dcm"))[:8]
    orders = [files, files[::-1], files[4:] + files[:4], files[::2] + files[1::2]]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda order: library.intake("north").take(order), orders * 2))
    assert sum(getattr(one, "is_new", 0) for taken in found for one in taken) == len(files)
    assert len(library.instances("north")) == len(files)


@pytest.mark.parametrize(
    ("cut", "says"),
    [
        (lambda data: b"", "not a DICOM file"),
        (lambda data: b"PK\x03\x04 no DICOM", "not a DICOM file"),
        (lambda data: data[:200], "damaged|cut off"),
        (lambda data: data[: len(data) // 2], "cut off"),
        (lambda data: data[:-7], "cut off"),
    ],
)
def test_what_is_not_whole_is_refused(
    library: Library, case_dir: Path, cut: Callable[[bytes], bytes], says: str
) -> None:
    with pytest.raises(DicomError, match=says):
        library.receive("north", cut((case_dir / "CT.0001.dcm").read_bytes()))
    assert library.instances("north") == []


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"SOPInstanceUID": None}, "no SOP Instance UID"),
        ({"SeriesInstanceUID": None}, r"Series Instance UID \(0020,000E\) is missing"),
        ({"StudyInstanceUID": "../../etc/passwd"}, r"Study Instance UID \(0020,000D\) is no UID"),
        ({"SeriesInstanceUID": "1." + "2" * 63}, "no UID"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_object_without_its_uids_is_refused(
    library: Library, case_dir: Path, values: dict[str, Any], says: str
) -> None:
    with pytest.raises(DicomError, match=says):
        library.receive("north", changed(case_dir / "rs.dcm", **values))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_identifier_of_a_megabyte_is_refused(library: Library, case_dir: Path) -> None:
    with pytest.raises(DicomError, match=r"Manufacturer \(0008,0070\) has 200000 bytes"):
        library.receive("north", changed(case_dir / "rs.dcm", Manufacturer="\\".join(["a"] * 100_000)))


def test_errors_never_repeat_a_file_name(library: Library, case_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "Quatermain_Zebulon.dcm"
    path.write_bytes((case_dir / "CT.0001.dcm").read_bytes()[:-9])
    with pytest.raises(DicomError) as refused:
        library.receive("north", path)
    assert "Quatermain" not in str(refused.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_text_of_the_index_is_plain(database: Database, blobs_of: Any, case_dir: Path) -> None:
    library = Library(database, blobs_of)
    library.receive("north", changed(case_dir / "CT.0001.dcm", SeriesDescription="a\x00b\x1bc ü" + "x" * 200))
    (series,) = library.series("north")
    assert series.description.startswith("abc ü")
    assert len(series.description) <= 128


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_objects_end_in_a_dicom_error_and_nothing_else(
    sqlite_database: Database, blobs_of: Any, case_dir: Path
) -> None:
    library = Library(sqlite_database, blobs_of)
    rng = np.random.default_rng(6)
    sources = [(case_dir / name).read_bytes() for name in ("rp.dcm", "rs.dcm", "rd.dcm", "CT.0001.dcm")]
    refused = 0
    for number in range(NOISE_FILES):
        data = bytearray(sources[number % len(sources)][:4000] if number % 3 else sources[number % len(sources)])
        for _ in range(int(rng.integers(1, 20))):
            data[int(rng.integers(128, min(len(data), 3000)))] = int(rng.integers(256))
        try:
            library.receive("north", bytes(data))
        except DoseengError:
            refused += 1
    assert 0 < refused <= NOISE_FILES


def test_a_deflated_bomb_is_refused_before_it_inflates(
    library: Library, case_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(header, "MAX_INFLATED_BYTES", 1 << 20)
    dataset = dcmread(case_dir / "rs.dcm")
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    good, bomb = BytesIO(), BytesIO()
    dataset.save_as(good)
    assert library.receive("north", good.getvalue()).is_new
    start = 128 + 4 + 12 + struct.unpack("<I", good.getvalue()[140:144])[0]
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb.write(good.getvalue()[:start] + deflate.compress(b"\0" * (8 << 20)) + deflate.flush())
    with pytest.raises(DicomError, match="inflates to more than"):
        library.receive("north", bomb.getvalue())


def test_nothing_is_indexed_that_is_not_stored(
    sqlite_database: Database, case_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def put(self, _data: Any) -> Any:
            raise JobError("no space")

    broken = Library(sqlite_database, lambda _site: Full())  # type: ignore[arg-type,return-value]
    with pytest.raises(JobError, match="no space"):
        broken.receive("north", case_dir / "rp.dcm")
    library = Library(sqlite_database, lambda site: FileBlobs(tmp_path / site))
    assert library.instances("north") == []
    assert library.receive("north", case_dir / "rp.dcm").is_new
