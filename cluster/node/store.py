"""C-STORE: an object is acknowledged once it is on disk and in the index, and not before."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from pydicom import dcmread
from pydicom.dataset import Dataset

from cluster.node.callers import Caller
from cluster.node.notes import note_received
from doseeng.dicom.files import PARSE_ERRORS
from doseeng.dicom.tags import text
from doseeng.errors import DicomError, DoseengError

if TYPE_CHECKING:
    from cluster.library.entries import Received
    from cluster.service.services import Services

# Statuses of PS3.4 table B.2-1.
SUCCESS: Final = 0x0000
OUT_OF_RESOURCES: Final = 0xA700
NOT_OF_ITS_CLASS: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000
LONGEST_COMMENT: Final = 64
"""Error Comment (0000,0902) is an LO."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stored:
    """The answer to a C-STORE, and what was received; None when it was refused."""

    answer: Dataset
    received: Received | None


def store(services: Services, caller: Caller, event: Any) -> Stored:
    """Keep the object of a C-STORE request.

    What the sender should try again (no space, no database) is refused as out of resources; what it should not is an
    object that we cannot understand, or another one than the request announces.
    """
    try:
        data = event.encoded_dataset()
        announced = str(event.request.AffectedSOPClassUID), str(event.request.AffectedSOPInstanceUID)
        if _named(data) != announced:
            return _refused(NOT_OF_ITS_CLASS, "the object has other UIDs than the request")
    except (*PARSE_ERRORS, RecursionError):
        return _refused(CANNOT_UNDERSTAND, "the object is damaged; send it again")
    try:
        received = _received(services, caller, data, announced[1])
        note_received(services.database, caller.site.name, received, datetime.now(UTC))
    except DicomError as error:
        _log.warning("node: an object of %s was refused: %s", caller.ae_title, error)
        return _refused(CANNOT_UNDERSTAND, str(error))
    except (DoseengError, OSError) as error:
        _log.error("node: an object of %s could not be kept: %s", caller.ae_title, error)
        return _refused(OUT_OF_RESOURCES, "it cannot be kept now; send it again later")
    answer = Dataset()
    answer.Status = SUCCESS
    return Stored(answer, received)


def _received(services: Services, caller: Caller, data: bytes, sop_uid: str) -> Received:
    """The object, taken in. One that came before in another encoding (an upload, another transfer syntax) is the same
    object: what is there stays."""
    try:
        return services.library.receive(caller.site.name, data, calling_ae=caller.ae_title)
    except DicomError:
        try:
            there = services.library.data(caller.site.name, sop_uid)
        except DoseengError:
            there = b""
        if not there or not _is_same(there, data):
            raise
        return services.library.receive(caller.site.name, there, calling_ae=caller.ae_title)


def _is_same(one: bytes, other: bytes) -> bool:
    try:
        return bool(dcmread(BytesIO(one)) == dcmread(BytesIO(other)))
    except (*PARSE_ERRORS, RecursionError):
        return False


def _named(data: bytes) -> tuple[str, str]:
    """SOP Class and Instance UID of an object."""
    dataset = dcmread(BytesIO(data), specific_tags=["SOPClassUID", "SOPInstanceUID"], stop_before_pixels=True)
    return text(dataset, "SOPClassUID"), text(dataset, "SOPInstanceUID")


def _refused(status: int, why: str) -> Stored:
    answer = Dataset()
    answer.Status = status
    answer.ErrorComment = "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in why)[:LONGEST_COMMENT]
    return Stored(answer, None)
