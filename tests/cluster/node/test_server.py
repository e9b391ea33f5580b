"""The node with dcmtk as its peer: who gets in, what is kept, and what is answered."""

import logging
from pathlib import Path

import pytest
from pydicom import dcmread

HOST = "127.0.0.1"


def test_echo(node, dcmtk) -> None:
    done = dcmtk("echoscu", "-aet", "LINAC", "-aec", "DOSEENG", HOST, node.port)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("calling", "called", "reason"),
    [("STRANGER", "DOSEENG", "Calling AE Title Not Recognized"), ("LINAC", "NOBODY", "Called AE Title Not Recognized")],
)
def test_unknown_titles_are_rejected_with_the_reason_and_written_down(
    services, node, dcmtk, calling: str, called: str, reason: str
) -> None:
    done = dcmtk("echoscu", "-aet", calling, "-aec", called, HOST, node.port)
    assert done.returncode != 0
    assert reason in done.stderr
    (entry,) = services.audit.read("")
    assert (entry.actor, entry.action, entry.details) == (calling, "access-denied", {"called": called})


def test_stored_objects_are_those_of_the_site(services, node, dcmtk, patient, wait_until) -> None:
    files = [*patient.case_files, *patient.cbct_files]
    done = dcmtk("storescu", "-R", "-aet", "LINAC", "-aec", "DOSEENG", HOST, node.port, *files)
    assert done.returncode == 0, done.stderr
    library = services.library
    assert len(library.instances("north")) == len(files)
    assert library.instances("south") == []
    assert len(library.case_objects("north", patient.plan_uid).sha256s) == len(patient.case_files)
    assert len(library.image_objects("north", patient.cbct_uid).sha256s) == len(patient.cbct_files)
    wait_until(lambda: len(services.audit.read("north")) == 4, "the association is written down, series by series")
    counted = {entry.object_id: entry.details["objects"] for entry in services.audit.read("north")}
    assert counted[patient.cbct_uid] == len(patient.cbct_files)


def test_one_caller_at_two_sites(services, node, dcmtk, patient) -> None:
    one, other = patient.cbct_files[:2]
    assert dcmtk("storescu", "-aet", "LINAC", "-aec", "DOSEENG", HOST, node.port, one).returncode == 0
    assert dcmtk("storescu", "-aet", "LINAC", "-aec", "SOUTH", HOST, node.port, other).returncode == 0
    uids = {site: [entry.sop_uid for entry in services.library.instances(site)] for site in ("north", "south")}
    assert uids == {"north": [dcmread(one).SOPInstanceUID], "south": [dcmread(other).SOPInstanceUID]}


def test_what_is_there_already_is_taken_again(services, node, dcmtk, patient) -> None:
    for _ in range(2):
        done = dcmtk("storescu", "-aet", "LINAC", "-aec", "DOSEENG", HOST, node.port, *patient.cbct_files)
        assert done.returncode == 0, done.stderr
    assert len(services.library.instances("north")) == len(patient.cbct_files)


@pytest.mark.parametrize("syntax", ["-xe", "-xi", "-xd"])
def test_another_encoding_of_an_object_is_the_same_object(services, node, dcmtk, patient, syntax: str) -> None:
    file = patient.cbct_files[0]
    services.library.receive("north", file)
    done = dcmtk("storescu", syntax, "-v", "-aet", "LINAC", "-aec", "DOSEENG", HOST, node.port, file)
    assert "Received Store Response (Success)" in done.stderr + done.stdout, done.stderr
    assert len(services.library.instances("north")) == 1


def test_other_content_under_a_uid_that_is_taken_is_refused(services, node, dcmtk, patient, tmp_path: Path) -> None:
    file = patient.cbct_files[0]
    services.library.receive("north", file)
    changed = dcmread(file)
    changed.PatientName = "Somebody^Else"
    changed.save_as(tmp_path / "changed.dcm")
    done = dcmtk("storescu", "-d", "-aet", "LINAC", "-aec", "DOSEENG", HOST, node.port, tmp_path / "changed.dcm")
    said = done.stderr + done.stdout
    assert "0xc000" in said.lower()
    assert services.library.data("north", changed.SOPInstanceUID) == file.read_bytes()


def test_compressed_images_are_taken_if_they_can_be_read(services, node, dcmtk, patient, tmp_path: Path) -> None:
    compressed = tmp_path / "rle.dcm"
    if dcmtk("dcmcrle", patient.cbct_files[0], compressed).returncode:
        pytest.skip("dcmcrle could not compress the image")
    done = dcmtk("storescu", "-xr", "-aet", "LINAC", "-aec", "DOSEENG", HOST, node.port, compressed)
    assert done.returncode == 0, done.stderr
    (entry,) = services.library.instances("north")
    kept = tmp_path / "kept.dcm"
    kept.write_bytes(services.library.data("north", entry.sop_uid))
    assert (dcmread(kept).pixel_array == dcmread(patient.cbct_files[0]).pixel_array).all()


def test_without_space_the_sender_is_told_to_come_again(
    services, node, dcmtk, patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    send = ("storescu", "-d", "-aet", "LINAC", "-aec", "DOSEENG", HOST, node.port, patient.cbct_files[0])
    with monkeypatch.context() as patched:
        patched.setattr("cluster.storage.files._write", full)
        done = dcmtk(*send)
    assert "0xa700" in (done.stderr + done.stdout).lower()
    assert services.library.instances("north") == []
    assert dcmtk(*send).returncode == 0
    assert len(services.library.instances("north")) == 1


def test_find_studies_series_and_images(node, dcmtk, patient) -> None:
    files = [*patient.case_files, *patient.cbct_files]
    assert dcmtk("storescu", "-R", "-aet", "LINAC", "-aec", "DOSEENG", HOST, node.port, *files).returncode == 0

    def find(*keys: str, model: str = "-S", calling: str = "LINAC", called: str = "DOSEENG") -> str:
        options = [argument for key in keys for argument in ("-k", key)]
        done = dcmtk("findscu", model, "-aet", calling, "-aec", called, *options, HOST, node.port)
        assert done.returncode == 0, done.stderr
        return done.stderr + done.stdout

    both = find("QueryRetrieveLevel=STUDY", "PatientID=QZ-4711", "StudyInstanceUID", "PatientName", "ModalitiesInStudy")
    assert both.count("Find Response:") == 2
    assert both.count("Quatermain^Zebulon") == 2
    assert "CT\\RTPLAN\\RTSTRUCT" in both
    assert find("QueryRetrieveLevel=STUDY", "PatientID=NOBODY").count("Find Response:") == 0
    assert find("QueryRetrieveLevel=STUDY", "PatientName=quater*").count("Find Response:") == 2
    series = find(
        "QueryRetrieveLevel=SERIES", "SeriesInstanceUID", "SeriesDescription=CBCT*", "NumberOfSeriesRelatedInstances"
    )
    assert series.count("Find Response:") == 1
    assert patient.cbct_uid in series
    assert f"[{len(patient.cbct_files)} ]" in series or f"[{len(patient.cbct_files)}]" in series
    images = find("QueryRetrieveLevel=IMAGE", f"SeriesInstanceUID={patient.cbct_uid}", "SOPInstanceUID")
    assert images.count("Find Response:") == len(patient.cbct_files)
    assert find("QueryRetrieveLevel=PATIENT", "PatientID=QZ*", "PatientName", model="-P").count("Find Response:") == 1
    # The other site has nothing of it.
    assert find("QueryRetrieveLevel=STUDY", "PatientID=QZ-4711", called="SOUTH").count("Find Response:") == 0


def test_move_to_a_configured_destination_alone(make_services, serve, dcmtk, storescp, patient) -> None:
    receiver = storescp()
    destination = {"name": "pacs", "kind": "dicom", "host": HOST, "port": receiver.port, "ae_title": "ARCHIVE"}
    services = make_services(site=[{"name": "north", "calling_ae": ["LINAC"], "destination": [destination]}])
    for file in patient.case_files + patient.cbct_files:
        services.library.receive("north", file)
    with serve(services) as node:
        keys = ("-k", "QueryRetrieveLevel=SERIES", "-k", f"SeriesInstanceUID={patient.cbct_uid}")
        names = ("-S", "-aet", "LINAC", "-aec", "DOSEENG")
        done = dcmtk("movescu", *names, "-aem", "ARCHIVE", *keys, HOST, node.port)
        assert done.returncode == 0, done.stderr
        assert len(receiver.files) == len(patient.cbct_files)
        away = dcmtk("movescu", "-d", *names, "-aem", "ELSEWHERE", *keys, HOST, node.port)
        assert "0xa801" in (away.stderr + away.stdout).lower()
        everything = dcmtk("movescu", *names, "-aem", "ARCHIVE", "-k", "QueryRetrieveLevel=STUDY", HOST, node.port)
        assert everything.returncode == 0
        assert len(receiver.files) == len(patient.cbct_files)


def test_no_more_associations_than_allowed(make_services, serve, dcmtk) -> None:
    services = make_services(dicom={"port": 0, "timeout_s": 5.0, "max_associations": 1})
    with serve(services) as node:
        from pynetdicom import AE

        ae = AE("LINAC")
        ae.add_requested_context("1.2.840.10008.1.1")
        first = ae.associate(HOST, node.port, ae_title="DOSEENG")
        assert first.is_established
        done = dcmtk("echoscu", "-aet", "LINAC", "-aec", "DOSEENG", HOST, node.port)
        assert "Local Limit Exceeded" in done.stderr
        first.release()
        assert dcmtk("echoscu", "-aet", "LINAC", "-aec", "DOSEENG", HOST, node.port).returncode == 0


def test_the_log_knows_no_patient(services, node, dcmtk, patient, tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    changed = dcmread(patient.cbct_files[0])
    services.library.receive("north", patient.cbct_files[0])
    changed.PatientBirthDate = "nonsense"
    changed.PatientName = "Quatermain^" + "Zebulon" * 20
    changed.save_as(tmp_path / "changed.dcm")
    for file in (tmp_path / "changed.dcm", patient.case_files[-1]):
        dcmtk("storescu", "-aet", "LINAC", "-aec", "DOSEENG", HOST, node.port, file)
    dcmtk("findscu", "-S", "-aet", "LINAC", "-aec", "DOSEENG", "-k", "QueryRetrieveLevel=STUDY", HOST, node.port)
    assert "an object of LINAC was refused" in caplog.text
    assert not [secret for secret in patient.secrets if secret in caplog.text]
