"""One attempt to bring one message to its destination."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from cluster.flags.dicomout import send_results
from cluster.flags.email import send_email
from cluster.flags.fhir import send_fhir
from cluster.flags.message import Message
from cluster.flags.webhook import send_webhook
from cluster.jobs.store import JobStore
from cluster.service.config import Destination, ServiceConfig
from cluster.storage.blobs import BlobStore
from doseeng.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message that this sender has for the time of its lease. taken: recipients who have it already (e-mail)."""

    id: str
    destination: str
    attempt: int
    attempt_key: str
    message: Message
    taken: tuple[str, ...]


def deliver(config: ServiceConfig, store: JobStore, blobs_of: Callable[[str], BlobStore], delivery: Claimed) -> None:
    """Returns when the destination has taken the message. DoseengError when it has not, or is configured no more."""
    message, key = delivery.message, delivery.attempt_key
    destination = _named(config, message.site, delivery.destination)
    if destination.kind == "webhook":
        send_webhook(destination, message, key, time.time())
    elif destination.kind == "fhir":
        send_fhir(destination, message, key)
    elif destination.kind == "email":
        send_email(destination, message, key, delivery.taken)
    else:
        job = store.get(message.site, message.job_id)
        send_results(destination, config, message.site, job.artifacts, blobs_of(message.site))


def _named(config: ServiceConfig, site: str, name: str) -> Destination:
    found = next((entry for entry in config.site_named(site).destination if entry.name == name), None)
    if found is None:
        raise ConfigError(
            f"site '{site}' has no destination '{name}' any more; bring it back or leave it to be given up"
        )
    return found
