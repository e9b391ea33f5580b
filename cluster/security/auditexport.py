"""The audit log for others: DICOM Audit Messages (PS3.15 A.5, XML) and HL7 FHIR R4 AuditEvent (JSON).

Both carry the same: when, what (by DICOM's codes and by our own word), how it ended, who, from where, to what, and the
row's number and digest, so that a copy elsewhere proves what the log said.
"""

from __future__ import annotations

import base64
import ipaddress
import json
from datetime import UTC
from typing import Any, Final, NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

from cluster.security.audit import Action, AuditEntry

SOURCE: Final = "doseeng"
OWN_CODES: Final = "99DOSEENG"
"""Coding scheme designator of our own words (PS3.16: 99 marks a private one)."""
DCM_URI: Final = "http://dicom.nema.org/resources/ontology/DCM"
OWN_URI: Final = "urn:doseeng:audit"
FAILURE: Final = "4"
"""Event Outcome Indicator "minor failure": what was asked was not done."""


class Code(NamedTuple):
    """A code of DICOM's ontology DCM (PS3.16) with its meaning."""

    value: str
    meaning: str


class Event(NamedTuple):
    """action: Create, Read, Update, Delete or Execute. is_incoming: of a transfer, whether data came to us."""

    code: Code
    action: str
    type: Code | None = None
    is_incoming: bool | None = None


class Kind(NamedTuple):
    """What kind of object. type, role: Participant Object Type Code and its Role (PS3.15 A.5.1.2)."""

    type: str
    role: str
    code: tuple[str, str, str]


_ACTIVITY: Final = Code("110100", "Application Activity")
_LOG_USED: Final = Code("110101", "Audit Log Used")
_ACCESSED: Final = Code("110103", "DICOM Instances Accessed")
_TRANSFERRED: Final = Code("110104", "DICOM Instances Transferred")
_EXPORT: Final = Code("110106", "Export")
_IMPORT: Final = Code("110107", "Import")
_PATIENT: Final = Code("110110", "Patient Record")
_PROCEDURE: Final = Code("110111", "Procedure Record")
_ALERT: Final = Code("110113", "Security Alert")
_AUTHENTICATION: Final = Code("110114", "User Authentication")
_RIGHTS: Final = Code("110137", "User Security Attributes Changed")
_APPLICATION: Final = Code("110150", "Application")
_DESTINATION: Final = Code("110152", "Destination Role ID")
_ORIGIN: Final = Code("110153", "Source Role ID")

EVENTS: Final[dict[str, Event]] = {
    Action.START: Event(_ACTIVITY, "E", Code("110120", "Application Start")),
    Action.STOP: Event(_ACTIVITY, "E", Code("110121", "Application Stop")),
    Action.LOGIN: Event(_AUTHENTICATION, "E", Code("110122", "Login")),
    Action.LOGOUT: Event(_AUTHENTICATION, "E", Code("110123", "Logout")),
    Action.ACCESS_DENIED: Event(_ALERT, "E", Code("110132", "Use of Restricted Function")),
    Action.USER_ADD: Event(_ALERT, "E", _RIGHTS),
    Action.USER_CHANGE: Event(_ALERT, "E", _RIGHTS),
    Action.USER_DISABLE: Event(_ALERT, "E", _RIGHTS),
    Action.TOKEN_ISSUE: Event(_ALERT, "E", _RIGHTS),
    Action.TOKEN_REVOKE: Event(_ALERT, "E", _RIGHTS),
    Action.OBJECT_RECEIVE: Event(_TRANSFERRED, "C", is_incoming=True),
    Action.OBJECT_SEND: Event(_TRANSFERRED, "R", is_incoming=False),
    Action.OBJECT_READ: Event(_ACCESSED, "R"),
    Action.OBJECT_DELETE: Event(_ACCESSED, "D"),
    Action.QUERY: Event(Code("110112", "Query"), "E"),
    Action.JOB_SUBMIT: Event(_PROCEDURE, "C"),
    Action.JOB_CANCEL: Event(_PROCEDURE, "U"),
    Action.JOB_END: Event(_PROCEDURE, "U"),
    Action.RESULT_READ: Event(_PROCEDURE, "R"),
    Action.TREATMENT_START: Event(_PATIENT, "U"),
    Action.TREATMENT_END: Event(_PATIENT, "U"),
    Action.FLAG_SEND: Event(_EXPORT, "R", is_incoming=False),
    Action.FLAG_ACKNOWLEDGE: Event(_PROCEDURE, "U"),
    Action.AUDIT_READ: Event(_LOG_USED, "R"),
    Action.AUDIT_EXPORT: Event(_LOG_USED, "R"),
    Action.BACKUP: Event(_EXPORT, "R", is_incoming=False),
    Action.RESTORE: Event(_IMPORT, "C", is_incoming=True),
    Action.DEIDENTIFY: Event(_EXPORT, "R", is_incoming=False),
    Action.REIDENTIFY: Event(_IMPORT, "C", is_incoming=True),
}
OTHER: Final = Event(_ACTIVITY, "E")
"""What the table does not know; its own word says more."""

KINDS: Final[dict[str, Kind]] = {
    "patient": Kind("1", "1", ("2", "RFC-3881", "Patient Number")),
    "user": Kind("1", "11", ("11", "RFC-3881", "User Identifier")),
    "study": Kind("2", "3", ("110180", "DCM", "Study Instance UID")),
    "job": Kind("2", "20", ("job", OWN_CODES, "Job")),
    "token": Kind("2", "13", ("token", OWN_CODES, "Token")),
    "audit": Kind("2", "13", ("12", "RFC-3881", "URI")),
}


def to_dicom(entry: AuditEntry) -> str:
    """A row as a DICOM Audit Message, one line of XML without declaration."""
    event = EVENTS.get(entry.action, OTHER)
    message = Element("AuditMessage")
    identification = SubElement(
        message,
        "EventIdentification",
        EventActionCode=event.action,
        EventDateTime=_time(entry),
        EventOutcomeIndicator=_outcome(entry),
    )
    _coded(identification, "EventID", event.code.value, "DCM", event.code.meaning)
    if event.type is not None:
        _coded(identification, "EventTypeCode", event.type.value, "DCM", event.type.meaning)
    _coded(identification, "EventTypeCode", entry.action, OWN_CODES, entry.action)
    SubElement(identification, "EventOutcomeDescription").text = entry.outcome
    _dicom_participants(message, entry, event)
    source = SubElement(message, "AuditSourceIdentification", AuditSourceID=SOURCE)
    if entry.site:
        source.set("AuditEnterpriseSiteID", entry.site)
    SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})
    _dicom_object(message, entry)
    return tostring(message, encoding="unicode")


def to_fhir(entry: AuditEntry) -> dict[str, Any]:
    """A row as a FHIR R4 AuditEvent, JSON-ready."""
    event = EVENTS.get(entry.action, OTHER)
    subtypes = [] if event.type is None else [_coding(DCM_URI, *event.type)]
    agent: dict[str, Any] = {"who": {"display": entry.actor or SOURCE}, "requestor": True}
    if entry.role:
        agent["role"] = [{"coding": [{"system": f"{OWN_URI}:role", "code": entry.role}]}]
    if entry.origin:
        agent["network"] = {"address": entry.origin, "type": _network(entry.origin)}
    itself = {"who": {"display": SOURCE}, "requestor": False, "type": {"coding": [_coding(DCM_URI, *_APPLICATION)]}}
    source: dict[str, Any] = {"observer": {"display": SOURCE}}
    if entry.site:
        source["site"] = entry.site
    source["type"] = [{"system": "http://terminology.hl7.org/CodeSystem/security-source-type", "code": "4"}]
    return {
        "resourceType": "AuditEvent",
        "id": f"{entry.sequence}",
        "type": _coding(DCM_URI, *event.code),
        "subtype": [*subtypes, _coding(f"{OWN_URI}:action", entry.action, entry.action)],
        "action": event.action,
        "recorded": _time(entry),
        "outcome": _outcome(entry),
        "outcomeDesc": entry.outcome,
        "agent": [agent, itself],
        "source": source,
        "entity": [_fhir_entity(entry)],
    }


def _dicom_participants(message: Element, entry: AuditEntry, event: Event) -> None:
    actor = SubElement(message, "ActiveParticipant", UserID=entry.actor or SOURCE, UserIsRequestor="true")
    if entry.origin:
        actor.set("NetworkAccessPointID", entry.origin)
        actor.set("NetworkAccessPointTypeCode", _network(entry.origin))
    itself = SubElement(message, "ActiveParticipant", UserID=SOURCE, UserIsRequestor="false")
    if event.is_incoming is None:
        _coded(itself, "RoleIDCode", _APPLICATION.value, "DCM", _APPLICATION.meaning)
    else:
        ours, theirs = (_DESTINATION, _ORIGIN) if event.is_incoming else (_ORIGIN, _DESTINATION)
        _coded(actor, "RoleIDCode", theirs.value, "DCM", theirs.meaning)
        _coded(itself, "RoleIDCode", ours.value, "DCM", ours.meaning)
    if entry.role:
        _coded(actor, "RoleIDCode", entry.role, OWN_CODES, entry.role)


def _dicom_object(message: Element, entry: AuditEntry) -> None:
    kind = _kind(entry)
    found = SubElement(
        message,
        "ParticipantObjectIdentification",
        ParticipantObjectID=entry.object_id or f"urn:doseeng:audit:{entry.sequence}",
        ParticipantObjectTypeCode=kind.type,
        ParticipantObjectTypeCodeRole=kind.role,
    )
    _coded(found, "ParticipantObjectIDTypeCode", *kind.code)
    SubElement(found, "ParticipantObjectName").text = entry.object_type or "audit"
    for name, value in _details(entry).items():
        SubElement(found, "ParticipantObjectDetail", type=name, value=base64.b64encode(value.encode()).decode())


def _fhir_entity(entry: AuditEntry) -> dict[str, Any]:
    kind = _kind(entry)
    details = [{"type": name, "valueString": value} for name, value in _details(entry).items()]
    return {
        "what": {"identifier": {"value": entry.object_id or f"urn:doseeng:audit:{entry.sequence}"}},
        "type": {"system": "http://terminology.hl7.org/CodeSystem/audit-entity-type", "code": kind.type},
        "role": {"system": "http://terminology.hl7.org/CodeSystem/object-role", "code": kind.role},
        "name": entry.object_type or "audit",
        "detail": details,
    }


def _kind(entry: AuditEntry) -> Kind:
    if not entry.object_type:
        return KINDS["audit"]
    return KINDS.get(entry.object_type, Kind("2", "3", (entry.object_type, OWN_CODES, entry.object_type)))


def _details(entry: AuditEntry) -> dict[str, str]:
    found = {"sequence": str(entry.sequence), "digest": entry.digest}
    return found | ({"details": json.dumps(entry.details, sort_keys=True)} if entry.details else {})


def _coded(parent: Element, name: str, value: str, scheme: str, meaning: str) -> None:
    SubElement(parent, name, {"csd-code": value, "codeSystemName": scheme, "originalText": meaning})


def _coding(system: str, code: str, display: str) -> dict[str, str]:
    return {"system": system, "code": code, "display": display}


def _time(entry: AuditEntry) -> str:
    return entry.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _outcome(entry: AuditEntry) -> str:
    return "0" if entry.outcome == "success" else FAILURE


def _network(origin: str) -> str:
    """Network Access Point Type Code: 2 for an address, 1 for a name."""
    try:
        ipaddress.ip_address(origin)
    except ValueError:
        return "1"
    return "2"
