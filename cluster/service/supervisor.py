"""The parts of the service as processes of one machine: started together, again when one dies, and stopped together.

A part that is killed loses nothing: what it was doing is in the database under a lease that ends. A part that keeps
dying is started ever more slowly, and the others go on. When the supervisor itself dies, its parts notice that the
pipe to it has closed, and stop.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

from doseeng.errors import ConfigError, JobError

PARTS: Final = ("api", "node", "driver", "messenger")
"""In the order in which they are started, and told to stop."""
POLL_S: Final = 0.2
STARTUP_S: Final = 120.0
"""A part that has not said that it is ready by then is taken for broken: a cold start compiles for half a minute."""
GRACE_S: Final = 30.0
"""How long a part may take to end what it is doing."""
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
STEADY_S: Final = 60.0
"""A part that ran for so long is started again at once."""
LOOPBACK: Final = "127.0.0.1"

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Child:
    """A part's process. pause_s: before it is started the next time."""

    part: str
    process: subprocess.Popen[bytes]
    started: float
    pause_s: float = FIRST_PAUSE_S
    start_again_at: float | None = None


@dataclass(slots=True)
class Supervisor:
    """config_path: given to the parts, None for the defaults. run_folder: where they say that they are ready. command:
    what a part's process is, before its name."""

    config_path: Path | None
    run_folder: Path
    parts: Sequence[str] = PARTS
    command: Sequence[str] = (sys.executable, "-m", "cluster.service.parts")
    _children: dict[str, _Child] = field(default_factory=dict)

    def start(self) -> dict[str, dict[str, Any]]:
        """Start all parts; what each says of itself, when all are ready. JobError when one does not get there."""
        self.run_folder.mkdir(parents=True, exist_ok=True)
        for part in self.parts:
            self._children[part] = self._spawn(part)
        end = time.monotonic() + STARTUP_S
        while not all(self._is_ready(part) for part in self.parts):
            for part, child in self._children.items():
                if child.process.poll() is not None:
                    raise JobError(
                        f"the {part} did not start (exit code {child.process.returncode}); its messages are above"
                    )
            if time.monotonic() > end:
                late = ", ".join(part for part in self.parts if not self._is_ready(part))
                raise JobError(f"not ready after {STARTUP_S:.0f} s: {late}; its messages are above")
            time.sleep(POLL_S)
        return {part: read_state(self.run_folder, part) for part in self.parts}

    def watch(self, stop: threading.Event) -> None:
        """Start again what dies, until `stop`."""
        while not stop.wait(POLL_S):
            now = time.monotonic()
            for child in list(self._children.values()):
                self._look_after(child, now)

    def stop(self) -> None:
        """Ask every part to end, and kill what does not."""
        for child in self._children.values():
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + GRACE_S
        for child in self._children.values():
            try:
                child.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                _log.warning("the %s did not end within %.0f s and is killed", child.part, GRACE_S)
                child.process.kill()
                child.process.wait()
            if child.process.stdin is not None:
                child.process.stdin.close()
            state_file(self.run_folder, child.part).unlink(missing_ok=True)

    def _spawn(self, part: str) -> _Child:
        state_file(self.run_folder, part).unlink(missing_ok=True)
        command = [*self.command, part, str(self.run_folder)]
        if self.config_path is not None:
            command.append(str(self.config_path))
        # A session of its own: Ctrl-C at the terminal is the supervisor's to handle.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        return _Child(part, process, time.monotonic())

    def _is_ready(self, part: str) -> bool:
        return state_file(self.run_folder, part).exists()

    def _look_after(self, child: _Child, now: float) -> None:
        if child.process.poll() is None:
            return
        if child.start_again_at is None:
            steady = now - child.started > STEADY_S
            child.pause_s = FIRST_PAUSE_S if steady else min(2.0 * child.pause_s, LONGEST_PAUSE_S)
            child.start_again_at = now + child.pause_s
            _log.error(
                "the %s ended with code %s and is started again in %.1f s",
                child.part,
                child.process.returncode,
                child.pause_s,
            )
        elif now >= child.start_again_at:
            if child.process.stdin is not None:
                child.process.stdin.close()
            pause_s = child.pause_s
            self._children[child.part] = self._spawn(child.part)
            self._children[child.part].pause_s = pause_s


def state_file(run_folder: Path, part: str) -> Path:
    """Where a part says that it is ready, and where it listens."""
    return run_folder / f"{part}.json"


def read_state(run_folder: Path, part: str) -> dict[str, Any]:
    """What a part said of itself: its process, and its port where it has one."""
    state: dict[str, Any] = json.loads(state_file(run_folder, part).read_text(encoding="utf-8"))
    return state


def write_state(run_folder: Path, part: str, state: Mapping[str, Any]) -> None:
    """Say that a part is ready; complete or not at all."""
    path = state_file(run_folder, part)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps({"pid": os.getpid(), **state}), encoding="utf-8")
    os.replace(temporary, path)


def stop_on_signals(stop: threading.Event) -> None:
    """SIGTERM and SIGINT set the event."""

    def asked(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, asked)
    signal.signal(signal.SIGINT, asked)


def only_one(folder: Path) -> Callable[[], None]:
    """Hold the folder's lock until the returned function is called; ConfigError when another service has it."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "serve.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise ConfigError(
            f"a service is running on '{folder}' already; stop it, or give this one a data_dir"
        ) from error
    return lock.close
