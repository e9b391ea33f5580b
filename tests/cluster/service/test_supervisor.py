"""The supervisor: parts started together, started again when killed, stopped with it, and never twice on one folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.service import supervisor as module
from cluster.service.supervisor import Supervisor, only_one, read_state, state_file
from doseeng.errors import ConfigError, JobError

PART = """
import signal, sys, threading
from pathlib import Path
from cluster.service.supervisor import stop_on_signals, write_state
part, run = sys.argv[1], Path(sys.argv[2])
if part == "broken":
    sys.exit(7)
stop = threading.Event()
if part == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    stop_on_signals(stop)
threading.Thread(target=lambda: (sys.stdin.buffer.read(), stop.set()), daemon=True).start()
write_state(run, part, {"port": 1})
stop.wait()
Path(run / f"{part}.ended").touch()
"""


@pytest.fixture
def command(tmp_path: Path) -> tuple[str, str]:
    """A part that does nothing but say that it is there."""
    script = tmp_path / "part.py"
    script.write_text(PART)
    return sys.executable, str(script)


@pytest.fixture
def started(tmp_path: Path, command: tuple[str, str]) -> Iterator[Callable[..., Supervisor]]:
    made: list[Supervisor] = []

    def start(*parts: str) -> Supervisor:
        made.append(Supervisor(None, tmp_path / "run", parts, command))
        made[-1].start()
        return made[-1]

    yield start
    for supervisor in made:
        supervisor.stop()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc").exists() else True


def test_a_killed_part_is_started_again_while_others_go_on(started: Callable[..., Supervisor], tmp_path: Path) -> None:
    supervisor = started("api", "driver")
    first = {part: read_state(tmp_path / "run", part)["pid"] for part in ("api", "driver")}
    stop = threading.Event()
    watching = threading.Thread(target=supervisor.watch, args=(stop,))
    watching.start()
    try:
        os.kill(first["driver"], signal.SIGKILL)

        def is_another() -> bool:
            ready = state_file(tmp_path / "run", "driver").exists()
            return ready and read_state(tmp_path / "run", "driver")["pid"] != first["driver"]

        until(is_another)
    finally:
        stop.set()
        watching.join()
    assert read_state(tmp_path / "run", "api")["pid"] == first["api"]
    assert is_alive(first["api"])


def test_parts_end_in_order_when_asked(started: Callable[..., Supervisor], tmp_path: Path) -> None:
    supervisor = started("api", "driver")
    pids = [read_state(tmp_path / "run", part)["pid"] for part in ("api", "driver")]
    supervisor.stop()
    assert not any(map(is_alive, pids))
    assert {path.name for path in (tmp_path / "run").glob("*.ended")} == {"api.ended", "driver.ended"}
    assert not list((tmp_path / "run").glob("*.json"))


def test_a_part_that_will_not_end_is_killed(
    started: Callable[..., Supervisor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0.5)
    supervisor = started("stubborn")
    pid = read_state(tmp_path / "run", "stubborn")["pid"]
    supervisor.stop()
    assert not is_alive(pid)


def test_a_part_that_does_not_start_is_named(tmp_path: Path, command: tuple[str, str]) -> None:
    supervisor = Supervisor(None, tmp_path / "run", ("api", "broken"), command)
    with pytest.raises(JobError, match=r"the broken did not start \(exit code 7\)"):
        supervisor.start()
    supervisor.stop()


def test_parts_do_not_outlive_a_killed_supervisor(tmp_path: Path, command: tuple[str, str]) -> None:
    code = (
        "import sys, time; from pathlib import Path; from cluster.service.supervisor import Supervisor\n"
        f"s = Supervisor(None, Path({str(tmp_path / 'run')!r}), ('api',), {command!r})\n"
        "s.start(); print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    pid = read_state(tmp_path / "run", "api")["pid"]
    process.kill()
    process.wait()
    process.stdout.close()
    until(lambda: not is_alive(pid))
    assert (tmp_path / "run" / "api.ended").exists()


def test_two_services_do_not_share_a_folder(tmp_path: Path) -> None:
    release = only_one(tmp_path)
    with pytest.raises(ConfigError, match="is running on"):
        only_one(tmp_path)
    release()
    only_one(tmp_path)()
