"""The audit log: gapless under concurrency, and whatever is done to it shows."""

import hashlib
import json
import multiprocessing
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from cluster.database.connection import Database, connect
from cluster.security.audit import Anchor, AuditLog, digest_of, read_anchors

THREADS = 4
EACH = 25


def filled(database: Database, rows: int = 8, anchor: Path | None = None) -> AuditLog:
    log = AuditLog(database, anchor)
    for n in range(rows):
        log.append(site="north", actor="anna", action="result-read", object_type="job", object_id=f"j{n}")
    return log


def test_a_row_comes_back_as_it_was_given(database: Database) -> None:
    log = AuditLog(database)
    details = {"ünï": [1, 2.5, None, True, "\u0000\ud800"], "deep": {"1": 0.1}}
    log.append(
        site="north",
        actor="anna",
        role="physicist",
        origin="10.0.0.1",
        action="login",
        object_type="user",
        object_id="anna",
        outcome="wrong password",
        details=details,
    )
    (entry,) = log.read("north")
    assert (entry.sequence, entry.actor, entry.role, entry.origin) == (1, "anna", "physicist", "10.0.0.1")
    assert (entry.action, entry.object_type, entry.object_id) == ("login", "user", "anna")
    assert (entry.outcome, entry.details) == ("wrong password", details)
    assert abs(entry.at - datetime.now(UTC)) < timedelta(minutes=5)
    assert log.verify().is_intact


def test_strangers_text_cannot_keep_a_row_out(database: Database) -> None:
    log = AuditLog(database)
    log.append(site="north", actor="A\x00\n" + "x" * 500, action="access-denied", object_id="y" * 1000)
    (entry,) = log.read("north")
    assert entry.actor == ("A??" + "x" * 500)[:128]
    assert len(entry.object_id) == 255
    assert log.verify().is_intact


def test_rows_are_read_by_site_time_and_action(database: Database) -> None:
    log = filled(database, 4)
    log.append(site="south", actor="bob", action="login")
    middle = log.append(site="north", actor="anna", action="login")
    log.append(site="north", actor="anna", action="logout")
    assert [e.sequence for e in log.read("north", limit=2)] == [7, 6]
    assert [e.sequence for e in log.read("north", action="login")] == [6]
    assert [e.sequence for e in log.read("north", since=middle.at)] == [7, 6]
    assert [e.sequence for e in log.read("north", before=3)] == [2, 1]
    assert [e.actor for e in log.read("south")] == ["bob"]
    assert [e.sequence for e in log.entries("north")] == [1, 2, 3, 4, 6, 7]


def test_an_empty_log_is_intact(database: Database) -> None:
    check = AuditLog(database).verify()
    assert check.is_intact
    assert (check.rows, check.sequence) == (0, 0)


def _append_many(url: str, name: str) -> None:
    database = connect(url)
    log = AuditLog(database)
    for n in range(EACH):
        log.append(site="north", actor=name, action="query", details={"n": n})
    database.close()


def test_threads_and_processes_leave_one_gapless_chain(database: Database) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_append_many, args=(url, f"process {n}")) for n in range(2)]
    log = AuditLog(database)

    def work(name: str) -> None:
        for n in range(EACH):
            log.append(site="north", actor=name, action="query", details={"n": n})

    threads = [threading.Thread(target=work, args=(f"thread {n}",)) for n in range(THREADS)]
    for runner in [*processes, *threads]:
        runner.start()
    for runner in [*processes, *threads]:
        runner.join()
    assert [process.exitcode for process in processes] == [0, 0]
    check = log.verify()
    assert check.is_intact, check.problems
    assert (check.rows, check.sequence) == ((THREADS + 2) * EACH,) * 2
    order: dict[str, list[int]] = {}
    for entry in log.entries("north"):
        order.setdefault(entry.actor, []).append(entry.details["n"])
    assert all(numbers == list(range(EACH)) for numbers in order.values())


def _changed(session: Session) -> None:
    session.execute(text("UPDATE audit SET object_id = 'j9' WHERE sequence = 4"))


def _removed(session: Session) -> None:
    session.execute(text("DELETE FROM audit WHERE sequence IN (4, 5)"))


def _removed_and_closed_up(session: Session) -> None:
    session.execute(text("DELETE FROM audit WHERE sequence = 4"))
    for number in range(5, 9):
        session.execute(text(f"UPDATE audit SET sequence = {number - 1} WHERE sequence = {number}"))


def _swapped(session: Session) -> None:
    for old, new in ((4, 100), (5, 4), (100, 5)):
        session.execute(text(f"UPDATE audit SET sequence = {new} WHERE sequence = {old}"))


def _inserted(session: Session) -> None:
    for number in range(8, 3, -1):
        session.execute(text(f"UPDATE audit SET sequence = {number + 1} WHERE sequence = {number}"))
    session.execute(
        text(
            "INSERT INTO audit SELECT 4, at, site, 'mallory', role, origin, action, object_type, object_id, outcome, "
            "details, previous, digest FROM audit WHERE sequence = 3"
        )
    )


def _time_moved(session: Session) -> None:
    session.execute(text("UPDATE audit SET at = (SELECT at FROM audit WHERE sequence = 1) WHERE sequence = 4"))


@pytest.mark.parametrize(
    ("tamper", "kind", "where"),
    [
        (_changed, "changed", 4),
        (_removed, "missing", 4),
        (_removed_and_closed_up, "replaced", 4),
        (_swapped, "replaced", 4),
        (_inserted, "replaced", 4),
        (_time_moved, "changed", 4),
    ],
)
def test_tampering_shows_and_where(
    database: Database, tamper: Callable[[Session], None], kind: str, where: int
) -> None:
    log = filled(database)
    with database.transaction() as session:
        tamper(session)
    problems = log.verify().problems
    assert (problems[0].sequence, problems[0].kind) == (where, kind)
    assert f"{where}" in problems[0].message


def test_a_row_replaced_with_its_digest_does_not_fit_the_next(sqlite_database: Database) -> None:
    log = filled(sqlite_database)
    _rewrite(sqlite_database, log, first=4, last=4)
    assert [(p.sequence, p.kind) for p in log.verify().problems] == [(5, "replaced")]


def test_a_log_made_anew_fits_itself_but_no_anchor(sqlite_database: Database, tmp_path: Path) -> None:
    log = filled(sqlite_database, anchor=tmp_path / "anchor")
    log.anchor()
    head = log.head()
    _rewrite(sqlite_database, log, first=4, last=8)
    assert AuditLog(sqlite_database).verify().is_intact
    assert [(p.sequence, p.kind) for p in log.verify().problems] == [(8, "replaced")]
    (tmp_path / "anchor").unlink()
    assert log.verify().is_intact
    assert [p.kind for p in log.verify((head,)).problems] == ["replaced"]


def test_an_end_cut_off_shows_by_the_anchor(database: Database, tmp_path: Path) -> None:
    log = filled(database, anchor=tmp_path / "anchor")
    log.anchor()
    with database.transaction() as session:
        session.execute(text("DELETE FROM audit WHERE sequence > 6"))
    assert AuditLog(database).verify().is_intact
    (problem,) = log.verify().problems
    assert (problem.sequence, problem.kind) == (7, "cut-off")
    assert "rows 7 to at least 8" in problem.message
    with database.transaction() as session:
        session.execute(text("DELETE FROM audit"))
    assert [p.kind for p in log.verify().problems] == ["cut-off"]


def test_the_head_is_noted_at_the_first_row_and_at_the_end(sqlite_database: Database, tmp_path: Path) -> None:
    path = tmp_path / "anchor"
    log = filled(sqlite_database, 5, path)
    assert [a.sequence for a in read_anchors(path)] == [1]
    log.anchor()
    assert read_anchors(path)[-1] == log.head() == Anchor(5, log.read("north")[0].digest)
    assert path.stat().st_mode & 0o077 == 0
    with path.open("a") as file:
        file.write('{"sequence": 9, "dig')
    assert [a.sequence for a in read_anchors(path)] == [1, 5]


def test_a_full_disk_for_the_note_does_not_lose_the_row(sqlite_database: Database, tmp_path: Path) -> None:
    log = filled(sqlite_database, 2, tmp_path / "no folder" / "anchor")
    assert log.verify().rows == 2


class Forgetful:
    """A database whose answer to the first commit is lost, so that the work is done again."""

    is_sqlite = True

    def __init__(self, database: Database) -> None:
        self.database = database
        self.committed = 0

    def retrying(self, work: Callable[[Session], object]) -> object:
        for _ in range(2):
            done = self.database.retrying(work)
            self.committed += 1
        return done


def test_a_commit_whose_answer_was_lost_is_not_repeated(sqlite_database: Database) -> None:
    forgetful = Forgetful(sqlite_database)
    entry = AuditLog(forgetful).append(site="north", actor="anna", action="login")  # type: ignore[arg-type]
    assert forgetful.committed == 2
    assert entry.sequence == 1
    assert AuditLog(sqlite_database).verify().rows == 1


def test_details_must_be_json(sqlite_database: Database) -> None:
    log = AuditLog(sqlite_database)
    with pytest.raises(ValueError):
        log.append(site="north", actor="anna", action="login", details={"x": float("nan")})
    assert log.verify().rows == 0


def _rewrite(database: Database, log: AuditLog, first: int, last: int) -> None:
    """What somebody does who may write the database and knows how rows are digested."""
    entries = {e.sequence: e for e in log.entries("north")}
    previous = entries[first].previous
    with database.transaction() as session:
        for number in range(first, last + 1):
            made = replace(entries[number], actor="mallory", previous=previous)
            previous = digest_of(made)
            session.execute(
                text("UPDATE audit SET actor = 'mallory', previous = :p, digest = :d WHERE sequence = :n"),
                {"p": made.previous, "d": previous, "n": number},
            )


def test_the_digest_is_as_documented(sqlite_database: Database) -> None:
    """So that another program can verify an export: canonical JSON of all columns but the digest."""
    entry = AuditLog(sqlite_database).append(site="north", actor="anna", action="login", details={"a": 1})
    content = {
        "sequence": 1, "at": entry.at.isoformat(timespec="microseconds"), "site": "north", "actor": "anna", "role": "",
        "origin": "", "action": "login", "object_type": "", "object_id": "", "outcome": "success", "details": {"a": 1},
        "previous": "0" * 64,
    }  # fmt: skip
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert entry.digest == hashlib.sha256(canonical.encode()).hexdigest()
