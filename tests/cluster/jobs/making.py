"""Specs, results and a recording hook, of which tests of jobs need many."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from cluster.database.tables import FlagRow
from cluster.jobs.model import Artifact, Job, JobKind, JobResult, JobSpec

DIGEST = "ab" * 32


def a_spec(number: int = 0, *, site: str = "north", lane: str = "", order: str = "", **changes: Any) -> JobSpec:
    """A spec unlike those of other numbers."""
    given = {"kind": JobKind.EVALUATE, "plan_uid": "1.2.3", "objects": (DIGEST,), "options": {"number": number}}
    return JobSpec(site=site, lane=lane, lane_order=order, **{**given, **changes})


def a_result(number: int = 0, verdict: str = "GREEN") -> JobResult:
    artifact = Artifact("result.json", "application/json", DIGEST, 5)
    return JobResult(verdict, {"case": "c", "plan": "p", "reasons": [], "number": number}, (artifact,), "case")


@dataclass(slots=True)
class Ends:
    """A hook that writes a flag inside the transaction, as the service's does, and can break."""

    breaks: bool = False
    seen: list[Job] = field(default_factory=list)

    def __call__(self, session: Session, job: Job) -> None:
        if self.breaks:
            raise ValueError("the hook is broken")
        self.seen.append(job)
        session.add(
            FlagRow(
                id=job.id, site=job.spec.site, job_id=job.id, verdict=job.verdict or "FAILED", headline="", details={},
                created_at=datetime.now(UTC),
            )
        )  # fmt: skip
