"""The users of all sites: passwords, lock-out after failures, tokens. Refusals do not tell what exactly was wrong."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from cluster.database.connection import Database
from cluster.database.tables import TokenRow, UserRow
from cluster.security.access import Principal, Role
from cluster.security.passwords import Passwords, check_password
from cluster.security.tokens import Token, digest, is_token, new_token
from doseeng.errors import AccessError

Result = TypeVar("Result")

USER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")
FREE_FAILURES: Final = 5
"""So many wrong passwords in a row cost nothing but time."""
FIRST_LOCK: Final = timedelta(seconds=30)
"""Of the next failure; each further one doubles it."""
LONGEST_LOCK: Final = timedelta(hours=1)
MOST_FAILURES: Final = 100
"""After so many in a row only a new password opens the account (NIST SP 800-63B, rate limiting)."""
SESSION_HOURS: Final = 12
"""A working day: how long the token of a login lasts."""
USED_EVERY: Final = timedelta(minutes=1)
"""The time of last use is written no more often: reading must not become writing."""
LOGIN_REFUSED: Final = "name or password is wrong, or the account is locked or disabled; wait a while or ask your admin"
TOKEN_REFUSED: Final = "the token is unknown, expired or revoked, or its user is disabled; log in or ask for a new one"


@dataclass(frozen=True, slots=True)
class User:
    """A user as lists show it. is_locked: after failed logins. subject: at the OpenID Connect provider."""

    id: str
    site: str
    name: str
    role: Role
    disabled: bool
    is_locked: bool
    has_password: bool
    subject: str
    created_at: datetime


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Users:
    """passwords: how they are hashed. now: the clock, for tests."""

    def __init__(
        self, database: Database, passwords: Passwords | None = None, now: Callable[[], datetime] = _utc_now
    ) -> None:
        self._database = database
        self._passwords = passwords or Passwords()
        self._now = now

    def add(self, site: str, name: str, role: Role, password: str | None = None) -> User:
        """A new user; without a password they can come by token or OpenID Connect. AccessError for a name that is none
        or taken (whatever its case), or a password that would be guessed."""
        if not USER_NAME.fullmatch(name):
            raise AccessError(f"'{name}' is no user name; expected letters, digits and . _ @ -, at most 128")
        kept = self._hashed(name, password) if password is not None else ""
        row_id = uuid.uuid4().hex

        def work(session: Session) -> User:
            same = select(UserRow).where(UserRow.site == site, func.lower(UserRow.name) == name.lower())
            found = session.scalars(same).first()
            if found is not None and found.id != row_id:
                raise AccessError(f"site '{site}' has a user '{found.name}' already; take another name")
            row = found or UserRow(
                id=row_id, site=site, name=name, role=Role(role).value, password_hash=kept, subject="", disabled=False,
                failed_logins=0, locked_until=None, created_at=self._now(),
            )  # fmt: skip
            session.add(row)
            return self._user(row)

        return self._database.retrying(work)

    def set_password(self, site: str, name: str, password: str) -> None:
        """A new password; opens the account when failures had locked it, and ends the sessions of the old password."""
        kept = self._hashed(name, password)

        def work(session: Session) -> None:
            row = _row(session, site, name)
            row.password_hash, row.failed_logins, row.locked_until = kept, 0, None
            sessions = (TokenRow.user_id == row.id, TokenRow.name == SESSION, TokenRow.revoked_at.is_(None))
            session.execute(update(TokenRow).where(*sessions).values(revoked_at=self._now()))

        self._database.retrying(work)

    def set_role(self, site: str, name: str, role: Role) -> None:
        """Another role; it counts from the next request on."""
        self._change(site, name, "role", Role(role).value)

    def disable(self, site: str, name: str) -> None:
        """No login and no token of theirs is taken any more."""
        self._change(site, name, "disabled", True)

    def enable(self, site: str, name: str) -> None:
        """Take back `disable`."""
        self._change(site, name, "disabled", False)

    def set_subject(self, site: str, name: str, subject: str) -> None:
        """By which name the OpenID Connect provider knows the user, "" for none. AccessError when it is another's."""

        def work(session: Session) -> None:
            row = _row(session, site, name)
            taken = select(UserRow.id).where(UserRow.subject == subject, UserRow.id != row.id)
            if subject and session.scalars(taken).first() is not None:
                raise AccessError("another user has that subject already; a subject belongs to one user of one site")
            row.subject = subject

        self._database.retrying(work)

    def login(self, site: str, name: str, password: str) -> Principal:
        """Who that is. AccessError, always the same, for anything that is wrong."""
        while (principal := self._judged(site, name, password)) is None:
            pass
        return principal

    def issue_token(self, site: str, name: str, label: str, days: int) -> str:
        """A token of a user for `days` days; shown here and never again. AccessError for an unknown or disabled one."""
        if not 1 <= days <= 3650:
            raise AccessError(f"a token cannot last {days} days; expected 1 to 3650")
        if not 1 <= len(label) <= 128 or label == SESSION:
            raise AccessError(f"a token needs a name of 1 to 128 characters that is not '{SESSION}'")
        return self._issue(site, name, label, timedelta(days=days))

    def issue_session(self, principal: Principal, hours: int = SESSION_HOURS) -> str:
        """The token that a login gives: as any other, for hours."""
        return self._issue(principal.site, principal.name, SESSION, timedelta(hours=hours))

    def tokens(self, site: str) -> list[Token]:
        """All tokens of a site, newest first; those of logins only while they last."""
        query = select(TokenRow, UserRow.name).join(UserRow, UserRow.id == TokenRow.user_id)
        query = query.where(TokenRow.site == site).order_by(TokenRow.created_at.desc(), TokenRow.id)
        now = self._now()
        found = self._reading(lambda session: [_token(row, user) for row, user in session.execute(query)])
        return [t for t in found if t.name != SESSION or (t.revoked_at is None and (t.expires_at or now) > now)]

    def revoke_token(self, site: str, token_id: str) -> None:
        """Take it back at once. AccessError when the site has none of that id."""

        def work(session: Session) -> None:
            row = session.get(TokenRow, token_id)
            if row is None or row.site != site:
                raise AccessError(f"site '{site}' has no token of that id; list them")
            row.revoked_at = row.revoked_at or self._now()

        self._database.retrying(work)

    def by_token(self, token: str) -> Principal:
        """Whose token that is. AccessError, always the same, for any that is not good."""
        if not is_token(token):
            raise AccessError(TOKEN_REFUSED)
        query = select(TokenRow, UserRow).join(UserRow, UserRow.id == TokenRow.user_id)
        query = query.where(TokenRow.sha256 == digest(token))
        found = self._reading(lambda session: session.execute(query).first())
        now = self._now()
        if found is None:
            raise AccessError(TOKEN_REFUSED)
        row, user = found
        if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now) or user.disabled:
            raise AccessError(TOKEN_REFUSED)
        if row.last_used_at is None or now - row.last_used_at >= USED_EVERY:
            used = update(TokenRow).where(TokenRow.id == row.id).values(last_used_at=now)
            self._database.retrying(lambda session: session.execute(used))
        return _principal(user)

    def by_subject(self, subject: str) -> Principal:
        """The user whom the OpenID Connect provider knows by that name. AccessError for an unknown or disabled one."""
        query = select(UserRow).where(UserRow.subject == subject)
        rows = self._reading(lambda session: session.scalars(query).all()) if subject else []
        if len(rows) != 1 or rows[0].disabled:
            raise AccessError(TOKEN_REFUSED)
        return _principal(rows[0])

    def _judged(self, site: str, name: str, password: str) -> Principal | None:
        """As `login`; None when the password was changed, or its hash renewed, while it was being compared."""
        query = select(UserRow).where(UserRow.site == site, UserRow.name == name)
        kept = self._reading(lambda session: row.password_hash if (row := session.scalars(query).first()) else "")
        is_right = self._passwords.is_right(password, kept)
        renewed = self._passwords.hash(password) if is_right and self._passwords.is_outdated(kept) else kept

        def judge(session: Session) -> Principal | str | None:
            # The row is locked and its lock-out looked at again: guesses made at once are answered one by one.
            row = session.scalars(query.with_for_update()).first()
            if row is None or (row.locked_until is not None and row.locked_until > self._now()):
                return LOGIN_REFUSED
            if row.password_hash != kept:
                return None
            if not is_right or row.disabled:
                row.failed_logins += 1
                row.locked_until = self._lock_end(row.failed_logins)
                return LOGIN_REFUSED
            row.failed_logins, row.locked_until, row.password_hash = 0, None, renewed
            return _principal(row)

        judged = self._database.retrying(judge)
        if isinstance(judged, str):
            raise AccessError(judged)
        return judged

    def _issue(self, site: str, name: str, label: str, lasting: timedelta) -> str:
        token, row_id = new_token(), uuid.uuid4().hex

        def work(session: Session) -> None:
            user = _row(session, site, name)
            if user.disabled:
                raise AccessError("a disabled user gets no token; enable the user first")
            now = self._now()
            made = {"created_at": now, "expires_at": now + lasting, "last_used_at": None, "revoked_at": None}
            # merge: a repeat after a commit whose answer was lost finds the row and leaves one.
            session.merge(TokenRow(id=row_id, user_id=user.id, site=site, name=label, sha256=digest(token), **made))

        self._database.retrying(work)
        return token

    def _hashed(self, name: str, password: str) -> str:
        check_password(password, name)
        return self._passwords.hash(password)

    def _lock_end(self, failures: int) -> datetime | None:
        if failures < FREE_FAILURES:
            return None
        if failures >= MOST_FAILURES:
            return datetime(9999, 1, 1, tzinfo=UTC)
        doublings = min(failures - FREE_FAILURES, 16)
        return self._now() + min(FIRST_LOCK * 2**doublings, LONGEST_LOCK)

    def _change(self, site: str, name: str, column: str, value: object) -> None:
        self._database.retrying(lambda session: setattr(_row(session, site, name), column, value))

    def _user(self, row: UserRow) -> User:
        is_locked = row.locked_until is not None and row.locked_until > self._now()
        kept = (bool(row.password_hash), row.subject, row.created_at)
        return User(row.id, row.site, row.name, Role(row.role), row.disabled, is_locked, *kept)

    def _reading(self, work: Callable[[Session], Result]) -> Result:
        return self._database.retrying(work, reads=True)

    def list(self, site: str) -> list[User]:
        """All users of a site, by name."""
        rows = select(UserRow).where(UserRow.site == site).order_by(UserRow.name)
        return self._reading(lambda session: [self._user(row) for row in session.scalars(rows)])


SESSION: Final = "login"
"""Name of the tokens that a login gives."""


def _row(session: Session, site: str, name: str) -> UserRow:
    row = session.scalars(select(UserRow).where(UserRow.site == site, UserRow.name == name)).first()
    if row is None:
        raise AccessError(f"site '{site}' has no user '{name}'")
    return row


def _principal(row: UserRow) -> Principal:
    return Principal(row.site, row.name, Role(row.role), row.id)


def _token(row: TokenRow, user: str) -> Token:
    times = (row.created_at, row.expires_at, row.last_used_at, row.revoked_at)
    return Token(row.id, row.site, user, row.name, *times)
