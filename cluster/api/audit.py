"""The audit log of the site: read and verified. Reading it is noted too."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, Field

from cluster.api.models import Out, Search, ShortText
from cluster.api.problems import documented
from cluster.api.security import Auditor
from cluster.security.audit import Action

router = APIRouter(prefix="/audit", tags=["audit"])


class AuditSearch(Search):
    """Which rows."""

    since: AwareDatetime | None = Field(None, description="Not before; with its time zone.")
    action: ShortText = Field("", description="Only this one.")
    before: int | None = Field(None, ge=1, le=2**31 - 1, description="Only rows of lower sequence.")
    limit: int = Field(100, ge=1, le=1000, description="At most so many.")


class AuditOut(Out):
    """Who saw or did what. sequence: of the whole log, which has the lines of all sites."""

    sequence: int
    at: datetime
    actor: str
    role: str
    origin: str
    action: str
    object_type: str
    object_id: str
    outcome: str
    details: dict[str, Any]
    digest: str


class AuditCheckOut(Out):
    """Whether the log is what was written."""

    is_intact: bool
    rows: int = Field(description="Of all sites: it is one chain.")
    head: str = Field(description="Digest of the newest row, to be kept where nobody can change it.")
    problems: list[str] = Field(description="What is wrong, by number of row.")


@router.get("", responses=documented(401, 403))
def read_audit(caller: Auditor, wanted: Annotated[AuditSearch, Query()]) -> list[AuditOut]:
    """Rows of the site, newest first."""
    entries = caller.services.audit.read(caller.site, wanted.since, wanted.limit, wanted.action, wanted.before)
    caller.noted(Action.AUDIT_READ, "audit", rows=len(entries))
    return [AuditOut.model_validate(entry) for entry in entries]


@router.get("/verify", responses=documented(401, 403))
def verify_audit(caller: Auditor) -> AuditCheckOut:
    """Read the whole chain and say whether a row was changed, removed or put in."""
    check = caller.services.audit.verify()
    caller.noted(Action.AUDIT_READ, "audit", is_intact=check.is_intact)
    problems = [problem.message for problem in check.problems]
    return AuditCheckOut(is_intact=check.is_intact, rows=check.rows, head=check.head, problems=problems)
