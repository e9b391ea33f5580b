"""Environments of peers under `.peers/`, each with its own packages, and scripts that run in them.

Peers are no dependencies: they live apart, so that their needs never mix with those of doseeng.
"""

from __future__ import annotations

import json
import subprocess
import venv
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / ".peers"


class PeerMissing(Exception):
    """The peer cannot be installed or run here; the message says why."""


def ensure_environment(name: str, *requirements: str, with_system_packages: bool = False) -> Path:
    """The Python of the environment `.peers/NAME`, which is made first if it is absent or holds other requirements."""
    folder = FOLDER / name
    python, stamp, wanted = folder / "bin" / "python", folder / "installed.txt", "\n".join(requirements)
    if not (python.exists() and stamp.is_file() and stamp.read_text() == wanted):
        venv.create(folder, with_pip=True, clear=True, system_site_packages=with_system_packages)
        _run(f"the installation of {name}", python, "-m", "pip", "install", "--quiet", *requirements)
        stamp.write_text(wanted)
    return python


def run_script(python: Path, script: Path, *arguments: object) -> dict[str, Any]:
    """What a script says in the last line it prints, which is JSON; PeerMissing with its complaint when it fails."""
    printed = _run(script.name, python, script, *arguments)
    said: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return said


def _run(what: str, *command: object) -> str:
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True)
    if done.returncode:
        raise PeerMissing(f"{what} failed with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout
