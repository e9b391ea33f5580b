"""Certificates for development, and contexts that take them and nothing else."""

import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509

from cluster.security.certificates import Made, client_context, make_certificates, server_context
from cluster.service.config import Tls
from doseeng.errors import ConfigError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_certificates(tmp_path_factory.mktemp("tls") / "new", ["localhost", "127.0.0.1", "dose.example.org"])


def tls(made: Made, who: str, authority: bool = True) -> Tls:
    pair = {"server": (made.server, made.server_key), "client": (made.client, made.client_key), "": ("", "")}[who]
    return Tls(certificate=str(pair[0]), key=str(pair[1]), authority=str(made.authority) if authority else "")


def talk(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str:
    """Shake hands over a socket pair and say one thing; the protocol version. SSLError when either side refuses."""
    ours, theirs = socket.socketpair()
    failures: list[ssl.SSLError] = []

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as connection:
                connection.sendall(connection.recv(4))
        except ssl.SSLError as error:
            failures.append(error)
        except OSError:
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=host) as connection:
            connection.sendall(b"dose")
            assert connection.recv(4) == b"dose"
            return str(connection.version())
    finally:
        ours.close()
        theirs.close()
        thread.join()
        if failures:
            raise failures[0]


def test_files_are_private_and_say_what_they_are_for(made: Made) -> None:
    for key in (made.authority_key, made.server_key, made.client_key):
        assert key.stat().st_mode & 0o777 == 0o600
    server = x509.load_pem_x509_certificate(made.server.read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "dose.example.org"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert 364 <= (server.not_valid_after_utc - server.not_valid_before_utc).days <= 366
    assert "for development only" in server.subject.rfc4514_string()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "dose.example.org"])
def test_mutual_tls_works(made: Made, host: str) -> None:
    client = client_context(tls(made, "client"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    assert talk(server_context(tls(made, "server")), client, host) == "TLSv1.3"


def test_another_host_is_refused(made: Made) -> None:
    with pytest.raises(ssl.SSLError):
        talk(server_context(tls(made, "server")), client_context(tls(made, "client")), "other.example.org")


def test_a_client_without_certificate_is_refused_when_there_is_an_authority(made: Made) -> None:
    client = client_context(tls(made, ""))
    assert talk(server_context(tls(made, "server", authority=False)), client, "localhost")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        talk(server_context(tls(made, "server")), client, "localhost")


def test_a_server_of_another_authority_is_refused(made: Made, tmp_path: Path) -> None:
    other = make_certificates(tmp_path / "other", ["localhost"])
    with pytest.raises(ssl.SSLError):
        talk(server_context(tls(other, "server", authority=False)), client_context(tls(made, "client")), "localhost")


def test_old_tls_is_refused(made: Made) -> None:
    client = client_context(tls(made, "client"))
    with pytest.warns(DeprecationWarning, match="TLS"):
        client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        talk(server_context(tls(made, "server")), client, "localhost")


def test_files_that_do_not_do_are_named(made: Made, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'/nowhere\.crt' does not exist"):
        server_context(Tls(certificate="/nowhere.crt", key=str(made.server_key)))
    with pytest.raises(ConfigError, match="belong together"):
        server_context(Tls(certificate=str(made.server), key=str(made.client_key)))
    bad = tmp_path / "bad.crt"
    bad.write_text("no certificate")
    with pytest.raises(ConfigError, match=r"authority '.*bad\.crt' cannot be used"):
        server_context(Tls(certificate=str(made.server), key=str(made.server_key), authority=str(bad)))


def test_nothing_is_overwritten(made: Made) -> None:
    before = made.server_key.read_bytes()
    with pytest.raises(ConfigError, match="is there already"):
        make_certificates(made.server.parent, ["localhost"])
    assert made.server_key.read_bytes() == before


@pytest.mark.parametrize("host", ["https://x", "a b", "host:8080", "ä.example.org", ""])
def test_hosts_that_are_none_are_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="neither a host name nor an address"):
        make_certificates(tmp_path, [host])
    assert list(tmp_path.iterdir()) == []
