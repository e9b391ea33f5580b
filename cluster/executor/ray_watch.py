"""Whether a Ray cluster still lives, found out faster than Ray does itself: it waits a minute for its control store
(GCS) and then ends the process that waited."""

from __future__ import annotations

import socket
import threading
import time
from typing import Final

from cluster.executor.protocol import ExecutorLost

ASK_S: Final = 1.0
"""How often the control store is asked at most."""
PATIENCE_S: Final = 5.0
"""A control store that nobody answers for is believed to be restarting for so long."""
CONNECT_S: Final = 2.0


class Watch:
    """Watches the control store at `address` ("host:port")."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._lock = threading.Lock()
        self._asked = time.monotonic()
        self._silent_since: float | None = None

    def require_alive(self) -> None:
        """ExecutorLost when the control store has not been there for PATIENCE_S."""
        with self._lock:
            if time.monotonic() - self._asked < ASK_S:
                return
            answers = self._answers()
            now = self._asked = time.monotonic()
            self._silent_since = None if answers else now if self._silent_since is None else self._silent_since
            silent_s = 0.0 if self._silent_since is None else now - self._silent_since
        if silent_s >= PATIENCE_S:
            raise ExecutorLost(
                f"the Ray cluster at {self._host}:{self._port} has not answered for {silent_s:.0f} s; start it again, "
                "the jobs that ran on it are done again"
            )

    def _answers(self) -> bool:
        try:
            socket.create_connection((self._host.strip("[]"), self._port), timeout=CONNECT_S).close()
        except OSError:
            return False
        return True
