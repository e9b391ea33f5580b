"""Parts of the service, as far as they are no processes."""

import socket

from cluster.service.parts import listening_at


def test_connections_of_the_api_send_without_delay() -> None:
    with listening_at("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()) as client:
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert client.getpeername() == listening.getsockname()
