"""The outbox: messages wait in the database until their destination has taken them.

What holds, and what cannot:

- A message is written in the transaction that ends its job: neither is there without the other.
- It is sent until the destination takes it, by whichever sender lives. After `GIVE_UP_AFTER` it is dead: it stays,
  the worklist, the metrics and the health check show it, and `revive` starts over.
- Once it is known to be taken it is never sent again. Between "taken" and "known to be taken" a sender may die or an
  answer may be lost, and no sender can tell whether that has happened. So every attempt of one message carries the same
  key, by which a receiver takes it once: `Doseeng-Delivery` and `Idempotency-Key` (webhook), Message-ID (e-mail), a
  conditional create (FHIR), SOP Instance UIDs (DICOM).
- Of the messages of one destination that are due the oldest goes first, and as a rule one at a time. A message that
  has to wait for its next attempt does not hold up those behind it, so the order is not promised: `ended` tells it.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, CursorResult, and_, exists, or_, select, update
from sqlalchemy.orm import Session, aliased

from cluster.database.connection import Database
from cluster.database.tables import OutboxRow
from cluster.flags.deliver import Claimed, deliver
from cluster.flags.email import PartlyTaken
from cluster.flags.message import Message
from cluster.jobs.rows import now
from cluster.jobs.store import JobStore
from cluster.service.config import ServiceConfig
from cluster.storage.blobs import BlobStore
from doseeng.errors import DoseengError

POLL_S: Final = 1.0
SENDERS: Final = 8
"""Messages under way at the same time, so that a slow archive does not hold up a webhook."""
LEASE_S: Final = {"dicom": 900.0, "webhook": 120.0, "fhir": 120.0, "email": 300.0}
"""A sender that has not reported back after so long is taken for dead. More than a sending can last."""
FIRST_WAIT_S: Final = 5.0
LONGEST_WAIT_S: Final = 900.0
GIVE_UP_AFTER: Final = timedelta(days=3)
"""Over a weekend somebody notices."""
LEAST_ATTEMPTS: Final = 10
"""No message is given up sooner, however long nobody was there to send it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Outbox:
    """Sends what is due; any number of them may work on one database. lease_s: by kind of destination."""

    config: ServiceConfig
    database: Database
    blobs_of: Callable[[str], BlobStore]
    store: JobStore
    lease_s: dict[str, float] = field(default_factory=lambda: dict(LEASE_S))
    random: random.Random = field(default_factory=random.Random)

    def run(self, stop: threading.Event) -> None:
        """Send what is due until `stop`; what is under way is finished first."""
        with ThreadPoolExecutor(SENDERS, thread_name_prefix="outbox") as pool:
            under_way: set[Future[bool]] = set()
            while not stop.is_set():
                under_way = {future for future in under_way if not future.done()}
                try:
                    claimed = self.claim() if len(under_way) < SENDERS else None
                except DoseengError as error:
                    _log.error("outbox: %s", error)
                    claimed = None
                if claimed is None:
                    stop.wait(POLL_S)
                else:
                    under_way.add(pool.submit(self.send, claimed))

    def send_due(self) -> int:
        """Send all that is due now, one after the other; how many were taken."""
        sent = 0
        while (claimed := self.claim()) is not None:
            sent += self.send(claimed)
        return sent

    def revive(self, site: str, destination: str) -> int:
        """Try dead messages of a destination again from the start; how many there were."""

        def work(session: Session) -> int:
            where = (OutboxRow.site == site, OutboxRow.destination == destination, OutboxRow.state == "dead")
            return _update(session, where, {"state": "pending", "attempts": 0, "next_attempt_at": now(session)})

        return self.database.retrying(work)

    def claim(self) -> Claimed | None:
        """The oldest message that is due, under a lease; None when there is none."""
        # Most of the time nothing is due, and finding that out must hold up nobody who writes.
        if not self.database.retrying(lambda session: _next(session) is not None, reads=True):
            return None

        def work(session: Session) -> Claimed | None:
            row = _next(session)
            if row is None:
                return None
            row.state = "sending"
            row.attempts += 1
            row.lease_until = now(session) + timedelta(seconds=self.lease_s[row.kind])
            taken = tuple(row.payload.get("taken", ()))
            return Claimed(
                row.id, row.destination, row.attempts, row.attempt_key, Message.from_json(row.payload), taken
            )

        return self.database.retrying(work)

    def send(self, claimed: Claimed) -> bool:
        """One attempt, and what became of it; whether the destination took the message."""
        message = claimed.message
        where = f"message of job {message.job_id} to '{claimed.destination}' of site '{message.site}'"
        try:
            try:
                deliver(self.config, self.store, self.blobs_of, claimed)
            except DoseengError as error:
                _log.warning("%s, attempt %d: %s", where, claimed.attempt, error)
                self._mark_unsent(claimed, str(error), error.taken if isinstance(error, PartlyTaken) else ())
                return False
            except Exception as error:  # noqa: BLE001 - the edge: one message's failure is recorded, the others go on
                # Not its text: nobody vouches that it holds no secret.
                _log.error("%s, attempt %d: unexpected %s", where, claimed.attempt, type(error).__name__)
                self._mark_unsent(claimed, f"unexpected {type(error).__name__}; see the log of the service", ())
                return False
            self._mark_sent(claimed)
        except DoseengError as error:
            _log.error("%s, attempt %d: what became of it could not be written down: %s", where, claimed.attempt, error)
            return False
        _log.info("%s: sent, attempt %d", where, claimed.attempt)
        return True

    def _mark_sent(self, claimed: Claimed) -> None:
        def work(session: Session) -> None:
            # Also when the lease has ended: it was taken, whoever else has it in hand now.
            where = (OutboxRow.id == claimed.id, OutboxRow.state != "sent")
            _update(session, where, {"state": "sent", "sent_at": now(session), "lease_until": None, "last_error": ""})

        self.database.retrying(work)

    def _mark_unsent(self, claimed: Claimed, why: str, taken: tuple[str, ...]) -> None:
        def work(session: Session) -> None:
            row = session.get(OutboxRow, claimed.id, with_for_update=True)
            if row is None or row.state != "sending" or row.attempts != claimed.attempt:
                return
            time = now(session)
            is_over = row.attempts >= LEAST_ATTEMPTS and time - row.created_at > GIVE_UP_AFTER
            row.state = "dead" if is_over else "pending"
            row.next_attempt_at = time + timedelta(seconds=self._wait_s(row.attempts))
            row.lease_until, row.last_error = None, why
            if taken:
                row.payload = {**row.payload, "taken": list(taken)}

        self.database.retrying(work)

    def _wait_s(self, attempts: int) -> float:
        """Twice as long each time up to a limit, less up to half at random: what failed together comes back apart."""
        return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempts - 1, 30)) * self.random.uniform(0.5, 1.0)


def _next(session: Session) -> OutboxRow | None:
    time = now(session)
    other = aliased(OutboxRow)
    is_due = or_(
        and_(OutboxRow.state == "pending", OutboxRow.next_attempt_at <= time),
        and_(OutboxRow.state == "sending", OutboxRow.lease_until <= time),
    )
    is_busy = exists().where(
        other.site == OutboxRow.site,
        other.destination == OutboxRow.destination,
        other.state == "sending",
        other.lease_until > time,
    )
    query = select(OutboxRow).where(is_due, ~is_busy).order_by(OutboxRow.created_at, OutboxRow.id).limit(1)
    return session.scalars(query.with_for_update(skip_locked=True, of=OutboxRow)).first()


def _update(session: Session, where: tuple[ColumnElement[bool], ...], values: dict[str, Any]) -> int:
    result = session.execute(update(OutboxRow).where(*where).values(**values))
    assert isinstance(result, CursorResult)
    return result.rowcount
