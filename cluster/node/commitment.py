"""Storage commitment, push model, as provider (PS3.4 annex J): we vouch for what is on disk, and for nothing else."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import build_role
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from cluster.database.tables import InstanceRow
from cluster.node.callers import Caller
from cluster.node.network import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, require_success
from cluster.node.network import association as associated
from cluster.node.retrieve import peer_named
from doseeng.dicom.files import PARSE_ERRORS
from doseeng.dicom.tags import items, text
from doseeng.errors import DoseengError, PeerError

if TYPE_CHECKING:
    from cluster.service.services import Services

REQUEST_COMMITMENT: Final = 1
"""Action Type ID (J.3.2.1)."""
ALL_COMMITTED, FAILURES_EXIST = 1, 2
"""Event Type IDs (J.3.3.1)."""
# Failure Reasons (J.3.3.1.1) and statuses (PS3.7 annex C).
NO_SUCH_INSTANCE: Final = 0x0112
CLASS_CONFLICT: Final = 0x0119
PROCESSING_FAILURE: Final = 0x0110
INVALID_ARGUMENT: Final = 0x0115
NO_SUCH_ACTION: Final = 0x0123
SUCCESS: Final = 0x0000
MOST_OBJECTS: Final = 100_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """What a peer wants us to vouch for. objects: SOP Class and Instance UIDs."""

    transaction_uid: str
    objects: tuple[tuple[str, str], ...]


def requested(event: Any) -> tuple[int, Request | None]:
    """Status of an N-ACTION request, and the request when it is one."""
    if event.action_type != REQUEST_COMMITMENT:
        return NO_SUCH_ACTION, None
    try:
        information: Dataset = event.action_information
        transaction_uid = text(information, "TransactionUID")
        objects = tuple(
            (text(item, "ReferencedSOPClassUID"), text(item, "ReferencedSOPInstanceUID"))
            for item in items(information, "ReferencedSOPSequence")
        )
    except (*PARSE_ERRORS, DoseengError, RecursionError):
        return INVALID_ARGUMENT, None
    if not transaction_uid or not objects or len(objects) > MOST_OBJECTS:
        return INVALID_ARGUMENT, None
    return SUCCESS, Request(transaction_uid, objects)


def answer(services: Services, caller: Caller, association: Association, request: Request) -> None:
    """Report on a request: to where the peer listens if the configuration says so, otherwise on its association.

    A report that cannot be delivered is not kept: the peer asks again, and gets the same answer.
    """
    report = report_on(services, caller, request)
    event_type = FAILURES_EXIST if "FailedSOPSequence" in report else ALL_COMMITTED
    peer = peer_named(caller)
    try:
        if peer is None:
            _send(association, report, event_type, caller.ae_title)
            return
        context = build_context(STORAGE_COMMITMENT)
        role = build_role(STORAGE_COMMITMENT, scp_role=True)
        timeout_s = services.config.dicom.timeout_s
        with associated(peer, caller.called_ae, [context], timeout_s, roles=[role]) as made:
            require_success(_reported(made, report, event_type), peer, "storage commitment report")
    except (DoseengError, RuntimeError, ValueError) as error:
        _log.warning("node: a storage commitment report to %s was not delivered: %s", caller.ae_title, error)


def report_on(services: Services, caller: Caller, request: Request) -> Dataset:
    """Event Information (J.3.3.1.1): what is on disk and in the index, and why the rest is not."""
    report = Dataset()
    report.TransactionUID = request.transaction_uid
    report.RetrieveAETitle = caller.called_ae
    committed: list[Dataset] = []
    failed: list[Dataset] = []
    for class_uid, sop_uid in request.objects:
        reason = _failure(services, caller.site.name, class_uid, sop_uid)
        item = Dataset()
        item.ReferencedSOPClassUID = UID(class_uid)
        item.ReferencedSOPInstanceUID = UID(sop_uid)
        if reason:
            item.FailureReason = reason
        (failed if reason else committed).append(item)
    if committed:
        report.ReferencedSOPSequence = committed
    if failed:
        report.FailedSOPSequence = failed
    return report


def _failure(services: Services, site: str, class_uid: str, sop_uid: str) -> int:
    """Why we do not vouch for an object, 0 when we do."""
    try:
        with services.database.reading() as session:
            row = session.get(InstanceRow, (site, sop_uid))
        if row is None:
            return NO_SUCH_INSTANCE
        if row.sop_class_uid != class_uid:
            return CLASS_CONFLICT
        return 0 if services.blobs_of(site).has(row.sha256) else NO_SUCH_INSTANCE
    except (DoseengError, OSError):
        return PROCESSING_FAILURE


def _send(association: Association, report: Dataset, event_type: int, ae_title: str) -> None:
    if not association.is_established:
        raise PeerError(f"{ae_title} has ended the association, and no address of it is configured")
    status = _reported(association, report, event_type)
    if status.get("Status") != SUCCESS:
        raise PeerError(f"{ae_title} did not take it")


def _reported(association: Association, report: Dataset, event_type: int) -> Dataset:
    status, _ = association.send_n_event_report(report, event_type, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE)
    return status
