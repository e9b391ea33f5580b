"""Webhooks: the message as JSON, signed, with the key by which a receiver knows a repeat.

    POST {url}
    Content-Type: application/json
    Doseeng-Delivery: 0b0f...            the same for every attempt of one message
    Idempotency-Key: "0b0f..."           the same again, as draft-ietf-httpapi-idempotency-key-header writes it
    Doseeng-Signature: t=1767225600,v1=5f3a...

v1 is HMAC-SHA256 (RFC 2104) in hex, keyed with the destination's secret, over the decimal seconds of t, a dot and the
body as it was sent. t is the time of the attempt, UTC. A receiver checks with `verify_signature` and then looks whether
it has seen the delivery: the same message may come twice, when an answer was lost on its way.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Final

from cluster.flags.http import post
from cluster.flags.message import Message, as_bytes
from cluster.service.config import Destination
from doseeng.errors import AccessError

SIGNATURE: Final = "Doseeng-Signature"
DELIVERY: Final = "Doseeng-Delivery"
REPLAY_WINDOW_S: Final = 300.0
"""A signature older or newer than this is refused: clocks differ by less, and what was overheard is soon worthless."""
_FORM: Final = re.compile(r"t=(\d{1,12}),v1=([0-9a-f]{64})")


def send_webhook(destination: Destination, message: Message, attempt_key: str, now_s: float) -> None:
    """Post a message. now_s: seconds since 1970, UTC. PeerError when it was not taken."""
    body = as_bytes(message, attempt_key)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "doseeng",
        DELIVERY: attempt_key,
        "Idempotency-Key": f'"{attempt_key}"',
        SIGNATURE: signature(destination.secret.get_secret_value(), int(now_s), body),
    }
    post(destination, destination.url, body, headers)


def signature(secret: str, time_s: int, body: bytes) -> str:
    """The value of the signature's header."""
    return f"t={time_s},v1={_digest(secret, time_s, body)}"


def verify_signature(secret: str, headers: Mapping[str, str], body: bytes, now_s: float) -> None:
    """For receivers: AccessError unless `body`, as bytes as they came, was signed with `secret` within the window."""
    found = next((value for name, value in headers.items() if name.lower() == SIGNATURE.lower()), "")
    parts = _FORM.fullmatch(found)
    if parts is None:
        raise AccessError(f"the header {SIGNATURE} is missing or malformed; expected t=SECONDS,v1=HEX")
    time_s = int(parts[1])
    if not hmac.compare_digest(_digest(secret, time_s, body), parts[2]):
        raise AccessError("the signature is wrong; the secret differs, or the body is not as it was sent")
    if abs(now_s - time_s) > REPLAY_WINDOW_S:
        raise AccessError(
            f"the signature was made {abs(now_s - time_s):.0f} s from now, at most {REPLAY_WINDOW_S:.0f} s are taken; "
            "it is a replay, or a clock is wrong"
        )


def _digest(secret: str, time_s: int, body: bytes) -> str:
    return hmac.new(secret.encode(), f"{time_s}.".encode() + body, hashlib.sha256).hexdigest()
