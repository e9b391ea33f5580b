"""How much one caller may ask: requests per minute, kept in the memory of the process, and bytes of one request."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope

REMEMBERED: Final = 10_000
"""Callers; the one that was silent longest is forgotten first, and its bucket would be full again by then."""
BODY_BYTES: Final = 4 * 2**20
"""Of a request that uploads nothing: a batch of thousands of plan UIDs fits."""
TOO_LARGE: Final = 413


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


@dataclass(slots=True, eq=False)
class Limiter:
    """A token bucket per caller: `per_minute` in the long run, and as many at once."""

    per_minute: int
    clock: Callable[[], float] = time.monotonic
    _buckets: OrderedDict[str, _Bucket] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait_s(self, caller: str) -> float:
        """0 and one token less, or the seconds until there is one."""
        with self._lock:
            now = self.clock()
            bucket = self._buckets.pop(caller, None) or _Bucket(float(self.per_minute), now)
            self._buckets[caller] = bucket
            if len(self._buckets) > REMEMBERED:
                self._buckets.popitem(last=False)
            rate = self.per_minute / 60.0
            bucket.tokens = min(self.per_minute, bucket.tokens + (now - bucket.at) * rate)
            bucket.at = now
            if bucket.tokens < 1.0:
                return (1.0 - bucket.tokens) / rate
            bucket.tokens -= 1.0
            return 0.0

    def take(self, caller: str) -> None:
        """HTTPException 429 with Retry-After when the caller asked too often."""
        wait_s = self.wait_s(caller)
        if wait_s > 0.0:
            seconds = max(1, math.ceil(wait_s))
            detail = f"more than {self.per_minute} requests in a minute; ask again in {seconds} s"
            raise HTTPException(429, detail, {"Retry-After": str(seconds)})


@dataclass(slots=True, eq=False)
class Streams:
    """How many event streams each caller has open at once."""

    most: int
    _open: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, caller: str) -> None:
        """HTTPException 429 when there are as many as allowed."""
        with self._lock:
            if self._open.get(caller, 0) >= self.most:
                detail = f"{self.most} event streams of this user are open; close one"
                raise HTTPException(429, detail, {"Retry-After": "5"})
            self._open[caller] = self._open.get(caller, 0) + 1

    def leave(self, caller: str) -> None:
        """One less."""
        with self._lock:
            left = self._open.get(caller, 0) - 1
            if left > 0:
                self._open[caller] = left
            else:
                self._open.pop(caller, None)


def limited(scope: Scope, receive: Receive, most: int) -> Receive:
    """`receive` that fails with HTTPException 413 once a body exceeds `most` bytes, said or sent."""
    said = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    count = 0

    def refuse() -> HTTPException:
        return HTTPException(TOO_LARGE, f"the request is larger than the {most / 2**20:.0f} MB that are taken here")

    async def counting() -> Message:
        nonlocal count
        if said.isdigit() and int(said) > most:
            raise refuse()
        message = await receive()
        count += len(message.get("body", b""))
        if count > most:
            raise refuse()
        return message

    return counting
