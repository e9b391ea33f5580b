"""Signatures that a receiver can check, and messages that tell no more than they should."""

import hashlib
import hmac
import json
import ssl
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cluster.database.connection import Database
from cluster.flags.webhook import REPLAY_WINDOW_S, SIGNATURE, send_webhook, signature, verify_signature
from cluster.jobs.model import JobState
from cluster.service.config import Destination
from doseeng.errors import AccessError, PeerError
from tests.cluster.flags.making import PLAN_LABEL, SECRET, Clinic, Receiver, config_of, webhook
from tests.cluster.flags.telling import message

BODY = b'{"a": 1}'


def test_the_signature_is_the_documented_one() -> None:
    expected = hmac.new(b"key", b"1700000000." + BODY, hashlib.sha256).hexdigest()
    assert signature("key", 1700000000, BODY) == f"t=1700000000,v1={expected}"


def test_a_receiver_takes_what_was_signed() -> None:
    headers = {SIGNATURE.lower(): signature("key", 1000, BODY)}
    verify_signature("key", headers, BODY, 1000.0 + REPLAY_WINDOW_S)
    verify_signature("key", headers, BODY, 1000.0 - REPLAY_WINDOW_S)


@pytest.mark.parametrize(
    ("header", "body", "now_s", "expected"),
    [
        (signature("other", 1000, BODY), BODY, 1000.0, "wrong"),
        (signature("key", 1000, BODY), BODY + b" ", 1000.0, "wrong"),
        (signature("key", 1000, BODY).replace("t=1000", "t=1200"), BODY, 1200.0, "wrong"),
        (signature("key", 1000, BODY), BODY, 1000.0 + REPLAY_WINDOW_S + 1, "replay"),
        (signature("key", 1000, BODY), BODY, 1000.0 - REPLAY_WINDOW_S - 1, "clock"),
        ("", BODY, 1000.0, "malformed"),
        ("t=1000,v1=", BODY, 1000.0, "malformed"),
        ("t=-1,v1=" + "0" * 64, BODY, 1000.0, "malformed"),
        ("t=１０００,v1=" + "0" * 64, BODY, 1000.0, "wrong|malformed"),
        ("v1=" + "0" * 64, BODY, 1000.0, "malformed"),
    ],
)
def test_a_receiver_refuses_what_was_not(header: str, body: bytes, now_s: float, expected: str) -> None:
    with pytest.raises(AccessError, match=expected):
        verify_signature("key", {SIGNATURE: header} if header else {}, body, now_s)


def test_what_arrives_is_signed_and_without_identity(sqlite_database: Database, receiver: Receiver) -> None:
    clinic = Clinic(sqlite_database, config_of(webhook(f"{receiver.url}/flags")))
    job_id = clinic.end("RED", 7)
    clinic.outbox.send_due()
    (request,) = receiver.requests
    verify_signature(SECRET, request.headers, request.body, time.time())
    assert request.path == "/flags"
    assert request.headers["Idempotency-Key"] == f'"{request.key}"'
    told = request.json
    assert told["delivery"] == request.key
    assert (told["job_id"], told["verdict"], told["patient_key"]) == (job_id, "RED", "p-0007")
    assert [goal["name"] for goal in told["goals"]] == ["CTV D95%", "Cord Dmax", "Lung Dmean"]
    assert told["is_flag"]
    assert "does not release a treatment" in told["statement"]
    everything = json.dumps(told) + json.dumps(request.headers)
    for secret in (SECRET, PLAN_LABEL, "1.2.3"):
        assert secret not in everything


def test_a_failed_job_says_why(sqlite_database: Database, receiver: Receiver) -> None:
    clinic = Clinic(sqlite_database, config_of(webhook(receiver.url)))
    job_id = clinic.end("FAILED")
    assert clinic.store.get("north", job_id).state is JobState.FAILED
    clinic.outbox.send_due()
    assert receiver.requests[0].json["headline"] == "FAILED: GeometryError: the CT has a gap"


def test_tls_is_verified(tmp_path: Path) -> None:
    certificate, key = _self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    came: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        url = f"https://127.0.0.1:{server.server_address[1]}/"
        unknown = Destination.model_validate(webhook(url))
        with pytest.raises(PeerError, match="ConnectError"):
            send_webhook(unknown, message(), "key", time.time())
        assert came == []
        tls = {"certificate": "", "key": "", "authority": str(certificate)}
        send_webhook(Destination.model_validate(webhook(url, tls=tls)), message(), "key", time.time())
        assert came == ["/"]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_certificate_that_is_not_there_is_a_peer_error() -> None:
    tls = {"certificate": "", "key": "", "authority": "/nowhere/ca.pem"}
    with pytest.raises(PeerError, match="FileNotFoundError"):
        send_webhook(Destination.model_validate(webhook("https://127.0.0.1:1/", tls=tls)), message(), "key", 0.0)


def _self_signed(folder: Path) -> tuple[Path, Path]:
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
