"""C-FIND and C-MOVE over the objects of the caller's own site (PS3.4 annex C, Patient Root and Study Root).

The index finds candidates. What names a patient comes out of the objects themselves, for systems of the site alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pynetdicom.presentation import build_context
from sqlalchemy import ColumnElement, func, select

from cluster.database.tables import InstanceRow
from cluster.node.callers import Caller
from cluster.node.network import MOST_CONTEXTS, PATIENT_ROOT_FIND, PATIENT_ROOT_MOVE, address_of
from cluster.node.query import LEVELS, answer_to, matches
from cluster.security.certificates import client_context
from cluster.service.config import Archive, Destination
from doseeng.dicom.files import PARSE_ERRORS
from doseeng.dicom.inventory import patient_key
from doseeng.dicom.tags import text
from doseeng.errors import DoseengError

if TYPE_CHECKING:
    from cluster.service.services import Services

# Statuses of PS3.4 tables C.4-1 and C.4-2.
SUCCESS: Final = 0x0000
PENDING: Final = 0xFF00
CANCELLED: Final = 0xFE00
IDENTIFIER_WRONG: Final = 0xA900
OUT_OF_RESOURCES: Final = 0xA700
MOST_CANDIDATES: Final = 5000
"""Objects that are opened for one query; one that fits more must be narrowed."""
_COLUMNS: Final = {
    "StudyInstanceUID": InstanceRow.study_uid,
    "SeriesInstanceUID": InstanceRow.series_uid,
    "SOPInstanceUID": InstanceRow.sop_uid,
}
_BY_LEVEL: Final = {
    "PATIENT": InstanceRow.patient_key,
    "STUDY": InstanceRow.study_uid,
    "SERIES": InstanceRow.series_uid,
    "IMAGE": InstanceRow.sop_uid,
}
_PATIENT_ROOT: Final = (PATIENT_ROOT_FIND, PATIENT_ROOT_MOVE)
_BROKEN: Final = (*PARSE_ERRORS, DoseengError, RecursionError)

_log = logging.getLogger(__name__)


def found(services: Services, caller: Caller, event: Any) -> Iterator[tuple[int, Dataset | None]]:
    """Answers to a C-FIND request: (status, identifier) as pynetdicom wants them."""
    try:
        identifier: Dataset = event.identifier
        level = _level(identifier, event.context.abstract_syntax in _PATIENT_ROOT)
        wheres = [InstanceRow.site == caller.site.name, *_wheres(identifier)]
    except _BROKEN:
        level, wheres = "", []
    if not level:
        yield IDENTIFIER_WRONG, None
        return
    candidates = _candidates(services, level, wheres)
    if len(candidates) > MOST_CANDIDATES:
        _log.warning("node: a query of %s fits more than %d entities", caller.ae_title, MOST_CANDIDATES)
        yield OUT_OF_RESOURCES, None
        return
    for sha256, counts in candidates:
        if event.is_cancelled:
            yield CANCELLED, None
            return
        answer = _answer(services, caller, identifier, level, sha256, counts)
        if answer is not None:
            yield PENDING, answer
    # pynetdicom ends with success by itself.


def moved(services: Services, caller: Caller, event: Any) -> Iterator[Any]:
    """What pynetdicom wants of a C-MOVE request: destination, number of objects, then each with its status."""
    destination = _destination(caller, str(event.move_destination).strip())
    if destination is None:
        yield None, None
        return
    try:
        identifier: Dataset = event.identifier
        level = _level(identifier, event.context.abstract_syntax in _PATIENT_ROOT)
        # Retrieval is by unique keys alone (C.4.2.1.4.1); without one of them it would move the whole site.
        wheres = _wheres(identifier) if level else []
    except _BROKEN:
        wheres = []
    digests = _digests(services, [InstanceRow.site == caller.site.name, *wheres]) if wheres else []
    contexts = {_context_of(_opened(services, caller, sha256)) for sha256 in digests}
    tls = (client_context(destination.tls), destination.host) if destination.tls is not None else None
    options = {"contexts": [build_context(*context) for context in sorted(contexts)][:MOST_CONTEXTS], "tls_args": tls}
    yield address_of(destination), destination.port, options
    yield len(digests)
    for sha256 in digests:
        if event.is_cancelled:
            yield CANCELLED, None
            return
        yield PENDING, _opened(services, caller, sha256)


def _level(identifier: Dataset, is_patient_root: bool) -> str:
    """The level of a query; "" when the model does not have it."""
    level = text(identifier, "QueryRetrieveLevel")
    return level if level in (LEVELS if is_patient_root else LEVELS[1:]) else ""


def _wheres(identifier: Dataset) -> list[ColumnElement[bool]]:
    """Unique keys as conditions of the index."""
    conditions: list[ColumnElement[bool]] = []
    for keyword, column in _COLUMNS.items():
        value = identifier.get(keyword)
        if value:
            uids = list(value) if isinstance(value, MultiValue) else [value]
            conditions.append(column.in_([str(uid).strip() for uid in uids]))
    patient_id = text(identifier, "PatientID")
    if patient_id and "*" not in patient_id and "?" not in patient_id:
        conditions.append(InstanceRow.patient_key == patient_key(patient_id))
    return conditions


def _candidates(services: Services, level: str, wheres: list[ColumnElement[bool]]) -> list[tuple[str, dict[str, Any]]]:
    """Digest of one object of every entity of the level, with what the index knows of the whole entity."""
    column = _BY_LEVEL[level]
    query = select(
        func.min(InstanceRow.sha256),
        func.count(InstanceRow.study_uid.distinct()),
        func.count(InstanceRow.series_uid.distinct()),
        func.count(),
        column,
    )
    query = query.where(*wheres).group_by(column).order_by(func.max(InstanceRow.received_at).desc())
    modalities: dict[str, list[str]] = {}
    with services.database.reading() as session:
        rows = session.execute(query.limit(MOST_CANDIDATES + 1)).all()
        if level == "STUDY":
            for study_uid, modality in session.execute(
                select(InstanceRow.study_uid, InstanceRow.modality).where(*wheres).distinct()
            ):
                modalities.setdefault(study_uid, []).append(modality)
    return [(row[0], _counts(level, *row[1:4], modalities.get(row[4], []))) for row in rows]


def _counts(level: str, studies: int, series: int, instances: int, modalities: list[str]) -> dict[str, Any]:
    if level == "IMAGE":
        return {}
    name = level.capitalize()
    counts: dict[str, Any] = {f"NumberOf{name}RelatedInstances": instances}
    if level in ("PATIENT", "STUDY"):
        counts[f"NumberOf{name}RelatedSeries"] = series
    if level == "PATIENT":
        counts["NumberOfPatientRelatedStudies"] = studies
    if level == "STUDY":
        counts["ModalitiesInStudy"] = sorted(each for each in modalities if each)
    return counts


def _answer(
    services: Services, caller: Caller, identifier: Dataset, level: str, sha256: str, counts: dict[str, Any]
) -> Dataset | None:
    """The answer for one entity; None when it does not match, or its object was damaged."""
    try:
        entity = _opened(services, caller, sha256)
        for keyword, value in counts.items():
            setattr(entity, keyword, value)
        entity.RetrieveAETitle = caller.called_ae
        keys = (key for key in identifier if key.tag.element and key.keyword not in _NO_KEYS)
        if not all(matches(key, entity) for key in keys):
            return None
        answer = answer_to(identifier, entity)
    except _BROKEN as error:
        _log.warning("node: object %s cannot be read for a query (%s)", sha256, type(error).__name__)
        return None
    answer.QueryRetrieveLevel = level
    answer.SpecificCharacterSet = "ISO_IR 192"
    return answer


_NO_KEYS: Final = ("SpecificCharacterSet", "QueryRetrieveLevel", "TimezoneOffsetFromUTC")


def _digests(services: Services, wheres: list[ColumnElement[bool]]) -> list[str]:
    query = select(InstanceRow.sha256).where(*wheres).order_by(InstanceRow.series_uid, InstanceRow.sop_uid)
    with services.database.reading() as session:
        return list(session.scalars(query))


def _opened(services: Services, caller: Caller, sha256: str) -> Dataset:
    return dcmread(BytesIO(services.blobs_of(caller.site.name).get(sha256)))


def _context_of(dataset: Dataset) -> tuple[str, str]:
    return str(dataset.SOPClassUID), str(dataset.file_meta.TransferSyntaxUID)


def _destination(caller: Caller, ae_title: str) -> Destination | Archive | None:
    """A peer of the site by its AE title: objects go nowhere that nobody configured."""
    peers: list[Destination | Archive] = [entry for entry in caller.site.destination if entry.kind == "dicom"]
    peers += caller.site.archive
    return next((peer for peer in peers if peer.ae_title.strip() == ae_title), None)


def peer_named(caller: Caller) -> Destination | Archive | None:
    """Where the caller itself listens, if the site's configuration says so."""
    return _destination(caller, caller.ae_title)
