"""Users: passwords, lock-out, tokens, and refusals that tell nothing."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from argon2 import PasswordHasher
from sqlalchemy import select, text

from cluster.database.connection import Database
from cluster.database.tables import TokenRow, UserRow
from cluster.security.access import Role
from cluster.security.passwords import Passwords, check_password
from cluster.security.tokens import is_token
from cluster.security.users import FREE_FAILURES, LOGIN_REFUSED, MOST_FAILURES, TOKEN_REFUSED, Users
from doseeng.errors import AccessError

PASSWORD = "correct horse battery"


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = datetime(2025, 3, 1, 8, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, **much: float) -> None:
        self.now += timedelta(**much)


def cheap(memory_cost: int = 8) -> Passwords:
    """Hashing that takes no time: for all that is not about hashing."""
    return Passwords(PasswordHasher(time_cost=1, memory_cost=memory_cost, parallelism=1))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def users(sqlite_database: Database, clock: Clock) -> Users:
    made = Users(sqlite_database, cheap(), clock)
    made.add("north", "anna", Role.PHYSICIST, PASSWORD)
    return made


@pytest.fixture
def either_users(database: Database, clock: Clock) -> Users:
    """On each kind of database."""
    made = Users(database, cheap(), clock)
    made.add("north", "anna", Role.PHYSICIST, PASSWORD)
    return made


def refused_login(users: Users, name: str = "anna", password: str = "not the password", site: str = "north") -> None:
    with pytest.raises(AccessError) as refused:
        users.login(site, name, password)
    assert str(refused.value) == LOGIN_REFUSED


def test_the_recommended_parameters_are_argon2id_and_verify() -> None:
    passwords = Passwords()
    kept = passwords.hash(PASSWORD)
    assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert passwords.is_right(PASSWORD, kept)
    assert not passwords.is_right(PASSWORD + "x", kept)
    assert not passwords.is_right(PASSWORD, "")


def test_a_password_typed_in_another_unicode_form_is_the_same() -> None:
    passwords = cheap()
    assert passwords.is_right("Ångström and friends", passwords.hash("Ångström and friends"))


@pytest.mark.parametrize(
    ("password", "says"),
    [
        ("eleven char", "11 characters"),
        ("x" * 300, "300 characters"),
        ("ababababababab", "different characters"),
        ("anna.marie drives home", "name of the user"),
        ("my ANNA.marie", "name of the user"),
        ("Password1234", "guessed first"),
        ("doseeng-123456", "guessed first"),
    ],
)
def test_passwords_that_would_be_guessed_are_refused_unrepeated(password: str, says: str) -> None:
    with pytest.raises(AccessError, match=says) as refused:
        check_password(password, "anna.marie")
    assert password not in str(refused.value)


def test_a_sentence_is_a_password() -> None:
    check_password("twelve short words", "anna")
    check_password("Liegestütz im Regen", "anna")


def test_login_gives_the_role_of_the_site(either_users: Users) -> None:
    either_users.add("south", "anna", Role.VIEWER, "another horse battery")
    principal = either_users.login("north", "anna", PASSWORD)
    assert (principal.site, principal.name, principal.role) == ("north", "anna", Role.PHYSICIST)
    assert either_users.login("south", "anna", "another horse battery").role is Role.VIEWER
    refused_login(either_users, password=PASSWORD, site="south")
    refused_login(either_users, password=PASSWORD, site="nowhere")


def test_refusals_do_not_tell_what_was_wrong(users: Users) -> None:
    users.add("north", "tokenonly", Role.SERVICE)
    users.add("north", "gone", Role.VIEWER, PASSWORD)
    users.disable("north", "gone")
    for name, password in (("anna", "wrong"), ("nobody", PASSWORD), ("tokenonly", ""), ("gone", PASSWORD), ("", "")):
        refused_login(users, name, password)


def test_unknown_users_cost_a_hash_too(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    verify = PasswordHasher.verify
    monkeypatch.setattr(PasswordHasher, "verify", lambda *given: hashed.append(given[1]) or verify(*given))
    refused_login(users, "nobody")
    refused_login(users, "anna")
    assert len(hashed) == 2
    assert all(kept.startswith("$argon2id$v=19$m=8,t=1,p=1$") for kept in hashed)


def test_failures_lock_for_growing_times_and_success_forgives(either_users: Users, clock: Clock) -> None:
    for _ in range(FREE_FAILURES - 1):
        refused_login(either_users)
    either_users.login("north", "anna", PASSWORD)
    for _ in range(FREE_FAILURES):
        refused_login(either_users)
    assert either_users.list("north")[0].is_locked
    refused_login(either_users, password=PASSWORD)
    clock.pass_by(seconds=29)
    refused_login(either_users, password=PASSWORD)
    clock.pass_by(seconds=1)
    refused_login(either_users)
    clock.pass_by(seconds=59)
    refused_login(either_users, password=PASSWORD)
    clock.pass_by(seconds=1)
    either_users.login("north", "anna", PASSWORD)
    assert not either_users.list("north")[0].is_locked


def test_a_hundred_failures_take_a_new_password(users: Users, clock: Clock) -> None:
    for _ in range(MOST_FAILURES):
        refused_login(users)
        clock.pass_by(hours=1)
    clock.pass_by(days=365)
    refused_login(users, password=PASSWORD)
    users.set_password("north", "anna", "a wholly new password")
    users.login("north", "anna", "a wholly new password")


def test_guesses_made_at_once_are_answered_as_if_one_by_one(either_users: Users, database: Database) -> None:
    """The right one among many: it must not get through after the account was locked."""
    barrier = threading.Barrier(2 * FREE_FAILURES)
    outcomes: list[str] = []

    def guess() -> None:
        barrier.wait()
        try:
            either_users.login("north", "anna", "wrong at once")
        except AccessError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=guess) for _ in range(2 * FREE_FAILURES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [LOGIN_REFUSED] * (2 * FREE_FAILURES)
    with database.reading() as session:
        assert session.scalars(select(UserRow.failed_logins)).one() == FREE_FAILURES
    refused_login(either_users, password=PASSWORD)


def test_a_password_is_hashed_anew_when_parameters_change(users: Users, sqlite_database: Database) -> None:
    kept = "SELECT password_hash FROM users"
    with sqlite_database.reading() as session:
        assert "m=8," in session.scalar(text(kept))
    Users(sqlite_database, cheap(memory_cost=16)).login("north", "anna", PASSWORD)
    with sqlite_database.reading() as session:
        assert "m=16," in session.scalar(text(kept))
    users.login("north", "anna", PASSWORD)


def test_names_are_names_and_unique_whatever_their_case(either_users: Users) -> None:
    for name in ("", "anna karenina", "a\nb", "-x", "a" * 129, "ü"):
        with pytest.raises(AccessError, match="is no user name"):
            either_users.add("north", name, Role.VIEWER)
    with pytest.raises(AccessError, match="has a user 'anna' already"):
        either_users.add("north", "ANNA", Role.VIEWER)
    either_users.add("south", "ANNA", Role.VIEWER)


def test_a_token_is_shown_once_and_kept_as_digest(users: Users, sqlite_database: Database) -> None:
    token = users.issue_token("north", "anna", "export", 30)
    assert token.startswith("dsg_")
    assert is_token(token)
    assert users.by_token(token).name == "anna"
    with sqlite_database.reading() as session:
        row = session.scalars(select(TokenRow)).one()
    assert token not in str(vars(row))
    assert token[4:] not in str(vars(row))
    assert token not in repr(users.tokens("north"))
    assert users.issue_token("north", "anna", "export", 30) != token


@pytest.mark.parametrize("text", ["", "dsg_", "dsg_" + "A" * 42, "dsg_" + "A" * 43, "x" * 100_000, "dsg_" + "ä" * 43])
def test_made_up_tokens_are_refused(users: Users, text: str) -> None:
    with pytest.raises(AccessError) as refused:
        users.by_token(text)
    assert str(refused.value) == TOKEN_REFUSED


def test_expired_revoked_and_disabled_are_refused_at_once_and_alike(either_users: Users, clock: Clock) -> None:
    day, month = (either_users.issue_token("north", "anna", label, days) for label, days in (("day", 1), ("month", 30)))
    session_token = either_users.issue_session(either_users.login("north", "anna", PASSWORD), hours=8)
    either_users.by_token(session_token)
    clock.pass_by(hours=8)
    clock_of = {t.name: t for t in either_users.tokens("north")}
    assert set(clock_of) == {"day", "month"}
    with pytest.raises(AccessError, match="expired or revoked"):
        either_users.by_token(session_token)
    clock.pass_by(hours=16)
    with pytest.raises(AccessError, match="expired or revoked"):
        either_users.by_token(day)
    either_users.by_token(month)
    either_users.disable("north", "anna")
    with pytest.raises(AccessError, match="expired or revoked"):
        either_users.by_token(month)
    with pytest.raises(AccessError, match="a disabled user"):
        either_users.issue_token("north", "anna", "more", 1)
    either_users.enable("north", "anna")
    either_users.by_token(month)
    either_users.revoke_token("north", clock_of["month"].id)
    with pytest.raises(AccessError, match="expired or revoked"):
        either_users.by_token(month)


def test_another_site_cannot_revoke_or_list(users: Users) -> None:
    token = users.issue_token("north", "anna", "export", 30)
    (kept,) = users.tokens("north")
    assert users.tokens("south") == []
    assert users.list("south") == []
    with pytest.raises(AccessError, match="'south' has no token"):
        users.revoke_token("south", kept.id)
    users.by_token(token)


def test_last_use_is_written_once_a_minute(either_users: Users, clock: Clock) -> None:
    token = either_users.issue_token("north", "anna", "export", 30)
    either_users.by_token(token)
    first = clock.now
    clock.pass_by(seconds=59)
    either_users.by_token(token)
    assert either_users.tokens("north")[0].last_used_at == first
    clock.pass_by(seconds=1)
    either_users.by_token(token)
    assert either_users.tokens("north")[0].last_used_at == clock.now


def test_a_new_password_ends_logins_but_not_tokens(users: Users) -> None:
    session_token = users.issue_session(users.login("north", "anna", PASSWORD))
    token = users.issue_token("north", "anna", "export", 30)
    users.set_password("north", "anna", "a wholly new password")
    with pytest.raises(AccessError, match="expired or revoked"):
        users.by_token(session_token)
    users.by_token(token)


def test_a_role_counts_from_the_next_request_on(users: Users) -> None:
    token = users.issue_token("north", "anna", "export", 30)
    users.set_role("north", "anna", Role.VIEWER)
    assert users.by_token(token).role is Role.VIEWER


def test_a_subject_is_one_users_of_one_site(either_users: Users) -> None:
    either_users.add("south", "anna", Role.VIEWER)
    either_users.set_subject("north", "anna", "anna@issuer")
    assert either_users.by_subject("anna@issuer").site == "north"
    with pytest.raises(AccessError, match="another user has that subject"):
        either_users.set_subject("south", "anna", "anna@issuer")
    for subject in ("", "somebody"):
        with pytest.raises(AccessError, match="the token is unknown"):
            either_users.by_subject(subject)
    either_users.disable("north", "anna")
    with pytest.raises(AccessError, match="the token is unknown"):
        either_users.by_subject("anna@issuer")


def test_unknown_users_are_named_to_admins(users: Users) -> None:
    with pytest.raises(AccessError, match="site 'north' has no user 'bob'"):
        users.set_password("north", "bob", "a wholly new password")
    with pytest.raises(AccessError, match="0 days"):
        users.issue_token("north", "anna", "export", 0)
    with pytest.raises(AccessError, match="a token needs a name"):
        users.issue_token("north", "anna", "login", 1)
