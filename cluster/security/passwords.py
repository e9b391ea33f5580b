"""Passwords: what is taken for one, how it is kept (argon2id), and how it is checked.

Rules follow NIST SP 800-63B (memorized secrets): length counts, composition rules do not, nothing expires, and what
anyone would try first is refused.
"""

from __future__ import annotations

import threading
import unicodedata
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from doseeng.errors import AccessError

SHORTEST: Final = 12
"""Characters. A password stands alone here, so that the 8 of SP 800-63B would be few."""
LONGEST: Final = 256
"""Characters. Above the 64 that SP 800-63B wants to be allowed; bounds the work of a hash."""
DISTINCT: Final = 5
"""Fewer different characters are a pattern ("aaaaaaaaaaaa", "121212121212")."""
SHORTEST_REST: Final = 6
"""So many characters must be left without what is guessed first."""
NAME_LETTERS: Final = 3
"""A shorter name may stand in a password by chance."""
AT_ONCE: Final = 4
"""A hash takes 64 MiB: more of them at the same time wait, so that a rush of logins cannot take all memory."""
GUESSED_FIRST: Final = (
    "password",
    "passwort",
    "doseeng",
    "qwerty",
    "qwertz",
    "asdf",
    "1234",
    "5678",
    "letmein",
    "admin",
)


class Passwords:
    """Hashes and checks. hasher: the recommended parameters of argon2-cffi (RFC 9106, low memory), unless a test needs
    cheap ones."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._dummy = ""
        self._places = threading.BoundedSemaphore(AT_ONCE)

    def hash(self, password: str) -> str:
        """The argon2id hash to keep, with its salt and parameters."""
        with self._places:
            return self._hasher.hash(_normal(password))

    def is_right(self, password: str, kept: str) -> bool:
        """Whether a password fits a hash. "" as hash fits nothing, and takes as long as one that does not fit."""
        if len(password) > LONGEST:
            return False
        with self._places:
            if not self._dummy:  # at the first check of all, whoever's, so that it tells nothing
                self._dummy = self._hasher.hash("a password that nobody has")
            try:
                return self._hasher.verify(kept or self._dummy, _normal(password)) and bool(kept)
            except (VerificationError, InvalidHashError):
                return False

    def is_outdated(self, kept: str) -> bool:
        """Whether the hash was made with other parameters than today's, and should be made anew at the next login."""
        return self._hasher.check_needs_rehash(kept)


def check_password(password: str, user_name: str) -> None:
    """AccessError, which does not repeat it, when a new password is one that would be guessed."""
    text = _normal(password)
    if not SHORTEST <= len(text) <= LONGEST:
        raise AccessError(
            f"the password has {len(text)} characters; expected {SHORTEST} to {LONGEST}, such as a sentence"
        )
    if len(set(text)) < DISTINCT:
        raise AccessError(f"the password has fewer than {DISTINCT} different characters; take a sentence")
    folded = text.casefold()
    for part in (user_name, user_name.split("@")[0]):
        if len(part) >= NAME_LETTERS and part.casefold() in folded:
            raise AccessError("the password holds the name of the user; take another one")
    for word in GUESSED_FIRST:
        folded = folded.replace(word, "")
    if len(folded) < SHORTEST_REST:
        raise AccessError("the password is made of what is guessed first; take a sentence")


def _normal(password: str) -> str:
    # The same password typed on two systems must give the same bytes (SP 800-63B: NFKC).
    return unicodedata.normalize("NFKC", password)
