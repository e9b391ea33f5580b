"""OpenID Connect: an issuer of the test's own, good tokens taken, all others refused without a word more."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cluster.security.oidc import AGAIN_AFTER_S, KEYS_FOR_S, OidcVerifier
from cluster.security.users import TOKEN_REFUSED
from cluster.service.config import Oidc
from doseeng.errors import AccessError, ConfigError, PeerError

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
SUBJECT = "anna-4711"


def public_jwk(key: Any, kid: str) -> dict[str, Any]:
    algorithm = jwt.algorithms.RSAAlgorithm if key is RSA else jwt.algorithms.ECAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}


class Issuer:
    """An HTTP server that answers as an issuer does. document, keys: what it says; asked: how often for keys."""

    def __init__(self) -> None:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answers = {"/.well-known/openid-configuration": issuer.document, "/keys": {"keys": issuer.keys}}
                issuer.asked += self.path == "/keys"
                body = json.dumps(answers[self.path]).encode() if issuer.is_up else b"out of order"
                self.send_response(200 if issuer.is_up else 503)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.document: dict[str, Any] = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        self.keys = [public_jwk(RSA, "r1"), public_jwk(EC, "e1")]
        self.asked = 0
        self.is_up = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def token(self, key: Any = EC, kid: str | None = "e1", algorithm: str = "ES256", **changes: Any) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "aud": "doseeng", "sub": SUBJECT, "iat": now, "exp": now + 300, **changes}
        headers = {"kid": kid} if kid is not None else {}
        return jwt.encode({k: v for k, v in claims.items() if v is not None}, key, algorithm, headers)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.server.shutdown()
    made.server.server_close()


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def verifier(issuer: Issuer, clock: Clock) -> OidcVerifier:
    return OidcVerifier(Oidc(issuer=issuer.url, audience="doseeng"), clock)


def refused(verifier: OidcVerifier, token: str) -> None:
    with pytest.raises(AccessError) as error:
        verifier.subject(token)
    assert str(error.value) == TOKEN_REFUSED


def test_good_tokens_are_taken(issuer: Issuer, verifier: OidcVerifier) -> None:
    assert verifier.subject(issuer.token()) == SUBJECT
    assert verifier.subject(issuer.token(RSA, "r1", "RS256")) == SUBJECT
    assert verifier.subject(issuer.token(aud=["other", "doseeng"])) == SUBJECT
    assert issuer.asked == 1


def test_another_claim_may_name_the_user(issuer: Issuer) -> None:
    verifier = OidcVerifier(Oidc(issuer=issuer.url, audience="doseeng", claim="email"))
    assert verifier.subject(issuer.token(email="anna@example.org")) == "anna@example.org"
    refused(verifier, issuer.token())


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "another"},
        {"aud": None},
        {"iss": "https://evil.example.org"},
        {"iss": None},
        {"exp": int(time.time()) - 120},
        {"exp": None},
        {"nbf": int(time.time()) + 3600},
        {"sub": None},
        {"sub": ""},
    ],
)
def test_wrong_claims_are_refused(issuer: Issuer, verifier: OidcVerifier, changes: dict[str, Any]) -> None:
    refused(verifier, issuer.token(**changes))


def test_clocks_may_differ_by_a_little(issuer: Issuer, verifier: OidcVerifier) -> None:
    now = int(time.time())
    assert verifier.subject(issuer.token(exp=now - 20, nbf=now + 20)) == SUBJECT


def test_wrong_keys_and_algorithms_are_refused(issuer: Issuer, verifier: OidcVerifier) -> None:
    refused(verifier, issuer.token(OTHER))
    refused(verifier, issuer.token(RSA, "e1", "RS256"))
    refused(verifier, issuer.token(RSA, "r1", "RS512"))
    refused(verifier, issuer.token(RSA, "r1", "PS256"))
    refused(verifier, issuer.token("a shared secret of at least 32 bytes", "e1", "HS256"))
    refused(verifier, issuer.token(None, "e1", "none"))
    header, claims, _ = issuer.token().split(".")
    refused(verifier, f"{header}.{claims}.")
    for text in ("", "a.b.c", "x" * 10_000, "dsg_" + "A" * 43):
        refused(verifier, text)


def test_a_token_without_key_name_needs_an_only_key(issuer: Issuer, verifier: OidcVerifier, clock: Clock) -> None:
    refused(verifier, issuer.token(kid=None))
    issuer.keys = issuer.keys[1:]
    clock.now += KEYS_FOR_S
    assert verifier.subject(issuer.token(kid=None)) == SUBJECT


def test_a_new_key_is_asked_for_but_made_up_names_do_not_make_us_ask(
    issuer: Issuer, verifier: OidcVerifier, clock: Clock
) -> None:
    verifier.subject(issuer.token())
    clock.now += AGAIN_AFTER_S
    for n in range(5):
        refused(verifier, issuer.token(OTHER, f"made up {n}"))
    assert issuer.asked == 2
    issuer.keys.append(public_jwk(OTHER, "e2"))
    refused(verifier, issuer.token(OTHER, "e2"))
    clock.now += AGAIN_AFTER_S
    assert verifier.subject(issuer.token(OTHER, "e2")) == SUBJECT
    assert issuer.asked == 3


def test_a_withdrawn_key_is_forgotten(issuer: Issuer, verifier: OidcVerifier, clock: Clock) -> None:
    verifier.subject(issuer.token())
    issuer.keys = issuer.keys[:1]
    clock.now += KEYS_FOR_S
    refused(verifier, issuer.token())


def test_keys_for_encryption_do_not_sign(issuer: Issuer, verifier: OidcVerifier) -> None:
    issuer.keys[1]["use"] = "enc"
    refused(verifier, issuer.token())


def test_an_issuer_that_does_not_answer_is_a_peer_error(issuer: Issuer, verifier: OidcVerifier) -> None:
    issuer.is_up = False
    with pytest.raises(PeerError, match="did not answer as an issuer does"):
        verifier.subject(issuer.token())
    issuer.is_up = True
    issuer.document["issuer"] = "https://evil.example.org"
    with pytest.raises(PeerError, match="calls itself otherwise"):
        verifier.subject(issuer.token())
    issuer.document = {"issuer": issuer.url, "jwks_uri": "http://evil.example.org/keys"}
    with pytest.raises(PeerError, match="no https"):
        verifier.subject(issuer.token())


def test_an_issuer_in_the_clear_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be an https:// address"):
        OidcVerifier(Oidc(issuer="http://login.example.org", audience="doseeng"))
