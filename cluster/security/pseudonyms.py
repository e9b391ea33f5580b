"""Pseudonyms of one site: what its patients and UIDs are called elsewhere, and the way back, which stays at the site.

A pseudonym is a keyed digest (HMAC-SHA256) with a secret of the site: the same original always gives the same one, so
that references between objects hold, and without the secret nobody finds it by trying identifiers. Each one handed out
is written down, for there is no way back through a digest.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from cluster.database.connection import Database
from cluster.database.tables import PseudonymRow
from doseeng.errors import ConfigError, DicomError

SECRET_BYTES: Final = 32
PATIENT_PREFIX: Final = "P"
LONGEST_SHIFT_DAYS: Final = 3652
"""Ten years: more than a course, so that nothing of the true date is left but its place in the course."""
UID_ROOT: Final = "2.25."
_SECRET_CHECK: Final = "check of the site's secret"
_AT_ONCE: Final = 500
_LONGEST: Final = 255


class Pseudonyms:
    """secret: of `site_secret`. ConfigError when the database knows pseudonyms made with another secret."""

    def __init__(self, database: Database, site: str, secret: bytes) -> None:
        self._database = database
        self._site = site
        self._secret = secret
        self._new: dict[tuple[str, str], str] = {}
        self._kept: set[tuple[str, str]] = set()
        check = self._digest("secret", _SECRET_CHECK).hex()
        found = self._database.retrying(lambda session: session.get(PseudonymRow, (site, "secret", _SECRET_CHECK)))
        if found is not None and found.pseudonym != check:
            raise ConfigError(
                f"the secret of site '{site}' is not the one that its pseudonyms were made with; restore the secret "
                "file from the backup (new pseudonyms would not fit the old ones)"
            )
        self._note("secret", _SECRET_CHECK, check)

    def patient(self, patient_id: str) -> str:
        """What a Patient ID becomes: 80 bits as letters and digits. DicomError when it is empty: nobody could say whose
        objects belong together."""
        identifier = patient_id.strip()
        if not identifier:
            raise DicomError("the object has no Patient ID, so that it cannot be given a pseudonym; fill it in first")
        return self._note("patient", identifier, PATIENT_PREFIX + _letters(self._digest("patient", identifier)[:10]))

    def shift_days(self, patient_id: str) -> int:
        """By how many days dates of a patient are moved back, at least 1: the same for all objects of the patient."""
        number = int.from_bytes(self._digest("shift", patient_id.strip())[:8])
        return 1 + number % LONGEST_SHIFT_DAYS

    def uid(self, original: str) -> str:
        """What a UID becomes: one under 2.25 (PS3.5 B.2), with a UUID (version 8) of the digest."""
        data = bytearray(self._digest("uid", original)[:16])
        data[6], data[8] = (data[6] & 0x0F) | 0x80, (data[8] & 0x3F) | 0x80
        return self._note("uid", original, f"{UID_ROOT}{uuid.UUID(bytes=bytes(data)).int}")

    def remember(self, owner: str, values: Mapping[str, str]) -> None:
        """What stood in attributes (by keyword) of a patient or study by pseudonym. The first value counts."""
        for keyword, value in values.items():
            if value:
                self._note(f"{keyword}@{owner}", value[:_LONGEST], keyword)

    def keep(self) -> None:
        """Write down what was handed out. To be done before any of it leaves the site."""
        rows = [
            {"site": self._site, "kind": kind, "original": original, "pseudonym": pseudonym}
            for (kind, original), pseudonym in self._new.items()
        ]
        if not rows:
            return
        now = datetime.now(UTC)
        insert = sqlite.insert if self._database.is_sqlite else postgresql.insert

        def work(session: Session) -> None:
            for some in _slices(rows):
                values = [{**row, "created_at": now} for row in some]
                session.execute(insert(PseudonymRow).values(values).on_conflict_do_nothing())

        self._database.retrying(work)
        self._kept |= self._new.keys()
        self._new.clear()

    def original_patient(self, pseudonym: str) -> str:
        """The Patient ID behind a pseudonym. DicomError when it is none of this site."""
        found = self._originals("patient", [pseudonym])
        if pseudonym not in found:
            raise DicomError(
                f"the object's Patient ID is no pseudonym of site '{self._site}'; it belongs to another one"
            )
        return found[pseudonym]

    def original_uids(self, uids: Iterable[str]) -> dict[str, str]:
        """UID -> original, of those that are pseudonyms of this site."""
        return self._originals("uid", [uid for uid in uids if uid.startswith(UID_ROOT)])

    def remembered(self, owner: str, keywords: Iterable[str]) -> dict[str, str]:
        """Keyword -> value, of what `remember` was told."""
        kinds = {f"{keyword}@{owner}": keyword for keyword in keywords}
        query = select(PseudonymRow.kind, PseudonymRow.original).where(
            PseudonymRow.site == self._site, PseudonymRow.kind.in_(kinds)
        )
        found = self._database.retrying(lambda session: session.execute(query).all(), reads=True)
        return {kinds[kind]: original for kind, original in found}

    def _originals(self, kind: str, pseudonyms: list[str]) -> dict[str, str]:
        def work(session: Session) -> dict[str, str]:
            found: dict[str, str] = {}
            for some in _slices(sorted(set(pseudonyms))):
                query = select(PseudonymRow.pseudonym, PseudonymRow.original).where(
                    PseudonymRow.site == self._site, PseudonymRow.kind == kind, PseudonymRow.pseudonym.in_(some)
                )
                found.update((pseudonym, original) for pseudonym, original in session.execute(query))
            return found

        return self._database.retrying(work, reads=True)

    def _note(self, kind: str, original: str, pseudonym: str) -> str:
        if len(original) > _LONGEST or "\0" in original:
            raise DicomError("an identifier of the object is longer than any may be, or damaged; export it again")
        if (kind, original) not in self._kept:
            self._new[kind, original] = pseudonym
        return pseudonym

    def _digest(self, kind: str, original: str) -> bytes:
        return hmac.digest(self._secret, f"{kind}\0{original}".encode(), hashlib.sha256)


def site_secret(data: Path, site: str) -> bytes:
    """The secret of a site, from its file in the service's data folder; made at the first call, readable by its owner
    alone. It belongs in the backup: without it no further object of a known patient can be given its pseudonym.
    ConfigError when the file is damaged or others may read it."""
    path = data / f"pseudonyms-{site}.secret"
    if not path.exists():
        _make_secret(path)
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"'{path}' may be read by others; make it private (chmod 600), or its pseudonyms are none")
    try:
        secret = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise ConfigError(f"'{path}' is damaged; restore it from the backup")
    return secret


def open_pseudonyms(database: Database, data: Path, site: str) -> Pseudonyms:
    """The pseudonyms of a site of the service whose data folder is `data`."""
    return Pseudonyms(database, site, site_secret(data, site))


def _make_secret(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(SECRET_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, path)  # fails, and leaves the other's, when another process was faster
        except FileExistsError:
            return
    finally:
        part.unlink()


def _letters(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=")


def _slices(entries: list[Any]) -> Iterator[list[Any]]:
    return (entries[start : start + _AT_ONCE] for start in range(0, len(entries), _AT_ONCE))
