"""Logging in, users and tokens."""

from collections.abc import Callable

import pytest

from cluster.security.oidc import OidcVerifier
from cluster.service.config import Oidc
from doseeng.errors import PeerError
from tests.cluster.api.making import HERE, PASSWORD, THERE, Service


@pytest.fixture(scope="module")
def with_password(service: Service) -> Service:
    """A physicist who logs in."""
    body = {"name": "p.hysicist", "role": "physicist", "password": PASSWORD}
    assert service.ask("admin", "POST", "/users", json=body).status_code == 201
    return service


def logged_in(service: Service, password: str = PASSWORD, site: str = HERE, user: str = "p.hysicist"):
    return service.client.post("/api/v1/login", json={"site": site, "user": user, "password": password})


def test_login_gives_a_token(with_password: Service) -> None:
    session = logged_in(with_password).json()
    assert (session["site"], session["user"], session["role"]) == (HERE, "p.hysicist", "physicist")
    headers = {"Authorization": f"Bearer {session['token']}"}
    me = with_password.client.get("/api/v1/me", headers=headers).json()
    assert me["permissions"] == ["acknowledge", "read", "submit", "treat", "upload"]


def test_refusals_are_all_the_same(with_password: Service) -> None:
    answers = [
        logged_in(with_password, "wrong"),
        logged_in(with_password, site=THERE),
        logged_in(with_password, site="nowhere"),
        logged_in(with_password, user="nobody"),
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.json()["detail"] for answer in answers}) == 1


def test_logins_are_written_down_but_not_what_was_typed(with_password: Service) -> None:
    logged_in(with_password)
    logged_in(with_password, user=PASSWORD)
    rows = with_password.ask("admin", "GET", "/audit?action=login&limit=2").json()
    assert [(row["actor"], row["outcome"]) for row in rows] == [("unknown", "refused"), ("p.hysicist", "success")]
    assert rows[0]["origin"] == "testclient"
    assert PASSWORD not in with_password.ask("admin", "GET", "/audit?limit=1000").text


def test_another_password(with_password: Service) -> None:
    headers = {"Authorization": f"Bearer {logged_in(with_password).json()['token']}"}
    other = "another-one-that-is-long"
    change = with_password.client.put
    body = {"old_password": "wrong", "new_password": other}
    assert change("/api/v1/me/password", headers=headers, json=body).status_code == 422
    body = {"old_password": PASSWORD, "new_password": other}
    assert change("/api/v1/me/password", headers=headers, json=body).status_code == 204
    assert with_password.client.get("/api/v1/me", headers=headers).status_code == 401
    assert logged_in(with_password, other).status_code == 200
    reset = with_password.ask("admin", "PATCH", "/users/p.hysicist", json={"password": PASSWORD})
    assert reset.status_code == 200
    assert logged_in(with_password).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"name": "p.hysicist", "role": "viewer"},
        {"name": "weak", "role": "viewer", "password": "short"},
        {"name": "no name", "role": "viewer"},
        {"name": "king", "role": "king"},
    ],
)
def test_users_that_are_not_made(with_password: Service, body: dict) -> None:
    assert with_password.ask("admin", "POST", "/users", json=body).status_code == 422


def test_admins_keep_their_own_rights(service: Service) -> None:
    for change in ({"disabled": True}, {"role": "viewer"}):
        assert service.ask("admin", "PATCH", "/users/a-admin", json=change).status_code == 409


def test_tokens_are_shown_once_and_taken_back(service: Service) -> None:
    body = {"user": "a-planner", "label": "script", "days": 3}
    token = service.ask("admin", "POST", "/tokens", json=body).json()["token"]
    headers = {"Authorization": f"Bearer {token}"}
    listed = service.client.get("/api/v1/tokens", headers=headers)
    assert token not in listed.text
    assert {entry["user"] for entry in listed.json()} == {"a-planner"}
    token_id = next(entry["id"] for entry in listed.json() if entry["name"] == "script")
    assert service.ask("viewer", "DELETE", f"/tokens/{token_id}").status_code == 404
    assert service.client.delete(f"/api/v1/tokens/{token_id}", headers=headers).status_code == 204
    assert service.client.get("/api/v1/me", headers=headers).status_code == 401
    assert len({entry["user"] for entry in service.ask("admin", "GET", "/tokens").json()}) > 3


def test_nobody_gets_a_token_for_another_site(service: Service) -> None:
    service.services.users.add(THERE, "only-there", "viewer")  # type: ignore[arg-type]
    body = {"user": "only-there", "label": "x"}
    assert service.ask("admin", "POST", "/tokens", json=body).status_code == 404


def test_openid_connect_beside_our_own_tokens(
    service_of: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    def subject(_self: OidcVerifier, token: str) -> str:
        if token == "away":
            raise PeerError("oidc: the issuer did not answer")
        return {"good": "jane@clinic"}.get(token, "nobody")

    monkeypatch.setattr(OidcVerifier, "subject", subject)
    service = service_of(oidc=Oidc(issuer="https://issuer.example", audience="doseeng"))
    change = {"subject": "jane@clinic"}
    assert service.ask("admin", "PATCH", "/users/a-physicist", json=change).status_code == 200
    me = {
        token: service.client.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"})
        for token in ("good", "unknown", "away")
    }
    assert me["good"].json()["user"] == "a-physicist"
    assert (me["unknown"].status_code, me["away"].status_code) == (401, 503)
    assert service.ask("viewer", "GET", "/me").status_code == 200
