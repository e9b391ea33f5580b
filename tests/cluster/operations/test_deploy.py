"""Files for running the service elsewhere, checked as far as this machine can."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from cluster.service.config import ServiceConfig, read_config
from cluster.service.supervisor import GRACE_S, PARTS

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
EXAMPLE = DEPLOY / "doseeng.example.toml"
SERVE = ["serve", "--config", "/etc/doseeng/doseeng.toml"]
INSTRUCTIONS = {
    "FROM", "RUN", "CMD", "LABEL", "EXPOSE", "ENV", "ADD", "COPY", "ENTRYPOINT", "VOLUME", "USER", "WORKDIR", "ARG",
    "ONBUILD", "STOPSIGNAL", "HEALTHCHECK", "SHELL",
}  # fmt: skip
"""Docker's Dockerfile reference."""


def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments, continued lines joined."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def test_dockerfile() -> None:
    found = instructions()
    assert {name for name, _ in found} <= INSTRUCTIONS
    images = [arguments.split()[0] for name, arguments in found if name == "FROM"]
    assert len(images) == 2, "built in one stage, run in another"
    for image in images:
        _, _, tag = image.partition(":")
        assert tag
        assert "latest" not in tag
    assert not [arguments for name, arguments in found if name == "ADD"], "COPY says what is meant; ADD also downloads"
    last = max(number for number, (name, _) in enumerate(found) if name == "FROM")
    (user,) = (arguments for name, arguments in found[last:] if name == "USER")
    assert user.split(":")[0].isdigit()
    assert int(user.split(":")[0]) > 0
    named = dict(found[last:])
    assert named["ENTRYPOINT"] == '["doseeng"]'
    assert named["CMD"] == str(SERVE).replace("'", '"')
    assert "healthcheck.py" in named["HEALTHCHECK"]
    assert not re.search(r"(?i)(password|secret|token)\s*=", (DEPLOY / "Dockerfile").read_text())


def test_dockerfile_copies_what_there_is() -> None:
    packages = re.search(r"packages = \[(.*)\]", (ROOT / "pyproject.toml").read_text())
    assert packages is not None
    copied = {
        source
        for name, arguments in instructions()
        if name == "COPY" and not arguments.startswith("--")
        for source in arguments.split()[:-1]
    }
    assert set(re.findall(r'"(\w+)"', packages[1])) <= copied
    assert all((ROOT / source).exists() for source in copied)


@pytest.fixture
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def test_compose(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"service", "ray", "database"}
    assert "ports" not in services["database"]
    assert compose["networks"]["inside"]["internal"] is True
    for name, service in services.items():
        assert not service["image"].endswith("latest")
        assert service["image"].count(":") == 1
        assert "no-new-privileges:true" in service["security_opt"]
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source.startswith("./") or source in compose["volumes"], f"{name} mounts {source}"
        for network in service.get("networks", []):
            assert network in compose["networks"]
    for name in ("service", "ray"):
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]
        assert int(services[name]["stop_grace_period"].removesuffix("s")) > GRACE_S
    assert services["ray"]["command"][-1] in PARTS


def test_compose_sets_what_the_configuration_has(compose: dict[str, Any]) -> None:
    for name in ("service", "ray"):
        environment = {key: str(value) for key, value in compose["services"][name]["environment"].items()}
        config = read_config(EXAMPLE, environment)
        assert config.api.tls is not None
        assert config.storage.url == "/srv/blobs"
        assert config.executor.kind == ("ray" if name == "ray" else "in-process")
        assert "${POSTGRES_PASSWORD:?" in config.database


def test_compose_as_docker_reads_it() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose not found")
    command = [docker, "compose", "-f", str(DEPLOY / "compose.yaml"), "--profile", "ray", "config", "--quiet"]
    environment = {"POSTGRES_PASSWORD": "x", "PATH": "/usr/bin:/bin"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_systemd_unit() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / "doseeng.service")
    service = unit["Service"]
    assert service["ExecStart"].split()[1:] == SERVE
    assert service["User"] not in ("", "root")
    for name in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "RestrictSUIDSGID"):
        assert service[name] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["StateDirectory"] == "doseeng"
    assert int(service["TimeoutStopSec"]) > GRACE_S


def test_systemd_unit_as_systemd_reads_it(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze not found")
    program = tmp_path / "doseeng"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = (DEPLOY / "doseeng.service").read_text().replace("/opt/doseeng/bin/doseeng", str(program))
    (tmp_path / "doseeng.service").write_text(text)
    ended = subprocess.run(
        [analyze, "verify", "--man=no", str(tmp_path / "doseeng.service")], capture_output=True, text=True, check=False
    )
    ours = [line for line in ended.stderr.splitlines() if "doseeng.service" in line]
    assert ours == []


def test_example_configuration() -> None:
    assert read_config(EXAMPLE, {}) == read_config(EXAMPLE, {})
    config = read_config(EXAMPLE, {})
    assert config.data == Path("/var/lib/doseeng")
    assert [rule.name for rule in config.site[0].rule] == ["daily cone-beam CT"]


def test_example_configuration_with_everything_on(tmp_path: Path) -> None:
    lines = EXAMPLE.read_text().splitlines()
    on = [re.sub(r"^# (?=\[|\w+ = )", "", line) for line in lines]
    assert on != lines
    (tmp_path / "doseeng.toml").write_text("\n".join(on))
    config = read_config(tmp_path / "doseeng.toml", {})
    site = config.site[0]
    assert {destination.kind for destination in site.destination} == {"dicom", "webhook", "email", "fhir"}
    assert config.oidc is not None
    assert config.api.tls is not None
    assert site.center is not None


def test_example_configuration_names_every_key() -> None:
    text = EXAMPLE.read_text()
    for prefix, name, inner in keys(ServiceConfig):
        pattern = rf"(?m)^(# )?\[+{re.escape(prefix + name)}\]+$" if inner else rf"(?m)^(# )?{name} = "
        section = text if inner else section_of(text, prefix.rstrip("."))
        assert re.search(pattern, section), f"{prefix}{name} is not in the example"


def section_of(text: str, path: str) -> str:
    """All tables of that path, joined: what is before the first one for the top."""
    parts = re.split(r"(?m)^(?:# )?\[+([\w.]+)\]+$", text)
    sections = [parts[0]] if not path else [parts[i + 1] for i in range(1, len(parts), 2) if parts[i] == path]
    return "\n".join(sections)


def keys(model: type[BaseModel], prefix: str = "") -> typing.Iterator[tuple[str, str, bool]]:
    """Table, key and whether it is a table itself, for the whole tree."""
    for name, declared in model.model_fields.items():
        inner = model_in(declared.annotation)
        yield prefix, name, inner is not None
        if inner is not None:
            yield from keys(inner, f"{prefix}{name}.")


def model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for a in typing.get_args(annotation) if (found := model_in(a)) is not None), None)
