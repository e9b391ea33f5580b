"""The worklist: what a person has to look at, and who did."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from cluster.api.models import Out, Search
from cluster.api.problems import absent, documented
from cluster.api.security import Acknowledger, Reader
from cluster.security.audit import Action
from doseeng.errors import JobError
from robust.configuration import Strict

router = APIRouter(prefix="/worklist", tags=["worklist"])

FlagId = Annotated[
    str, Field(pattern=r"^[0-9a-f]{32}$", description="Id of a flag.", examples=["9f86d081884c7d659a2feaa0c55ad015"])
]


class Acknowledgement(Strict):
    """comment: what was decided, for those who read it later; without the patient's name, for it goes to the log."""

    comment: Annotated[str, Field(max_length=2000, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$")] = ""


class FlagSearch(Search):
    """Which flags."""

    acknowledged: bool = Field(False, description="Also those that somebody took note of.")
    limit: int = Field(100, ge=1, le=1000, description="At most so many.")


class SendingOut(Out):
    """A message about a flag."""

    destination: str
    state: str = Field(description="pending, sending, sent or dead (given up).")
    attempts: int
    sent_at: datetime | None
    error: str


class FlagOut(Out):
    """A job that a person must hear of."""

    id: str
    job_id: str
    verdict: str = Field(description="RED, AMBER, UNEVALUABLE or FAILED.")
    headline: str
    patient_key: str = Field(description="Pseudonym of the patient.")
    case_key: str
    details: dict[str, Any]
    created_at: datetime
    acknowledged_at: datetime | None
    acknowledged_by: str
    comment: str
    messages: list[SendingOut] = Field(description="To whom it was sent.")


@router.get("", responses=documented(401, 403))
def list_flags(caller: Reader, wanted: Annotated[FlagSearch, Query()]) -> list[FlagOut]:
    """Flags of the site, newest first."""
    flags = caller.services.worklist.open(caller.site, include_acknowledged=wanted.acknowledged, limit=wanted.limit)
    caller.noted(Action.RESULT_READ, "worklist", flags=len(flags))
    return [FlagOut.model_validate(flag) for flag in flags]


@router.get("/{flag_id}", responses=documented(401, 403, 404))
def get_flag(flag_id: FlagId, caller: Reader) -> FlagOut:
    """One flag."""
    with absent(JobError):
        flag = caller.services.worklist.get(caller.site, flag_id)
    caller.noted(Action.RESULT_READ, "flag", flag_id)
    return FlagOut.model_validate(flag)


@router.post("/{flag_id}/acknowledge", responses=documented(401, 403, 404, 409))
def acknowledge(flag_id: FlagId, request: Acknowledgement, caller: Acknowledger) -> FlagOut:
    """Take note of a flag, in one's own name and for good."""
    worklist = caller.services.worklist
    with absent(JobError):
        worklist.get(caller.site, flag_id)
    flag = worklist.acknowledge(caller.site, flag_id, caller.principal.name, request.comment)
    caller.noted(Action.FLAG_ACKNOWLEDGE, "flag", flag_id)
    return FlagOut.model_validate(flag)
