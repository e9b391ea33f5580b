"""What goes over the wire: requests, strictly checked, and answers, each with a description for the API's own page."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from cluster.jobs.model import Job, Priority
from cluster.workflows.options import AdaptOptions, DoseOptions, EvaluateOptions
from robust.configuration import Strict

MOST_PLANS: Final = 2000
"""Of one batch through the API: each plan's objects are looked up while the caller waits."""

# DICOM PS3.5, section 9.1; looser on leading zeros, which are met in practice.
Uid = Annotated[
    str,
    Field(
        pattern=r"^[0-9]+(\.[0-9]+)*$",
        max_length=64,
        description="A DICOM UID.",
        examples=["1.2.826.0.1.3680043.8.498.1"],
    ),
]
JobId = Annotated[
    str, Field(pattern=r"^[0-9a-f]{32}$", description="Id of a job.", examples=["5d41402abc4b2a76b9719d911017c592"])
]
ShortText = Annotated[str, Field(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""A short text of a person: nothing in it that a log or database would stumble over."""
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
BatchName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="Name of a batch.", examples=["2026-03-weekly"]),
]
KindName = Literal["dose", "evaluate", "adapt"]
StateName = Literal["queued", "running", "done", "failed", "cancelled"]
VerdictName = Literal["GREEN", "AMBER", "RED", "UNEVALUABLE"]
RoleName = Literal["viewer", "planner", "physicist", "physician", "admin", "service"]


class Out(BaseModel):
    """An answer, made from a plain dataclass with the same names."""

    model_config = ConfigDict(from_attributes=True)


class Search(BaseModel):
    """What stands behind the question mark of an address: a wrong key is an error here too."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Paged(Search):
    """A part of a list."""

    limit: int = Field(1000, ge=1, le=5000, description="At most so many.")
    offset: int = Field(0, ge=0, le=2**31 - 1, description="Leave out so many of the first.")


class DoseRequest(Strict):
    """Compute the dose of a plan."""

    kind: Literal["dose"]
    plan_uid: Uid
    options: DoseOptions = DoseOptions()


class EvaluateRequest(Strict):
    """Judge the robustness of a plan."""

    kind: Literal["evaluate"]
    plan_uid: Uid
    options: EvaluateOptions = EvaluateOptions()


class AdaptRequest(Strict):
    """Judge a plan on the image of a treatment day. series_uid: of that image."""

    kind: Literal["adapt"]
    plan_uid: Uid
    series_uid: Uid
    options: AdaptOptions = AdaptOptions()


JobRequest = Annotated[DoseRequest | EvaluateRequest | AdaptRequest, Field(discriminator="kind")]


class ArtifactOut(Out):
    """A file that a job left."""

    name: str = Field(examples=["report.html"])
    media_type: str = Field(examples=["text/html"])
    size: int = Field(description="Bytes.")
    sha256: str = Field(description="Digest of the bytes, in hex; also its ETag.")


class FailureOut(Out):
    """Why a job ended without a result."""

    kind: str = Field(description="Name of the error's class.", examples=["DicomError"])
    message: str = Field(description="What was found, what was expected and what to do.")


class JobOut(Out):
    """A job as it stood when it was read."""

    id: str
    kind: KindName
    state: StateName
    priority: Literal["today", "person", "batch"] = Field(description="Today's images go first, batches last.")
    batch: str = Field(description='Name of its batch, or "".')
    plan_uid: str
    image_series_uid: str = Field(description='Of the day\'s image; "" unless kind is adapt.')
    patient_key: str = Field(description="Pseudonym of the patient.")
    case_key: str
    created_at: datetime
    created_by: str
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    attempts: int
    cancel_requested: bool
    stage: str = Field(description="What is being done.")
    done: int = Field(description="Units of work done in this stage.")
    total: int = Field(description="Units of work of this stage; 0 when nobody knows.")
    verdict: str = Field(description='GREEN, AMBER, RED or UNEVALUABLE; "" before the end and for doses.')
    summary: dict[str, Any] | None = Field(description="What lists show of the result.")
    error: FailureOut | None
    artifacts: list[ArtifactOut]

    @staticmethod
    def of(job: Job) -> JobOut:
        """The same, flat."""
        same = {name: getattr(job, name) for name in _SAME_NAMES}
        return JobOut(
            kind=job.spec.kind.value,
            state=job.state.value,
            priority=_PRIORITY[job.priority],
            plan_uid=job.spec.plan_uid,
            image_series_uid=job.spec.image_series_uid,
            patient_key=job.spec.patient_key,
            error=FailureOut.model_validate(job.error) if job.error is not None else None,
            artifacts=[ArtifactOut.model_validate(artifact) for artifact in job.artifacts],
            **same,
        )


_PRIORITY: Final[dict[int, Literal["today", "person", "batch"]]] = {
    Priority.TODAY: "today",
    Priority.PERSON: "person",
    Priority.BATCH: "batch",
}
_SAME_NAMES: Final = (
    "id", "batch", "case_key", "created_at", "created_by", "started_at", "finished_at", "updated_at", "attempts",
    "cancel_requested", "stage", "done", "total", "verdict", "summary",
)  # fmt: skip


class JobsOut(Out):
    """A page of jobs, newest first."""

    jobs: list[JobOut]
    next: str | None = Field(description="Give this as `before` to have the next page; null on the last one.")


class ProgressOut(Out):
    """Data of an event `progress`; with the event `end` comes the whole job."""

    id: str
    state: StateName
    stage: str
    done: int
    total: int
