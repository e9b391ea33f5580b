"""OpenID Connect: bearer tokens of one configured issuer (Core 1.0 and Discovery 1.0; RFC 7517 and 7519)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import jwt

from cluster.security.users import TOKEN_REFUSED
from cluster.service.config import Oidc
from doseeng.errors import AccessError, ConfigError, PeerError

ALGORITHMS: Final = ("RS256", "ES256")
"""Public keys only: what checks a token must not be able to make one."""
LEEWAY_S: Final = 60
"""Clocks of two machines differ."""
KEYS_FOR_S: Final = 3600.0
"""So long a key that the issuer has withdrawn may still be taken."""
AGAIN_AFTER_S: Final = 30.0
"""Tokens with made-up key names must not make us ask the issuer each time."""
TIMEOUT_S: Final = 5.0
LARGEST_BYTES: Final = 1024 * 1024
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


class OidcVerifier:
    """Verifies tokens; asks the issuer when the first one comes. clock: in seconds, for tests.

    ConfigError when the issuer is not called by https (or on this machine).
    """

    def __init__(self, config: Oidc, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[str, jwt.PyJWK] = {}
        self._asked_at: float | None = None
        if not _is_private(config.issuer):
            raise ConfigError(f"oidc: issuer '{config.issuer}' must be an https:// address")

    def subject(self, token: str) -> str:
        """The user's name at the issuer, from the configured claim.

        AccessError, always the same, for a token that is not good; PeerError when the issuer cannot be asked.
        """
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS:
                raise AccessError(TOKEN_REFUSED)
            claims = jwt.decode(
                token,
                self._key(str(header.get("kid", ""))),
                algorithms=list(ALGORITHMS),
                audience=self._config.audience,
                issuer=self._config.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", self._config.claim]},
            )
        except (jwt.PyJWTError, ValueError) as error:
            raise AccessError(TOKEN_REFUSED) from error
        subject = claims[self._config.claim]
        if not isinstance(subject, str) or not subject:
            raise AccessError(TOKEN_REFUSED)
        return subject

    def _key(self, name: str) -> jwt.PyJWK:
        """The key of that name, "" for the only one there is."""
        with self._lock:
            now = self._clock()
            age = KEYS_FOR_S if self._asked_at is None else now - self._asked_at
            known = name in self._keys or (not name and len(self._keys) == 1)
            if age >= KEYS_FOR_S or (not known and age >= AGAIN_AFTER_S):
                self._keys = self._ask()
                self._asked_at = now
            if not name and len(self._keys) == 1:
                return next(iter(self._keys.values()))
            if name not in self._keys:
                raise AccessError(TOKEN_REFUSED)
            return self._keys[name]

    def _ask(self) -> dict[str, jwt.PyJWK]:
        issuer = self._config.issuer
        found = _fetched(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != issuer:
            raise PeerError(
                f"oidc: the issuer at {issuer} calls itself otherwise; write it in [oidc] as it does itself"
            )
        address = str(found.get("jwks_uri", ""))
        if not _is_private(address):
            raise PeerError(f"oidc: the issuer {issuer} gives its keys at no https:// address")
        keys: dict[str, jwt.PyJWK] = {}
        for entry in _fetched(address).get("keys", []):
            if isinstance(entry, dict) and entry.get("use", "sig") == "sig" and entry.get("kty") in ("RSA", "EC"):
                try:
                    keys[str(entry.get("kid", ""))] = jwt.PyJWK.from_dict(entry)
                except jwt.PyJWTError:
                    continue  # of a kind that we do not take
        return keys


def _fetched(address: str) -> dict[str, Any]:
    try:
        with httpx.stream("GET", address, timeout=TIMEOUT_S, follow_redirects=False) as answer:
            answer.raise_for_status()
            data = b""
            for chunk in answer.iter_bytes():
                data += chunk
                if len(data) > LARGEST_BYTES:
                    raise PeerError(f"oidc: {address} answered with more than {LARGEST_BYTES} bytes")
        found = httpx.Response(200, content=data).json()
    except (httpx.HTTPError, ValueError) as error:
        raise PeerError(
            f"oidc: {address} did not answer as an issuer does ({type(error).__name__}); try later"
        ) from error
    if not isinstance(found, dict):
        raise PeerError(f"oidc: {address} did not answer as an issuer does (no JSON object)")
    return found


def _is_private(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
