"""What a destination is told about an ended job, as plain data: the same for webhook, e-mail and FHIR.

A message knows patient and case by pseudonym alone, and no DICOM identifier: who may know more asks the API for the
job. Plan labels stay out too, because people write names into them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cluster.jobs.model import WORTH_A_FLAG, Job, JobState
from doseeng.summary import STATEMENT

FAILED: Final = "FAILED"
"""In place of a verdict, of a job that ended without a result."""
VERSION: Final = 1
"""Of the JSON that webhooks get: goes up when a key changes its meaning or goes away; new keys leave it."""
_GOAL_KEYS: Final = ("name", "value", "relation", "limit", "unit", "status")


@dataclass(frozen=True, slots=True)
class Message:
    """verdict: of the job, FAILED, or "" of a job that judges nothing (dose). reasons: sentences.

    goals: name, value (None where there is none), relation, limit, unit and status of each, as the job's summary has
    them; Gy are weighted with an RBE of 1.1 where rbe_weighted. is_flag: whether a person has to look. ended: UTC.
    """

    site: str
    job_id: str
    kind: str
    verdict: str
    reasons: tuple[str, ...]
    patient_key: str
    case_key: str
    goals: tuple[dict[str, Any], ...]
    rbe_weighted: bool
    is_flag: bool
    ended: datetime

    @property
    def headline(self) -> str:
        """The verdict and the first reason."""
        return f"{self.verdict}: {self.reasons[0]}" if self.reasons else self.verdict

    def to_json(self) -> dict[str, Any]:
        """Plain data, for the database and for webhooks."""
        return {
            **asdict(self),
            "version": VERSION,
            "headline": self.headline,
            "reasons": list(self.reasons),
            "goals": list(self.goals),
            "ended": self.ended.isoformat(),
            "statement": STATEMENT,
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Message:
        """The message that `to_json` wrote."""
        fields = {name: data[name] for name in Message.__dataclass_fields__}
        lists = {name: tuple(data[name]) for name in ("reasons", "goals")}
        return Message(**{**fields, **lists, "ended": datetime.fromisoformat(data["ended"])})


def message_of(job: Job) -> Message:
    """What there is to tell of a job that ended done or failed."""
    is_failed = job.state is JobState.FAILED
    # Whatever a summary lacks, the end of the job that called must be written.
    summary = job.summary or {}
    if is_failed:
        why = [f"{job.error.kind}: {job.error.message}"] if job.error else ["the job ended without a result"]
    else:
        why = [str(reason) for reason in summary.get("reasons", [])]
    return Message(
        site=job.spec.site,
        job_id=job.id,
        kind=job.spec.kind.value,
        verdict=FAILED if is_failed else job.verdict,
        reasons=tuple(why),
        patient_key=job.spec.patient_key,
        case_key=job.case_key,
        goals=tuple(
            {key: goal[key] for key in _GOAL_KEYS} for goal in summary.get("goals", []) if goal.keys() >= {*_GOAL_KEYS}
        ),
        rbe_weighted=bool(summary.get("rbe_weighted", False)),
        is_flag=is_failed or job.verdict in WORTH_A_FLAG,
        ended=job.finished_at or datetime.now(UTC),
    )


def as_bytes(message: Message, attempt_key: str) -> bytes:
    """The JSON of a message with the key of its delivery: the same bytes for every attempt."""
    return json.dumps({"delivery": attempt_key, **message.to_json()}, sort_keys=True, allow_nan=False).encode()
