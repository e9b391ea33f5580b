"""TLS with dcmtk, and the socket below DICOM: strangers cost little and block nobody."""

import socket
import struct

import pytest

from cluster.node.send import send_objects
from cluster.node.transport import LARGEST_PDU_BYTES
from cluster.security.certificates import Made, make_certificates
from cluster.service.config import Tls
from doseeng.errors import PeerError

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_certificates(tmp_path_factory.mktemp("certificates"), ["localhost", HOST])


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Certificates of another authority."""
    return make_certificates(tmp_path_factory.mktemp("strangers"), ["localhost", HOST])


def tls_of(made: Made, authority: bool = True) -> dict:
    return {
        "certificate": str(made.server),
        "key": str(made.server_key),
        "authority": str(made.authority) if authority else "",
    }


@pytest.mark.parametrize("is_mutual", [False, True])
def test_store_over_tls(make_services, serve, dcmtk, patient, made: Made, strangers: Made, is_mutual: bool) -> None:
    services = make_services(dicom={"port": 0, "timeout_s": 5.0, "tls": tls_of(made, is_mutual)})
    names = ("-aet", "LINAC", "-aec", "DOSEENG")
    with serve(services) as node:
        trusting = ("+cf", made.authority)
        known = dcmtk(
            "storescu", "+tls", made.client_key, made.client, *trusting, *names, HOST, node.port, *patient.cbct_files
        )
        assert known.returncode == 0, known.stderr
        assert len(services.library.instances("north")) == len(patient.cbct_files)
        nameless = dcmtk("echoscu", "+tla", *trusting, *names, HOST, node.port)
        stranger = dcmtk("echoscu", "+tls", strangers.client_key, strangers.client, *trusting, *names, HOST, node.port)
        assert (nameless.returncode != 0) == is_mutual
        assert (stranger.returncode != 0) == is_mutual
        assert dcmtk("echoscu", *names, "-to", "3", "-ta", "3", HOST, node.port).returncode != 0
        mistrusting = dcmtk("echoscu", "+tla", "+cf", strangers.authority, *names, HOST, node.port)
        assert mistrusting.returncode != 0


def test_send_over_mutual_tls(storescp, patient, made: Made, strangers: Made) -> None:
    tls = Tls(certificate=str(made.client), key=str(made.client_key), authority=str(made.authority))
    receiver = storescp("+tls", made.server_key, made.server, "+cf", made.authority, "-rc", tls=tls)
    assert send_objects(receiver, patient.cbct_files[:3], "DOSEENG", 10.0) == 3
    assert len(receiver.files) == 3
    mistrusting = Tls(certificate=str(made.client), key=str(made.client_key), authority=str(strangers.authority))
    with pytest.raises(PeerError, match="certificates"):
        send_objects(storescp("+tls", made.server_key, made.server, "-ic", tls=mistrusting), patient.cbct_files, "X")


def test_a_peer_that_never_speaks_tls_blocks_nobody(make_services, serve, dcmtk, made: Made) -> None:
    services = make_services(dicom={"port": 0, "timeout_s": 5.0, "tls": tls_of(made, authority=False)})
    with serve(services) as node, socket.create_connection((HOST, node.port)):
        done = dcmtk(
            "echoscu", "+tla", "+cf", made.authority, "-aet", "LINAC", "-aec", "DOSEENG", HOST, node.port, timeout=4
        )
        assert done.returncode == 0, done.stderr


def test_a_message_without_end_is_cut_off(make_services, serve, wait_until) -> None:
    services = make_services(dicom={"port": 0, "timeout_s": 0.5})
    with serve(services) as node:
        with socket.create_connection((HOST, node.port)) as peer:
            peer.sendall(struct.pack(">BBL", 1, 0, 0xFFFFFFFF))
            peer.settimeout(10.0)
            assert peer.recv(100) == b""
        with socket.create_connection((HOST, node.port)) as peer:
            peer.sendall(struct.pack(">BBL", 1, 0, LARGEST_PDU_BYTES) + b"\0")
            peer.settimeout(10.0)
            assert peer.recv(100) == b""


def test_connections_have_an_end(make_services, serve, dcmtk, wait_until) -> None:
    services = make_services(dicom={"port": 0, "timeout_s": 2.0, "max_associations": 1})
    with serve(services) as node:
        idle = [socket.create_connection((HOST, node.port)) for _ in range(11)]
        wait_until(lambda: _is_closed(socket.create_connection((HOST, node.port))), "no more are taken", 5.0)
        for connection in idle:
            connection.close()
        echo = ("echoscu", "-aet", "LINAC", "-aec", "DOSEENG", HOST, node.port)
        wait_until(lambda: dcmtk(*echo).returncode == 0, "there is room again", 10.0)


def _is_closed(connection: socket.socket) -> bool:
    with connection:
        connection.settimeout(0.3)
        try:
            return connection.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True
