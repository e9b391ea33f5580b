"""With Orthanc as archive: find, fetch, send, be sent to, vouch."""

import json
from pathlib import Path

import pytest
from pydicom import dcmread
from typer.testing import CliRunner, Result

from cluster.cli.archive import app
from cluster.node.archive import find_studies, get_series, move_series
from cluster.node.network import echo
from cluster.node.send import send_objects
from cluster.service.config import Archive
from doseeng.errors import ConfigError, DicomError, PeerError


def test_find_and_fetch(services, node, orthanc, patient) -> None:
    archive = orthanc(node.port)
    archive.upload(patient.case_files + patient.cbct_files)
    echo(archive, "DOSEENG", 5.0)
    studies = find_studies(archive, "DOSEENG", "QZ-4711")
    series = {found.series_uid: found for study in studies for found in study.series}
    assert len(studies) == 2
    assert len(series) == 4
    day = series[patient.cbct_uid]
    assert (day.modality, day.description, day.date, day.instances) == ("CT", "CBCT head", "20260106", 12)
    assert find_studies(archive, "DOSEENG", "qz-4711") == []
    assert find_studies(archive, "DOSEENG", "NOBODY") == []
    # C-MOVE to our node.
    assert move_series(archive, "DOSEENG", "DOSEENG", day.study_uid, day.series_uid) == 12
    assert len(services.library.instances("north", series_uid=patient.cbct_uid)) == 12
    with pytest.raises(PeerError):
        move_series(archive, "DOSEENG", "NOBODY", day.study_uid, day.series_uid)
    # C-GET of a whole study.
    taken: list[bytes] = []
    assert get_series(archive, "DOSEENG", taken.append, patient.study_uid) == len(patient.case_files)
    assert len(taken) == len(patient.case_files)
    for data in taken:
        services.library.receive("north", data)
    assert services.library.case_objects("north", patient.plan_uid).plan_uid == patient.plan_uid

    def full(_: bytes) -> None:
        raise DicomError("this one is refused")

    with pytest.raises(PeerError, match="this one is refused"):
        get_series(archive, "DOSEENG", full, day.study_uid, day.series_uid)


def test_orthanc_sends_and_wants_to_know_whether_we_have_it(services, node, orthanc, patient, wait_until) -> None:
    """Storage commitment needs Orthanc as a destination or archive of ours: the report goes where it listens."""
    archive = orthanc(node.port)
    ours = Archive(name="pacs", host=archive.host, port=archive.port, ae_title=archive.ae_title)
    services.config.site[0].archive.append(ours)
    archive.upload(patient.cbct_files)
    ids = archive.ask("GET", "/instances")
    archive.ask("POST", "/modalities/doseeng/store", {"Resources": ids, "Synchronous": True})
    assert len(services.library.instances("north")) == len(patient.cbct_files)
    wanted = [[d.SOPClassUID, d.SOPInstanceUID] for d in map(dcmread, patient.cbct_files)]
    assert _committed(archive, wanted, wait_until)["Status"] == "Success"
    unknown = [*wanted, [wanted[0][0], "1.2.3.4"], ["1.2.840.10008.5.1.4.1.1.4", wanted[0][1]]]
    report = _committed(archive, unknown, wait_until)
    assert report["Status"] == "Failure"
    assert len(report["Success"]) == len(wanted)
    assert [failure["FailureReason"] for failure in report["Failures"]] == [0x0112, 0x0119]


def _committed(archive, objects: list, wait_until) -> dict:
    asked = archive.ask("POST", "/modalities/doseeng/storage-commitment", {"DicomInstances": objects})
    path = f"/storage-commitment/{asked['ID']}"
    wait_until(lambda: archive.ask("GET", path)["Status"] != "Pending", "the report arrives")
    return archive.ask("GET", path)


def test_we_send_to_orthanc(node, orthanc, patient) -> None:
    archive = orthanc(node.port)
    assert send_objects(archive, patient.case_files + patient.cbct_files, "DOSEENG") == 26
    assert archive.count == 26
    assert send_objects(archive, [dcmread(patient.cbct_files[0])], "DOSEENG") == 1
    assert archive.count == 26


CONFIG = """
data_dir = "data"
[[site]]
name = "north"
[[site.archive]]
name = "pacs"
host = "127.0.0.1"
port = {port}
ae_title = "ORTHANC"
"""


def test_command_line(orthanc, patient, port: int, tmp_path: Path) -> None:
    archive = orthanc(port)
    archive.upload(patient.case_files + patient.cbct_files)
    config = tmp_path / "doseeng.toml"
    config.write_text(CONFIG.format(port=archive.port))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--config", str(config)], env={"COLUMNS": "200"})

    assert json.loads(run("echo", "pacs", "--json").stdout) == {"archive": "pacs", "answers": True}
    found = run("find", "pacs", "--patient", "QZ-4711", "--json")
    assert len(json.loads(found.stdout)["studies"]) == 2
    assert not [secret for secret in patient.secrets if secret in found.stdout]
    # People are asked for what should not stay in the history of a shell, and read a table.
    table = CliRunner().invoke(
        app, ["find", "pacs", "--config", str(config)], input="QZ-4711\n", env={"COLUMNS": "200"}
    )
    assert patient.cbct_uid in table.stdout
    fetched = run("fetch", "pacs", "--study", patient.study_uid, "--json")
    assert json.loads(fetched.stdout) == {"archive": "pacs", "objects": len(patient.case_files)}
    assert (tmp_path / "data" / "doseeng.db").is_file()
    wrong = run("echo", "packs")
    assert isinstance(wrong.exception, ConfigError)
    assert "'pacs' (north)" in str(wrong.exception)
    # No node of ours listens where the archive was told.
    moved = run("fetch", "pacs", "--study", patient.study_uid, "--move")
    assert isinstance(moved.exception, PeerError)
