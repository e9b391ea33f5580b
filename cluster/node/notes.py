"""Notes of received images, from which the watcher makes jobs: which series there are, and when the last image came."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cluster.database.connection import Database
from cluster.database.tables import InstanceRow, SeriesRow
from cluster.library.entries import Received
from cluster.library.intake import OnReceived
from cluster.node.network import IMAGE_CLASSES


class SeriesState(StrEnum):
    """What became of a received series (`SeriesRow.state`). All but `STARTED` have the reason as note."""

    WAITING = "waiting"
    STARTED = "started"
    NO_RULE = "no-rule"
    TOO_FEW = "too-few-images"
    NOT_TREATED = "not-under-treatment"
    PLANNING_IMAGE = "planning-image"
    OWN_RESULT = "own-result"
    REFUSED = "refused"


def note_received(database: Database, site: str, received: Received, now: datetime) -> None:
    """Take note of an image that was received, so that its series is looked at; nothing for other objects.

    An image that was there already changes nothing once its series has been looked at.
    """
    if received.sop_class_uid in IMAGE_CLASSES:
        database.retrying(lambda session: _note(session, site, received, now))


def noting(site: str) -> OnReceived:
    """As `note_received` for many objects, in the transaction that indexes them: one note a series."""

    def note(session: Session, received: Sequence[Received]) -> None:
        last = {one.series_uid: one for one in received if one.sop_class_uid in IMAGE_CLASSES}
        # In one order everywhere, so that two who bring the same series do not wait for each other.
        for series_uid in sorted(last):
            _note(session, site, last[series_uid], datetime.now(UTC))

    return note


def _note(session: Session, site: str, received: Received, now: datetime) -> None:
    row = _row(session, site, received, now)
    count = _count(session, site, received.series_uid)
    if row.state == SeriesState.WAITING or count > row.instances:
        row.last_received = now
        if row.state == SeriesState.STARTED:
            row.note = f"more images came after a job had started with {row.instances}"
        row.state = SeriesState.WAITING
        row.instances = count


def _row(session: Session, site: str, received: Received, now: datetime) -> SeriesRow:
    """The row of a series, which nobody else changes until the transaction ends; made when there is none."""
    key = (site, received.series_uid)
    while (row := session.get(SeriesRow, key, with_for_update=True)) is None:
        new = SeriesRow(site=site, series_uid=received.series_uid, patient_key=received.patient_key, instances=0)
        new.state, new.note, new.job_id, new.rule, new.last_received = SeriesState.WAITING, "", "", "", now
        # Who brought another image of it a moment ago has made it.
        with suppress(IntegrityError), session.begin_nested():
            session.add(new)
    return row


def _count(session: Session, site: str, series_uid: str) -> int:
    query = select(func.count()).where(InstanceRow.site == site, InstanceRow.series_uid == series_uid)
    return session.scalar(query) or 0
