"""FHIR R4 resources against their definitions (R4 4.0.1: required elements, types, value sets, invariants)."""

import re
from typing import Any
from urllib.parse import parse_qs

import pytest

from cluster.database.connection import Database
from cluster.flags.fhir import bundle
from tests.cluster.flags.making import PLAN_LABEL, Clinic, Receiver, config_of, drop, hurry
from tests.cluster.flags.telling import KEY, message

DATE_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"
CODE = r"[^\s]+(\s[^\s]+)*"
URI = r"\S+"
ID = r"[A-Za-z0-9\-.]{1,64}"
URN_UUID = r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
PRIORITIES = {"routine", "urgent", "asap", "stat"}

# Element: (least, most, type), most None for any number. Types: a primitive's regular expression, a set of codes,
# a dictionary of elements, or the name of one below.
CODING = {"system": (0, 1, URI), "code": (0, 1, CODE), "display": (0, 1, ".+")}
CONCEPT = {"coding": (0, None, CODING), "text": (0, 1, ".+")}
IDENTIFIER = {
    "use": (0, 1, {"usual", "official", "temp", "secondary", "old"}),
    "system": (0, 1, URI),
    "value": (0, 1, ".+"),
}
REFERENCE = {"reference": (0, 1, ".+"), "type": (0, 1, URI), "identifier": (0, 1, IDENTIFIER), "display": (0, 1, ".+")}
QUANTITY = {"value": (0, 1, float), "unit": (0, 1, ".+"), "system": (0, 1, URI), "code": (0, 1, CODE)}
RANGE = {"low": (0, 1, QUANTITY), "high": (0, 1, QUANTITY), "text": (0, 1, ".+")}
OBSERVATION_STATUS = {"registered", "preliminary", "final", "amended", "corrected", "cancelled", "entered-in-error"}
RESOURCES: dict[str, dict[str, Any]] = {
    "Observation": {
        "id": (0, 1, ID),
        "status": (1, 1, OBSERVATION_STATUS | {"unknown"}),
        "code": (1, 1, CONCEPT),
        "subject": (0, 1, REFERENCE),
        "valueQuantity": (0, 1, QUANTITY),
        "dataAbsentReason": (0, 1, CONCEPT),
        "interpretation": (0, None, CONCEPT),
        "referenceRange": (0, None, RANGE),
    },
    "DiagnosticReport": {
        "identifier": (0, None, IDENTIFIER),
        "contained": (0, None, "resource"),
        "status": (1, 1, OBSERVATION_STATUS | {"partial", "appended", "unknown"}),
        "code": (1, 1, CONCEPT),
        "subject": (0, 1, REFERENCE),
        "effectiveDateTime": (0, 1, DATE_TIME),
        "issued": (0, 1, DATE_TIME),
        "result": (0, None, REFERENCE),
        "conclusion": (0, 1, "(?s).+"),
        "conclusionCode": (0, None, CONCEPT),
    },
    "Task": {
        "identifier": (0, None, IDENTIFIER),
        "status": (1, 1, {"draft", "requested", "received", "accepted", "rejected", "ready", "cancelled"}),
        "intent": (1, 1, {"unknown", "proposal", "plan", "order", "original-order", "reflex-order", "option"}),
        "priority": (0, 1, PRIORITIES),
        "code": (0, 1, CONCEPT),
        "description": (0, 1, "(?s).+"),
        "focus": (0, 1, REFERENCE),
        "for": (0, 1, REFERENCE),
        "authoredOn": (0, 1, DATE_TIME),
        "requester": (0, 1, REFERENCE),
    },
    "Communication": {
        "identifier": (0, None, IDENTIFIER),
        "status": (1, 1, {"preparation", "in-progress", "not-done", "on-hold", "stopped", "completed", "unknown"}),
        "category": (0, None, CONCEPT),
        "priority": (0, 1, PRIORITIES),
        "subject": (0, 1, REFERENCE),
        "about": (0, None, REFERENCE),
        "sent": (0, 1, DATE_TIME),
        "sender": (0, 1, REFERENCE),
        "payload": (0, None, {"contentString": (1, 1, "(?s).+")}),
    },
}


def conforms(value: Any, expected: Any, where: str) -> None:
    if expected == "resource":
        resource = dict(value)
        kind = resource.pop("resourceType")
        conforms(resource, RESOURCES[kind], f"{where}({kind})")
    elif isinstance(expected, dict):
        assert isinstance(value, dict), where
        assert value, f"{where} is empty (ele-1)"
        assert value.keys() <= expected.keys(), f"{where}: unknown {value.keys() - expected.keys()}"
        for name, (least, most, kind) in expected.items():
            found = value.get(name, [] if most is None else None)
            many = found if most is None else [] if found is None else [found]
            assert isinstance(many, list), f"{where}.{name} is a list"
            assert len(many) >= least, f"{where}.{name} is required"
            assert most is not None or name not in value or many, f"{where}.{name} is an empty list"
            for item in many:
                conforms(item, kind, f"{where}.{name}")
    elif isinstance(expected, set):
        assert value in expected, f"{where}: {value}"
    elif expected is float:
        assert isinstance(value, int | float), where
        assert not isinstance(value, bool), where
    else:
        assert isinstance(value, str), where
        assert re.fullmatch(expected, value), f"{where}: {value!r}"


@pytest.mark.parametrize("verdict", ["GREEN", "AMBER", "RED", "UNEVALUABLE", "FAILED"])
def test_resources_are_as_their_definitions_say(verdict: str) -> None:
    found = bundle(message(verdict), KEY)
    assert (found["resourceType"], found["type"]) == ("Bundle", "transaction")
    kinds = [entry["resource"]["resourceType"] for entry in found["entry"]]
    reports = [] if verdict == "FAILED" else ["DiagnosticReport"]
    assert kinds == reports + ([] if verdict == "GREEN" else ["Task", "Communication"])
    addresses = {entry["fullUrl"] for entry in found["entry"]}
    assert len(addresses) == len(kinds), "bdl-7: full URLs are unique"
    for entry, kind in zip(found["entry"], kinds, strict=True):
        assert entry.keys() == {"fullUrl", "resource", "request"}, "bdl-3, bdl-4"
        assert re.fullmatch(URN_UUID, entry["fullUrl"])
        assert (entry["request"]["method"], entry["request"]["url"]) == ("POST", kind)
        conforms(entry["resource"], "resource", kind)
        (identifier,) = entry["resource"]["identifier"]
        query = parse_qs(entry["request"]["ifNoneExist"], strict_parsing=True)
        assert query == {"identifier": [f"{identifier['system']}|{identifier['value']}"]}
        for reference in references(entry["resource"]):
            if "reference" in reference and not reference["reference"].startswith("#"):
                assert reference["reference"] in addresses


def test_contained_observations_are_referred_to_and_say_what_the_goals_say() -> None:
    report = bundle(message(), KEY)["entry"][0]["resource"]
    observations = report["contained"]
    assert [r["reference"] for r in report["result"]] == [f"#{o['id']}" for o in observations], "dom-3"
    assert len({o["id"] for o in observations}) == 3
    ctv, cord, lung = observations
    assert ctv["valueQuantity"]["value"] == 91.25
    assert ctv["referenceRange"][0]["low"]["value"] == 95.0
    assert ctv["interpretation"][0]["coding"][0]["code"] == "A"
    assert cord["valueQuantity"]["code"] == "Gy{RBE}"
    assert cord["valueQuantity"]["unit"] == "Gy (RBE 1.1)"
    assert cord["referenceRange"][0]["high"]["value"] == 45.0
    assert "valueQuantity" not in lung, "obs-6"
    assert lung["dataAbsentReason"]["coding"][0]["code"] == "not-a-number"
    assert (
        bundle(message(rbe_weighted=False), KEY)["entry"][0]["resource"]["contained"][1]["valueQuantity"]["code"]
        == "Gy"
    )


def test_patients_are_known_by_the_pseudonym_of_their_site() -> None:
    task = bundle(message(), KEY)["entry"][1]["resource"]
    assert task["for"]["identifier"]["value"] == "p-0001"
    assert "reference" not in task["for"]
    assert {r["type"] for r in references(bundle(message(), KEY)) if "identifier" in r} == {"Patient"}


def test_a_repeat_is_the_same_bundle_and_goes_with_the_token(sqlite_database: Database, receiver: Receiver) -> None:
    receiver.answers.append(drop)
    fhir = {"name": "ehr", "kind": "fhir", "url": f"{receiver.url}/fhir", "bearer": "t0ken"}
    clinic = Clinic(sqlite_database, config_of(fhir))
    clinic.end("RED")
    assert clinic.outbox.send_due() == 0
    hurry(sqlite_database)
    assert clinic.outbox.send_due() == 1
    first, second = receiver.requests
    assert first.body == second.body
    assert first.headers["Authorization"] == "Bearer t0ken"
    assert first.headers["Content-Type"] == "application/fhir+json"
    assert first.path == "/fhir"
    conditions = [entry["request"]["ifNoneExist"] for entry in first.json["entry"]]
    assert len(set(conditions)) == 3
    for secret in (PLAN_LABEL, "t0ken", "1.2.3"):
        assert secret not in first.body.decode()


def references(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return [found for item in value for found in references(item)]
    if not isinstance(value, dict):
        return []
    own = [value] if "reference" in value or ("type" in value and "identifier" in value) else []
    return own + [found for item in value.values() for found in references(item)]
