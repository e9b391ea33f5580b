"""Which processes belong to a Ray, and where they listen."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def ray_processes(of: int, containing: str = "") -> list[int]:
    """Ray's processes below process `of` whose command line contains a text."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in found.splitlines()]
    below, grown = {of}, True
    while grown:
        more = {int(pid) for pid, parent, _ in rows if int(parent) in below} - below
        grown = bool(more)
        below |= more
    is_ray = [(int(pid), text) for pid, _, text in rows if "/ray/" in text or text.startswith("ray::")]
    return [pid for pid, text in is_ray if pid in below - {of} and containing in text]


def listening(pids: list[int]) -> set[str]:
    """Hexadecimal addresses that processes listen at, out of /proc."""
    sockets = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                sockets.add(os.readlink(entry))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].rpartition(":")[0])
    return found
