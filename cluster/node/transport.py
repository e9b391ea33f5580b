"""The listening side below DICOM: what a peer may cost us in time, memory, threads and connections.

pynetdicom serves an association with two threads and trusts its peer: it waits for ever for the rest of a message,
takes a message of any length, makes the TLS handshake while nobody else can connect, and leaves threads behind when a
message is so broken that one of them dies. The classes here bound all that; what DICOM itself says is left to it.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from socketserver import TCPServer
from typing import Any, Final

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

LARGEST_PDU_BYTES: Final = 1 << 20
"""No PDU of ours may be longer than `MAXIMUM_PDU_BYTES`, and a request for an association has a few kB."""
MAXIMUM_PDU_BYTES: Final = 1 << 17
"""The length of data PDUs that we ask peers for (PS3.8 annex D.1): a slice in a few of them."""
LARGEST_OBJECT_BYTES: Final = 1 << 30
"""Objects are received into memory, so that an interrupted one leaves nothing behind; the largest dose has 200 MB."""
LARGEST_COMMAND_BYTES: Final = 1 << 16
MOST_WAITING: Final = 8
"""Requests that a peer may send ahead of our answers; without asynchronous operations it should be one."""
SPARE_CONNECTIONS: Final = 10
"""Connections beyond the associations allowed: those that are being rejected, or have not yet said what they want."""
PDU_PATIENCE: Final = 4.0
"""In timeouts: a PDU must be complete after so long, even when something of it keeps coming."""

_log = logging.getLogger(__name__)


class Handler(RequestHandler):
    """One connection, in a thread of its own: starts the association and sees to it that all of it ends."""

    server: NodeServer

    def handle(self) -> None:
        """Serve the association until it has ended."""
        association = self._create_association()
        _bound(association, self.server.timeout_s)
        _contain(association, self.client_address[0])
        _contain(association.dul, self.client_address[0])
        evt.trigger(association, evt.EVT_CONN_OPEN, {"address": self.client_address})
        association.start()
        association.join()
        _end(association)
        self.server.on_end(association)


class NodeServer(ThreadedAssociationServer):
    """Takes connections; the TLS handshake is made in the connection's own thread.

    on_end: called in that thread with every association that has ended, however it did.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        contexts: list[PresentationContext],
        tls: ssl.SSLContext | None,
        handlers: list[Any],
        on_end: Callable[[Association], None],
    ) -> None:
        self.on_end = on_end
        self.timeout_s = float(ae.network_timeout or 0.0)
        super().__init__(ae, address, ae.ae_title, contexts, tls, handlers, request_handler=Handler)
        self._places = threading.BoundedSemaphore(self.ae.maximum_associations + SPARE_CONNECTIONS)

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection, with a timeout on every wait for its peer."""
        assert self.socket is not None
        connection, address = self.socket.accept()
        connection.settimeout(self.timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread if there is a place left, otherwise end it."""
        if not self._places.acquire(blocking=False):
            _log.warning("node: too many connections, one from %s is refused", client_address[0])
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads
            self._places.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In the connection's thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Make the handshake, then handle."""
        if self.ssl_context is not None:
            try:
                request = self.ssl_context.wrap_socket(request, server_side=True)
            except (ssl.SSLError, OSError) as error:
                reason = getattr(error, "reason", None) or type(error).__name__
                _log.warning("node: no TLS with %s (%s)", client_address[0], reason)
                request.close()
                return
        super().finish_request(request, client_address)

    def shutdown(self) -> None:
        """Take no more connections; those that are open go on."""
        TCPServer.shutdown(self)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A failure of one connection; the others go on."""
        _log.exception("node: connection of %s failed; this is a bug in doseeng", client_address[0])


def _bound(association: Association, timeout_s: float) -> None:
    """Let the association's socket refuse what is too long, too late or too much; pynetdicom then ends it."""
    # Otherwise half a minute, for a peer that never says what it wants or does not hang up (PS3.8 section 9.1.4).
    association.dul.artim_timer.timeout = timeout_s
    connection = association.dul.socket
    assert connection is not None

    def bounded(nr_bytes: int) -> bytearray:
        length = nr_bytes
        if length > LARGEST_PDU_BYTES or association.dimse.msg_queue.qsize() > MOST_WAITING:
            raise OSError("the peer sends more than it may")
        message = association.dimse.message
        if message is not None and (
            (message.data_set is not None and message.data_set.tell() > LARGEST_OBJECT_BYTES)
            or message.encoded_command_set.tell() > LARGEST_COMMAND_BYTES
        ):
            raise OSError("the peer sends an object that is too large")
        end = time.monotonic() + PDU_PATIENCE * timeout_s
        taken = bytearray()
        while len(taken) < length and connection.socket and (part := connection.socket.recv(length - len(taken))):
            if time.monotonic() > end:
                raise OSError("the peer takes too long")
            taken += part
        return taken

    connection.recv = bounded  # type: ignore[method-assign]


def _contain(thread: threading.Thread, address: str) -> None:
    """Let a thread of pynetdicom end quietly by whatever a malformed message does to it: its traceback would quote
    what the peer sent. `_end` clears up after it."""
    run = thread.run

    def contained() -> None:
        try:
            run()
        except Exception as error:  # noqa: BLE001 (a process edge: one association of many)
            _log.warning("node: an association with %s broke down (%s)", address, type(error).__name__)

    thread.run = contained  # type: ignore[method-assign]


def _end(association: Association) -> None:
    """Whatever became of the association's own thread: end the other one, close the socket, drop what was half read."""
    association.dul.kill_dul()
    if association.dul.is_alive():
        association.dul.join(timeout=5.0)
    connection = association.dul.socket
    if connection is not None and connection.socket is not None:
        with contextlib.suppress(OSError):
            connection.socket.close()
    association.dimse.message = None
