"""Many clients at once on one machine: `python -m benchmarks.load [--clients 50] [--seconds 120]`.

Starts `doseeng serve` on an empty folder. The clients arrive evenly over the first half minute. Each uploads a case of
its own (38 DICOM objects, another patient, other UIDs), asks for an evaluation of it, and then looks once a
second, in turn, at its job, at the list of jobs, at the worklist and at who it is: with 50 clients 45 light calls a
second. One in ten follows its job with server-sent events instead (`cluster.client.Client.wait`). Service, its jobs and
clients share the machine. At the end every job that was asked for must be listed once, and be done.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import io
import json
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import psutil

from benchmarks.service import service
from benchmarks.watercases import write_water_cases
from cluster.client import Client
from doseeng.errors import DoseengError

CONFIG: Final = """\
data_dir = "data"
[api]
port = 0
requests_per_minute = 100000
[dicom]
port = 0
[executor]
kind = "{executor}"
"""
TARGET_MS: Final = 200.0
ARRIVE_S: Final = 30.0
PAUSE_S: Final = 1.0
FOLLOWERS: Final = 10
"""One client of so many follows its job by events."""
DRAIN_S: Final = 1800.0
HEAVY: Final = ("upload", "submit")
"""Calls that are not light."""


@dataclass(slots=True)
class Seen:
    """What the clients met. seconds: of each call, by what was called. jobs: ids of those that were asked for."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: collections.defaultdict(list))
    errors: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    followed: int = 0
    drain_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Server:
    """Where the service is and what it takes to be let in."""

    url: str
    token: str
    pid: int


def packed(folder: Path) -> bytes:
    """A folder as a ZIP archive."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    return made.getvalue()


async def timed(seen: Seen, what: str, call: Any) -> Any:
    """The JSON of an answer, or None for an error, which is noted."""
    start = time.perf_counter()
    try:
        answer = await call
    except httpx.HTTPError as error:
        seen.errors.append(f"{what}: {type(error).__name__}")
        return None
    seen.seconds[what].append(time.perf_counter() - start)
    if answer.is_error:
        seen.errors.append(f"{what}: {answer.status_code} {answer.text[:200]}")
        return None
    return answer.json()


async def client(number: int, http: httpx.AsyncClient, server: Server, case: tuple[bytes, str], seen: Seen) -> None:
    """One client: brings its case, asks, and follows or looks until it is cancelled."""
    archive, plan_uid = case
    headers = {"Content-Type": "application/zip"}
    await timed(seen, "upload", http.post("/objects", content=archive, headers=headers))
    body = {"kind": "evaluate", "plan_uid": plan_uid, "options": {"scenarios": "nominal"}}
    job = await timed(seen, "submit", http.post("/jobs", json=body))
    if job is None:
        return
    seen.jobs.append(job["id"])
    if number % FOLLOWERS == 0:
        await asyncio.to_thread(follow, server, job["id"], seen)
        return
    looks = (("job", f"/jobs/{job['id']}"), ("jobs", "/jobs?limit=20"), ("worklist", "/worklist?limit=20"))
    for what, path in cycle((*looks, ("me", "/me"))):
        began = time.monotonic()
        await timed(seen, what, http.get(path))
        await asyncio.sleep(max(0.0, PAUSE_S - (time.monotonic() - began)))


def follow(server: Server, job_id: str, seen: Seen) -> None:
    """Wait for a job by its events."""
    try:
        with Client(server.url, server.token) as one:
            one.wait(job_id)
        seen.followed += 1
    except DoseengError as error:
        seen.errors.append(f"events: {type(error).__name__} {error}")


async def storm(server: Server, cases: list[tuple[bytes, str]], seconds: float) -> Seen:
    """All clients for so long, then silence until every job has ended."""
    seen = Seen()
    limits = httpx.Limits(max_connections=len(cases), max_keepalive_connections=len(cases))
    headers = {"Authorization": f"Bearer {server.token}"}
    async with httpx.AsyncClient(
        base_url=f"{server.url}/api/v1", headers=headers, timeout=60.0, limits=limits, trust_env=False
    ) as http:
        end = time.monotonic() + seconds
        clients = []
        for number, case in enumerate(cases):
            clients.append(asyncio.create_task(client(number, http, server, case, seen)))
            await asyncio.sleep(ARRIVE_S / len(cases))
        await asyncio.sleep(max(0.0, end - time.monotonic()))
        watching, followers = clients[:], [task for n, task in enumerate(clients) if n % FOLLOWERS == 0]
        for task in watching:
            if task not in followers:
                task.cancel()
        await _drained(http, seen)
        await asyncio.gather(*followers)
        await asyncio.gather(*watching, return_exceptions=True)
    return seen


async def _drained(http: httpx.AsyncClient, seen: Seen) -> None:
    """Wait until no job waits or runs; each that was asked for must then be listed once, as done."""
    began = time.monotonic()
    states: dict[str, list[str]] = {}
    while time.monotonic() - began < DRAIN_S:
        states, page = collections.defaultdict(list), "/jobs?limit=500"
        while page:
            answer = (await http.get(page)).json()
            for job in answer["jobs"]:
                states[job["state"]].append(job["id"])
            page = f"/jobs?limit=500&before={answer['next']}" if answer["next"] else ""
        if not states["queued"] and not states["running"]:
            break
        await asyncio.sleep(5.0)
    seen.drain_s = time.monotonic() - began
    if sorted(states["done"]) != sorted(seen.jobs) or set(filter(states.get, states)) != {"done"}:
        counts = {state: len(ids) for state, ids in states.items() if ids}
        seen.errors.append(f"{len(seen.jobs)} jobs were asked for, those listed ended as {counts}")


def main(arguments: list[str]) -> int:
    """Print the times of calls; the exit code tells whether no call failed and the light ones were quick."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--executor", default="in-process")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = [(packed(made.folder), made.plan_uid) for made in write_water_cases(folder / "cases", asked.clients)]
        config = folder / "doseeng.toml"
        config.write_text(CONFIG.format(executor=asked.executor))
        with service(config) as run:
            state = json.loads((run / "api.json").read_text())
            token = (folder / "data" / "operator.token").read_text().strip()
            server = Server(f"http://127.0.0.1:{state['port']}", token, state["pid"])
            before = psutil.Process(server.pid).memory_info().rss
            seen = asyncio.run(storm(server, cases, asked.seconds))
            after = psutil.Process(server.pid).memory_info().rss
    return _report(seen, asked, before, after)


def _report(seen: Seen, asked: argparse.Namespace, before: int, after: int) -> int:
    print(
        f"{asked.clients} clients for {asked.seconds:.0f} s: {len(seen.jobs)} jobs, {seen.followed} of them followed "
        f"by events, all ended {seen.drain_s:.0f} s later; {len(seen.errors)} errors"
    )
    for what, seconds in seen.seconds.items():
        _show(what, seconds)
    p95 = _show("light calls", [s for what, all_s in seen.seconds.items() if what not in HEAVY for s in all_s])
    print(f"memory of the API process: {before / 2**20:.0f} MB before, {after / 2**20:.0f} MB after")
    for error, count in collections.Counter(seen.errors).most_common(10):
        print(f"{count} x {error}", file=sys.stderr)
    return 0 if not seen.errors and p95 < TARGET_MS else 1


def _show(what: str, seconds: list[float]) -> float:
    median, p95, largest = 1000.0 * np.quantile(seconds, (0.5, 0.95, 1.0))
    print(f"{what:12s} {len(seconds):6d} calls, median {median:6.0f} ms, 95 % {p95:6.0f} ms, largest {largest:6.0f} ms")
    return float(p95)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
