"""Many clients at once on one machine: `python -m benchmarks.load [--clients 50] [--seconds 120]`.

Starts `doseeng serve` on an empty folder. Each client uploads a small case, asks for an evaluation, then looks at its
job, the list of jobs and the worklist once a second, and begins again. The clients share the machine with the service
and its jobs. At the end every job that was asked for must be done, once.
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
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import psutil

from benchmarks.service import service
from benchmarks.watercases import write_water_case

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
ROUND_S: Final = 30.0
"""A client begins again this often."""
PAUSE_S: Final = 1.0
DRAIN_S: Final = 1800.0


@dataclass(slots=True)
class Seen:
    """What the clients met. seconds: of each call, by what was called. jobs: ids of those that were asked for."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: collections.defaultdict(list))
    errors: list[str] = field(default_factory=list)
    jobs: set[str] = field(default_factory=set)


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


async def client(number: int, http: httpx.AsyncClient, archive: bytes, plan_uid: str, seen: Seen, end: float) -> None:
    """One client until `end`."""
    await asyncio.sleep(ROUND_S * number / 50)
    turn = 0
    while time.monotonic() < end:
        turn += 1
        next_round = time.monotonic() + ROUND_S
        headers = {"Content-Type": "application/zip"}
        await timed(seen, "upload", http.post("/objects", content=archive, headers=headers))
        body = {"kind": "evaluate", "plan_uid": plan_uid, "options": {"scenarios": "nominal", "seed": turn}}
        job = await timed(seen, "submit", http.post("/jobs", json=body))
        if job is not None:
            seen.jobs.add(job["id"])
        while time.monotonic() < min(next_round, end):
            for what, path in (("job", f"/jobs/{job['id']}" if job else "/me"), ("jobs", "/jobs?limit=20"),
                               ("worklist", "/worklist?limit=20"), ("me", "/me")):  # fmt: skip
                await timed(seen, what, http.get(path))
            await asyncio.sleep(PAUSE_S)


async def storm(base: str, token: str, cases: list[tuple[bytes, str]], seconds: float) -> Seen:
    """All clients at once, then no more until every job has ended."""
    seen = Seen()
    end = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=len(cases), max_keepalive_connections=len(cases))
    async with httpx.AsyncClient(
        base_url=base, headers={"Authorization": f"Bearer {token}"}, timeout=60.0, limits=limits
    ) as http:
        await asyncio.gather(*(client(n, http, *case, seen, end) for n, case in enumerate(cases)))
        states: collections.Counter[str] = collections.Counter()
        drained = time.monotonic() + DRAIN_S
        while time.monotonic() < drained:
            states.clear()
            for job_id in seen.jobs:
                states[(await http.get(f"/jobs/{job_id}")).json()["state"]] += 1
            if not states["queued"] and not states["running"]:
                break
            await asyncio.sleep(5.0)
        if states != {"done": len(seen.jobs)}:
            seen.errors.append(f"{len(seen.jobs)} jobs were asked for, they ended as {dict(states)}")
    return seen


def main(arguments: list[str]) -> int:
    """Print the times of calls; the exit code tells whether no call failed and the light ones were quick."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--executor", default="in-process")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = []
        for number in range(asked.clients):
            plan_uid = write_water_case(folder / "cases" / str(number), number)
            cases.append((packed(folder / "cases" / str(number)), plan_uid))
        config = folder / "doseeng.toml"
        config.write_text(CONFIG.format(executor=asked.executor))
        with service(config) as run:
            port = json.loads((run / "api.json").read_text())["port"]
            token = (folder / "data" / "operator.token").read_text().strip()
            pid = json.loads((run / "api.json").read_text())["pid"]
            before = psutil.Process(pid).memory_info().rss
            seen = asyncio.run(storm(f"http://127.0.0.1:{port}/api/v1", token, cases, asked.seconds))
            after = psutil.Process(pid).memory_info().rss
    print(f"{asked.clients} clients for {asked.seconds:.0f} s, {len(seen.jobs)} jobs, {len(seen.errors)} errors")
    light = []
    for what, seconds in seen.seconds.items():
        if what not in ("upload", "submit"):
            light += seconds
        _show(what, seconds)
    p95 = _show("light calls", light)
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
