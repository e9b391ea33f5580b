"""From objects to a result: jobs, artifacts, batches, courses and the worklist of one site."""

import pytest
from sqlalchemy import update

from cluster.database.tables import JobRow, OutboxRow
from cluster.security.access import Role
from tests.cluster.api.making import AWAY, HERE, THERE, Service

NOBODY = "0" * 32
REPORT = b"<html><script>1</script></html>"


def submitted(service: Service, plan_uid: str, role: str = "planner", **options: object) -> dict:
    asked = {"kind": "evaluate", "plan_uid": plan_uid, "options": options}
    answer = service.ask(role, "POST", "/jobs", json=asked)
    assert answer.status_code == 201, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def done(filled: Service, plan_uid: str) -> dict:
    """A job with a report."""
    job = submitted(filled, plan_uid, seed=1)
    files = {
        "report.html": ("text/html", REPORT),
        "result.json": ("application/json", b'{"verdict": "RED"}'),
        "CT/0001.dcm": ("application/dicom", b"slice"),
    }
    filled.finish(job["id"], "RED", files)
    return filled.ask("viewer", "GET", f"/jobs/{job['id']}").json()


def audited(service: Service, site: str = HERE) -> list[dict]:
    return service.ask("admin", "GET", "/audit?limit=1000", site=site).json()


def test_objects_are_listed_by_pseudonym(filled: Service, plan_uid: str, water_case: object) -> None:
    patients = filled.ask("viewer", "GET", "/patients")
    (patient,) = patients.json()
    plans, series = filled.ask("viewer", "GET", "/plans"), filled.ask("viewer", "GET", "/series?modality=CT")
    assert [plan["plan_uid"] for plan in plans.json()] == [plan_uid]
    assert {s["patient_key"] for s in series.json()} == {patient["patient_key"]}
    assert {s["modality"] for s in series.json()} == {"CT"}
    assert filled.ask("viewer", "GET", "/plans", params={"patient_key": "other"}).json() == []
    for secret in water_case.secrets:  # type: ignore[attr-defined]
        assert secret not in patients.text + plans.text + series.text


def test_the_same_question_is_the_same_job(filled: Service, plan_uid: str) -> None:
    asked = {"kind": "evaluate", "plan_uid": plan_uid, "options": {"seed": 2}}
    first = filled.ask("planner", "POST", "/jobs", json=asked)
    again = filled.ask("physicist", "POST", "/jobs", json=asked)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert first.headers["location"] == f"/api/v1/jobs/{first.json()['id']}"


def test_a_job_that_is_done_shows_what_was_found(done: dict) -> None:
    assert (done["state"], done["verdict"], done["priority"]) == ("done", "RED", "person")
    assert done["summary"]["reasons"] == ["CTV misses D95"]
    assert [artifact["name"] for artifact in done["artifacts"]] == ["CT/0001.dcm", "report.html", "result.json"]


def test_reports_are_shown_but_can_do_nothing(filled: Service, done: dict) -> None:
    answer = filled.ask("viewer", "GET", f"/jobs/{done['id']}/artifacts/report.html")
    assert answer.content == REPORT
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "sandbox allow-scripts;" in policy
    assert "default-src 'none'" in policy
    assert "allow-same-origin" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"] == 'inline; filename="report.html"'


def test_artifacts_have_their_digest_as_etag(filled: Service, done: dict) -> None:
    path = f"/jobs/{done['id']}/artifacts/CT/0001.dcm"
    answer = filled.ask("viewer", "GET", path)
    assert answer.content == b"slice"
    assert answer.headers["content-disposition"] == 'attachment; filename="0001.dcm"'
    tag = answer.headers["etag"]
    assert tag.strip('"') == done["artifacts"][0]["sha256"]
    assert filled.ask("viewer", "GET", path, headers={"If-None-Match": f'"x", W/{tag}'}).status_code == 304
    assert filled.ask("viewer", "GET", path, headers={"If-None-Match": '"x"'}).status_code == 200


@pytest.mark.parametrize("name", ["none.html", "../secret", "%2e%2e/%2e%2e/etc/passwd", "CT", "CT/0001.dcm/"])
def test_artifacts_are_found_by_their_exact_name(filled: Service, done: dict, name: str) -> None:
    assert filled.ask("viewer", "GET", f"/jobs/{done['id']}/artifacts/{name}").status_code == 404


def test_result_only_of_what_is_done(filled: Service, plan_uid: str, done: dict) -> None:
    waiting = submitted(filled, plan_uid, seed=3)
    answer = filled.ask("viewer", "GET", f"/jobs/{waiting['id']}/result")
    assert answer.status_code == 409
    assert "queued" in answer.json()["detail"]
    assert filled.ask("viewer", "GET", f"/jobs/{done['id']}/result").json() == {"verdict": "RED"}


def test_who_saw_a_result_is_written_down(filled: Service, done: dict) -> None:
    filled.ask("physician", "GET", f"/jobs/{done['id']}/result")
    seen = audited(filled)[0]
    assert (seen["actor"], seen["role"], seen["action"]) == ("a-physician", "physician", "result-read")
    assert (seen["object_id"], seen["details"]) == (done["id"], {"artifact": "result.json"})


def test_own_jobs_are_cancelled_by_planners_and_those_of_others_are_not(filled: Service, plan_uid: str) -> None:
    own, other = submitted(filled, plan_uid, seed=4), submitted(filled, plan_uid, "physicist", seed=5)
    assert filled.ask("planner", "POST", f"/jobs/{own['id']}/cancel").json()["state"] == "cancelled"
    refused = filled.ask("planner", "POST", f"/jobs/{other['id']}/cancel")
    assert (refused.status_code, refused.json()["error"]) == (403, "AccessError")
    assert filled.ask("service", "POST", f"/jobs/{other['id']}/cancel").json()["state"] == "cancelled"


def test_what_is_done_cannot_be_cancelled(filled: Service, done: dict) -> None:
    answer = filled.ask("physicist", "POST", f"/jobs/{done['id']}/cancel")
    assert (answer.status_code, answer.json()["error"]) == (409, "JobError")


def test_planners_start_no_treatment_days(filled: Service, plan_uid: str) -> None:
    asked = {"kind": "adapt", "plan_uid": plan_uid, "series_uid": "1.2.3"}
    assert filled.ask("planner", "POST", "/jobs", json=asked).status_code == 403
    answer = filled.ask("physicist", "POST", "/jobs", json=asked)
    assert (answer.status_code, answer.json()["error"]) == (422, "DicomError")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sed": 1}, "body.evaluate.options.sed"),
        ({"seed": "1"}, "body.evaluate.options.seed"),
        ({"goals": "[[goal]]\nstructure = 1"}, "body.evaluate.options.goals"),
    ],
)
def test_wrong_options_are_named(filled: Service, plan_uid: str, options: dict, said: str) -> None:
    asked = {"kind": "evaluate", "plan_uid": plan_uid, "options": options}
    answer = filled.ask("planner", "POST", "/jobs", json=asked)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert [fault["pointer"] for fault in answer.json()["faults"]] == [said]


@pytest.mark.parametrize("table", ["/etc/hostname", "../../../../etc/passwd", "no-such-table.toml"])
def test_options_read_no_files_of_the_server(filled: Service, plan_uid: str, table: str) -> None:
    asked = {"kind": "dose", "plan_uid": plan_uid, "options": {"hu_table": table}}
    answer = filled.ask("planner", "POST", "/jobs", json=asked)
    assert answer.status_code == 422
    assert "root:" not in answer.text


def test_jobs_are_searched_page_by_page(filled: Service, plan_uid: str, done: dict) -> None:
    made = [submitted(filled, plan_uid, seed=10 + number)["id"] for number in range(5)]
    found: list[str] = []
    before: dict[str, str] = {}
    while True:
        page = filled.ask("viewer", "GET", "/jobs", params={"limit": 2, "state": "queued", **before}).json()
        found += [job["id"] for job in page["jobs"]]
        if page["next"] is None:
            break
        before = {"before": page["next"]}
    assert found[:5] == made[::-1]
    assert len(set(found)) == len(found)
    verdicts = filled.ask("viewer", "GET", "/jobs?verdict=RED&verdict=GREEN").json()["jobs"]
    assert [job["id"] for job in verdicts] == [done["id"]]
    assert filled.ask("viewer", "GET", f"/jobs?before={NOBODY}").status_code == 422


def test_batches_isolate_what_cannot_be_done(filled: Service, plan_uid: str) -> None:
    asked = {"kind": "evaluate", "plans": [plan_uid, "1.2.3", plan_uid], "name": "weekly", "options": {"seed": 20}}
    answer = filled.ask("physicist", "POST", "/batches", json=asked)
    assert answer.status_code == 201
    good, bad = answer.json()["items"]
    assert good["is_new"]
    assert bad["job_id"] is None
    assert "1.2.3" in bad["reason"]
    filled.finish(good["job_id"], "AMBER")
    status = filled.ask("viewer", "GET", "/batches/weekly").json()
    assert (status["counts"], status["kinds"]) == ({"AMBER": 1}, ["evaluate"])
    assert status["jobs"][0]["priority"] == "person"  # the driver of the tests changes it
    assert filled.ask("physicist", "POST", "/batches", json=asked).status_code == 409


def test_batch_shows_the_most_urgent_first(filled: Service, plan_uid: str) -> None:
    names = []
    for seed, verdict in ((30, "GREEN"), (31, ""), (32, "RED")):
        asked = {"kind": "evaluate", "plans": [plan_uid], "name": f"u-{seed}", "options": {"seed": seed}}
        (item,) = filled.ask("physicist", "POST", "/batches", json=asked).json()["items"]
        filled.finish(item["job_id"], verdict) if verdict else filled.fail(item["job_id"])
        names.append(item["job_id"])
    with filled.services.database.transaction() as session:
        session.execute(update(JobRow).where(JobRow.id.in_(names)).values(batch="urgent"))
    status = filled.ask("viewer", "GET", "/batches/urgent").json()
    assert [job["id"] for job in status["jobs"]] == [names[2], names[1], names[0]]
    assert status["counts"] == {"RED": 1, "FAILED": 1, "GREEN": 1}


def test_courses_begin_and_end(filled: Service, plan_uid: str) -> None:
    path = f"/courses/{plan_uid}"
    assert filled.ask("viewer", "GET", path).status_code == 404
    assert filled.ask("physicist", "DELETE", path).status_code == 404
    begun = filled.ask("physicist", "PUT", path, json={"options": {"robust": True}})
    assert begun.status_code == 200
    assert begun.json()["options"] == {"robust": True}
    asked = {"kind": "evaluate", "plans": "under-treatment", "options": {"seed": 40}}
    assert len(filled.ask("physicist", "POST", "/batches", json=asked).json()["items"]) == 1
    assert filled.ask("physicist", "DELETE", path).json()["ended_at"] is not None
    assert filled.ask("viewer", "GET", "/courses").json() == []
    assert len(filled.ask("viewer", "GET", "/courses?ended=true").json()) == 1
    assert filled.ask("physicist", "POST", "/batches", json=asked).status_code == 422
    assert filled.ask("physicist", "PUT", "/courses/1.2.3", json={}).status_code == 404


def test_flags_are_acknowledged_once(filled: Service, plan_uid: str) -> None:
    job = submitted(filled, plan_uid, seed=50)
    filled.finish(job["id"], "RED")
    flag = next(f for f in filled.ask("physician", "GET", "/worklist").json() if f["job_id"] == job["id"])
    path = f"/worklist/{flag['id']}/acknowledge"
    taken = filled.ask("physician", "POST", path, json={"comment": "replan on Monday"})
    assert taken.status_code == 200
    assert taken.json()["acknowledged_by"] == "a-physician"
    again = filled.ask("physicist", "POST", path, json={})
    assert again.status_code == 409
    assert "a-physician" in again.json()["detail"]
    assert flag["id"] not in {f["id"] for f in filled.ask("viewer", "GET", "/worklist").json()}
    everything = filled.ask("viewer", "GET", "/worklist?acknowledged=true").json()
    assert next(f for f in everything if f["id"] == flag["id"])["comment"] == "replan on Monday"


def test_other_site_sees_nothing(filled: Service, done: dict) -> None:
    for path in ("/patients", "/plans", "/series", "/courses", "/worklist"):
        assert filled.ask(Role.PHYSICIST, "GET", path, site=THERE).json() == [], path
    assert filled.ask(Role.PHYSICIST, "GET", "/jobs", site=THERE).json()["jobs"] == []
    assert all(row["actor"] != "a-planner" for row in audited(filled, THERE))


def test_plans_of_another_site_are_as_plans_that_are_not_there(filled: Service, plan_uid: str) -> None:
    said = []
    for uid in (plan_uid, "1.2.3"):
        asked = {"kind": "evaluate", "plan_uid": uid}
        answer = filled.ask(Role.PHYSICIST, "POST", "/jobs", site=THERE, json=asked)
        assert answer.status_code == 422
        said.append(answer.json()["detail"].replace(uid, "UID"))
        (item,) = filled.ask(
            Role.PHYSICIST, "POST", "/batches", site=THERE, json={"kind": "evaluate", "plans": [uid]}
        ).json()["items"]
        assert item["job_id"] is None
    assert said[0] == said[1]


def test_audit_log_holds(filled: Service, done: dict) -> None:
    check = filled.ask("admin", "GET", "/audit/verify").json()
    assert check["is_intact"]
    assert check["rows"] > 10
    assert {row["action"] for row in audited(filled)} >= {"object-receive", "job-submit", "query", "result-read"}


def test_what_was_given_up_is_sent_again(filled: Service, plan_uid: str) -> None:
    job_id = submitted(filled, plan_uid, seed=77)["id"]
    filled.finish(job_id, "RED")

    def message() -> dict:
        (flag,) = [flag for flag in filled.ask("viewer", "GET", "/worklist").json() if flag["job_id"] == job_id]
        (sending,) = flag["messages"]
        return sending

    with filled.services.database.transaction() as session:
        dead = update(OutboxRow).where(OutboxRow.subject == job_id)
        session.execute(dead.values(state="dead", attempts=20, last_error="it does not answer"))
    assert message()["state"] == "dead"
    resend = f"/destinations/{AWAY}/resend"
    assert filled.ask("physician", "POST", resend).json() == {"messages": 1}
    assert (message()["state"], message()["attempts"]) == ("pending", 0)
    assert filled.ask("physician", "POST", resend).json() == {"messages": 0}
    rows = filled.ask("admin", "GET", "/audit?action=flag-send").json()
    assert [(row["actor"], row["object_id"], row["details"]) for row in rows] == [
        ("a-physician", AWAY, {"messages": messages}) for messages in (0, 1)
    ]
    assert filled.ask("physician", "POST", "/destinations/nowhere/resend").status_code == 404
