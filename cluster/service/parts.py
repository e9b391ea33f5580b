"""One part of the service as a process: `python -m cluster.service.parts PART RUN_FOLDER [CONFIG]`.

api        the HTTP API
node       the DICOM node, and the rules that make jobs of what it receives
driver     works on jobs
messenger  sends what the outbox holds, and clears away what retention rules let go
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from cluster.operations.logs import set_up_logging
from cluster.security.audit import Action
from cluster.service.config import read_config
from cluster.service.services import Services, open_services, services_on
from cluster.service.supervisor import stop_on_signals, write_state
from doseeng.errors import DoseengError

RETENTION_EVERY_S: Final = 24 * 3600.0
NICE: Final = 10
STREAMS_END_S: Final = 5
"""Event streams would hold the API for minutes; their clients come again."""
MOST_CONNECTIONS: Final = 1000
API_PATIENCE_S: Final = 5.0
"""How long a request waits for a database that is away, before its caller is told to come again."""

_log = logging.getLogger(__name__)

WHOLE_SERVICE: Final = ""
"""In place of a site, of what concerns all."""

Ready = Callable[[dict[str, Any]], None]
"""Called once by a part when it takes work, with what it says of itself."""


def listening_at(host: str, port: int) -> socket.socket:
    """A socket for the HTTP API, whose connections send without delay."""
    listening = socket.create_server((host, port), backlog=1024, reuse_port=False)
    # Connections inherit it. asyncio would set it, but does not see that a socket of `create_server` is TCP: then the
    # second segment of an answer waits 40 ms for the acknowledgement of the first.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def serve_api(services: Services, stop: threading.Event, ready: Ready) -> None:
    """The HTTP API until `stop`."""
    import uvicorn

    from cluster.api.app import create_app
    from cluster.api.workers import Workers
    from cluster.security.certificates import server_context

    config = services.config
    impatient = services_on(config, replace(services.database, patience_s=API_PATIENCE_S))
    listening = listening_at(config.api.host, config.api.port)
    workers = Workers(config)
    settings = uvicorn.Config(
        create_app(impatient, workers.take),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=STREAMS_END_S,
        limit_concurrency=MOST_CONNECTIONS,
    )
    if config.api.tls is not None:
        settings.load()
        settings.ssl = server_context(config.api.tls)
    server = uvicorn.Server(settings)
    threading.Thread(target=_until, args=(stop, server), daemon=True).start()
    ready({"host": config.api.host, "port": listening.getsockname()[1]})
    try:
        server.run(sockets=[listening])
    finally:
        workers.close()


def serve_node(services: Services, stop: threading.Event, ready: Ready) -> None:
    """The DICOM node and its watcher until `stop`."""
    from cluster.node.server import Node
    from cluster.node.watcher import SeriesWatcher

    config = services.config
    node = Node(services)
    node.start()
    ready({"host": config.dicom.host, "port": node.port, "ae_title": config.dicom.ae_title})
    try:
        SeriesWatcher(services).run(stop)
    finally:
        node.stop()


def serve_driver(services: Services, stop: threading.Event, ready: Ready) -> None:
    """Work on jobs until `stop`, behind whatever people wait for on the same machine."""
    from cluster.executor.open import open_executor
    from cluster.jobs.driver import Driver
    from cluster.service.running import runner

    os.nice(NICE)
    config = services.config
    executor = open_executor(config.executor)
    name = f"{socket.gethostname()}-{os.getpid()}"
    driver = Driver(
        name, services.store, executor, services.blobs_of, runner(services), config.executor, config.data / "scratch"
    )
    ready({"driver": name, "executor": executor.description})
    try:
        driver.run(stop)
    finally:
        executor.close()


def serve_messenger(services: Services, stop: threading.Event, ready: Ready) -> None:
    """Send flags and results until `stop`; once a day clear away what is no longer kept."""
    from cluster.flags.outbox import Outbox
    from cluster.jobs.retention import sweep

    config = services.config

    def clear() -> None:
        while not stop.wait(RETENTION_EVERY_S):
            try:
                sweep(services.database, services.blobs_of, [site.name for site in config.site], config.retention)
            except DoseengError as error:
                _log.error("retention: %s", error)

    threading.Thread(target=clear, daemon=True, name="retention").start()
    ready({})
    Outbox(config, services.database, services.blobs_of, services.store).run(stop)


SERVED: Final = {"api": serve_api, "node": serve_node, "driver": serve_driver, "messenger": serve_messenger}


def _until(stop: threading.Event, server: Any) -> None:
    stop.wait()
    server.should_exit = True


def _stop_without_parent(stop: threading.Event) -> None:
    """The supervisor holds the other end of our input: its end means that it is gone."""
    # Not through sys.stdin: its lock would be held when the process ends.
    while os.read(sys.stdin.fileno(), 1):
        pass
    stop.set()


def main(part: str, run_folder: Path, config_path: Path | None) -> int:
    """Run one part; the exit code of its process."""
    set_up_logging(part)
    stop = threading.Event()
    stop_on_signals(stop)
    threading.Thread(target=_stop_without_parent, args=(stop,), daemon=True).start()
    try:
        services = open_services(read_config(config_path))
        try:
            note = partial(services.audit.append, site=WHOLE_SERVICE, actor=part, object_type="part", object_id=part)
            note(action=Action.START)
            SERVED[part](services, stop, lambda state: write_state(run_folder, part, state))
            note(action=Action.STOP)
        finally:
            services.close()
    except (DoseengError, OSError) as error:
        _log.error("%s: %s", type(error).__name__, error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None))
