"""A cone-beam CT sent over the network, and how long until the flag arrives: `python -m benchmarks.service [CASE DAY]`.

Starts `doseeng serve` on an empty folder, sends a plan and then the image of a day with dcmtk's storescu, and waits for
the flag at a webhook and for the results as DICOM at dcmtk's storescp. Then the audit log is verified. Without
arguments the demo's case and its second day are made first (the target has drifted away: RED).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread

DOSEENG: Final = Path(sys.executable).with_name("doseeng")
SECRET: Final = "a secret of the webhook's"
PATIENCE_S: Final = 300.0
START_S: Final = 180.0
TARGET_S: Final = 180.0
POLL_S: Final = 0.1
CONFIG: Final = """\
data_dir = "data"
[api]
port = 0
[dicom]
port = 0
[executor]
kind = "{executor}"
lease_s = {lease_s}
[[site]]
name = "north"
calling_ae = ["*"]
auto_treat = true
treatment_site = "{treatment_site}"
goals = "{goals}"
[[site.rule]]
name = "cone beam"
modality = "CT"
quiet_s = {quiet_s}
[[site.destination]]
name = "alarm"
kind = "webhook"
url = "http://127.0.0.1:{webhook_port}/flags"
secret = "{secret}"
[[site.destination]]
name = "archive"
kind = "dicom"
host = "127.0.0.1"
port = {archive_port}
ae_title = "ARCHIVE"
objects = ["RTDOSE", "RTSTRUCT", "REG", "SR", "PDF"]
"""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the webhook was sent, and when (monotonic seconds)."""

    at: float
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Webhook:
    """A receiver of flags."""

    port: int = 0
    received: list[Delivery] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds from the last image sent to the flag at the webhook and to the last DICOM object at the archive."""

    flag: dict[str, Any]
    delivery: Delivery
    flag_s: float
    objects_s: float
    modalities: tuple[str, ...]
    audit: str


@dataclass(frozen=True, slots=True)
class Clinic:
    """A running service. run: where its parts say what they are. received: folder of the archive."""

    config: Path
    run: Path
    hook: Webhook
    received: Path

    def state(self, part: str) -> dict[str, Any]:
        """What a part says of itself."""
        state: dict[str, Any] = json.loads((self.run / f"{part}.json").read_text())
        return state

    def port(self, part: str) -> int:
        """Where a part listens."""
        return int(self.state(part)["port"])


@contextmanager
def webhook() -> Iterator[Webhook]:
    """A receiver on a free port of this machine."""
    state = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.received.append(Delivery(time.monotonic(), dict(self.headers.items()), body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def archive(folder: Path, port: int) -> Iterator[Path]:
    """dcmtk's storescp, which writes what it receives into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["storescp", "-aet", "ARCHIVE", "-od", str(folder), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield folder
    finally:
        process.kill()
        process.wait()


@contextmanager
def service(config: Path) -> Iterator[Path]:
    """`doseeng serve` until all its parts take work; the folder where they say what they are."""
    command = [str(DOSEENG), "serve", "--config", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    run = config.parent / "data" / "run"
    try:
        end = time.monotonic() + START_S
        while not all((run / f"{part}.json").exists() for part in ("api", "node", "driver", "messenger")):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the service did not start; its messages are above")
            time.sleep(POLL_S)
        yield run
    finally:
        process.terminate()
        process.wait(60)
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def clinic(folder: Path, *, treatment_site: str, goals: str = "", quiet_s: float = 5.0, executor: str = "in-process",
           lease_s: float = 30.0) -> Iterator[Clinic]:  # fmt: skip
    """A service of its own in `folder`, with a webhook and an archive that it tells."""
    folder.mkdir(parents=True, exist_ok=True)
    archive_port = free_port()
    with webhook() as hook, archive(folder / "archive", archive_port) as received:
        config = folder / "doseeng.toml"
        values = {"treatment_site": treatment_site, "goals": goals, "quiet_s": quiet_s, "lease_s": lease_s}
        ports = {"webhook_port": hook.port, "archive_port": archive_port}
        config.write_text(CONFIG.format(**values, **ports, executor=executor, secret=SECRET))
        with service(config) as run:
            yield Clinic(config, run, hook, received)


def measure(folder: Path, case: Path, day: Path, **settings: Any) -> Outcome:
    """Send `case`, then `day`, to a service of its own in `folder`, and wait for what comes back."""
    with clinic(folder, **settings) as place:
        store(case, place.port("node"))
        store(day, place.port("node"))
        sent = time.monotonic()
        wait(lambda: bool(place.hook.received), "the flag at the webhook")
        wait(lambda: {"RTDOSE", "SR"} <= set(modalities(place.received)), "the results at the archive")
        objects_at = time.monotonic()
        delivery = place.hook.received[0]
    audit = audited(place.config)
    found = tuple(sorted(modalities(place.received)))
    return Outcome(json.loads(delivery.body), delivery, delivery.at - sent, objects_at - sent, found, audit)


def audited(config: Path) -> str:
    """What `doseeng audit verify` says; RuntimeError when the log is not intact."""
    command = [str(DOSEENG), "audit", "verify", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the audit log does not verify: {done.stdout}{done.stderr}")
    return done.stdout.splitlines()[0]


def store(folder: Path, port: int) -> None:
    """Send all files of a folder with dcmtk's storescu; -R: it proposes what the files need, RT Ion Plans too."""
    command = ["storescu", "-R", "-aet", "SCANNER", "-aec", "DOSEENG", "+sd", "+r", "127.0.0.1", str(port), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"storescu ended with {done.returncode}: {done.stderr[-2000:]}")


def modalities(folder: Path) -> list[str]:
    """Of the objects that have arrived whole."""
    found = []
    for path in folder.iterdir():
        try:
            found.append(str(dcmread(path, stop_before_pixels=True).Modality))
        except (OSError, EOFError, AttributeError, ValueError):
            continue  # still being written
    return found


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def wait(ready: Callable[[], bool], what: str) -> None:
    """RuntimeError when it does not come true in good time."""
    end = time.monotonic() + PATIENCE_S
    while not ready():
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not arrive within {PATIENCE_S:.0f} s")
        time.sleep(POLL_S)


def main(arguments: list[str]) -> int:
    """Print how long it took; the exit code tells whether that is within the target."""
    if shutil.which("storescu") is None:
        print("dcmtk is not installed: no storescu to send with", file=sys.stderr)
        return 1
    from cluster.demo import GOALS, write_demo_case
    from cluster.demo.days import write_demo_days

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments:
            case, day = map(Path, arguments)
        else:
            case = folder / "case"
            write_demo_case(case)
            day = list(write_demo_days(folder / "days"))[1]
        for executor in ("in-process", "ray"):
            found = measure(folder / executor, case, day, treatment_site="lung", goals=str(GOALS), executor=executor)
            print(
                f"{executor}: {found.flag.get('verdict')} at the webhook {found.flag_s:.0f} s after the last image, "
                f"DICOM ({', '.join(found.modalities)}) complete after {found.objects_s:.0f} s. {found.audit}"
            )
    return 0 if max(found.flag_s, found.objects_s) < TARGET_S else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
