"""Who may do what: every role at every endpoint, at their own site and at another one."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy import update

from cluster.database.tables import TokenRow
from cluster.security.access import PERMISSIONS, Permission, Role
from tests.cluster.api.making import AWAY, HERE, THERE, Service
from tests.cluster.api.table import ANYONE, OF_NO_SITE, TABLE, USER, Row


def routes(service: Service) -> set[tuple[str, str]]:
    contexts = iter_route_contexts(service.app.routes)
    return {(m, str(c.path)) for c in contexts for m in (c.methods or ()) if m != "HEAD"}


@dataclass(frozen=True, slots=True)
class World:
    """ids: of one thing of each kind at the site HERE, by the names that paths have for them."""

    service: Service
    ids: dict[str, str]

    def ask(self, route: tuple[str, str], token: str) -> httpx.Response:
        """The request of a route's row, about the things of HERE."""
        method, path = route
        for name, value in self.ids.items():
            path = path.replace(f"{{{name}}}", value)
        content = dict(TABLE[route].content)
        headers = content.pop("headers", {}) | ({"Authorization": f"Bearer {token}"} if token else {})
        return self.service.client.request(method, path, headers=headers, **content)


@pytest.fixture(scope="module")
def world(filled: Service, plan_uid: str) -> World:
    """A case, a job that was RED with its flag, a batch, a course, a user with a token, all at HERE."""
    asked = {"kind": "evaluate", "plans": [plan_uid], "name": "weekly"}
    filled.ask("physicist", "POST", "/batches", json=asked)
    job_id = filled.ask("planner", "POST", "/jobs", json={"kind": "dose", "plan_uid": plan_uid}).json()["id"]
    filled.finish(job_id, "RED")
    filled.ask("physicist", "PUT", f"/courses/{plan_uid}", json={})
    users = filled.services.users
    users.add(HERE, "victim", Role.VIEWER)
    users.issue_token(HERE, "victim", "script", 1)
    names = {
        "job_id": job_id,
        "flag_id": filled.ask("viewer", "GET", "/worklist").json()[0]["id"],
        "token_id": next(token.id for token in users.tokens(HERE) if token.user == "victim"),
        "plan_uid": plan_uid,
        "study_uid": "1.2.3",
        "destination": AWAY,
        "name:path": "result.json",
    }
    return World(filled, names)


def of_route(world: World, route: tuple[str, str]) -> World:
    """{name} is a user's or a batch's."""
    name = "victim" if "/users/" in route[1] else "weekly"
    return World(world.service, world.ids | {"name": name})


def is_allowed(row: Row, role: Role) -> bool:
    return row.needs in (USER, ANYONE) or row.needs in PERMISSIONS[role]


def test_every_route_has_a_row(service: Service) -> None:
    assert routes(service) == set(TABLE)


def test_openapi_says_where_a_token_is_needed(service: Service) -> None:
    paths = service.app.openapi()["paths"]
    for (method, path), row in TABLE.items():
        if path == "/api/v1/openapi.json":
            continue
        operation = paths[path.replace(":path", "")][method.lower()]
        assert ("security" in operation) == (row.needs != ANYONE), path
        assert row.needs == ANYONE or "401" in operation["responses"], path
        assert not isinstance(row.needs, Permission) or "403" in operation["responses"], path


@pytest.mark.parametrize("route", TABLE, ids=" ".join)
@pytest.mark.parametrize("role", Role)
def test_role_at_own_site(world: World, role: Role, route: tuple[str, str]) -> None:
    row = TABLE[route]
    status = of_route(world, route).ask(route, world.service.tokens[HERE, role]).status_code
    if route[1].endswith("/login"):
        assert status == 401
    elif not is_allowed(row, role):
        assert status == 403
    elif row.theirs and Permission.MANAGE not in PERMISSIONS[role]:
        assert status == 404
    else:
        assert status in (200, 201, 204, 400, 409, 422)


@pytest.mark.parametrize("route", TABLE, ids=" ".join)
@pytest.mark.parametrize("role", Role)
def test_role_at_another_site(world: World, role: Role, route: tuple[str, str]) -> None:
    row = TABLE[route]
    answer = of_route(world, route).ask(route, world.service.tokens[THERE, role])
    names_a_thing = "{" in route[1] and OF_NO_SITE not in route[1]
    if names_a_thing and is_allowed(row, role):
        assert answer.status_code == 404
    elif not is_allowed(row, role):
        assert answer.status_code == 403
    for value in (world.ids["job_id"], world.ids["flag_id"], world.ids["token_id"]):
        assert value not in answer.text or value in route[1] or answer.is_error


@pytest.mark.parametrize("route", TABLE, ids=" ".join)
def test_nobody_comes_in_without_a_good_token(world: World, route: tuple[str, str]) -> None:
    users, database = world.service.services.users, world.service.services.database
    bad = {"none": "", "garbage": "dsg_x", "unknown": "dsg_" + "A" * 43, "a JWT": "eyJhbGciOiJub25lIn0.e30."}
    name = f"gone-{list(TABLE).index(route)}"
    users.add(HERE, name, Role.PHYSICIST)
    for label in ("expired", "revoked"):
        bad[label] = users.issue_token(HERE, name, label, 1)
        token = next(t for t in users.tokens(HERE) if (t.user, t.name) == (name, label))
        if label == "revoked":
            users.revoke_token(HERE, token.id)
        else:
            past = update(TokenRow).where(TokenRow.id == token.id)
            with database.transaction() as session:
                session.execute(past.values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    bad["disabled"] = users.issue_token(HERE, name, "good", 1)
    users.disable(HERE, name)
    for label, token in bad.items():
        answer = of_route(world, route).ask(route, token)
        if TABLE[route].needs == ANYONE:
            assert answer.status_code in (200, 401, 503), label
            continue
        assert answer.status_code == 401, label
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/problem+json"


def test_denied_requests_are_written_down(world: World) -> None:
    world.service.ask("viewer", "GET", "/audit")
    row = world.service.ask("admin", "GET", "/audit?action=access-denied&limit=1").json()[0]
    assert (row["actor"], row["outcome"], row["object_id"]) == ("a-viewer", "denied", "GET /audit")


def test_other_role_counts_at_once(world: World) -> None:
    users = world.service.services.users
    users.add(HERE, "climber", Role.VIEWER)
    headers = {"Authorization": f"Bearer {users.issue_token(HERE, 'climber', 'x', 1)}"}
    ask = world.service.client.get
    assert ask("/api/v1/users", headers=headers).status_code == 403
    assert world.service.ask("admin", "PATCH", "/users/climber", json={"role": "admin"}).status_code == 200
    assert ask("/api/v1/users", headers=headers).status_code == 200
    assert ask("/api/v1/jobs", headers=headers).status_code == 403
