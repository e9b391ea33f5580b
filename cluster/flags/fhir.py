"""HL7 FHIR R4 (4.0.1): the result as DiagnosticReport, the flag as Task, the telling as Communication.

One transaction Bundle (R4 3.1.0.11). Each resource carries an identifier made from the delivery and is created on the
condition that none with this identifier is there (If-None-Exist, R4 3.1.0.8.1): a repeat creates nothing.

The patient is named by identifier alone (logical reference, R4 2.3.0.1): the site's pseudonym. Goals are Observations
inside the report. A verdict that nobody has signed is "preliminary".
"""

from __future__ import annotations

import json
import uuid
from typing import Any, Final
from urllib.parse import quote

from cluster.flags.http import post
from cluster.flags.message import FAILED, Message
from cluster.flags.words import as_text, goal_text, unit_text
from cluster.service.config import Destination
from doseeng.dicom.srcontent import SCHEME_UID
from doseeng.summary import STATEMENT

Resource = dict[str, Any]

CODES: Final = f"urn:oid:{SCHEME_UID}"
"""doseeng's private codes, the same scheme as in its DICOM structured reports."""
UCUM: Final = "http://unitsofmeasure.org"
INTERPRETATION: Final = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
_URIS: Final = "urn:ietf:rfc:3986"
"""System of identifiers that are URIs themselves."""
_SPACE: Final = uuid.UUID("0c1f9c4a-1a3b-4b2f-8d6e-2f8b5b7a9e33")
_PRIORITY: Final = {"RED": "urgent", "UNEVALUABLE": "urgent", FAILED: "urgent", "AMBER": "routine"}
_MEANING: Final = {"GREEN": ("N", "Normal"), "AMBER": ("IND", "Indeterminate"), "RED": ("A", "Abnormal")}


def send_fhir(destination: Destination, message: Message, attempt_key: str) -> None:
    """Post the Bundle to the server's base URL. PeerError when it was not taken."""
    body = json.dumps(bundle(message, attempt_key), sort_keys=True, allow_nan=False).encode()
    headers = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json", "Prefer": "return=minimal"}
    if bearer := destination.bearer.get_secret_value():
        headers["Authorization"] = f"Bearer {bearer}"
    post(destination, destination.url, body, headers)


def bundle(message: Message, attempt_key: str) -> Resource:
    """The transaction: the report (but of a failed job), and for a flag also the Task and the Communication."""
    resources = [] if message.verdict == FAILED else [_report(message)]
    if message.is_flag:
        about = [{"reference": _uuid(attempt_key, "DiagnosticReport")}] if resources else []
        resources += [_task(message, about), _communication(message, about)]
    entries = []
    for resource in resources:
        kind = resource["resourceType"]
        address = _uuid(attempt_key, kind)
        resource["identifier"] = [{"system": _URIS, "value": address}]
        condition = f"identifier={quote(_URIS, safe='')}%7C{quote(address, safe='')}"
        request = {"method": "POST", "url": kind, "ifNoneExist": condition}
        entries.append({"fullUrl": address, "resource": resource, "request": request})
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


def _report(message: Message) -> Resource:
    observations = [_observation(goal, number, message) for number, goal in enumerate(message.goals, start=1)]
    report: Resource = {
        "resourceType": "DiagnosticReport",
        "status": "preliminary",
        "code": _concept(message.kind, f"doseeng {message.kind}"),
        "subject": _patient(message),
        "effectiveDateTime": message.ended.isoformat(timespec="seconds"),
        "issued": message.ended.isoformat(timespec="milliseconds"),
        "conclusion": "\n".join([message.verdict, *message.reasons, STATEMENT]),
        "conclusionCode": [_concept(message.verdict, message.verdict)],
    }
    if observations:
        report["contained"] = observations
        report["result"] = [{"reference": f"#{observation['id']}"} for observation in observations]
    return report


def _observation(goal: dict[str, Any], number: int, message: Message) -> Resource:
    limit = _quantity(goal["limit"], goal["unit"], message.rbe_weighted)
    observation: Resource = {
        "resourceType": "Observation",
        "id": f"goal-{number}",
        "status": "preliminary",
        "code": _concept("GOAL", goal["name"]),
        "subject": _patient(message),
        "referenceRange": [{"low" if goal["relation"] == ">=" else "high": limit, "text": goal_text(goal, message)}],
    }
    if goal["value"] is None:
        reason = {"system": "http://terminology.hl7.org/CodeSystem/data-absent-reason", "code": "not-a-number"}
        observation["dataAbsentReason"] = {"coding": [reason]}
    else:
        observation["valueQuantity"] = _quantity(goal["value"], goal["unit"], message.rbe_weighted)
    if goal["status"] in _MEANING:
        code, display = _MEANING[goal["status"]]
        coding = {"system": INTERPRETATION, "code": code, "display": display}
        observation["interpretation"] = [{"coding": [coding], "text": goal["status"]}]
    return observation


def _task(message: Message, about: list[Resource]) -> Resource:
    task: Resource = {
        "resourceType": "Task",
        "status": "requested",
        "intent": "proposal",
        "priority": _PRIORITY[message.verdict],
        "code": _concept("REVIEW", "Look at a result of doseeng"),
        "description": message.headline,
        "for": _patient(message),
        "authoredOn": message.ended.isoformat(timespec="seconds"),
        "requester": {"type": "Device", "display": "doseeng"},
    }
    if about:
        task["focus"] = about[0]
    return task


def _communication(message: Message, about: list[Resource]) -> Resource:
    communication: Resource = {
        "resourceType": "Communication",
        "status": "completed",
        "category": [_concept("FLAG", "A verdict that a person has to look at")],
        "priority": _PRIORITY[message.verdict],
        "subject": _patient(message),
        "sent": message.ended.isoformat(timespec="seconds"),
        "sender": {"type": "Device", "display": "doseeng"},
        "payload": [{"contentString": as_text(message)}],
    }
    if about:
        communication["about"] = about
    return communication


def _patient(message: Message) -> Resource:
    """Pseudonyms are unique within a site: its name makes the system that they belong to."""
    system = f"urn:uuid:{uuid.uuid5(_SPACE, f'patients of {message.site}')}"
    return {
        "type": "Patient",
        "identifier": {"use": "secondary", "system": system, "value": message.patient_key or "unknown"},
    }


def _concept(code: str, words: str) -> Resource:
    return {"coding": [{"system": CODES, "code": code}], "text": words}


def _quantity(value: float, unit: str, rbe_weighted: bool) -> Resource:
    code = "Gy{RBE}" if unit == "Gy" and rbe_weighted else unit
    return {"value": value, "unit": unit_text(unit, rbe_weighted), "system": UCUM, "code": code}


def _uuid(attempt_key: str, kind: str) -> str:
    return f"urn:uuid:{uuid.uuid5(_SPACE, f'{attempt_key}/{kind}')}"
