"""A small patient as DICOM files, a service with two sites, a node on a free port, and the peers of this machine."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.smallpatient import SmallPatient, write_small_patient
from cluster.node.server import Node
from cluster.service.config import ServiceConfig, Tls
from cluster.service.services import Services, open_services


@pytest.fixture(scope="session")
def patient(tmp_path_factory: pytest.TempPathFactory) -> SmallPatient:
    return write_small_patient(tmp_path_factory.mktemp("patient"))


def settings(folder: Path, **changes: object) -> dict:
    """Two sites: one called DOSEENG by LINAC, one called SOUTH by LINAC too."""
    rule = {"name": "cone-beam", "modality": "CT", "description": "cbct", "quiet_s": 5.0, "min_images": 10}
    return {
        "data_dir": str(folder / "data"),
        "dicom": {"port": 0, "timeout_s": 5.0},
        "site": [
            {"name": "north", "calling_ae": ["LINAC", "TPS", "ORTHANC"], "rule": [rule]},
            {"name": "south", "called_ae": "SOUTH", "calling_ae": ["LINAC"], "rule": [rule]},
        ],
        **changes,
    }


@pytest.fixture
def make_services(tmp_path: Path) -> Iterator[Callable[..., Services]]:
    """`make_services(dicom={...}, site=[...])`: services of `settings` with changes."""
    opened: list[Services] = []

    def make(**changes: object) -> Services:
        opened.append(open_services(ServiceConfig.model_validate(settings(tmp_path, **changes))))
        return opened[-1]

    yield make
    for services in opened:
        services.close()


@pytest.fixture
def services(make_services: Callable[..., Services]) -> Services:
    return make_services()


@contextmanager
def running(services: Services) -> Iterator[Node]:
    """A node while the block runs."""
    node = Node(services)
    node.start()
    try:
        yield node
    finally:
        node.stop()


@pytest.fixture
def serve() -> Callable:
    """`with serve(services) as node:`"""
    return running


@pytest.fixture
def node(services: Services) -> Iterator[Node]:
    with running(services) as node:
        yield node


@pytest.fixture
def dcmtk() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`dcmtk("storescu", ...)`: a program of dcmtk, run to its end; skips where it is not installed."""

    def run(program: str, *arguments: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        if shutil.which(program) is None:
            pytest.skip(f"{program} not found: install dcmtk")
        return subprocess.run(
            [program, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, errors="replace"
        )

    return run


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def port() -> int:
    """A free one."""
    return free_port()


def until(is_so: Callable[[], object], what: str, patience_s: float = 30.0) -> None:
    """Wait until something is so; fails when it does not become so."""
    end = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < end, f"waited {patience_s} s in vain: {what}"
        time.sleep(0.02)


@pytest.fixture
def wait_until() -> Callable:
    return until


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen]:
    """A program that runs beside the test and is gone afterwards."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen([str(argument) for argument in arguments], **quiet)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


@dataclass(frozen=True)
class Receiver:
    """A storescp of dcmtk, as a peer. folder: where what it received lies."""

    port: int
    folder: Path
    ae_title: str = "ARCHIVE"
    host: str = "127.0.0.1"
    tls: Tls | None = None

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_file())


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[Callable[..., Receiver]]:
    """`storescp("+tls", ...)`: a running storescp with options of its own."""
    if shutil.which("storescp") is None:
        pytest.skip("storescp not found: install dcmtk")
    with ExitStack() as started:

        def start(*options: object, tls: Tls | None = None, port: int = 0) -> Receiver:
            receiver = Receiver(port or free_port(), tmp_path / f"received-{len(list(tmp_path.iterdir()))}", tls=tls)
            receiver.folder.mkdir()
            started.enter_context(
                process("storescp", *options, "-od", receiver.folder, "-aet", "ARCHIVE", receiver.port)
            )
            until(lambda: listens(receiver.port), "storescp listens")
            return receiver

        yield start


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc. port: of DICOM, http: of its REST interface. It knows us as "doseeng"."""

    port: int
    http: int
    ae_title: str = "ORTHANC"
    host: str = "127.0.0.1"
    tls: Tls | None = None

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """An answer of the REST interface."""
        data = None if body is None else (body if isinstance(body, bytes) else json.dumps(body).encode())
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def upload(self, files: Iterable[Path]) -> None:
        for file in files:
            self.ask("POST", "/instances", file.read_bytes())

    @property
    def count(self) -> int:
        return int(self.ask("GET", "/statistics")["CountInstances"])


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Callable[..., Orthanc]]:
    """`orthanc(port)`: an empty Orthanc of Debian's packages that knows a node on `port`; skips where there is none."""
    known = (shutil.which("Orthanc"), "/usr/sbin/Orthanc", "/usr/local/sbin/Orthanc")
    program = next((path for path in known if path and os.access(path, os.X_OK)), None)
    if program is None:
        pytest.skip("Orthanc not found: install Debian's package orthanc")
    with ExitStack() as started:

        def start(node_port: int) -> Orthanc:
            server = Orthanc(free_port(), free_port())
            folder = tmp_path / "orthanc"
            folder.mkdir()
            ours = {"AET": "DOSEENG", "Host": "127.0.0.1", "Port": node_port, "AllowStorageCommitment": True}
            config = {
                "Name": "test",
                "StorageDirectory": str(folder),
                "IndexDirectory": str(folder),
                "HttpPort": server.http,
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "DicomAet": server.ae_title,
                "DicomPort": server.port,
                "DicomModalities": {"doseeng": ours},
                "DicomAlwaysAllowGet": True,
                "Plugins": [],
            }
            (tmp_path / "orthanc.json").write_text(json.dumps(config))
            started.enter_context(process(program, tmp_path / "orthanc.json"))
            until(lambda: listens(server.http) and listens(server.port), "Orthanc listens")
            return server

        yield start
