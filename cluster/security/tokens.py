"""Tokens: 256 random bits with a prefix that secret scanners and people recognise. Only their SHA-256 is kept."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Final

PREFIX: Final = "dsg_"
BYTES: Final = 32
_FORM: Final = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")


@dataclass(frozen=True, slots=True)
class Token:
    """A token as lists show it: never itself. user: whose. name: what its owner calls it."""

    id: str
    site: str
    user: str
    name: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


def new_token() -> str:
    """A token that nobody has seen."""
    return PREFIX + secrets.token_urlsafe(BYTES)


def is_token(text: str) -> bool:
    """Whether a bearer text has the form of our tokens; another one may be an OpenID Connect token."""
    return _FORM.fullmatch(text) is not None


def digest(token: str) -> str:
    """What is kept of it. Without salt or stretching, for 256 random bits are in no dictionary."""
    return hashlib.sha256(token.encode()).hexdigest()
