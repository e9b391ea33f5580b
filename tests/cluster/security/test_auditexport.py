"""Exports of the audit log against what their standards require.

The schema below is that of PS3.15 A.5.1 (RELAX NG there), written down as: element -> (attributes that must be there,
attributes that may be, children in their order with how often they may come).
"""

import base64
import json
import re
from datetime import UTC, datetime
from xml.etree.ElementTree import Element, fromstring

import pytest

from cluster.security.audit import Action, AuditEntry
from cluster.security.auditexport import to_dicom, to_fhir

CODED = ({"csd-code", "codeSystemName", "originalText"}, {"displayName"}, [])
SCHEMA: dict[str, tuple[set[str], set[str], list[tuple[str, int, int]]]] = {
    "AuditMessage": (
        set(),
        set(),
        [
            ("EventIdentification", 1, 1),
            ("ActiveParticipant", 1, 99),
            ("AuditSourceIdentification", 1, 1),
            ("ParticipantObjectIdentification", 0, 99),
        ],
    ),
    "EventIdentification": (
        {"EventDateTime", "EventOutcomeIndicator"},
        {"EventActionCode"},
        [("EventID", 1, 1), ("EventTypeCode", 0, 99), ("EventOutcomeDescription", 0, 1)],
    ),
    "ActiveParticipant": (
        {"UserID", "UserIsRequestor"},
        {"AlternativeUserID", "UserName", "NetworkAccessPointID", "NetworkAccessPointTypeCode"},
        [("RoleIDCode", 0, 99)],
    ),
    "AuditSourceIdentification": ({"AuditSourceID"}, {"AuditEnterpriseSiteID"}, [("AuditSourceTypeCode", 0, 99)]),
    "ParticipantObjectIdentification": (
        {"ParticipantObjectID"},
        {"ParticipantObjectTypeCode", "ParticipantObjectTypeCodeRole", "ParticipantObjectDataLifeCycle"},
        [("ParticipantObjectIDTypeCode", 1, 1), ("ParticipantObjectName", 1, 1), ("ParticipantObjectDetail", 0, 99)],
    ),
    "EventID": CODED,
    "EventTypeCode": CODED,
    "RoleIDCode": CODED,
    "ParticipantObjectIDTypeCode": CODED,
    "AuditSourceTypeCode": ({"csd-code"}, {"codeSystemName", "displayName", "originalText"}, []),
    "EventOutcomeDescription": (set(), set(), []),
    "ParticipantObjectName": (set(), set(), []),
    "ParticipantObjectDetail": ({"type", "value"}, set(), []),
}
VALUES = {
    "EventActionCode": "[CRUDE]",
    "EventOutcomeIndicator": "0|4|8|12",
    "EventDateTime": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
    "UserIsRequestor": "true|false",
    "NetworkAccessPointTypeCode": "[1-5]",
    "ParticipantObjectTypeCode": "[1-4]",
    "ParticipantObjectTypeCodeRole": "[1-9]|1[0-9]|2[0-6]",
}


def check(element: Element) -> None:
    required, optional, children = SCHEMA[element.tag]
    assert required <= element.attrib.keys() <= required | optional, element.tag
    for name, value in element.attrib.items():
        assert re.fullmatch(VALUES.get(name, r"(?s).+"), value), (element.tag, name, value)
    pattern = "".join(f"(?:{name},){{{least},{most}}}" for name, least, most in children)
    assert re.fullmatch(pattern, "".join(f"{child.tag}," for child in element)), element.tag
    if element.tag == "ParticipantObjectDetail":
        base64.b64decode(element.attrib["value"], validate=True)
    for child in element:
        check(child)


def entry(**changes: object) -> AuditEntry:
    values: dict[str, object] = {
        "sequence": 7,
        "at": datetime(2025, 3, 1, 8, 30, 1, 250_000, tzinfo=UTC),
        "site": "north",
        "actor": "anna",
        "role": "physicist",
        "origin": "10.0.0.1",
        "action": Action.RESULT_READ,
        "object_type": "job",
        "object_id": "j1",
        "outcome": "success",
        "details": {"artifact": "report.html", "n": 3},
        "previous": "0" * 64,
        "digest": "ab" * 32,
    }
    return AuditEntry(**{**values, **changes})  # type: ignore[arg-type]


ENTRIES = [
    *(entry(action=action) for action in Action),
    *(entry(object_type=kind, object_id="x") for kind in ("patient", "user", "study", "token", "audit", "series", "")),
    entry(action="something-new", object_type="", object_id="", role="", origin="", site="", actor="", details={}),
    entry(actor="<&\"'>", origin="PACS_1", outcome="denied <script>", details={"x": "</AuditMessage>"}),
]


@pytest.mark.parametrize("one", ENTRIES, ids=lambda e: f"{e.action}-{e.object_type}")
def test_dicom_messages_fit_the_schema(one: AuditEntry) -> None:
    written = to_dicom(one)
    assert "\n" not in written
    message = fromstring(written)
    assert message.tag == "AuditMessage"
    check(message)
    requestors = [p for p in message.iter("ActiveParticipant") if p.attrib["UserIsRequestor"] == "true"]
    assert [p.attrib["UserID"] for p in requestors] == [one.actor or "doseeng"]
    outcome = message.find("EventIdentification").attrib["EventOutcomeIndicator"]
    assert (outcome == "0") == (one.outcome == "success")
    own = [c for c in message.iter("EventTypeCode") if c.attrib["codeSystemName"] == "99DOSEENG"]
    assert [c.attrib["csd-code"] for c in own] == [one.action]


def test_a_login_is_dicoms_login() -> None:
    message = fromstring(to_dicom(entry(action=Action.LOGIN, object_type="user", object_id="anna")))
    event = message.find("EventIdentification/EventID").attrib
    assert (event["csd-code"], event["codeSystemName"]) == ("110114", "DCM")
    assert message.find("EventIdentification/EventTypeCode").attrib["csd-code"] == "110122"
    assert message.find("ActiveParticipant").attrib["NetworkAccessPointTypeCode"] == "2"
    named = {d.attrib["type"]: d.attrib["value"] for d in message.iter("ParticipantObjectDetail")}
    assert base64.b64decode(named["digest"]).decode() == "ab" * 32
    assert json.loads(base64.b64decode(named["details"])) == {"artifact": "report.html", "n": 3}


def test_who_sends_and_who_receives_a_transfer() -> None:
    received = fromstring(to_dicom(entry(action=Action.OBJECT_RECEIVE, actor="CT1", origin="ct1.example.org", role="")))
    roles = {p.attrib["UserID"]: p.find("RoleIDCode").attrib["csd-code"] for p in received.iter("ActiveParticipant")}
    assert roles == {"CT1": "110153", "doseeng": "110152"}
    sent = fromstring(to_dicom(entry(action=Action.OBJECT_SEND, actor="PACS", role="")))
    roles = {p.attrib["UserID"]: p.find("RoleIDCode").attrib["csd-code"] for p in sent.iter("ActiveParticipant")}
    assert roles == {"PACS": "110152", "doseeng": "110153"}


def test_every_action_has_an_event() -> None:
    from cluster.security.auditexport import EVENTS

    assert set(EVENTS) == set(Action)


@pytest.mark.parametrize("one", ENTRIES, ids=lambda e: f"{e.action}-{e.object_type}")
def test_fhir_events_have_what_r4_requires(one: AuditEntry) -> None:
    """AuditEvent of R4: type, recorded, agent (with requestor), source.observer are required; value sets by code."""
    made = json.loads(json.dumps(to_fhir(one), allow_nan=False))
    assert made["resourceType"] == "AuditEvent"
    assert re.fullmatch(r"[A-Za-z0-9\-.]{1,64}", made["id"])
    assert made["type"]["system"] == "http://dicom.nema.org/resources/ontology/DCM"
    assert re.fullmatch(r"1101\d\d", made["type"]["code"])
    assert made["recorded"] == "2025-03-01T08:30:01.250Z"
    assert made["action"] in "CRUDE"
    assert made["outcome"] in ("0", "4", "8", "12")
    assert len(made["agent"]) >= 1
    assert all(isinstance(agent["requestor"], bool) for agent in made["agent"])
    assert [agent["requestor"] for agent in made["agent"]].count(True) == 1
    assert made["source"]["observer"] == {"display": "doseeng"}
    assert all(entity["type"]["code"] in "1234" for entity in made["entity"])
    # No empty string, list or object: FHIR forbids them.
    assert not re.search(r'(""|\[\]|\{\})', re.sub(r'\\"', "", json.dumps(made)))
