"""A batch whose process dies goes on where it was, and ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.batch.manifest import read_manifest
from cluster.batch.run import SITE, run_batch
from cluster.jobs.model import JobKind
from cluster.service.config import ExecutorConfig, Site

ROOT = Path(__file__).parents[3]
LABELS = ("G1", "R2", "A3", "U4", "G5")


@pytest.fixture
def manifest(tmp_path: Path, make_case: Callable[..., Path]) -> Path:
    """Five cases of different verdicts."""
    rows = []
    for label in LABELS:
        make_case(tmp_path / "cases" / label, label)
        rows.append(f"{label},cases/{label}")
    path = tmp_path / "five.csv"
    path.write_text("\n".join(["name,case", *rows]))
    return path


def start(manifest: Path, out: Path, log: Path, seconds: float) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "tests.cluster.batch.quick",
        str(log),
        str(seconds),
        str(manifest),
        "--out",
        str(out),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def states(out: Path) -> list[str]:
    if not (out / "doseeng.db").exists():
        return []
    try:
        connection = sqlite3.connect(f"file:{out / 'doseeng.db'}?mode=ro", uri=True, timeout=5.0)
        try:
            return [state for (state,) in connection.execute("SELECT state FROM jobs")]
        finally:
            connection.close()
    except sqlite3.OperationalError:
        return []  # the schema is being made


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120.0
    while not condition():
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < end, "the batch does not get on"
        time.sleep(0.05)


def test_a_killed_batch_goes_on(manifest: Path, tmp_path: Path, computed: list[str]) -> None:
    killed, log = tmp_path / "killed", tmp_path / "killed.log"
    process = start(manifest, killed, log, 0.4)
    try:
        wait_for(lambda: states(killed).count("done") >= 2 and "running" in states(killed), process)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = log.read_text().split()
    assert states(killed).count("done") < len(LABELS)
    run(manifest, killed)
    assert states(killed) == ["done"] * len(LABELS), "every job ended once, none was lost and none doubled"
    assert len(set(before) & set(computed)) <= 1, "at most the one that was under way is computed twice"
    assert set(before) | set(computed) == set(LABELS)
    run(manifest, tmp_path / "undisturbed")
    for name in ("goals.csv", "goals.parquet"):
        assert (killed / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


def run(manifest: Path, out: Path) -> None:
    """The same batch in this process."""
    items = read_manifest(manifest, JobKind.EVALUATE, {})
    run_batch(items, out, Site(name=SITE), ExecutorConfig(), lambda _items: None, threading.Event())


def test_interrupting_is_graceful(manifest: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    process = start(manifest, out, log, 0.6)
    wait_for(lambda: states(out).count("done") >= 1, process)
    process.send_signal(signal.SIGINT)
    said, told = process.communicate(timeout=60)
    assert process.returncode == 130, told.decode()
    assert "Stopping" in told.decode()
    assert "run the same command again" in said.decode()
    assert "running" not in states(out), "what was under way is finished or back in the queue"
    assert "Not complete" in (out / "overview.html").read_text()
    lines = told.decode().splitlines()
    assert any(line.startswith("1/5 ") for line in lines), "plain lines where there is no terminal"
    assert b"\x1b[" not in told
