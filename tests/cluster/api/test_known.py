"""Tokens that were good a moment ago: how long that counts, and what ends it."""

import pytest

from cluster.api import known
from cluster.api.known import KNOWN_FOR_S, KnownTokens
from cluster.security.access import Principal, Role
from doseeng.errors import AccessError
from tests.cluster.api.making import HERE, Service

JANE = Principal(HERE, "jane", Role.VIEWER)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_token_is_known_for_a_moment() -> None:
    clock = Clock()
    tokens = KnownTokens(clock)
    assert tokens.get("one") is None
    assert tokens.look_up("one", lambda _: JANE) == JANE
    assert (tokens.get("one"), tokens.get("another")) == (JANE, None)
    clock.now = KNOWN_FOR_S
    assert tokens.get("one") is None


def test_refusals_are_not_remembered() -> None:
    def refuse(_token: str) -> Principal:
        raise AccessError("no")

    tokens = KnownTokens()
    with pytest.raises(AccessError):
        tokens.look_up("one", refuse)
    assert tokens.get("one") is None


def test_what_is_forgotten_during_a_look_up_does_not_come_back() -> None:
    tokens = KnownTokens()

    def revoked_meanwhile(_token: str) -> Principal:
        tokens.forget()
        return JANE

    tokens.look_up("one", revoked_meanwhile)
    assert tokens.get("one") is None


def test_memory_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "MOST", 2)
    tokens = KnownTokens()
    for token in ("one", "two", "three"):
        tokens.look_up(token, lambda _: JANE)
    assert [tokens.get(token) for token in ("one", "two", "three")] == [None, None, JANE]


def test_a_token_revoked_elsewhere_ends_after_a_moment(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(service.app.state.doseeng.known, "clock", clock)
    users = service.services.users
    token = users.issue_token(HERE, "a-viewer", "at the command line", 1)
    headers = {"Authorization": f"Bearer {token}"}
    assert service.client.get("/api/v1/me", headers=headers).status_code == 200
    users.revoke_token(HERE, next(t.id for t in users.tokens(HERE) if t.name == "at the command line"))
    clock.now = KNOWN_FOR_S
    assert service.client.get("/api/v1/me", headers=headers).status_code == 401
