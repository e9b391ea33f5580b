"""What holds for every request: headers, limits, problem details, and nothing of what is inside."""

import logging
from collections.abc import Callable

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from starlette.exceptions import HTTPException

from cluster.api.limits import REMEMBERED, Limiter, Streams
from cluster.database.connection import DatabaseUnavailable
from cluster.storage.blobs import StorageUnavailable
from tests.cluster.api.making import HERE, Service

PROBLEM = "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/v1/jobs/", 404),
        ("DELETE", "/api/v1/jobs", 405),
        ("GET", "/api/v1/jobs", 401),
        ("GET", "/docs", 404),
    ],
)
def test_errors_are_problems(service: Service, method: str, path: str, status: int) -> None:
    answer = service.client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == PROBLEM
    problem = answer.json()
    assert problem["status"] == status
    assert problem["type"] == "about:blank"
    assert problem["title"]
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]


def test_wrong_values_are_not_repeated(service: Service) -> None:
    body = {"site": HERE, "user": ["x"], "password": {"deep": "hunter2-hunter2"}}
    answer = service.client.post("/api/v1/login", json=body)
    assert answer.status_code == 422
    assert "hunter2" not in answer.text
    assert {fault["pointer"] for fault in answer.json()["faults"]} == {"body.user", "body.password"}


def test_broken_json(service: Service) -> None:
    answer = service.client.post("/api/v1/login", content=b"{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == PROBLEM


def test_headers_of_every_answer(service: Service) -> None:
    for answer in (service.client.get("/health/live"), service.client.get("/api/v1/jobs")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert "access-control-allow-origin" not in answer.headers
        assert "strict-transport-security" not in answer.headers


def test_only_https_is_asked_for_over_https(service: Service) -> None:
    answer = service.client.get("https://testserver/health/live")
    assert "max-age" in answer.headers["strict-transport-security"]


def test_accidents_tell_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("DOE^JANE")

    monkeypatch.setattr(type(service.services.library), "plans", fails)
    answer = service.ask("viewer", "GET", "/plans")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == PROBLEM
    assert "JANE" not in answer.text + caplog.text
    accident = next(record for record in caplog.records if "accident" in record.message)
    assert "ZeroDivisionError" in accident.message
    assert accident.request_id == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OperationalError("SELECT", {}, Exception("gone")), 503),
        (DatabaseUnavailable("it has not answered"), 503),
        (NoConnectionFree("pool limit reached"), 503),
        (StorageUnavailable("no space left"), 507),
        (OSError(28, "No space left on device"), 507),
        (OSError(5, "Input/output error"), 500),
    ],
)
def test_what_is_away(service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(type(service.services.library), "plans", fails)
    answer = service.ask("viewer", "GET", "/plans")
    assert answer.status_code == status
    assert ("retry-after" in answer.headers) == (status == 503)


def test_log_has_the_route_and_nobody(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "cluster.api.access"):
        service.ask("viewer", "GET", "/courses/1.2.3.4?x=secret")
    (record,) = [record for record in caplog.records if record.name == "cluster.api.access"]
    assert (record.method, record.route, record.status) == ("GET", "/courses/{plan_uid}", 404)
    assert "1.2.3.4" not in str(vars(record))
    assert "secret" not in str(vars(record))
    assert "a-viewer" not in str(vars(record))


def test_users_are_limited_one_by_one(service_of: Callable[..., Service]) -> None:
    service = service_of(requests_per_minute=3)
    answers = [service.ask("viewer", "GET", "/me") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert int(answers[-1].headers["retry-after"]) > 0
    assert service.ask("planner", "GET", "/me").status_code == 200


def test_guessing_tokens_is_limited(service_of: Callable[..., Service]) -> None:
    service = service_of(requests_per_minute=3)
    headers = {"Authorization": "Bearer dsg_" + "A" * 43}
    statuses = [service.client.get("/api/v1/me", headers=headers).status_code for _ in range(4)]
    assert statuses == [401, 401, 401, 429]


def test_guessing_passwords_is_limited(service_of: Callable[..., Service]) -> None:
    service = service_of(logins_per_minute=2)
    body = {"site": HERE, "user": "a-viewer", "password": "wrong"}
    statuses = [service.client.post("/api/v1/login", json=body).status_code for _ in range(3)]
    assert statuses == [401, 401, 429]


def test_bucket_fills_again() -> None:
    now = 0.0
    limiter = Limiter(60, clock=lambda: now)
    assert [limiter.wait_s("a") for _ in range(60)] == [0.0] * 60
    assert limiter.wait_s("a") == pytest.approx(1.0)
    assert limiter.wait_s("b") == 0.0
    now = 2.0
    assert [limiter.wait_s("a") for _ in range(3)] == [0.0, 0.0, pytest.approx(1.0)]


def test_limiter_forgets_who_was_silent() -> None:
    limiter = Limiter(1, clock=lambda: 0.0)
    for number in range(REMEMBERED + 10):
        limiter.wait_s(f"{number}")
    assert len(limiter._buckets) == REMEMBERED


def test_streams_are_counted() -> None:
    streams = Streams(2)
    streams.enter("a")
    streams.enter("a")
    with pytest.raises(HTTPException) as caught:
        streams.enter("a")
    assert caught.value.status_code == 429
    streams.enter("b")
    streams.leave("a")
    streams.enter("a")


def test_readiness_is_a_problem_when_something_is_wrong(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.api.system.FRESH_FOR_S", -1.0)
    monkeypatch.setattr("cluster.operations.health.LEAST_FREE_BYTES", 0)
    answer = service.client.get("/health/ready")
    assert answer.status_code == 200, answer.text
    assert answer.json()["checks"]["database"] == "ok"
    monkeypatch.setattr(type(service.services.database), "answers", lambda _self: False)
    answer = service.client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == PROBLEM
    assert answer.json()["checks"]["database"] == "failed"
    assert "sqlite" not in answer.text


def test_figures_of_other_sites_are_left_out(filled: Service) -> None:
    mine = filled.ask("viewer", "GET", "/../../metrics")
    theirs = filled.client.get("/metrics", headers=filled.headers("viewer", "south"))
    assert 'site="north"' in mine.text
    assert 'site="north"' not in theirs.text
    assert "doseeng_build" in theirs.text


def test_openapi_explains_everything(service: Service) -> None:
    document = service.client.get("/api/v1/openapi.json").json()
    operations = [op for path in document["paths"].values() for op in path.values()]
    assert len(operations) > 30
    for operation in operations:
        name = operation["operationId"]
        assert operation["description"], name
        assert all(parameter.get("description") for parameter in operation.get("parameters", ())), name
        for status, answer in operation["responses"].items():
            if status >= "400" and "dicomweb" not in name:
                assert answer["content"][PROBLEM]["example"]["status"] == int(status), name
    assert all(schema.get("description") for schema in document["components"]["schemas"].values())
