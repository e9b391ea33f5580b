"""The client of scripts, and event streams, against a real server on a port of its own."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from typer.testing import CliRunner

from cluster.api import events
from cluster.cli import remote
from cluster.client import Client
from cluster.jobs.model import Artifact, JobResult
from cluster.security.access import Role
from doseeng.errors import AccessError, ConfigError, DicomError, JobError, PeerError
from tests.cluster.api.making import DRIVER, HERE, PASSWORD, Service


class Server:
    """uvicorn in a thread."""

    def __init__(self, service: Service) -> None:
        self._service = service
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port = found.getsockname()[1]

    def start(self) -> None:
        config = uvicorn.Config(self._service.app, port=self.port, log_config=None, lifespan="off", loop="asyncio")
        config.timeout_graceful_shutdown = 1
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def server(filled: Service) -> Iterator[Server]:
    running = Server(filled)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def client(filled: Service, server: Server) -> Iterator[Client]:
    with Client(server.url, filled.tokens[HERE, "physicist"]) as made:  # type: ignore[index]
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr("cluster.client._RECONNECT_S", 0.05)


def finished(service: Service, job_id: str, steps: int = 3) -> threading.Thread:
    """A driver that works on a job while somebody watches."""

    def work() -> None:
        store = service.services.store
        for step in range(steps):
            store.heartbeat(job_id, DRIVER, 60.0, "dose", step, steps)
            time.sleep(0.1)
        blob = service.services.blobs_of(HERE).put(b'{"verdict": "AMBER"}')
        artifact = Artifact("result.json", "application/json", blob.sha256, blob.size)
        store.finish(job_id, DRIVER, JobResult("AMBER", {"case": "", "plan": "", "reasons": []}, (artifact,)))

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_from_a_folder_to_a_result(
    filled: Service, client: Client, case_folder: Path, plan_uid: str, tmp_path: Path
) -> None:
    assert client.upload(case_folder).refused == {}
    job = client.evaluate(plan_uid, seed=100)
    assert job.state == "queued"
    filled.claimed(job.id)
    driver = finished(filled, job.id)
    seen: list[tuple[str, int, int]] = []
    done = client.wait(job, progress=lambda *told: seen.append(told))
    driver.join()
    assert (done.state, done.verdict, done.artifacts) == ("done", "AMBER", ("result.json",))
    assert [told for told in seen if told[0] == "dose"] == sorted({told for told in seen if told[0] == "dose"})
    assert client.result(done) == {"verdict": "AMBER"}
    assert client.download(done, "result.json", tmp_path / "r.json").read_bytes() == b'{"verdict": "AMBER"}'
    assert client.wait(done).verdict == "AMBER"
    assert job.id in [found.id for found in client.jobs(kind="evaluate", limit=1)]
    (flag,) = [flag for flag in client.worklist() if flag["job_id"] == job.id]
    assert client.acknowledge(flag["id"], "seen")["acknowledged_by"] == "a-physicist"


def test_files_that_are_refused_are_named_by_who_sent_them(client: Client, case_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "notes.txt").write_text("hello")
    (tmp_path / "a.dcm").write_bytes(next(iter(case_folder.rglob("*.dcm"))).read_bytes())
    sent = client.upload(tmp_path)
    assert len(sent.objects) == 1
    assert list(sent.refused) == ["below/notes.txt"]
    with pytest.raises(DicomError, match="nothing of the upload"):
        client.upload(tmp_path / "below" / "notes.txt")


def test_jobs_that_do_not_end_well(filled: Service, client: Client, plan_uid: str) -> None:
    failed, cancelled = client.dose(plan_uid), client.evaluate(plan_uid, seed=101)
    filled.fail(failed.id)
    client.cancel(cancelled)
    with pytest.raises(JobError, match="PlanError: beam 1 has no spots"):
        client.wait(failed)
    with pytest.raises(JobError, match="called off"):
        client.wait(cancelled)


def test_waiting_outlives_a_server(filled: Service, plan_uid: str) -> None:
    """The API process goes away and another one comes while somebody waits."""
    first = Server(filled)
    first.start()
    client = Client(first.url, filled.tokens[HERE, "physicist"])  # type: ignore[index]
    job = client.evaluate(plan_uid, seed=102)
    ended: list[str] = []
    watching = threading.Event()
    waiter = threading.Thread(target=lambda: ended.append(client.wait(job, progress=lambda *_: watching.set()).verdict))
    waiter.start()
    assert watching.wait(10)
    first.stop()
    filled.finish(job.id, "GREEN")
    first.start()
    waiter.join(30)
    first.stop()
    client.close()
    assert ended == ["GREEN"]


def test_who_does_not_answer(filled: Service) -> None:
    silent = Server(filled)
    with Client(silent.url, "x") as client:
        with pytest.raises(PeerError, match="cannot be reached"):
            client.plans()
        with pytest.raises(PeerError, match="has not answered"):
            client.wait("0" * 32, patience_s=0.2)


def test_problems_are_our_errors(filled: Service, server: Server, client: Client, plan_uid: str) -> None:
    with pytest.raises(JobError, match="has no job"):
        client.job("0" * 32)
    with pytest.raises(JobError, match="has no job"):
        client.wait("0" * 32)
    with pytest.raises(ConfigError, match=r"options\.sed"):
        client.evaluate(plan_uid, sed=1)
    with pytest.raises(DicomError, match=r"1\.2\.3"):
        client.evaluate("1.2.3")
    viewer = Client(server.url, filled.tokens[HERE, "viewer"])  # type: ignore[index]
    with pytest.raises(AccessError, match="may not"):
        viewer.evaluate(plan_uid)
    with pytest.raises(AccessError, match="unknown, expired or revoked"):
        Client(server.url, "dsg_" + "A" * 43).plans()


def test_login(filled: Service, server: Server) -> None:
    filled.services.users.add(HERE, "p.hysicist", Role.PHYSICIST, PASSWORD)
    with Client(server.url) as client:
        with pytest.raises(AccessError):
            client.plans()
        client.login(HERE, "p.hysicist", PASSWORD)
        assert len(client.plans()) == 1


@pytest.mark.parametrize("url", ["http://doseeng.example", "ftp://localhost", "doseeng.example", ""])
def test_tokens_are_not_sent_in_the_clear(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOSEENG_URL", raising=False)
    with pytest.raises(ConfigError, match="no address of a service"):
        Client(url, "token")


def test_address_and_token_of_the_environment(filled: Service, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOSEENG_URL", server.url)
    monkeypatch.setenv("DOSEENG_TOKEN", filled.tokens[HERE, "viewer"])  # type: ignore[index]
    with Client() as client:
        assert len(client.plans()) == 1


@pytest.fixture
def watch(filled: Service, server: Server) -> Callable[..., httpx.Response]:
    def get(job_id: str, seen: str = "") -> httpx.Response:
        headers = {**filled.headers("viewer"), **({"Last-Event-ID": seen} if seen else {})}
        return httpx.get(f"{server.url}/api/v1/jobs/{job_id}/events", headers=headers, timeout=30)

    return get


def test_events_resume_where_the_reader_left_off(
    filled: Service, client: Client, plan_uid: str, watch: Callable[..., httpx.Response]
) -> None:
    job = client.evaluate(plan_uid, seed=103)
    filled.finish(job.id)
    whole = watch(job.id)
    assert whole.headers["content-type"].startswith("text/event-stream")
    assert whole.headers["cache-control"] == "no-store"
    retry, event, rest = whole.text.split("\n\n")
    assert (retry, rest) == ("retry: 1000", "")
    lines = dict(line.split(": ", 1) for line in event.splitlines())
    assert lines["event"] == "end"
    assert '"verdict":"RED"' in lines["data"]
    assert watch(job.id, lines["id"]).status_code == 204
    assert "event: end" in watch(job.id, "something-older").text


def test_streams_speak_and_end(
    client: Client, plan_uid: str, watch: Callable[..., httpx.Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(events, "LONGEST_S", 0.3)
    job = client.evaluate(plan_uid, seed=104)
    text = watch(job.id).text
    assert text.count("event: progress") == 1
    assert text.count(": still there") >= 2
    assert "event: end" not in text


def test_streams_of_one_user_are_counted_and_given_back(
    filled: Service, server: Server, client: Client, plan_uid: str
) -> None:
    job = client.evaluate(plan_uid, seed=105)
    url, headers = f"{server.url}/api/v1/jobs/{job.id}/events", filled.headers("service")
    streams = filled.app.state.doseeng.streams
    with httpx.Client(headers=headers) as http:
        opened = [http.stream("GET", url) for _ in range(streams.most)]
        answers = [stream.__enter__() for stream in opened]
        assert {answer.status_code for answer in answers} == {200}
        assert http.get(url).status_code == 429
        for stream in opened:
            stream.__exit__(None, None, None)
    for _ in range(500):
        if not streams._open:
            break
        time.sleep(0.02)
    assert not streams._open


def test_command_line(
    filled: Service,
    server: Server,
    client: Client,
    case_folder: Path,
    plan_uid: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOSEENG_URL", server.url)
    monkeypatch.setenv("DOSEENG_TOKEN", filled.tokens[HERE, "physicist"])  # type: ignore[index]
    monkeypatch.setenv("COLUMNS", "200")
    run = CliRunner().invoke
    assert "0 of them new" in run(remote.app, ["upload", str(case_folder)]).output
    assert plan_uid in run(remote.app, ["plans"]).output
    job = client.evaluate(plan_uid, seed=200)
    files = {"report.html": ("text/html", b"page"), "CT/0001.dcm": ("application/dicom", b"slice")}
    filled.finish(job.id, "RED", files)
    ended = run(remote.app, ["fetch", job.id, "--out", str(tmp_path), "--json"])
    assert ended.exit_code == 2
    assert json.loads(ended.output)["verdict"] == "RED"
    assert (tmp_path / "CT" / "0001.dcm").read_bytes() == b"slice"
    flag = next(flag["id"] for flag in client.worklist() if flag["job_id"] == job.id)
    assert flag in run(remote.app, ["worklist"]).output
    assert run(remote.app, ["acknowledge", flag, "-m", "seen"]).exit_code == 0
    assert flag not in run(remote.app, ["worklist"]).output


def test_files_of_a_strange_service_stay_in_the_folder(
    filled: Service, server: Server, plan_uid: str, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOSEENG_URL", server.url)
    monkeypatch.setenv("DOSEENG_TOKEN", filled.tokens[HERE, "physicist"])  # type: ignore[index]
    job = client.evaluate(plan_uid, seed=201)
    filled.finish(job.id, "RED", {"../escaped": ("text/html", b"page")})
    ended = CliRunner().invoke(remote.app, ["fetch", job.id, "--out", str(tmp_path / "here")])
    assert isinstance(ended.exception, PeerError)
    assert not (tmp_path / "escaped").exists()
