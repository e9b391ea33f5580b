"""A clinic's scripts against the service, in three lines:

    client = Client("https://doseeng.clinic.example:8080", token)
    client.upload("exported-plan")
    job = client.wait(client.evaluate(plan_uid))

Errors are those of `doseeng.errors`, with the service's own words: AccessError for tokens and roles, PeerError when the
service cannot be reached or cannot answer, ConfigError for wrong values, JobError and the others as the service raised
them.
"""

from __future__ import annotations

import json
import os
import ssl
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx

from doseeng import errors
from doseeng.errors import AccessError, ConfigError, DoseengError, JobError, PeerError

Progress = Callable[[str, int, int], None]
"""Called with stage, units done and units in all."""

ARCHIVE_BYTES: Final = 512 * 2**20
ARCHIVE_FILES: Final = 5000
"""A folder goes up in archives of at most so much."""
PATIENCE_S: Final = 120.0
"""How long `wait` goes on while the service cannot be reached: a restart takes seconds."""
_TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0)
"""Event streams say something every 15 s."""
_RECONNECT_S: Final = 1.0
_TOO_MANY: Final = 429
_TRIES: Final = 4
_LONGEST_WAIT_S: Final = 60.0
_AWAY: Final = (502, 503, 504)


@dataclass(frozen=True, slots=True)
class RemoteJob:
    """A job of the service. state: queued, running, done, failed or cancelled. error: "" unless it failed. artifacts:
    names of its files."""

    id: str
    kind: str
    state: str
    stage: str
    done: int
    total: int
    verdict: str
    summary: dict[str, Any]
    error: str
    artifacts: tuple[str, ...]

    @staticmethod
    def of(data: Mapping[str, Any]) -> RemoteJob:
        """From the JSON of the service."""
        error = data["error"]
        said = f"{error['kind']}: {error['message']}" if error else ""
        names = tuple(artifact["name"] for artifact in data["artifacts"])
        same = {name: data[name] for name in ("id", "kind", "state", "stage", "done", "total", "verdict")}
        return RemoteJob(**same, summary=data["summary"] or {}, error=said, artifacts=names)


@dataclass(frozen=True, slots=True)
class Uploaded:
    """objects: what the service took, as it says. refused: files that it did not, and why."""

    objects: tuple[dict[str, Any], ...]
    refused: dict[str, str]


class Client:
    """url, token: "" for those of the environment (DOSEENG_URL, DOSEENG_TOKEN). authority: PEM file of who signed the
    service's certificate, "" for those that the system trusts. certificate: PEM files of one's own certificate and key,
    for services that ask for one. ConfigError for an address that would send the token in the clear."""

    def __init__(
        self, url: str = "", token: str = "", *, authority: str = "", certificate: tuple[str, str] | None = None
    ) -> None:
        url = url or os.environ.get("DOSEENG_URL", "")
        token = token or os.environ.get("DOSEENG_TOKEN", "")
        parts = urlsplit(url)
        local = parts.hostname in ("127.0.0.1", "::1", "localhost")
        if parts.scheme != "https" and not (parts.scheme == "http" and local):
            raise ConfigError(
                f"'{url}' is no address of a service; expected https://HOST:PORT (http on this machine only)"
            )
        verify: bool | ssl.SSLContext = True
        if authority or certificate:
            verify = ssl.create_default_context(cafile=authority or None)
            if certificate:
                verify.load_cert_chain(*certificate)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/api/v1", headers=headers, verify=verify, timeout=_TIMEOUT, trust_env=not local
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def login(self, site: str, user: str, password: str) -> str:
        """A token for a working day, used from now on."""
        body = {"site": site, "user": user, "password": password}
        token = str(self._json("POST", "/login", json=body)["token"])
        self._http.headers["Authorization"] = f"Bearer {token}"
        return token

    def upload(self, path: str | Path) -> Uploaded:
        """Send a ZIP archive, a DICOM file, or all files below a folder. Names of files stay here."""
        path = Path(path)
        if not path.is_dir():
            kind = "application/zip" if zipfile.is_zipfile(path) else "application/dicom"
            with path.open("rb") as file:
                answer = self._json("POST", "/objects", content=file, headers={"Content-Type": kind})
            return _uploaded(answer, lambda entry: f"{path.name}, entry {entry}" if entry else path.name)
        objects: list[dict[str, Any]] = []
        refused: dict[str, str] = {}
        for files in _in_archives(sorted(file for file in path.rglob("*") if file.is_file())):
            part = self._upload_files(files, path)
            objects += part.objects
            refused |= part.refused
        return Uploaded(tuple(objects), refused)

    def plans(self, patient_key: str = "") -> list[dict[str, Any]]:
        """Plans of the site, the latest first."""
        return list(self._json("GET", "/plans", params={"patient_key": patient_key}))

    def series(self, patient_key: str = "") -> list[dict[str, Any]]:
        """Series of the site, the latest first."""
        return list(self._json("GET", "/series", params={"patient_key": patient_key}))

    def dose(self, plan_uid: str, **options: Any) -> RemoteJob:
        """Ask for the dose of a plan. options: as `cluster.workflows.options.DoseOptions`."""
        return self._submit(kind="dose", plan_uid=plan_uid, options=options)

    def evaluate(self, plan_uid: str, **options: Any) -> RemoteJob:
        """Ask for the robustness of a plan. options: as `cluster.workflows.options.EvaluateOptions`."""
        return self._submit(kind="evaluate", plan_uid=plan_uid, options=options)

    def adapt(self, plan_uid: str, series_uid: str, **options: Any) -> RemoteJob:
        """Ask for the judgement of a day's image. options: as `cluster.workflows.options.AdaptOptions`."""
        return self._submit(kind="adapt", plan_uid=plan_uid, series_uid=series_uid, options=options)

    def job(self, job: RemoteJob | str) -> RemoteJob:
        """The job as it stands now."""
        return RemoteJob.of(self._json("GET", f"/jobs/{_id(job)}"))

    def jobs(self, **wanted: Any) -> Iterator[RemoteJob]:
        """Jobs of the site, newest first. wanted: state, kind, verdict, batch, patient_key, plan_uid."""
        before: dict[str, str] = {}
        while True:
            page = self._json("GET", "/jobs", params={**wanted, **before})
            yield from map(RemoteJob.of, page["jobs"])
            if page["next"] is None:
                return
            before = {"before": page["next"]}

    def cancel(self, job: RemoteJob | str) -> RemoteJob:
        """Call a job off."""
        return RemoteJob.of(self._json("POST", f"/jobs/{_id(job)}/cancel"))

    def wait(self, job: RemoteJob | str, progress: Progress | None = None, patience_s: float = PATIENCE_S) -> RemoteJob:
        """The job when it is done; comes again when the connection is lost. JobError when it failed or was cancelled,
        PeerError when the service has not answered for `patience_s`."""
        seen = ""
        heard = time.monotonic()
        while True:
            try:
                for event_id, name, data in self._events(_id(job), seen):
                    seen, heard = event_id, time.monotonic()
                    if name == "end":
                        return _ended(RemoteJob.of(data))
                    if progress is not None:
                        progress(data["stage"], data["done"], data["total"])
                heard = time.monotonic()
            except (httpx.TransportError, _Away) as error:
                if time.monotonic() - heard > patience_s:
                    raise PeerError(f"the service has not answered for {patience_s:.0f} s ({error})") from error
            time.sleep(_RECONNECT_S)

    def result(self, job: RemoteJob | str) -> dict[str, Any]:
        """What a job found. JobError before it is done."""
        return dict(self._json("GET", f"/jobs/{_id(job)}/result"))

    def download(self, job: RemoteJob | str, name: str, path: str | Path) -> Path:
        """A file of a job, such as "report.html" or "RD.dcm"; it appears complete or not at all."""
        path = Path(path)
        part = path.with_name(f".{path.name}.part")
        try:
            with self._http.stream("GET", f"/jobs/{_id(job)}/artifacts/{quote(name)}") as answer:
                if answer.is_error:
                    answer.read()
                    raise _error(answer)
                with part.open("wb") as file:
                    for chunk in answer.iter_bytes():
                        file.write(chunk)
            os.replace(part, path)
        except httpx.TransportError as error:
            raise PeerError(f"the service cannot be reached ({error})") from error
        finally:
            part.unlink(missing_ok=True)
        return path

    def batch(self, kind: str, plans: Sequence[str] | str = "under-treatment", **options: Any) -> str:
        """Ask the same about many plans (by default all under treatment); the name of the batch."""
        body = {"kind": kind, "plans": plans if isinstance(plans, str) else list(plans), "options": options}
        return str(self._json("POST", "/batches", json=body)["name"])

    def batch_status(self, name: str) -> dict[str, Any]:
        """Counts and jobs of a batch, the most urgent first."""
        return dict(self._json("GET", f"/batches/{quote(name, safe='')}"))

    def treat(self, plan_uid: str, **options: Any) -> None:
        """Put a plan under treatment: its days are judged as their images arrive."""
        self._json("PUT", f"/courses/{plan_uid}", json={"options": options})

    def end_treatment(self, plan_uid: str) -> None:
        """Take a plan out of treatment."""
        self._json("DELETE", f"/courses/{plan_uid}")

    def worklist(self, acknowledged: bool = False) -> list[dict[str, Any]]:
        """What a person has to look at, newest first; acknowledged: also what somebody took note of."""
        return list(self._json("GET", "/worklist", params={"acknowledged": acknowledged}))

    def acknowledge(self, flag_id: str, comment: str = "") -> dict[str, Any]:
        """Take note of a flag, in one's own name and for good."""
        return dict(self._json("POST", f"/worklist/{quote(flag_id, safe='')}/acknowledge", json={"comment": comment}))

    def _submit(self, **request: Any) -> RemoteJob:
        return RemoteJob.of(self._json("POST", "/jobs", json=request))

    def _json(self, method: str, path: str, **more: Any) -> Any:
        for _ in range(_TRIES):
            try:
                answer = self._http.request(method, path, **more)
            except httpx.TransportError as error:
                raise PeerError(
                    f"the service cannot be reached ({error}); check the address and that it runs"
                ) from error
            wait_s = float(answer.headers.get("Retry-After", "0"))
            if answer.status_code != _TOO_MANY or wait_s > _LONGEST_WAIT_S or "content" in more:
                break
            time.sleep(wait_s)
        if answer.is_error:
            raise _error(answer)
        return answer.json()

    def _upload_files(self, files: Sequence[Path], folder: Path) -> Uploaded:
        with tempfile.TemporaryFile() as packed:
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for number, file in enumerate(files, start=1):
                    archive.write(file, f"{number}")
            packed.seek(0)
            answer = self._json("POST", "/objects", content=packed, headers={"Content-Type": "application/zip"})
        return _uploaded(answer, lambda entry: str(files[entry - 1].relative_to(folder)))

    def _events(self, job_id: str, seen: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Id, name and data of the events of a job after the one that was `seen`; ends with the connection."""
        headers = {"Last-Event-ID": seen} if seen else {}
        with self._http.stream("GET", f"/jobs/{job_id}/events", headers=headers) as answer:
            if answer.status_code in (*_AWAY, _TOO_MANY):
                raise _Away(f"status {answer.status_code}")
            if answer.is_error:
                answer.read()
                raise _error(answer)
            fields: dict[str, str] = {}
            for line in answer.iter_lines():
                if line:
                    name, _, value = line.partition(":")
                    fields[name] = value.removeprefix(" ")
                elif "data" in fields:
                    yield fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"])
                    fields = {}


class _Away(Exception):
    """The service cannot answer now."""


def _ended(job: RemoteJob) -> RemoteJob:
    if job.state != "done":
        why = job.error or "it was called off"
        raise JobError(f"job {job.id} {job.state}: {why}")
    return job


def _id(job: RemoteJob | str) -> str:
    return quote(job if isinstance(job, str) else job.id, safe="")


def _in_archives(files: Sequence[Path]) -> Iterator[list[Path]]:
    """The files in groups that are small enough for one archive."""
    group: list[Path] = []
    size = 0
    for file in files:
        own = file.stat().st_size
        if group and (size + own > ARCHIVE_BYTES or len(group) == ARCHIVE_FILES):
            yield group
            group, size = [], 0
        group.append(file)
        size += own
    if group:
        yield group


def _uploaded(answer: Mapping[str, Any], name_of: Callable[[int], str]) -> Uploaded:
    refused = {name_of(entry["entry"]): entry["reason"] for entry in answer["refused"]}
    return Uploaded(tuple(answer["accepted"]), refused)


def _error(answer: httpx.Response) -> DoseengError:
    """The problem of an answer as one of our errors."""
    try:
        problem = answer.json()
    except json.JSONDecodeError:
        problem = {}
    detail = str(problem.get("detail", "")) or f"the service answered with status {answer.status_code}"
    faults = "; ".join(f"{fault['pointer']}: {fault['detail']}" for fault in problem.get("faults", ()))
    message = f"{detail}: {faults}" if faults else detail
    kind = getattr(errors, str(problem.get("error", "")), None)
    if isinstance(kind, type) and issubclass(kind, DoseengError):
        return kind(message)
    by_status: dict[int, type[DoseengError]] = {
        401: AccessError,
        403: AccessError,
        404: JobError,
        409: JobError,
        422: ConfigError,
    }
    return by_status.get(answer.status_code, PeerError)(message)
