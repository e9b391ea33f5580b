"""One way to post to another system: TLS verified, nothing followed, nothing read that is not needed, nothing told."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import httpx

from cluster.service.config import Destination, Tls
from doseeng.errors import PeerError

TIMEOUTS: Final = httpx.Timeout(20.0, connect=5.0)
"""Seconds; a receiver that works longer should take a message first and work afterwards."""

# Its messages carry whole URLs, and these may carry secrets.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


def post(destination: Destination, url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Post once; any 2xx is taken for received.

    The environment's proxies and credentials are not used. PeerError, which tells neither URL nor answer: the receiver
    cannot be reached, is too slow, answers otherwise, or sends elsewhere (redirects are not followed: the message is
    for the one that was configured).
    """
    where = f"{destination.kind} '{destination.name}' at {urlsplit(url).hostname}"
    try:
        with (
            httpx.Client(
                verify=client_context(destination.tls), timeout=TIMEOUTS, follow_redirects=False, trust_env=False
            ) as client,
            client.stream("POST", url, content=body, headers=dict(headers)) as response,
        ):
            status = response.status_code
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise PeerError(f"{where} did not take the message: {type(error).__name__}; it is tried again") from None
    if 300 <= status < 400:
        raise PeerError(f"{where} answered {status}, a redirect, which is not followed; configure its final URL")
    if not 200 <= status < 300:
        raise PeerError(f"{where} answered {status}, expected 2xx; it is tried again")


def client_context(tls: Tls | None) -> ssl.SSLContext:
    """What a client verifies its peers with: the machine's authorities or the one configured, and its own certificate.

    OSError for files that cannot be read.
    """
    context = ssl.create_default_context(cafile=tls.authority or None if tls else None)
    if tls and tls.certificate:
        context.load_cert_chain(tls.certificate, tls.key)
    return context
