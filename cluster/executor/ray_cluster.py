"""A Ray head node on this machine that outlives the process that started it: start it, find it, end it.

`ray start --block` runs as a process of its own; what is known of it lies in a small file beside the user's token. A
signal ends it together with everything below it, and nothing of any other Ray on this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cluster.executor.ray_settings import (
    DEFAULT_TOKEN_PATH,
    LOOPBACK,
    is_loopback,
    object_store_bytes,
    prepare_environment,
    token_file,
)
from doseeng.errors import ConfigError, JobError

STATE: Final = "doseeng-cluster.json"
LOG: Final = "doseeng-cluster.log"
START_S: Final = 60.0
STOP_S: Final = 40.0
"""Ray gives its units up to 30 s to end."""
POLL_S: Final = 0.1
STARTED: Final = "Ray runtime started"


@dataclass(frozen=True, slots=True)
class Head:
    """A head node. address: "host:port" for `executor.address`. pid: of the process that ends it."""

    address: str
    pid: int
    workers: int
    token: str
    log: str


def start_head(host: str = LOOPBACK, port: int = 0, workers: int = 0, gpus: int | None = None,
               home: Path | None = None) -> Head:  # fmt: skip
    """Start a head node that listens at `host` alone, and return when it is ready.

    port: 0 takes a free one. workers: CPU slots, 0 for one per core; gpus: None for those that are found. home: where
    token and state are kept, by default the user's. ConfigError: one runs already, or it does not start (the message
    gives the end of its log).
    """
    known = running_head(home)
    if known is not None:
        raise ConfigError(f"a Ray head runs at {known.address} (process {known.pid}); `doseeng cluster down` ends it")
    token = token_file(home)
    log = token.with_name(LOG)
    workers = workers or len(os.sched_getaffinity(0))
    port = port or _free_port(host)
    environment = dict(os.environ)
    prepare_environment(stays_here=is_loopback(host), environment=environment, token=token)
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--node-ip-address={host}",
        f"--port={port}", "--include-dashboard=false", "--disable-usage-stats", f"--num-cpus={workers}",
        f"--object-store-memory={object_store_bytes()}", *([] if gpus is None else [f"--num-gpus={gpus}"]),
    ]  # fmt: skip
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    _await_start(process, log)
    head = Head(f"{host}:{port}", process.pid, workers, str(token), str(log))
    _state(home).write_text(json.dumps(asdict(head)))
    return head


def running_head(home: Path | None = None) -> Head | None:
    """The head node that `start_head` started, if it still runs."""
    try:
        head = Head(**json.loads(_state(home).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return head if _is_ray(head.pid) else None


def stop_head(home: Path | None = None) -> Head | None:
    """End the head node and its units; None when none runs. JobError when it does not end."""
    head = running_head(home)
    if head is not None:
        os.kill(head.pid, signal.SIGTERM)
        until = time.monotonic() + STOP_S
        while _is_ray(head.pid):
            if time.monotonic() > until:
                raise JobError(f"process {head.pid} of the Ray head at {head.address} has not ended in {STOP_S:.0f} s")
            time.sleep(POLL_S)
    _state(home).unlink(missing_ok=True)
    return head


def _await_start(process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while STARTED not in (said := log.read_text(errors="replace")):
        if process.poll() is not None or time.monotonic() > until:
            process.terminate()
            process.wait(STOP_S)
            last = " / ".join(said.strip().splitlines()[-3:])
            raise ConfigError(f"a Ray head could not be started ({last or 'it said nothing'}); its log is {log}")
        time.sleep(POLL_S)


def _state(home: Path | None) -> Path:
    return ((home or Path.home()) / DEFAULT_TOKEN_PATH).with_name(STATE)


def _is_ray(pid: int) -> bool:
    """Whether a process is the head and not another one that has got its number since."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        return b"ray.scripts.scripts" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _free_port(host: str) -> int:
    try:
        with socket.create_server((host, 0)) as server:
            return int(server.getsockname()[1])
    except OSError as error:
        raise ConfigError(
            f"no port can be opened at '{host}' ({error.strerror}); give an address of this machine"
        ) from error
