"""Who asked a moment ago: a good token is not looked up again for each call of a page that asks every second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cluster.security.access import Principal
from cluster.security.tokens import digest

KNOWN_FOR_S: Final = 3.0
"""A token that expires, or that is revoked elsewhere (by the command line, or by another process), and a user who is
disabled or given another role there, counts for at most so long; what is changed through this process, not at all."""
MOST: Final = 10_000


@dataclass(slots=True, eq=False)
class KnownTokens:
    """Principals by the digest of their tokens; only of tokens that were good."""

    clock: Callable[[], float] = time.monotonic
    _known: dict[str, tuple[Principal, float]] = field(default_factory=dict)

    def get(self, token: str) -> Principal | None:
        """Whose token it is, if that was looked up a moment ago."""
        found = self._known.get(digest(token))
        return found[0] if found is not None and self.clock() < found[1] else None

    def look_up(self, token: str, whose: Callable[[str], Principal]) -> Principal:
        """Whose token it is, by asking. What `whose` raises is not remembered."""
        # Of before the look-up: what is forgotten meanwhile must not come back.
        known = self._known
        principal = whose(token)
        if len(known) >= MOST:
            known.clear()
        known[digest(token)] = principal, self.clock() + KNOWN_FOR_S
        return principal

    def forget(self) -> None:
        """Look all tokens up again."""
        self._known = {}
