"""Jobs that end, and what listens to the messages about them: an HTTP server and a mail server of the tests' own."""

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sqlalchemy import update

from cluster.database.connection import Database
from cluster.database.tables import OutboxRow
from cluster.flags.hook import flag_hook
from cluster.flags.outbox import Outbox
from cluster.jobs.model import Artifact, Job, JobFailure, JobKind, JobResult, JobSpec
from cluster.jobs.store import JobStore
from cluster.service.config import ServiceConfig

SECRET = "s3cret-of-the-webhook"
PLAN_LABEL = "DOE JANE prostate"
"""As people write them; it must not leave by a message."""
GOALS = [
    {"name": "CTV D95%", "value": 91.25, "relation": ">=", "limit": 95.0, "unit": "%", "status": "RED"},
    {"name": "Cord Dmax", "value": 31.5, "relation": "<=", "limit": 45.0, "unit": "Gy", "status": "GREEN"},
    {"name": "Lung Dmean", "value": None, "relation": "<=", "limit": 20.0, "unit": "Gy", "status": "UNEVALUABLE"},
]


def config_of(*destinations: dict[str, Any], other: tuple[dict[str, Any], ...] = (), **more: Any) -> ServiceConfig:
    """Site "north" with these destinations, and site "south" with the others."""
    sites = [
        {"name": "north", "called_ae": "NORTH", "destination": list(destinations)},
        {"name": "south", "called_ae": "SOUTH", "destination": list(other)},
    ]
    return ServiceConfig.model_validate({"site": sites, **more})


def webhook(url: str, name: str = "hook", **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "webhook", "url": url, "secret": SECRET, **more}


@dataclass(frozen=True, slots=True)
class Clinic:
    """Jobs that end as told, with the hook of a configuration, and an outbox."""

    database: Database
    config: ServiceConfig
    blobs_of: Callable[[str], Any] = field(default=lambda site: None)

    @property
    def store(self) -> JobStore:
        return JobStore(self.database, (flag_hook(self.config),))

    @property
    def outbox(self) -> Outbox:
        return Outbox(self.config, self.database, self.blobs_of, self.store)

    def start(self, number: int = 0, site: str = "north", kind: JobKind = JobKind.ADAPT) -> Job:
        spec = JobSpec(site, kind, "1.2.3", ("ab" * 32,), options={"number": number}, patient_key=f"p-{number:04d}")
        self.store.submit(spec, created_by="test")
        job = self.store.claim("driver", 60.0)
        assert job is not None
        return job

    def end(
        self,
        verdict: str,
        number: int = 0,
        site: str = "north",
        artifacts: tuple[Artifact, ...] = (),
        kind: JobKind = JobKind.ADAPT,
    ) -> str:
        """A job of the site that ends with this verdict ("FAILED": without one); its id."""
        job = self.start(number, site, kind)
        if verdict == "FAILED":
            self.store.fail(job.id, "driver", JobFailure("GeometryError", "the CT has a gap"))
        else:
            reasons = ["CTV D95% is 91.25 %, the limit is 95 %."]
            summary = {"case": "c-1", "plan": PLAN_LABEL, "reasons": reasons, "goals": GOALS, "rbe_weighted": True}
            self.store.finish(job.id, "driver", JobResult(verdict, summary, artifacts, case_key="c-1"))
        return job.id


def hurry(database: Database) -> None:
    """Waits between attempts are over, and leases have ended."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    with database.transaction() as session:
        session.execute(update(OutboxRow).where(OutboxRow.state == "pending").values(next_attempt_at=past))
        session.execute(update(OutboxRow).where(OutboxRow.state == "sending").values(lease_until=past))


@dataclass(frozen=True, slots=True)
class Request:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def key(self) -> str:
        return self.headers["Doseeng-Delivery"]


@dataclass(slots=True)
class Receiver:
    """What came. answers: one per request to come, then 200: a status, or a function called with the connection."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    answers: list[int | Callable[[socket.socket], None]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def drop(connection: socket.socket) -> None:
    """Reset the connection: the message came, the answer never goes."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    connection.close()


@contextmanager
def listening() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with receiver.lock:
                receiver.requests.append(Request(self.path, dict(self.headers), body))
                answer = receiver.answers.pop(0) if receiver.answers else 200
            if callable(answer):
                self.close_connection = True
                answer(self.connection)
                return
            self.send_response(answer)
            if 300 <= answer < 400:
                self.send_header("Location", f"{receiver.url}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            # Connections that the tests break.
            pass

    with _served(Server(("127.0.0.1", 0), Handler)) as port:
        receiver.url = f"http://127.0.0.1:{port}"
        yield receiver


@dataclass(slots=True)
class MailServer:
    """mails: (recipients, text) as they were taken. refused: recipients that are not. greeting: what it says first."""

    port: int = 0
    mails: list[tuple[list[str], str]] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    greeting: str = "220 sink"
    drops_after_data: int = 0


@contextmanager
def mail_server() -> Iterator[MailServer]:
    """As much of SMTP (RFC 5321) as a client needs that sends one message."""
    sink = MailServer()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.say(sink.greeting)
            recipients: list[str] = []
            while line := self.rfile.readline().decode():
                command = line.strip().upper()
                if command.startswith("RCPT TO"):
                    address = line.partition("<")[2].partition(">")[0]
                    if address in sink.refused:
                        self.say("550 no such user here")
                    else:
                        recipients.append(address)
                        self.say("250 ok")
                elif command == "DATA":
                    self.say("354 go on")
                    data = b""
                    while not data.endswith(b"\r\n.\r\n"):
                        data += self.rfile.readline()
                    sink.mails.append((recipients, data.decode()))
                    if sink.drops_after_data:
                        sink.drops_after_data -= 1
                        return
                    self.say("250 taken")
                elif command == "QUIT":
                    # A server that parts rudely has taken the message all the same.
                    self.say("421 whatever")
                    return
                else:
                    self.say("250 ok")

        def say(self, words: str) -> None:
            self.wfile.write(f"{words}\r\n".encode())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    with _served(Server(("127.0.0.1", 0), Handler)) as port:
        sink.port = port
        yield sink


@contextmanager
def _served(server: socketserver.BaseServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]  # type: ignore[misc]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
