"""Log lines: JSON that a machine reads, without names, identifiers and secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime

import pytest

from cluster.operations.logs import HIDDEN, hidden, scrubbed, set_up_logging


@pytest.fixture
def root_kept() -> Iterator[None]:
    """The logging of the test run as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_an_event_is_one_json_line(root_kept: None) -> None:
    stream = io.StringIO()
    set_up_logging("node", stream=stream)
    fields = {"site": "north", "job_id": "j1", "patient_key": "abc123", "seconds": 1.5, "note": ""}
    logging.getLogger("cluster.batch.table").info("item done\nwith %d goals", 3, extra=fields)
    logging.getLogger("uvicorn.error").info("started")
    lines = stream.getvalue().splitlines()
    first, second = map(json.loads, lines)
    time = datetime.fromisoformat(first.pop("time"))
    assert time.utcoffset() is not None
    assert not time.utcoffset()
    assert first == {
        "level": "info",
        "part": "node",
        "logger": "cluster.batch.table",
        "event": "item done\nwith 3 goals",
        "site": "north",
        "job_id": "j1",
        "patient_key": "abc123",
        "seconds": 1.5,
    }
    assert (second["part"], second["event"]) == ("node", "started")


def test_a_second_call_replaces_the_first(root_kept: None) -> None:
    first, second = io.StringIO(), io.StringIO()
    set_up_logging("api", stream=first)
    set_up_logging("api", stream=second, as_json=False)
    logging.getLogger("doseeng").warning("disk is nearly full", extra={"free_mb": 12})
    assert first.getvalue() == ""
    assert second.getvalue().endswith("warning disk is nearly full free_mb=12\n")


def test_identity_and_secrets_never_reach_a_line(root_kept: None) -> None:
    stream = io.StringIO()
    set_up_logging("api", stream=stream)
    log = logging.getLogger("doseeng.api")
    extra = {
        "PatientName": "Quatermain^Zebulon",
        "patient_id": "QZ-4711",
        "accession_number": "A-99120",
        "request": {"headers": {"Authorization": "Bearer abcdefghijkl"}, "birth-date": "19010203", "size": 3},
        "values": [{"session_token": "tk-778899"}],
        "reply": "Cookie ok, password=hunter2",
    }
    log.error("sent to https://peer:hunter2@example.org/x with Authorization: Bearer abcdefghijkl", extra=extra)
    log.info("(0010,0010) PN: 'Quatermain^Zebulon'\n(0010,0020) Patient ID LO: 'QZ-4711'")
    try:
        raise ValueError("connect postgresql://doseeng:hunter2@db/doseeng failed")
    except ValueError:
        log.exception("database")
    text = stream.getvalue()
    secrets = ("Quatermain", "QZ-4711", "A-99120", "hunter2", "abcdefghijkl", "19010203", "tk-778899")
    for secret in secrets:
        assert secret not in text
    assert '"size": 3' in text
    assert "Traceback" in text
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize(
    "name", ["PatientName", "patient_birth_date", "ReferringPhysicianName", "InstitutionName", "api_key", "X-Token"]
)
def test_names_of_hidden_fields(name: str) -> None:
    assert hidden(name, "value") == HIDDEN


@pytest.mark.parametrize("name", ["patient_key", "case_key", "job_id", "site", "plan_uid", "verdict", "destination"])
def test_names_of_fields_that_stay(name: str) -> None:
    assert hidden(name, "value") == "value"


def test_plain_text_is_left_alone() -> None:
    text = "evaluated plan 1.2.840.3 of case abc123: V95% 96.2 >= 95, 28 scenarios in 12.1 s; token bucket is full"
    assert scrubbed(text) == text
