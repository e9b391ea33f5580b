"""All tables of the service, in one place. Every row belongs to a site, and every query names it.

Times are UTC. JSON columns hold plain data. Names and identifiers of patients are nowhere but in the DICOM objects
themselves, which lie in the blob store: the index knows patients by `patient_key`, a pseudonym.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

KEY: Final = 64
"""Longest pseudonym, digest in hex, or UID."""
NAME: Final = 128


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time, aware, in UTC; databases without time zones keep it without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """ValueError for a time without zone, which could be anyone's."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without zone was given to the database; make it UTC")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Aware, whatever the database gave."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Table(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON, list[str]: JSON}  # noqa: RUF012


_IN_LANE: Final = text("state = 'running' AND lane <> ''")
"""At most one job of a lane runs: said here, so that no race between drivers can undo it."""


class JobRow(Table):
    """One job. state: `cluster.jobs.model.JobState`. content_key: digest of all that its result depends on.

    lane: jobs of one lane (the days of one course) run one at a time, by `lane_order`. Claimed jobs carry the driver's
    name and the end of its lease. At most one job of a content key is alive or done: `live_key` is the content key
    until the job fails or is cancelled, then NULL. not_before: a job that was given back rests until then.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("site", "live_key", name="uq_jobs_live_key"),
        Index("ix_jobs_claim", "state", "priority", "created_at"),
        Index("ix_jobs_search", "site", "created_at"),
        Index("ix_jobs_lane", "site", "lane", "state", "lane_order"),
        Index("ix_jobs_batch", "site", "batch"),
        Index("ix_jobs_patient", "site", "patient_key"),
        Index("ix_jobs_plan", "site", "plan_uid"),
        Index("uq_jobs_lane_running", "site", "lane", unique=True, sqlite_where=_IN_LANE, postgresql_where=_IN_LANE),
    )

    id: Mapped[str] = mapped_column(String(KEY), primary_key=True)
    site: Mapped[str] = mapped_column(String(NAME))
    kind: Mapped[str] = mapped_column(String(NAME))
    state: Mapped[str] = mapped_column(String(NAME))
    priority: Mapped[int] = mapped_column(Integer)
    spec: Mapped[dict[str, Any]]
    content_key: Mapped[str] = mapped_column(String(KEY))
    live_key: Mapped[str | None] = mapped_column(String(KEY))
    lane: Mapped[str] = mapped_column(String(NAME), default="")
    lane_order: Mapped[str] = mapped_column(String(NAME), default="")
    batch: Mapped[str] = mapped_column(String(NAME), default="")
    patient_key: Mapped[str] = mapped_column(String(KEY), default="")
    case_key: Mapped[str] = mapped_column(String(KEY), default="")
    plan_uid: Mapped[str] = mapped_column(String(KEY), default="")
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(NAME))
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    updated_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    driver: Mapped[str] = mapped_column(String(NAME), default="")
    lease_until: Mapped[datetime | None]
    not_before: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    stage: Mapped[str] = mapped_column(String(NAME), default="")
    done: Mapped[int] = mapped_column(Integer, default=0)
    total: Mapped[int] = mapped_column(Integer, default=0)
    verdict: Mapped[str] = mapped_column(String(NAME), default="")
    summary: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]


class ArtifactRow(Table):
    """A file that a job left: a blob with a name and a media type."""

    __tablename__ = "artifacts"
    __table_args__ = (Index("ix_artifacts_blob", "site", "sha256"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    site: Mapped[str] = mapped_column(String(NAME))
    media_type: Mapped[str] = mapped_column(String(NAME))
    sha256: Mapped[str] = mapped_column(String(KEY))
    size: Mapped[int] = mapped_column(BigInteger)


class InstanceRow(Table):
    """A DICOM object of a site. references: SOP Instance and Series Instance UIDs that it names.

    acquired: scanner's local time without zone as ISO text, "" where it says none. plan_uids, structure_set_uid: as
    `doseeng.dicom.inventory.DicomObject`. calling_ae: who sent it, "" when it came another way.
    """

    __tablename__ = "instances"
    __table_args__ = (
        Index("ix_instances_series", "site", "series_uid"),
        Index("ix_instances_patient", "site", "patient_key"),
        Index("ix_instances_blob", "site", "sha256"),
    )

    site: Mapped[str] = mapped_column(String(NAME), primary_key=True)
    sop_uid: Mapped[str] = mapped_column(String(KEY), primary_key=True)
    sop_class_uid: Mapped[str] = mapped_column(String(KEY))
    series_uid: Mapped[str] = mapped_column(String(KEY))
    study_uid: Mapped[str] = mapped_column(String(KEY))
    frame_of_reference_uid: Mapped[str] = mapped_column(String(KEY), default="")
    patient_key: Mapped[str] = mapped_column(String(KEY))
    modality: Mapped[str] = mapped_column(String(NAME), default="")
    role: Mapped[str] = mapped_column(String(NAME), default="")
    label: Mapped[str] = mapped_column(String(NAME), default="")
    series_description: Mapped[str] = mapped_column(String(NAME), default="")
    manufacturer: Mapped[str] = mapped_column(String(NAME), default="")
    acquired: Mapped[str] = mapped_column(String(NAME), default="")
    structure_set_uid: Mapped[str] = mapped_column(String(KEY), default="")
    plan_uids: Mapped[list[str]]
    references: Mapped[list[str]]
    calling_ae: Mapped[str] = mapped_column(String(NAME), default="")
    sha256: Mapped[str] = mapped_column(String(KEY))
    size: Mapped[int] = mapped_column(BigInteger)
    received_at: Mapped[datetime]


class CourseRow(Table):
    """A patient under treatment: a plan whose days are to be judged. options: of its adapt jobs."""

    __tablename__ = "courses"
    __table_args__ = (Index("ix_courses_patient", "site", "patient_key"),)

    site: Mapped[str] = mapped_column(String(NAME), primary_key=True)
    plan_uid: Mapped[str] = mapped_column(String(KEY), primary_key=True)
    patient_key: Mapped[str] = mapped_column(String(KEY))
    case_key: Mapped[str] = mapped_column(String(KEY), default="")
    options: Mapped[dict[str, Any]]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    created_by: Mapped[str] = mapped_column(String(NAME))


class SeriesRow(Table):
    """What the rules made of a received image series, so that a series starts one job and no more.

    last_received: the quiet period counts from here. rule: its name, "" where none fits. job_id: what it started.
    """

    __tablename__ = "received_series"

    site: Mapped[str] = mapped_column(String(NAME), primary_key=True)
    series_uid: Mapped[str] = mapped_column(String(KEY), primary_key=True)
    patient_key: Mapped[str] = mapped_column(String(KEY))
    last_received: Mapped[datetime]
    instances: Mapped[int] = mapped_column(Integer, default=0)
    rule: Mapped[str] = mapped_column(String(NAME), default="")
    state: Mapped[str] = mapped_column(String(NAME), default="waiting")
    note: Mapped[str] = mapped_column(Text, default="")
    job_id: Mapped[str] = mapped_column(String(KEY), default="")


class FlagRow(Table):
    """What a person must look at: one per ended job whose verdict asks for it. The worklist is made of these."""

    __tablename__ = "flags"
    __table_args__ = (Index("ix_flags_open", "site", "acknowledged_at", "created_at"),)

    id: Mapped[str] = mapped_column(String(KEY), primary_key=True)
    site: Mapped[str] = mapped_column(String(NAME))
    job_id: Mapped[str] = mapped_column(String(KEY), unique=True)
    verdict: Mapped[str] = mapped_column(String(NAME))
    headline: Mapped[str] = mapped_column(Text)
    patient_key: Mapped[str] = mapped_column(String(KEY), default="")
    case_key: Mapped[str] = mapped_column(String(KEY), default="")
    details: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    acknowledged_at: Mapped[datetime | None]
    acknowledged_by: Mapped[str] = mapped_column(String(NAME), default="")
    comment: Mapped[str] = mapped_column(Text, default="")


class OutboxRow(Table):
    """One message to one destination, written in the transaction that made its reason and kept until it was taken.

    subject: id of the flag or job it is about; with the destination it is unique, so that nothing is queued twice.
    state: pending, sending, sent or dead. attempt_key: the same for every attempt, so that a receiver can tell repeats.
    """

    __tablename__ = "outbox"
    __table_args__ = (
        UniqueConstraint("site", "subject", "destination", name="uq_outbox_once"),
        Index("ix_outbox_due", "state", "next_attempt_at"),
    )

    id: Mapped[str] = mapped_column(String(KEY), primary_key=True)
    site: Mapped[str] = mapped_column(String(NAME))
    subject: Mapped[str] = mapped_column(String(KEY))
    destination: Mapped[str] = mapped_column(String(NAME))
    kind: Mapped[str] = mapped_column(String(NAME))
    payload: Mapped[dict[str, Any]]
    attempt_key: Mapped[str] = mapped_column(String(KEY))
    state: Mapped[str] = mapped_column(String(NAME))
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    next_attempt_at: Mapped[datetime]
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
    last_error: Mapped[str] = mapped_column(Text, default="")


class UserRow(Table):
    """A person or machine of one site. name: unique within the site. password_hash: argon2, "" where none was set.

    subject: the name that an OpenID Connect provider knows the user by, "" where there is none.
    """

    __tablename__ = "users"
    __table_args__ = (UniqueConstraint("site", "name", name="uq_users_name"),)

    id: Mapped[str] = mapped_column(String(KEY), primary_key=True)
    site: Mapped[str] = mapped_column(String(NAME))
    name: Mapped[str] = mapped_column(String(NAME))
    role: Mapped[str] = mapped_column(String(NAME))
    password_hash: Mapped[str] = mapped_column(Text, default="")
    subject: Mapped[str] = mapped_column(String(255), default="")
    disabled: Mapped[bool] = mapped_column(default=False)
    failed_logins: Mapped[int] = mapped_column(Integer, default=0)
    locked_until: Mapped[datetime | None]
    created_at: Mapped[datetime]


class TokenRow(Table):
    """An API token: only its SHA-256 is kept (it is 256 random bits, nothing that a dictionary would find)."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(KEY), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    site: Mapped[str] = mapped_column(String(NAME))
    name: Mapped[str] = mapped_column(String(NAME))
    sha256: Mapped[str] = mapped_column(String(KEY), unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class AuditRow(Table):
    """Who saw or did what. Only appended; each row carries the digest of the one before it, so that none goes missing.

    actor: user name, AE title or part of the service. action: as `cluster.security.audit` lists them. object_type,
    object_id: what it was done to, by pseudonym or id. outcome: success, or why not.
    """

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_site", "site", "at"),)

    sequence: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    site: Mapped[str] = mapped_column(String(NAME))
    actor: Mapped[str] = mapped_column(String(NAME))
    role: Mapped[str] = mapped_column(String(NAME), default="")
    origin: Mapped[str] = mapped_column(String(NAME), default="")
    action: Mapped[str] = mapped_column(String(NAME))
    object_type: Mapped[str] = mapped_column(String(NAME), default="")
    object_id: Mapped[str] = mapped_column(String(255), default="")
    outcome: Mapped[str] = mapped_column(String(NAME))
    details: Mapped[dict[str, Any]]
    previous: Mapped[str] = mapped_column(String(KEY))
    digest: Mapped[str] = mapped_column(String(KEY))


class PseudonymRow(Table):
    """What an identifier of a site became outside it. Kept at the site alone; never sent with what it names."""

    __tablename__ = "pseudonyms"
    __table_args__ = (UniqueConstraint("site", "kind", "pseudonym", name="uq_pseudonyms_back"),)

    site: Mapped[str] = mapped_column(String(NAME), primary_key=True)
    kind: Mapped[str] = mapped_column(String(NAME), primary_key=True)
    original: Mapped[str] = mapped_column(String(255), primary_key=True)
    pseudonym: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime]
