"""The commands of this package, as people type them."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from pydicom import dcmread
from sqlalchemy import create_engine, text
from typer.testing import CliRunner, Result

from cluster.cli.audit import app as audit_app
from cluster.cli.certificates import certificates
from cluster.cli.deidentify import deidentify, reidentify
from cluster.cli.users import app as user_app
from doseeng.errors import AccessError, ConfigError

from .conftest import SECRETS, IdentifiedCase

Run = Callable[..., Result]

app = typer.Typer()
app.add_typer(user_app, name="user")
app.add_typer(audit_app, name="audit")
app.command()(certificates)
app.command()(deidentify)
app.command()(reidentify)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "doseeng.toml"
    path.write_text('data_dir = "data"\n[[site]]\nname = "north"\n[[site]]\nname = "south"\n')
    return path


@pytest.fixture
def run(config: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "160")

    def typed(*arguments: object, typed_in: str = "", code: int = 0) -> Result:
        result = CliRunner().invoke(app, [*map(str, arguments), "--config", str(config)], input=typed_in)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return typed


def test_a_user_from_adding_to_disabling(run: Run) -> None:
    run("user", "add", "anna", "--role", "physicist", "--site", "north", typed_in="correct horse battery\n")
    run("user", "add", "robot", "--role", "service", "--site", "north", "--no-password")
    token = run("user", "token", "add", "robot", "--label", "export", "--site", "north").stdout.strip()
    assert token.startswith("dsg_")
    assert len(token) == 47
    listed = json.loads(run("user", "token", "list", "--site", "north", "--json").stdout)["tokens"]
    assert [t["user"] for t in listed] == ["robot"]
    run("user", "token", "revoke", listed[0]["id"], "--site", "north")
    run("user", "password", "anna", "--site", "north", typed_in="another horse battery\n")
    run("user", "role", "anna", "--role", "viewer", "--site", "north")
    run("user", "subject", "anna", "anna@issuer", "--site", "north")
    run("user", "disable", "anna", "--site", "north")
    users = json.loads(run("user", "list", "--site", "north", "--json").stdout)["users"]
    assert [(u["name"], u["role"], u["disabled"], u["has_password"]) for u in users] == [
        ("anna", "viewer", True, True),
        ("robot", "service", False, False),
    ]
    run("user", "enable", "anna", "--site", "north")
    assert "anna" in run("user", "list", "--site", "north").stdout
    assert "robot" in run("user", "token", "list", "--site", "north").stdout
    assert json.loads(run("user", "list", "--site", "south", "--json").stdout)["users"] == []
    shown = json.loads(run("audit", "show", "--site", "north", "--json").stdout)["entries"]
    assert [e["action"] for e in reversed(shown)] == [
        "user-add",
        "user-add",
        "token-issue",
        "token-revoke",
        *["user-change"] * 3,
        "user-disable",
        "user-change",
    ]
    assert "horse" not in json.dumps(shown)
    assert token not in json.dumps(shown)


def test_several_sites_need_a_name(run: Run) -> None:
    with pytest.raises(ConfigError, match="--site"):
        run("user", "list")
    with pytest.raises(ConfigError, match="'west' is not configured"):
        run("user", "list", "--site", "west")


def test_a_bad_password_adds_nobody(run: Run) -> None:
    with pytest.raises(AccessError, match="5 characters"):
        run("user", "add", "anna", "--role", "viewer", "--site", "north", typed_in="short\n")
    assert json.loads(run("user", "list", "--site", "north", "--json").stdout)["users"] == []


def test_the_log_is_verified_shown_and_exported(run: Run, tmp_path: Path, config: Path) -> None:
    for name in ("anna", "bob", "carl"):
        run("user", "add", name, "--role", "viewer", "--site", "north", "--no-password")
    verified = run("audit", "verify").stdout
    assert "intact: 3 rows" in verified
    head = verified.split()[-1]
    assert "user-add" in run("audit", "show", "--site", "north", "--action", "user-add").stdout
    run("audit", "export", tmp_path / "log.xml", "--site", "north")
    run("audit", "export", tmp_path / "log.jsonl", "--site", "north", "--format", "fhir")
    assert [line[:14] for line in (tmp_path / "log.xml").read_text().splitlines()] == ["<AuditMessage>"] * 4
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [e["id"] for e in events] == ["1", "2", "3", "4", "5"]
    with pytest.raises(FileExistsError):
        run("audit", "export", tmp_path / "log.xml", "--site", "north")
    anchors = tmp_path / "kept elsewhere.jsonl"
    anchors.write_bytes((tmp_path / "data" / "audit-anchor.jsonl").read_bytes())
    engine = create_engine(f"sqlite:///{tmp_path / 'data' / 'doseeng.db'}")
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM audit WHERE sequence >= 3"))
    engine.dispose()
    assert "cut off" in run("audit", "verify", code=2).stderr
    (tmp_path / "data" / "audit-anchor.jsonl").unlink()
    run("audit", "verify")
    assert "cut off" in run("audit", "verify", "--head", head, code=2).stderr
    checked = json.loads(run("audit", "verify", "--anchor", anchors, "--json", code=2).stdout)
    assert checked["problems"][0]["kind"] == "cut-off"
    with pytest.raises(ConfigError, match="NUMBER:DIGEST"):
        run("audit", "verify", "--head", "nonsense")


def test_certificates_are_said_to_be_for_development(tmp_path: Path) -> None:
    made = CliRunner().invoke(
        app, ["certificates", str(tmp_path / "tls"), "--host", "localhost", "--host", "127.0.0.1"]
    )
    assert made.exit_code == 0
    assert "for development" in made.stderr
    assert f'certificate = "{tmp_path / "tls" / "server.crt"}"' in made.stdout
    assert sorted(p.name for p in (tmp_path / "tls").iterdir()) == [
        f"{stem}.{kind}" for stem in ("authority", "client", "server") for kind in ("crt", "key")
    ]


def test_a_case_leaves_and_a_result_comes_home(run: Run, identified_case: IdentifiedCase, tmp_path: Path) -> None:
    source, away, home = identified_case.folder, tmp_path / "away", tmp_path / "home"
    left = run("deidentify", source, away, "--site", "north", "--json")
    told = json.loads(left.stdout)
    assert (told["objects"], told["patients"], told["refused"]) == (len(list(source.iterdir())), 1, [])
    assert not any(secret in left.output for secret in SECRETS)
    for path in away.iterdir():
        assert path.name.startswith(("CT.2.25.", "RTSTRUCT.2.25.", "RTPLAN.2.25.", "RTDOSE.2.25."))
        assert not any(secret.encode() in path.read_bytes() for secret in SECRETS)
    back = run("reidentify", away, home, "--site", "north")
    assert "objects of 1 patients written" in back.stdout
    originals = {dcmread(p).SOPInstanceUID: dcmread(p).PatientName for p in source.iterdir()}
    assert {dcmread(p).SOPInstanceUID: dcmread(p).PatientName for p in home.iterdir()} == originals
    shown = json.loads(run("audit", "show", "--site", "north", "--json").stdout)["entries"]
    assert [(e["action"], e["details"]["objects"]) for e in shown] == [
        ("reidentify", len(originals)),
        ("deidentify", len(originals)),
    ]
    assert not any(secret in json.dumps(shown) for secret in SECRETS)


def test_what_cannot_be_made_safe_is_left_out_and_named(
    run: Run, identified_case: IdentifiedCase, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    one, other = sorted(identified_case.folder.glob("CT*"))[:2]
    (source / "good.dcm").write_bytes(one.read_bytes())
    burned = dcmread(other)
    burned.BurnedInAnnotation = "YES"
    burned.save_as(source / "burned.dcm")
    (source / "broken.dcm").write_bytes(other.read_bytes()[:400])
    told = json.loads(run("deidentify", source, tmp_path / "away", "--site", "north", "--json", code=4).stdout)
    assert told["objects"] == 1
    assert {r["where"] for r in told["refused"]} == {"burned.dcm", "broken.dcm"}
    with pytest.raises(ConfigError, match="is not empty"):
        run("deidentify", source, tmp_path / "away", "--site", "north")
    # Of another site, or never pseudonymised: it does not come home.
    assert "no pseudonym" in run("reidentify", tmp_path / "away", tmp_path / "h", "--site", "south", code=4).stderr
    assert "no pseudonym" in run("reidentify", source, tmp_path / "i", "--site", "north", code=4).stderr


def test_an_object_cannot_name_a_file_outside_the_folder(
    run: Run, identified_case: IdentifiedCase, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "one.dcm").write_bytes(next(identified_case.folder.glob("CT*")).read_bytes())
    run("deidentify", source, tmp_path / "away", "--site", "north")
    (path,) = (tmp_path / "away").iterdir()
    hostile = dcmread(path)
    hostile.Modality = "../../X"
    hostile.save_as(path)
    run("reidentify", tmp_path / "away", tmp_path / "home", "--site", "north")
    assert len(list((tmp_path / "home").glob("X.*.dcm"))) == 1


def test_commands_load_nothing_heavy() -> None:
    modules = "cluster.cli.users, cluster.cli.audit, cluster.cli.deidentify, cluster.cli.certificates"
    heavy = "{'sqlalchemy', 'fastapi', 'ray', 'pynetdicom', 'argon2', 'jwt', 'cryptography', 'alembic'}"
    program = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_a_password_is_read_from_a_pipe_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.cli.users import _asked

    monkeypatch.setattr("sys.stdin", io.StringIO("  a sentence with spaces \nsecond line\n"))
    assert _asked("anna") == "  a sentence with spaces "
