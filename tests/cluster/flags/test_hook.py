"""A job that ends leaves one flag where a person has to look, and one message for each destination that wants it."""

import pytest
from sqlalchemy import select

from cluster.database.connection import Database
from cluster.database.tables import FlagRow, JobRow, OutboxRow
from cluster.flags.hook import flag_hook
from cluster.jobs.model import JobKind, JobResult
from cluster.jobs.rows import job_of
from doseeng.errors import JobError
from tests.cluster.flags.making import PLAN_LABEL, Clinic, config_of, webhook


def queued(database: Database) -> list[tuple[str, str, str]]:
    with database.reading() as session:
        rows = session.execute(select(OutboxRow.site, OutboxRow.destination, OutboxRow.subject))
        return sorted((site, destination, subject) for site, destination, subject in rows)


def flags(database: Database) -> list[FlagRow]:
    with database.reading() as session:
        return list(session.scalars(select(FlagRow)))


@pytest.mark.parametrize("verdict", ["RED", "AMBER", "UNEVALUABLE", "FAILED"])
def test_what_a_person_has_to_see_is_a_flag(sqlite_database: Database, verdict: str) -> None:
    job_id = Clinic(sqlite_database, config_of()).end(verdict)
    (flag,) = flags(sqlite_database)
    assert (flag.job_id, flag.verdict, flag.site, flag.patient_key) == (job_id, verdict, "north", "p-0000")
    assert flag.acknowledged_at is None
    assert flag.headline.startswith(f"{verdict}: ")
    if verdict == "FAILED":
        assert flag.details["reasons"] == ["GeometryError: the CT has a gap"]
    else:
        assert flag.details["plan"] == PLAN_LABEL
        assert flag.details["goals"][0]["status"] == "RED"


def test_green_is_no_flag_but_a_message_for_those_who_want_all(database: Database) -> None:
    wanting = webhook("https://all.example/", "all"), webhook("https://red.example/", "red", verdicts=["RED", "FAILED"])
    clinic = Clinic(database, config_of(*wanting))
    green = clinic.end("GREEN", 1)
    red = clinic.end("RED", 2)
    failed = clinic.end("FAILED", 3)
    expected = [("all", green), ("all", red), ("all", failed), ("red", red), ("red", failed)]
    assert queued(database) == sorted(("north", name, job_id) for name, job_id in expected)
    assert sorted(flag.job_id for flag in flags(database)) == sorted([red, failed])


def test_archives_get_results_of_any_verdict_and_of_doses_but_nothing_of_failures(sqlite_database: Database) -> None:
    archive = {"name": "pacs", "kind": "dicom", "host": "pacs", "port": 104, "ae_title": "PACS"}
    clinic = Clinic(sqlite_database, config_of(archive, webhook("https://all.example/", "all")))
    green = clinic.end("GREEN", 1)
    dose = clinic.end("", 2, kind=JobKind.DOSE)
    failed = clinic.end("FAILED", 3)
    expected = [("all", green), ("all", failed), ("pacs", green), ("pacs", dose)]
    assert queued(sqlite_database) == sorted(("north", name, job_id) for name, job_id in expected)


def test_sites_are_told_of_their_own_jobs_alone(sqlite_database: Database) -> None:
    hooks = webhook("https://north.example/", "hook"), webhook("https://south.example/", "hook")
    clinic = Clinic(sqlite_database, config_of(hooks[0], other=(hooks[1],)))
    north, south = clinic.end("RED", 1, "north"), clinic.end("RED", 2, "south")
    assert queued(sqlite_database) == [("north", "hook", north), ("south", "hook", south)]


def test_a_repeated_transaction_changes_nothing(database: Database) -> None:
    clinic = Clinic(database, config_of(webhook("https://all.example/")))
    job_id = clinic.end("RED")
    hook = flag_hook(clinic.config)
    for _ in range(2):
        with database.transaction() as session:
            row = session.get(JobRow, job_id)
            assert row is not None
            hook(session, job_of(row))
            hook(session, job_of(row))
    assert len(flags(database)) == 1
    assert len(queued(database)) == 1


def test_what_is_rolled_back_leaves_neither_flag_nor_message(database: Database) -> None:
    clinic = Clinic(database, config_of(webhook("https://all.example/")))
    job = clinic.start()

    def breaks(*_: object) -> None:
        raise JobError("a later hook failed")

    store = type(clinic.store)(database, (flag_hook(clinic.config), breaks))
    with pytest.raises(JobError, match="later hook"):
        store.finish(job.id, "driver", JobResult("RED", {"reasons": []}))
    assert clinic.store.get("north", job.id).state == "running"
    assert (flags(database), queued(database)) == ([], [])


def test_a_cancelled_job_is_nobodys_business(sqlite_database: Database) -> None:
    clinic = Clinic(sqlite_database, config_of(webhook("https://all.example/")))
    job = clinic.start()
    clinic.store.cancel("north", job.id)
    clinic.store.finish(job.id, "driver", JobResult("RED", {"reasons": []}))
    assert (flags(sqlite_database), queued(sqlite_database)) == ([], [])


def test_a_summary_without_anything_still_ends_the_job(sqlite_database: Database) -> None:
    clinic = Clinic(sqlite_database, config_of(webhook("https://all.example/")))
    job = clinic.start()
    clinic.store.finish(job.id, "driver", JobResult("RED", {"goals": [{"name": "CTV"}]}))
    assert [flag.headline for flag in flags(sqlite_database)] == ["RED"]


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ({"name": "h", "kind": "webhook", "url": "http://hook.example/", "secret": "s"}, "https://"),
        ({"name": "f", "kind": "fhir", "url": "ftp://fhir.example/"}, "https://"),
        (
            {
                "name": "m",
                "kind": "email",
                "smtp_host": "mail.example",
                "sender": "a@b",
                "recipients": ["c@d"],
                "smtp_user": "u",
            },
            "in the clear",
        ),
    ],
)
def test_destinations_that_would_tell_secrets_in_the_clear_are_refused(
    destination: dict[str, object], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        config_of(destination)
