"""Objects to a storescp of dcmtk, and what a caller is told when it does not work."""

from pathlib import Path

import pytest
from pydicom import dcmread

from cluster.node.network import echo
from cluster.node.send import send_objects
from cluster.service.config import Destination
from doseeng.errors import DicomError, PeerError

HOST = "127.0.0.1"


def test_files_and_datasets_arrive_as_they_are(storescp, patient) -> None:
    receiver = storescp()
    objects = [*patient.case_files, *(dcmread(file) for file in patient.cbct_files)]
    assert send_objects(receiver, objects, "DOSEENG", 10.0) == len(objects)
    received = {dcmread(file).SOPInstanceUID: dcmread(file) for file in receiver.files}
    sent = [dcmread(file) for file in patient.case_files + patient.cbct_files]
    assert all(received[dataset.SOPInstanceUID] == dataset for dataset in sent)
    assert len(received) == len(sent)


def test_compressed_objects_stay_compressed(storescp, dcmtk, patient, tmp_path: Path) -> None:
    compressed = tmp_path / "rle.dcm"
    if dcmtk("dcmcrle", patient.cbct_files[0], compressed).returncode:
        pytest.skip("dcmcrle could not compress the image")
    receiver = storescp("+xa")
    send_objects(receiver, [compressed, patient.cbct_files[1]], "DOSEENG", 10.0)
    syntaxes = {dcmread(file).file_meta.TransferSyntaxUID.name for file in receiver.files}
    assert syntaxes == {"RLE Lossless", "Explicit VR Little Endian"}


def test_a_peer_that_takes_only_implicit_vr(storescp, patient) -> None:
    receiver = storescp("+xi")
    assert send_objects(receiver, patient.cbct_files[:2], "DOSEENG", 10.0) == 2
    assert len(receiver.files) == 2


def test_nothing_to_send_calls_nobody() -> None:
    nobody = Destination(name="none", kind="dicom", host=HOST, port=1, ae_title="NOBODY")
    assert send_objects(nobody, [], "DOSEENG", 1.0) == 0


def test_who_is_not_there_is_named(port: int, patient) -> None:
    nobody = Destination(name="none", kind="dicom", host=HOST, port=port, ae_title="NOBODY")
    with pytest.raises(PeerError, match=f"NOBODY at {HOST}:{port} did not answer"):
        send_objects(nobody, patient.cbct_files, "DOSEENG", 2.0)
    elsewhere = Destination(name="none", kind="dicom", host="no-such-host.invalid", port=port, ae_title="NOBODY")
    with pytest.raises(PeerError, match="cannot be called"):
        echo(elsewhere, "DOSEENG", 2.0)


def test_a_rejection_says_why(node, patient) -> None:
    peer = Destination(name="us", kind="dicom", host=HOST, port=node.port, ae_title="DOSEENG")
    with pytest.raises(PeerError, match=r"rejected the association of STRANGER: .*[Cc]alling AE"):
        send_objects(peer, patient.cbct_files, "STRANGER", 5.0)


def test_a_refused_object_ends_it_with_the_status(services, node, patient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cluster.storage.files._write", full)
    peer = Destination(name="us", kind="dicom", host=HOST, port=node.port, ae_title="DOSEENG")
    with pytest.raises(PeerError, match=r"refused a C-STORE of a CT Image Storage \(1 of 12\) with status 0xA700"):
        send_objects(peer, patient.cbct_files, "LINAC", 5.0)


def test_a_kind_that_the_peer_does_not_take(node, patient, tmp_path: Path) -> None:
    dataset = dcmread(patient.cbct_files[0])
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.128"
    peer = Destination(name="us", kind="dicom", host=HOST, port=node.port, ae_title="DOSEENG")
    with pytest.raises(PeerError, match="takes none of the kinds"):
        send_objects(peer, [dataset], "LINAC", 5.0)
    with pytest.raises(PeerError, match="does not take a Positron Emission"):
        send_objects(peer, [patient.cbct_files[0], dataset], "LINAC", 5.0)


def test_a_file_that_is_no_dicom(node, tmp_path: Path) -> None:
    (tmp_path / "notes.dcm").write_text("hello")
    peer = Destination(name="us", kind="dicom", host=HOST, port=node.port, ae_title="DOSEENG")
    with pytest.raises(DicomError, match=r"notes\.dcm"):
        send_objects(peer, [tmp_path / "notes.dcm"], "LINAC", 5.0)
