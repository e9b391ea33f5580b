"""Messages arrive, whatever happens in between; a repeat is known by its key."""

import logging
import random
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from cluster.database.connection import Database, connect
from cluster.database.tables import OutboxRow
from cluster.flags import outbox as outbox_module
from cluster.flags.outbox import GIVE_UP_AFTER, LEAST_ATTEMPTS, LONGEST_WAIT_S, Outbox
from doseeng.errors import JobError
from tests.cluster.flags.making import SECRET, Clinic, Receiver, config_of, drop, hurry, listening, webhook


def row_of(database: Database) -> OutboxRow:
    with database.reading() as session:
        return session.scalars(select(OutboxRow)).one()


def test_sent_once_and_marked(database: Database, receiver: Receiver) -> None:
    clinic = Clinic(database, config_of(webhook(receiver.url)))
    job_id = clinic.end("RED")
    assert clinic.outbox.send_due() == 1
    assert clinic.outbox.send_due() == 0
    row = row_of(database)
    assert (row.state, row.attempts, row.last_error) == ("sent", 1, "")
    assert row.sent_at is not None
    assert [request.json["job_id"] for request in receiver.requests] == [job_id]


@pytest.mark.parametrize("trouble", [500, 404, 302, 307, drop])
def test_what_was_not_taken_comes_again_with_the_same_key_and_bytes(
    sqlite_database: Database, receiver: Receiver, trouble: int | Callable[[socket.socket], None]
) -> None:
    receiver.answers += [trouble, trouble]
    clinic = Clinic(sqlite_database, config_of(webhook(receiver.url)))
    clinic.end("RED")
    for attempt in range(3):
        assert clinic.outbox.send_due() == (attempt == 2)
        hurry(sqlite_database)
    assert row_of(sqlite_database).state == "sent"
    assert len(receiver.requests) == 3
    assert len({request.key for request in receiver.requests}) == 1
    assert len({request.body for request in receiver.requests}) == 1
    assert {request.path for request in receiver.requests} == {"/"}, "a redirect was followed"


def test_a_receiver_that_does_not_answer_is_left(
    sqlite_database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.flags.http.TIMEOUTS", 0.2)
    is_over = threading.Event()
    receiver.answers.append(lambda _: is_over.wait() and None)  # type: ignore[func-returns-value]
    clinic = Clinic(sqlite_database, config_of(webhook(receiver.url)))
    clinic.end("RED")
    assert clinic.outbox.send_due() == 0
    is_over.set()
    assert "ReadTimeout" in row_of(sqlite_database).last_error
    hurry(sqlite_database)
    assert clinic.outbox.send_due() == 1


def test_nobody_there_is_waited_for_longer_each_time_and_never_too_long(sqlite_database: Database) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        clinic = Clinic(sqlite_database, config_of(webhook(f"http://127.0.0.1:{free.getsockname()[1]}/")))
        clinic.end("RED")
        waits = []
        for _ in range(LEAST_ATTEMPTS + 3):
            clinic.outbox.send_due()
            row = row_of(sqlite_database)
            waits.append((row.next_attempt_at - datetime.now(UTC)).total_seconds())
            assert clinic.outbox.send_due() == 0, "it did not wait"
            hurry(sqlite_database)
    assert row_of(sqlite_database).state == "pending"
    assert waits[0] < 5.0
    assert waits[4] > 20.0
    assert LONGEST_WAIT_S / 2 - 60.0 < min(waits[-3:]) <= max(waits[-3:]) <= LONGEST_WAIT_S
    lengths = {Outbox(clinic.config, sqlite_database, clinic.blobs_of, clinic.store, random=random.Random(i))._wait_s(1)
               for i in range(9)}  # fmt: skip
    assert len(lengths) == 9, "messages that failed together come back together"


def test_dead_after_days_of_trying_and_revived_by_a_person(database: Database, receiver: Receiver) -> None:
    receiver.answers += [500] * LEAST_ATTEMPTS
    clinic = Clinic(database, config_of(webhook(receiver.url)))
    clinic.end("RED")
    with database.transaction() as session:
        session.execute(update(OutboxRow).values(created_at=datetime.now(UTC) - GIVE_UP_AFTER - timedelta(hours=1)))
    for attempt in range(1, LEAST_ATTEMPTS + 1):
        clinic.outbox.send_due()
        assert row_of(database).state == ("dead" if attempt == LEAST_ATTEMPTS else "pending")
        hurry(database)
    assert clinic.outbox.send_due() == 0
    assert "500" in row_of(database).last_error
    assert clinic.outbox.revive("south", "hook") == 0
    assert clinic.outbox.revive("north", "hook") == 1
    assert clinic.outbox.send_due() == 1
    assert len({request.key for request in receiver.requests}) == 1


def test_a_destination_in_trouble_holds_up_no_other(sqlite_database: Database, receiver: Receiver) -> None:
    with listening() as other:
        receiver.answers += [500] * 3
        clinic = Clinic(sqlite_database, config_of(webhook(receiver.url, "bad"), webhook(other.url, "good")))
        for number in range(3):
            clinic.end("RED", number)
        assert clinic.outbox.send_due() == 3
        assert [len(receiver.requests), len(other.requests)] == [3, 3]
        ended = [request.json["ended"] for request in other.requests]
        assert ended == sorted(ended)


def test_one_at_a_time_for_each_destination(database: Database) -> None:
    hooks = webhook("https://one.example/", "one"), webhook("https://two.example/", "two")
    clinic = Clinic(database, config_of(*hooks))
    jobs = [clinic.end("RED", number) for number in range(2)]
    claimed = [clinic.outbox.claim() for _ in range(3)]
    found = [(c.destination, c.message.job_id) for c in claimed if c]
    assert sorted(found) == [("one", jobs[0]), ("two", jobs[0])]


def test_each_site_has_its_own_receiver_and_secret(sqlite_database: Database, receiver: Receiver) -> None:
    with listening() as other:
        clinic = Clinic(sqlite_database, config_of(webhook(receiver.url), other=(webhook(other.url),)))
        clinic.end("RED", 1, "north")
        clinic.end("RED", 2, "south")
        clinic.outbox.send_due()
        assert [r.json["site"] for r in receiver.requests] == ["north"]
        assert [r.json["site"] for r in other.requests] == ["south"]


def test_senders_side_by_side_send_each_message_once(database: Database, receiver: Receiver) -> None:
    clinic = Clinic(database, config_of(webhook(receiver.url, "one"), webhook(receiver.url, "two")))
    jobs = [clinic.end("RED", number) for number in range(12)]
    url = database.engine.url.render_as_string(hide_password=False)
    others = [connect(url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        sent = sum(pool.map(lambda other: Clinic(other, clinic.config).outbox.send_due(), others))
    for other in others:
        other.close()
    # A sender that finds the destination busy may leave before the others: what remains is sent now.
    sent += clinic.outbox.send_due()
    assert sent == 24
    assert Counter(request.json["job_id"] for request in receiver.requests) == dict.fromkeys(jobs, 2)
    assert len({request.key for request in receiver.requests}) == 24


def test_run_sends_until_it_is_stopped(
    sqlite_database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "POLL_S", 0.02)
    clinic = Clinic(sqlite_database, config_of(webhook(receiver.url)))
    stop, came = threading.Event(), threading.Event()
    receiver.answers += [lambda connection: (came.set(), drop(connection))[1]] * 1  # type: ignore[list-item,func-returns-value]
    thread = threading.Thread(target=clinic.outbox.run, args=(stop,))
    thread.start()
    clinic.end("RED")
    assert came.wait(30)
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert row_of(sqlite_database).state == "pending", "what was under way is finished and written down"


SENDER = """
import sys
from cluster.database.connection import connect
from tests.cluster.flags.making import Clinic, config_of, webhook
Clinic(connect(sys.argv[1]), config_of(webhook(sys.argv[2]))).outbox.send_due()
"""


def test_a_sender_killed_after_the_receiver_has_the_message(sqlite_database: Database, receiver: Receiver) -> None:
    clinic = Clinic(sqlite_database, config_of(webhook(receiver.url)))
    clinic.end("RED")
    url = sqlite_database.engine.url.render_as_string(hide_password=False)
    started = threading.Event()
    sender: list[subprocess.Popen[bytes]] = []

    def kill(_: socket.socket) -> None:
        started.wait()
        sender[0].send_signal(signal.SIGKILL)
        sender[0].wait()

    receiver.answers.append(kill)
    sender.append(subprocess.Popen([sys.executable, "-c", SENDER, url, receiver.url]))
    started.set()
    assert sender[0].wait(60) == -signal.SIGKILL
    assert row_of(sqlite_database).state == "sending"
    assert clinic.outbox.send_due() == 0, "its lease still holds"
    hurry(sqlite_database)
    assert clinic.outbox.send_due() == 1
    first, second = receiver.requests
    assert first.key == second.key
    assert first.body == second.body


def test_taken_counts_also_when_the_lease_has_ended(database: Database, receiver: Receiver) -> None:
    clinic = Clinic(database, config_of(webhook(receiver.url)))
    clinic.end("RED")
    slow = clinic.outbox.claim()
    hurry(database)
    second = clinic.outbox.claim()
    assert slow is not None
    assert second is not None
    assert (slow.id, slow.attempt, second.attempt) == (second.id, 1, 2)
    assert clinic.outbox.send(slow)
    receiver.answers.append(500)
    assert not clinic.outbox.send(second)
    assert row_of(database).state == "sent", "a failure that comes late undid it"


def test_a_failure_reported_late_does_not_disturb_who_has_it_now(database: Database, receiver: Receiver) -> None:
    clinic = Clinic(database, config_of(webhook(receiver.url)))
    clinic.end("RED")
    slow = clinic.outbox.claim()
    hurry(database)
    second = clinic.outbox.claim()
    assert slow is not None
    assert second is not None
    receiver.answers.append(500)
    assert not clinic.outbox.send(slow)
    assert row_of(database).state == "sending"
    assert clinic.outbox.send(second)


def test_a_destination_that_is_gone_keeps_its_messages(sqlite_database: Database, receiver: Receiver) -> None:
    Clinic(sqlite_database, config_of(webhook(receiver.url))).end("RED")
    assert Clinic(sqlite_database, config_of()).outbox.send_due() == 0
    assert "no destination 'hook'" in row_of(sqlite_database).last_error
    hurry(sqlite_database)
    assert Clinic(sqlite_database, config_of(webhook(receiver.url))).outbox.send_due() == 1


def test_errors_and_logs_hold_no_secret_and_no_identity(
    sqlite_database: Database, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers += [500]
    clinic = Clinic(sqlite_database, config_of(webhook(f"{receiver.url}/path-token-42?key=query-token-42")))
    clinic.end("RED")
    with caplog.at_level(logging.DEBUG):
        clinic.outbox.send_due()
        hurry(sqlite_database)
        clinic.outbox.send_due()
    told = caplog.text + row_of(sqlite_database).last_error
    assert "answered 500" in told
    for secret in (SECRET, "token-42", "DOE", "p-0000"):
        assert secret not in told


def test_an_error_nobody_thought_of_is_recorded_and_tried_again(
    sqlite_database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clinic = Clinic(sqlite_database, config_of(webhook(receiver.url)))
    clinic.end("RED")
    with monkeypatch.context() as patch:
        patch.setattr("cluster.flags.deliver.send_webhook", lambda *_: {}[SECRET])
        assert clinic.outbox.send_due() == 0
    assert "KeyError" in row_of(sqlite_database).last_error
    assert SECRET not in caplog.text + row_of(sqlite_database).last_error
    hurry(sqlite_database)
    assert clinic.outbox.send_due() == 1


def test_a_database_that_is_gone_when_the_message_was_taken(
    sqlite_database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic = Clinic(sqlite_database, config_of(webhook(receiver.url)))
    clinic.end("RED")

    def fails(self: Outbox, *_: object) -> None:
        raise JobError("the database has not answered")

    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "_mark_sent", fails)
        assert clinic.outbox.send_due() == 0
    hurry(sqlite_database)
    assert clinic.outbox.send_due() == 1
    assert len({request.key for request in receiver.requests}) == 1
