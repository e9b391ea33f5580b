"""The DICOM node: takes what the site's systems send, answers what they ask about it, vouches for what it keeps."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext, build_context

from cluster.node.callers import Caller, Refusal, site_of
from cluster.node.commitment import Request, answer, requested
from cluster.node.network import (
    PATIENT_ROOT_FIND,
    PATIENT_ROOT_MOVE,
    STORAGE_COMMITMENT,
    STUDY_ROOT_FIND,
    STUDY_ROOT_MOVE,
    VERIFICATION,
    be_silent,
    storage_contexts,
)
from cluster.node.retrieve import found, moved
from cluster.node.store import store
from cluster.node.transport import MAXIMUM_PDU_BYTES, NodeServer
from cluster.security.audit import Action
from cluster.security.certificates import server_context
from doseeng.errors import ConfigError, DoseengError

if TYPE_CHECKING:
    from cluster.service.services import Services

_SERVICES: Final = (
    VERIFICATION,
    STUDY_ROOT_FIND,
    PATIENT_ROOT_FIND,
    STUDY_ROOT_MOVE,
    PATIENT_ROOT_MOVE,
    STORAGE_COMMITMENT,
)
STOP_S: Final = 10.0
"""How long `stop` lets open associations come to their end."""
NOT_AUTHORISED: Final = 0x0124

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Session:
    """An association that was let in, and what happened on it: what the audit log is told at its end."""

    caller: Caller
    received: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: int = 0
    commitments: list[Request] = field(default_factory=list)


class Node:
    """The node of a configuration's `[dicom]`. `port`: where it listens once it was started."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._server: NodeServer | None = None
        self._sessions: dict[Association, _Session] = {}
        self.port = services.config.dicom.port

    @property
    def open_associations(self) -> int:
        """How many associations are open that were let in."""
        return len(self._sessions)

    def start(self) -> None:
        """Listen. ConfigError when the address is taken or the certificates cannot be used."""
        be_silent()
        settings = self._services.config.dicom
        ae = AE(ae_title=settings.ae_title)
        ae.maximum_associations = settings.max_associations
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = settings.timeout_s
        ae.maximum_pdu_size = MAXIMUM_PDU_BYTES
        try:
            self._server = NodeServer(
                ae,
                (settings.host, settings.port),
                _contexts(),
                server_context(settings.tls) if settings.tls is not None else None,
                self._handlers(),
                self._ended,
            )
        except OSError as error:
            raise ConfigError(
                f"dicom: cannot listen on {settings.host}:{settings.port} ({error.strerror or error}); "
                "choose a free port of this machine"
            ) from error
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.2,), name="node", daemon=True).start()
        _log.info("node: %s listens on %s:%d", settings.ae_title, settings.host, self.port)

    def stop(self) -> None:
        """Take no more associations, give those that are open a while to end, abort the rest."""
        if self._server is None:
            return
        self._server.shutdown()
        waiting = threading.Event()
        for _ in range(int(STOP_S / 0.1)):
            if not self.open_associations:
                break
            waiting.wait(0.1)
        for association in list(self._sessions):
            association.abort()
        self._server = None

    def _handlers(self) -> list[Any]:
        return [
            (evt.EVT_REQUESTED, self._on_request),
            (evt.EVT_C_ECHO, self._on_echo),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_FIND, self._on_find),
            (evt.EVT_C_MOVE, self._on_move),
            (evt.EVT_N_ACTION, self._on_action),
            (evt.EVT_DIMSE_SENT, self._on_sent),
        ]

    def _on_request(self, event: Any) -> None:
        """Let the association in or reject it, before pynetdicom negotiates anything."""
        association: Association = event.assoc
        request = association.requestor.primitive
        if not isinstance(request, A_ASSOCIATE):
            # An abort or release as first message: there is nothing to negotiate.
            association.is_aborted = True
            association.kill()
            return
        calling, called = request.calling_ae_title.strip(), request.called_ae_title.strip()
        site = site_of(self._services.config, called, calling)
        address = association.requestor.address
        if isinstance(site, Refusal):
            _log.warning("node: association of %s at %s to %s rejected: %s", calling, address, called, site.name)
            self._audit(("", calling, address), Action.ACCESS_DENIED, site.name.lower(), {"called": called})
            association.acse.send_reject(*site.value)
            association.is_rejected = True
            association.kill()
            return
        self._sessions[association] = _Session(Caller(site, calling, called, address))

    def _ended(self, association: Association) -> None:
        session = self._sessions.pop(association, None)
        if session is None:
            return
        for (patient_key, series_uid), count in session.received.items():
            what = {"patient_key": patient_key, "objects": count}
            self._audit(session.caller, Action.OBJECT_RECEIVE, "success", what, series_uid)
        if session.refused:
            self._audit(session.caller, Action.OBJECT_RECEIVE, "refused", {"objects": session.refused})

    def _on_echo(self, event: Any) -> int:
        return 0x0000 if event.assoc in self._sessions else NOT_AUTHORISED

    def _on_store(self, event: Any) -> Dataset:
        session = self._sessions[event.assoc]
        stored = store(self._services, session.caller, event)
        if stored.received is None:
            session.refused += 1
        else:
            session.received[stored.received.patient_key, stored.received.series_uid] += 1
        return stored.answer

    def _on_find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        caller = self._sessions[event.assoc].caller
        self._audit(caller, Action.QUERY)
        yield from found(self._services, caller, event)

    def _on_move(self, event: Any) -> Iterator[Any]:
        caller = self._sessions[event.assoc].caller
        self._audit(caller, Action.OBJECT_SEND, "success", {"destination": str(event.move_destination).strip()})
        yield from moved(self._services, caller, event)

    def _on_action(self, event: Any) -> tuple[int, None]:
        session = self._sessions[event.assoc]
        status, request = requested(event)
        if request is not None:
            session.commitments.append(request)
        return status, None

    def _on_sent(self, event: Any) -> None:
        """Report on commitments once their request has been answered: the standard wants that order."""
        session = self._sessions.get(event.assoc)
        if session is None or type(event.message).__name__ != "N_ACTION_RSP":
            return
        due, session.commitments = session.commitments, []
        for request in due:
            threading.Thread(
                target=answer, args=(self._services, session.caller, event.assoc, request), daemon=True
            ).start()

    def _audit(
        self,
        who: Caller | tuple[str, str, str],
        action: Action,
        outcome: str = "success",
        details: dict[str, Any] | None = None,
        series_uid: str = "",
    ) -> None:
        """who: a caller, or site ("" for unknown), actor and origin."""
        site, actor, origin = (who.site.name, who.ae_title, who.address) if isinstance(who, Caller) else who
        try:
            self._services.audit.append(
                site=site,
                actor=actor,
                origin=origin,
                action=action,
                outcome=outcome,
                object_type="series" if series_uid else "",
                object_id=series_uid,
                details=details,
            )
        except DoseengError as error:
            _log.error("node: the audit log could not be written: %s", error)


def _contexts() -> list[PresentationContext]:
    return storage_contexts() + [build_context(uid) for uid in _SERVICES]
