"""The worklist: open flags of one site, who took note, once."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster.database.connection import Database
from cluster.flags.worklist import Flag, Worklist
from doseeng.errors import JobError
from tests.cluster.flags.making import Clinic, Receiver, config_of, webhook


def test_newest_first_and_no_more_than_asked_for(database: Database) -> None:
    clinic = Clinic(database, config_of())
    jobs = [clinic.end("RED", number) for number in range(4)]
    assert [flag.job_id for flag in Worklist(database).open("north", limit=3)] == jobs[:0:-1]


def test_a_site_sees_its_own_flags(sqlite_database: Database) -> None:
    clinic = Clinic(sqlite_database, config_of())
    clinic.end("RED", 1, "south")
    worklist = Worklist(sqlite_database)
    assert worklist.open("north") == []
    (flag,) = worklist.open("south")
    assert worklist.get("south", flag.id) == flag
    with pytest.raises(JobError, match="no flag"):
        worklist.get("north", flag.id)
    with pytest.raises(JobError, match="no flag"):
        worklist.acknowledge("north", flag.id, "eve", "")
    assert worklist.open("south") == [flag]


def test_acknowledged_once_by_who_came_first(database: Database) -> None:
    Clinic(database, config_of()).end("RED")
    worklist = Worklist(database)
    (flag,) = worklist.open("north")
    taken = worklist.acknowledge("north", flag.id, "anna", "replan ordered")
    assert (taken.acknowledged_by, taken.comment) == ("anna", "replan ordered")
    assert taken.acknowledged_at is not None
    assert taken.acknowledged_at >= flag.created_at
    with pytest.raises(JobError, match="by anna"):
        worklist.acknowledge("north", flag.id, "bert", "me too")
    with pytest.raises(JobError, match="by anna"):
        worklist.acknowledge("north", flag.id, "anna", "again")
    assert worklist.get("north", flag.id) == taken
    assert worklist.open("north") == []
    assert worklist.open("north", include_acknowledged=True) == [taken]


def test_of_many_at_once_one_is_written(database: Database) -> None:
    Clinic(database, config_of()).end("RED")
    worklist = Worklist(database)
    (flag,) = worklist.open("north")

    def acknowledge(name: str) -> Flag | None:
        try:
            return worklist.acknowledge("north", flag.id, name, "")
        except JobError:
            return None

    with ThreadPoolExecutor(6) as pool:
        answers = [found for found in pool.map(acknowledge, "abcdef") if found]
    assert len(answers) == 1
    assert worklist.get("north", flag.id) == answers[0]


def test_a_commit_whose_answer_was_lost_is_recognised(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clinic(sqlite_database, config_of()).end("RED")
    worklist = Worklist(sqlite_database)
    (flag,) = worklist.open("north")
    once = Database.retrying

    def twice(self: Database, work: object, **options: object) -> object:
        once(self, work, **options)  # type: ignore[arg-type]
        return once(self, work, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Database, "retrying", twice)
    assert worklist.acknowledge("north", flag.id, "anna", "seen").acknowledged_by == "anna"


def test_it_tells_what_became_of_the_messages(sqlite_database: Database, receiver: Receiver) -> None:
    receiver.answers += [503]
    clinic = Clinic(sqlite_database, config_of(webhook(receiver.url)))
    clinic.end("RED")
    worklist = Worklist(sqlite_database)
    assert [m.state for m in worklist.open("north")[0].messages] == ["pending"]
    clinic.outbox.send_due()
    (sending,) = worklist.open("north")[0].messages
    assert (sending.destination, sending.state, sending.attempts) == ("hook", "pending", 1)
    assert "503" in sending.error
