"""`doseeng cluster`: a head node that outlives the command that started it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli.cluster import app
from cluster.executor import ray_cluster
from cluster.executor.ray_cluster import Head, running_head, start_head, stop_head
from doseeng.errors import ConfigError
from tests.cluster.executor.processes import listening, ray_processes

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    stop_head()


@needs_ray
def test_a_head_node_serves_whoever_has_the_token(home: Path) -> None:
    shown = CliRunner().invoke(app, ["up", "--port", "0", "--workers", "1"])
    assert shown.exit_code == 0, shown.output
    head = running_head()
    assert head is not None
    assert f'address = "{head.address}"' in shown.output
    assert (home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    pids = [head.pid, *ray_processes(head.pid)]
    assert listening(pids) <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    with pytest.raises(ConfigError, match="runs at"):
        start_head()
    script = (
        "from cluster.executor.open import open_executor\n"
        "from cluster.service.config import ExecutorConfig\n"
        f"executor = open_executor(ExecutorConfig(kind='ray', address='{head.address}'))\n"
        "print(executor.workers, executor.result(executor.call(abs, -4)))\n"
        "executor.close()\n"
    )
    used = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert used.stdout.split() == ["1", "4"], used.stderr
    assert head.address in CliRunner().invoke(app, ["status"]).output
    assert "has ended" in CliRunner().invoke(app, ["down"]).output
    assert ray_processes(head.pid) == []
    assert running_head() is None
    assert "No head node runs" in CliRunner().invoke(app, ["status"]).output


def test_another_process_with_the_number_of_the_head_is_left_alone(home: Path) -> None:
    (home / ".ray").mkdir()
    state = home / ".ray" / ray_cluster.STATE
    state.write_text(json.dumps(asdict(Head("127.0.0.1:1", os.getpid(), 1, "", ""))))
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        assert running_head() is None
        assert stop_head() is None
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not received
    assert not state.exists()


def test_a_damaged_state_is_no_head(home: Path) -> None:
    (home / ".ray").mkdir()
    (home / ".ray" / ray_cluster.STATE).write_text('{"address": 3')
    assert running_head() is None


@needs_ray
def test_what_does_not_start_says_why(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        start_head("192.0.2.1")
