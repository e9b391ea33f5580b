"""Flags and messages of a job that ends, written in the transaction that ends it: none is there without the others."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Final

from sqlalchemy.orm import Session

from cluster.database.tables import FlagRow, OutboxRow
from cluster.flags.message import FAILED, Message, message_of
from cluster.jobs.model import Job
from cluster.jobs.rows import now
from cluster.service.config import Destination, ServiceConfig

_SPACE: Final = uuid.UUID("5f0f1ad3-6b0b-4a49-9d3c-9a4f6a0c7d11")
"""Of the name-based UUIDs (RFC 9562 5.5) below: the same job makes the same flag and the same messages."""


def flag_hook(config: ServiceConfig) -> Callable[[Session, Job], None]:
    """A hook for `JobStore(on_end=...)`. For a job that ended done or failed it writes, however often it is called, one

    - flag, when the verdict is worth one or the job failed;
    - message for every destination of the job's site that wants to hear of the verdict.
    """
    destinations = {site.name: tuple(site.destination) for site in config.site}

    def hook(session: Session, job: Job) -> None:
        message = message_of(job)
        if message.is_flag:
            _add_flag(session, message, job)
        for destination in destinations.get(job.spec.site, ()):
            if wants(destination, message):
                _queue(session, message, destination)

    return hook


def wants(destination: Destination, message: Message) -> bool:
    """Whether a destination hears of a message.

    Archives get objects, which a failed job has none of; a dose that was not judged is nothing but objects.
    """
    if destination.kind == "dicom" and message.verdict == FAILED:
        return False
    if not message.verdict:
        return destination.kind == "dicom" and not destination.verdicts
    return not destination.verdicts or message.verdict in destination.verdicts


def _add_flag(session: Session, message: Message, job: Job) -> None:
    flag_id = uuid.uuid5(_SPACE, f"flag/{message.site}/{message.job_id}").hex
    if session.get(FlagRow, flag_id) is not None:
        return
    plan = (job.summary or {}).get("plan", "")
    session.add(
        FlagRow(
            id=flag_id,
            site=message.site,
            job_id=message.job_id,
            verdict=message.verdict,
            headline=message.headline,
            patient_key=message.patient_key,
            case_key=message.case_key,
            details={
                "kind": message.kind,
                "plan": plan,
                "reasons": list(message.reasons),
                "goals": list(message.goals),
            },
            created_at=now(session),
        )
    )


def _queue(session: Session, message: Message, destination: Destination) -> None:
    key = uuid.uuid5(_SPACE, f"message/{message.site}/{message.job_id}/{destination.name}")
    if session.get(OutboxRow, key.hex) is not None:
        return
    time = now(session)
    session.add(
        OutboxRow(
            id=key.hex,
            site=message.site,
            subject=message.job_id,
            destination=destination.name,
            kind=destination.kind,
            payload=message.to_json(),
            attempt_key=str(key),
            state="pending",
            next_attempt_at=time,
            created_at=time,
        )
    )
