"""The store of jobs, on SQLite and PostgreSQL: what goes in once is claimed in order and ends once."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from cluster.database.connection import Database, DatabaseUnavailable
from cluster.database.tables import ArtifactRow, FlagRow, JobRow
from cluster.jobs.claims import Rest
from cluster.jobs.model import JobFailure, JobKind, JobState, Priority
from cluster.jobs.store import JobStore
from doseeng.errors import JobError
from tests.cluster.jobs.making import Ends, a_result, a_spec

FAILURE = JobFailure("PlanError", "the plan has no beam")


def flags(database: Database) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(FlagRow)) or 0


def claimed(store: JobStore, driver: str = "one") -> str:
    job = store.claim(driver, 30.0)
    assert job is not None
    return job.id


def test_what_went_in_comes_out(store: JobStore) -> None:
    spec = a_spec(patient_key="pk", image=("cd" * 32,), options={"nested": {"list": [1, 2.5, None]}})
    job, is_new = store.submit(spec, created_by="ann", priority=Priority.TODAY, batch="b")
    assert is_new
    assert store.get("north", job.id) == job
    assert job.spec == spec
    assert (job.state, job.priority, job.batch, job.created_by) == (JobState.QUEUED, 0, "b", "ann")
    with pytest.raises(JobError, match="site 'south' has no job"):
        store.get("south", job.id)


def test_the_same_is_asked_once(store: JobStore) -> None:
    first, _ = store.submit(a_spec(), created_by="ann", priority=Priority.BATCH)
    again, is_new = store.submit(a_spec(), created_by="bob", priority=Priority.TODAY)
    assert (again.id, again.priority, is_new) == (first.id, Priority.TODAY, False)
    other_site, is_new = store.submit(a_spec(site="south"), created_by="bob")
    assert is_new
    assert other_site.id != first.id
    assert claimed(store) == first.id
    assert store.submit(a_spec(), created_by="bob")[0].state is JobState.RUNNING
    store.finish(first.id, "one", a_result())
    done, is_new = store.submit(a_spec(), created_by="bob")
    assert (done.id, done.state, is_new) == (first.id, JobState.DONE, False)
    assert done.artifacts == a_result().artifacts


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_what_came_to_nothing_may_be_asked_again(store: JobStore, end: str) -> None:
    first, _ = store.submit(a_spec(), created_by="ann")
    if end == "failed":
        store.fail(claimed(store), "one", FAILURE)
    else:
        store.cancel("north", first.id)
    second, is_new = store.submit(a_spec(), created_by="ann")
    assert is_new
    assert second.id != first.id
    assert store.get("north", first.id).state == end


def test_many_who_ask_for_the_same_at_once_get_one_job(store: JobStore) -> None:
    start = threading.Barrier(8)

    def ask(_: int) -> list[tuple[str, bool]]:
        start.wait(30)
        return [(job.id, new) for job, new in (store.submit(a_spec(n), created_by="ann") for n in range(5))]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    for of_one_spec in zip(*answers, strict=True):
        assert len({job_id for job_id, _ in of_one_spec}) == 1
        assert sum(is_new for _, is_new in of_one_spec) == 1
    assert store.counts() == {("north", "evaluate", "queued"): 5}


def test_urgent_first_then_oldest(store: JobStore) -> None:
    asked = [Priority.BATCH, Priority.PERSON, Priority.TODAY, Priority.PERSON]
    ids = [store.submit(a_spec(n), created_by="ann", priority=p)[0].id for n, p in enumerate(asked)]
    assert [claimed(store) for _ in ids] == [ids[2], ids[1], ids[3], ids[0]]
    assert store.claim("one", 30.0) is None


def test_a_lane_is_worked_off_in_its_order(store: JobStore) -> None:
    late, _ = store.submit(a_spec(1, lane="course", order="2025-02"), created_by="a", priority=Priority.TODAY)
    early, _ = store.submit(a_spec(2, lane="course", order="2025-01"), created_by="a", priority=Priority.BATCH)
    same, _ = store.submit(a_spec(3, lane="course", order="2025-02"), created_by="a", priority=Priority.TODAY)
    elsewhere, _ = store.submit(a_spec(4, site="south", lane="course", order="2025-01"), created_by="a")
    free, _ = store.submit(a_spec(5), created_by="a", priority=Priority.BATCH)
    assert [claimed(store), claimed(store), claimed(store)] == [elsewhere.id, early.id, free.id]
    assert store.claim("two", 30.0) is None
    store.finish(early.id, "one", a_result())
    assert claimed(store) == late.id
    assert store.claim("two", 30.0) is None
    store.fail(late.id, "one", FAILURE)
    assert claimed(store) == same.id


def test_drivers_that_claim_at_once_share_the_jobs_and_keep_lanes(store: JobStore, database: Database) -> None:
    ids = {store.submit(a_spec(n, lane=f"lane{n % 3}", order=f"{n:02}"), created_by="a")[0].id for n in range(24)}
    running: list[set[str]] = [set(), set(), set()]
    overlaps, claims = [], []

    def work(name: int) -> None:
        while True:
            job = store.claim(f"driver{name}", 30.0)
            if job is None:
                if all(JobState(state).is_end for _, _, state in store.counts()):
                    return
                continue
            lane = running[int(job.spec.lane[-1])]
            lane.add(job.id)
            overlaps.append(len(lane))
            claims.append(job)
            lane.remove(job.id)
            store.finish(job.id, f"driver{name}", a_result())

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert sorted(job.id for job in claims) == sorted(ids)
    assert set(overlaps) == {1}
    for lane in ("lane0", "lane1", "lane2"):
        orders = [job.spec.lane_order for job in claims if job.spec.lane == lane]
        assert orders == sorted(orders)
    assert flags(database) == 24


def test_the_database_itself_lets_one_job_of_a_lane_run(database: Database, store: JobStore) -> None:
    for n in range(2):
        store.submit(a_spec(n, lane="course", order=str(n)), created_by="a")
    claimed(store)
    with pytest.raises(Exception, match=r"uq_jobs_lane_running|UNIQUE constraint"), database.transaction() as session:
        session.scalars(select(JobRow).where(JobRow.state == "queued")).one().state = "running"


def test_done_with_result_artifacts_and_one_flag(store: JobStore, database: Database, ends: Ends) -> None:
    job, _ = store.submit(a_spec(), created_by="ann")
    claimed(store)
    store.finish(job.id, "one", a_result(7, "RED"))
    done = store.get("north", job.id)
    assert (done.state, done.verdict, done.case_key) == (JobState.DONE, "RED", "case")
    assert done.summary == a_result(7).summary
    assert done.artifacts == a_result().artifacts
    assert done.finished_at is not None
    assert ends.seen == [done]
    # The answer to the commit was lost: the driver says it again.
    store.finish(job.id, "one", a_result(7, "RED"))
    assert (len(ends.seen), flags(database)) == (1, 1)
    with pytest.raises(JobError, match="no longer worked on by two: it is done by one"):
        store.finish(job.id, "two", a_result(7, "RED"))
    with pytest.raises(JobError, match="no longer worked on"):
        store.finish(job.id, "one", a_result(8, "RED"))
    with pytest.raises(JobError, match="no longer worked on"):
        store.fail(job.id, "one", FAILURE)


def test_failed_says_why_once(store: JobStore, database: Database) -> None:
    job, _ = store.submit(a_spec(), created_by="ann")
    claimed(store)
    store.fail(job.id, "one", FAILURE)
    store.fail(job.id, "one", FAILURE)
    assert store.get("north", job.id).error == FAILURE
    assert flags(database) == 1
    with pytest.raises(JobError, match="there is no job nowhere"):
        store.fail("nowhere", "one", FAILURE)


def test_end_and_hook_are_one(store: JobStore, database: Database, ends: Ends) -> None:
    job, _ = store.submit(a_spec(), created_by="ann")
    claimed(store)
    ends.breaks = True
    with pytest.raises(ValueError, match="broken"):
        store.finish(job.id, "one", a_result())
    assert store.get("north", job.id).state is JobState.RUNNING
    with database.reading() as session:
        assert session.scalars(select(ArtifactRow)).all() == []
    ends.breaks = False
    store.finish(job.id, "one", a_result())
    assert flags(database) == 1


def test_a_lost_lease_goes_to_another_and_is_worth_nothing(
    store: JobStore, expire: Callable[[str], None], database: Database
) -> None:
    job, _ = store.submit(a_spec(), created_by="ann")
    claimed(store, "one")
    assert store.claim("two", 30.0) is None
    expire(job.id)
    assert claimed(store, "two") == job.id
    assert store.get("north", job.id).attempts == 2
    assert not store.heartbeat(job.id, "one", 30.0, "dose", 1, 2)
    for late in (
        lambda: store.finish(job.id, "one", a_result(1)),
        lambda: store.fail(job.id, "one", FAILURE),
        lambda: store.give_back(job.id, "one"),
    ):
        with pytest.raises(JobError, match="no longer worked on by one: it is running by two"):
            late()
    store.finish(job.id, "two", a_result(2))
    assert store.get("north", job.id).summary == a_result(2).summary
    assert flags(database) == 1


def test_heartbeats_keep_the_lease_and_tell_how_far_it_is(store: JobStore, expire: Callable[[str], None]) -> None:
    job, _ = store.submit(a_spec(), created_by="ann")
    claimed(store)
    expire(job.id)
    assert store.heartbeat(job.id, "one", 30.0, "scenarios" * 100, 3, 9)
    assert store.claim("two", 30.0) is None
    seen = store.get("north", job.id)
    assert (seen.stage[:9], seen.done, seen.total) == ("scenarios", 3, 9)


def test_a_job_that_takes_its_drivers_down_fails(
    store: JobStore, expire: Callable[[str], None], database: Database
) -> None:
    job, _ = store.submit(a_spec(), created_by="ann")
    for attempt in range(store.attempts):
        assert claimed(store, f"driver{attempt}") == job.id
        store.heartbeat(job.id, f"driver{attempt}", 30.0, "dose", 0, 1)
        expire(job.id)
    assert store.claim("last", 30.0) is None
    failed = store.get("north", job.id)
    assert failed.state is JobState.FAILED
    assert failed.error is not None
    assert "3 drivers that worked on it died or were cut off, the last one in stage 'dose'" in failed.error.message
    assert flags(database) == 1


def test_a_hook_that_breaks_on_one_job_keeps_no_other_from_running(
    store: JobStore, expire: Callable[[str], None], ends: Ends
) -> None:
    once = replace(store, attempts=1)
    broken, _ = once.submit(a_spec(1), created_by="ann")
    claimed(once)
    expire(broken.id)
    ends.breaks = True
    other, _ = once.submit(a_spec(2), created_by="ann")
    assert claimed(once) == other.id
    assert once.get("north", broken.id).state is JobState.RUNNING
    ends.breaks = False
    expire(broken.id)
    assert once.claim("one", 30.0) is None
    assert once.get("north", broken.id).state is JobState.FAILED


def test_given_back_without_blame_and_with(store: JobStore, expire: Callable[[str], None]) -> None:
    job, _ = store.submit(a_spec(), created_by="ann")
    for _ in range(store.attempts + 2):
        assert claimed(store) == job.id
        store.give_back(job.id, "one", Rest("waiting: no space", wait_s=60.0))
        waiting = store.get("north", job.id)
        assert (waiting.state, waiting.attempts, waiting.stage) == (JobState.QUEUED, 0, "waiting: no space")
        assert store.claim("one", 30.0) is None
        expire(job.id)
    for _ in range(store.attempts):
        assert claimed(store) == job.id
        store.give_back(job.id, "one", Rest("no memory", counts=True))
    failed = store.get("north", job.id)
    assert failed.error == JobFailure("JobError", "after 3 attempts: no memory")


def test_cancelling(store: JobStore, database: Database, expire: Callable[[str], None]) -> None:
    waiting, running, dead, listening = (store.submit(a_spec(n), created_by="a")[0].id for n in range(4))
    assert store.cancel("north", waiting).state is JobState.CANCELLED
    assert store.cancel("north", waiting).state is JobState.CANCELLED
    assert [claimed(store) for _ in range(3)] == [running, dead, listening]
    for job_id in (running, dead, listening):
        assert store.cancel("north", job_id).cancel_requested
        assert not store.heartbeat(job_id, "one", 30.0, "", 0, 0)
    # It ended before the driver heard; its driver died; its driver heard.
    store.finish(running, "one", a_result())
    expire(dead)
    store.claim("two", 30.0)
    store.give_back(listening, "one")
    store.give_back(listening, "one")
    for job_id in (running, dead, listening):
        assert store.get("north", job_id).state is JobState.CANCELLED
    assert flags(database) == 0
    with pytest.raises(JobError, match="site 'south' has no job"):
        store.cancel("south", waiting)
    done, _ = store.submit(a_spec(9), created_by="a")
    store.finish(claimed(store), "one", a_result())
    with pytest.raises(JobError, match="is done already"):
        store.cancel("north", done.id)


def test_what_came_before_in_the_course(store: JobStore) -> None:
    def ended(number: int, order: str, **changes: Any) -> str:
        job, _ = store.submit(a_spec(number, **{"lane": "course", "order": order, **changes}), created_by="a")
        artifact = replace(a_result().artifacts[0], name=f"course/{number}")
        assert claimed(store) == job.id
        store.finish(job.id, "one", replace(a_result(), artifacts=(artifact,)))
        return job.id

    ended(2, "2025-02")
    ended(1, "2025-01")
    ended(3, "2025-03")
    ended(4, "2025-01", site="south")
    ended(5, "2025-01", lane="other")
    store.submit(a_spec(6, lane="course", order="2025-00"), created_by="a")
    store.fail(claimed(store), "one", FAILURE)
    today, _ = store.submit(a_spec(7, lane="course", order="2025-03"), created_by="a")
    assert [[a.name for a in artifacts] for artifacts in store.earlier(today)] == [["course/1"], ["course/2"]]
    alone, _ = store.submit(a_spec(8), created_by="a")
    assert store.earlier(alone) == ()


def test_search_and_pages(store: JobStore) -> None:
    jobs = [
        store.submit(a_spec(n, patient_key=f"p{n % 2}", plan_uid=f"1.{n}"), created_by="a", batch="b" * (n > 2))[0]
        for n in range(5)
    ]
    store.submit(a_spec(1, site="south"), created_by="a")
    store.finish(claimed(store), "one", a_result(0, "RED"))
    newest = [job.id for job in reversed(jobs)]

    def found(**asked: Any) -> list[str]:
        return [job.id for job in store.search("north", **asked)]

    assert found() == newest
    assert found(limit=2) == newest[:2]
    assert found(limit=2, before=newest[1]) == newest[2:4]
    assert found(states=[JobState.DONE]) == found(verdicts=["RED", "AMBER"]) == [jobs[0].id]
    assert store.search("north", verdicts=["RED"])[0].artifacts == a_result().artifacts
    assert found(kinds=[JobKind.DOSE]) == []
    assert found(batch="b") == newest[:2]
    assert found(patient_key="p1", plan_uid="1.3") == [jobs[3].id]
    with pytest.raises(JobError, match="site 'south' has no job"):
        store.search("south", before=newest[0])


def test_who_reads_does_not_wait_for_who_writes(store: JobStore, database: Database) -> None:
    job, _ = store.submit(a_spec(), created_by="a")
    with database.transaction() as session:
        session.get_one(JobRow, job.id).stage = "being written"
        session.flush()
        assert store.get("north", job.id).stage == ""
        assert [found.id for found in store.search("north")] == [job.id]
        assert store.counts() == {("north", "evaluate", "queued"): 1}


class LosesCommits:
    """A database whose answer to the commit is lost, once per call."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def retrying(self, work: Callable[[Session], Any], reads: bool = False) -> Any:
        self._database.retrying(work, reads=reads)
        return self._database.retrying(work, reads=reads)


def test_a_lost_answer_to_a_commit_changes_nothing(store: JobStore, database: Database, ends: Ends) -> None:
    shaky = JobStore(LosesCommits(database), (ends,))  # type: ignore[arg-type]
    job, is_new = shaky.submit(a_spec(1), created_by="ann")
    assert is_new
    shaky.submit(a_spec(2), created_by="ann")
    assert claimed(shaky) == job.id
    assert shaky.counts() == {("north", "evaluate", "running"): 1, ("north", "evaluate", "queued"): 1}
    shaky.finish(job.id, "one", a_result())
    second = claimed(shaky)
    shaky.fail(second, "one", FAILURE)
    assert [job.id for job in ends.seen] == [job.id, second]
    third, _ = shaky.submit(a_spec(3), created_by="ann")
    shaky.cancel("north", third.id)


def test_a_database_that_stays_away_is_no_lost_lease(store: JobStore, database: Database) -> None:
    def never(_: Session) -> None:
        raise OperationalError("", {}, Exception("no route"))

    with pytest.raises(DatabaseUnavailable, match="has not answered"):
        replace(database, patience_s=0.1).retrying(never)
