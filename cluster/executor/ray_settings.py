"""How Ray is set up: token authentication on, dashboard and usage statistics off, one machine's own Ray on loopback.

All of it is environment, which Ray reads when it is imported and which its processes inherit. Settings that a person
made stay, but for the authentication: doseeng runs no Ray that anyone may use.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final

LOOPBACK: Final = "127.0.0.1"
OBJECT_STORE_BYTES: Final = 2 << 30
"""Most shared memory of one machine's own Ray: partial statistics of a few jobs, of which Ray spills to disk what is
too much."""
OBJECT_STORE_SHARE: Final = 0.2
"""Of the machine's memory, where that is less."""
OOM_RETRIES: Final = "2"
"""How often a unit runs again that was killed because memory ran out; Ray's own default is for ever."""
TOKEN_VARIABLES: Final = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
DEFAULT_TOKEN_PATH: Final = Path(".ray") / "auth_token"
"""Below the user's home: where Ray itself looks for a token (Ray 2.60, "Token authentication")."""


def prepare_environment(
    *, stays_here: bool, environment: MutableMapping[str, str] | None = None, token: Path | None = None
) -> None:
    """Set what Ray reads. stays_here: Ray listens on loopback alone, on all its ports. token: its file; without it, and
    without a token in the environment, Ray looks for the user's."""
    env = os.environ if environment is None else environment
    env["RAY_AUTH_MODE"] = "token"
    env["RAY_USAGE_STATS_ENABLED"] = "0"
    # Without it a call after Ray has ended would quietly start another Ray, with none of these settings.
    env["RAY_ENABLE_AUTO_CONNECT"] = "0"
    env.setdefault("RAY_task_oom_retries", OOM_RETRIES)
    if stays_here:
        # Ray's switch for machines where it must not listen to the network; its name tells where that was first needed.
        env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if token is not None:
        env["RAY_AUTH_TOKEN_PATH"] = str(token)


def passing_token(environment: MutableMapping[str, str] | None = None) -> None:
    """A token for the Ray of one process: random, in the environment of its processes, never on disk."""
    env = os.environ if environment is None else environment
    if not any(env.get(name) for name in TOKEN_VARIABLES):
        env["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can connect to a host."""
    return host in ("localhost", "::1") or host.startswith("127.")


def token_file(home: Path | None = None) -> Path:
    """The token of this user's cluster: made when there is none, readable by this user alone in any case."""
    path = (home or Path.home()) / DEFAULT_TOKEN_PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        path.chmod(0o600)
    else:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
    return path


def object_store_bytes() -> int:
    """Shared memory for Ray on this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(min(OBJECT_STORE_BYTES, OBJECT_STORE_SHARE * memory))
