"""What a job is, as plain data: the same in the database, the API and on a worker."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any, Final

import doseeng
from robust.result import Verdict

WORTH_A_FLAG: Final = frozenset({Verdict.RED, Verdict.AMBER, Verdict.UNEVALUABLE})
"""Verdicts that a person has to hear of; a job that failed is one too."""


class JobKind(StrEnum):
    """What is asked."""

    DOSE = "dose"
    EVALUATE = "evaluate"
    ADAPT = "adapt"


class JobState(StrEnum):
    """Where a job stands. The last three are ends."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_end(self) -> bool:
        """Whether nothing more will happen."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


class Priority(IntEnum):
    """Lower is sooner: a patient on the couch goes before a physicist at the desk, and both before a batch."""

    TODAY = 0
    PERSON = 10
    BATCH = 20


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What is asked, complete: two equal specs of one code version give the same result.

    objects: SHA-256 of the DICOM objects of the case, in the blob store of the site. image: likewise those of the day's
    image (adapt). options: of the kind, plain data as `cluster.workflows.options` validates it. lane, lane_order: jobs
    of one lane run one at a time, lowest order first (the days of a course by acquisition).
    """

    site: str
    kind: JobKind
    plan_uid: str
    objects: tuple[str, ...]
    image: tuple[str, ...] = ()
    image_series_uid: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    patient_key: str = ""
    lane: str = ""
    lane_order: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data, for the database."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> JobSpec:
        """The spec that `to_json` wrote."""
        lists = {name: tuple(data[name]) for name in ("objects", "image")}
        return JobSpec(**{**data, **lists, "kind": JobKind(data["kind"])})

    @property
    def inputs(self) -> tuple[str, ...]:
        """SHA-256 of every blob that the job reads."""
        return (*self.objects, *self.image, *self.options.get("machines", {}).values())

    @property
    def content_key(self) -> str:
        """SHA-256 of inputs, configuration and code version; the order of objects does not matter."""
        content = {
            **self.to_json(),
            "objects": sorted(self.objects),
            "image": sorted(self.image),
            "code": doseeng.__version__,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that a job left; its bytes are in the blob store of the site."""

    name: str
    media_type: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class JobResult:
    """What a job found. verdict: "" where the kind gives none (dose). summary: JSON-ready, what lists and flags show:
    always "case", "plan" and "reasons" (list of str)."""

    verdict: str
    summary: dict[str, Any]
    artifacts: tuple[Artifact, ...] = ()
    case_key: str = ""


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Why a job ended without a result. kind: name of the error class. message: as shown to people; no identity."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stood when it was read."""

    id: str
    spec: JobSpec
    state: JobState
    priority: int
    batch: str
    created_at: datetime
    created_by: str
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    attempts: int
    cancel_requested: bool
    stage: str
    done: int
    total: int
    case_key: str
    verdict: str
    summary: dict[str, Any] | None
    error: JobFailure | None
    artifacts: tuple[Artifact, ...] = ()
