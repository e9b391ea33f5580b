"""Every endpoint, and who may use it: the tests fail when a route has no row here."""

from dataclasses import dataclass, field
from typing import Any

from cluster.security.access import Permission
from tests.cluster.api.making import HERE

ANYONE = "anyone"
USER = "any user"


@dataclass(frozen=True, slots=True)
class Row:
    """needs: a permission, any user, or nobody at all. theirs: without the permission `manage` one's own only."""

    needs: Permission | str
    content: dict[str, Any] = field(default_factory=dict)
    theirs: bool = False


EVALUATE = {"json": {"kind": "evaluate", "plan_uid": "1.2.3"}}
BATCH = {"json": {"kind": "evaluate", "plans": ["1.2.3"]}}
DICOM = {"content": b"none", "headers": {"Content-Type": "application/dicom"}}
RELATED = {"content": b"--X--", "headers": {"Content-Type": 'multipart/related; type="application/dicom"; boundary=X'}}
LOGIN = {"json": {"site": HERE, "user": "nobody", "password": "wrong"}}
OWN_PASSWORD = {"json": {"old_password": "wrong", "new_password": "wrong"}}
NEW_USER = {"json": {"name": "a-viewer", "role": "viewer"}}
NEW_TOKEN = {"json": {"user": "victim", "label": "x"}}
P = Permission

TABLE: dict[tuple[str, str], Row] = {
    ("GET", "/api/v1/openapi.json"): Row(ANYONE),
    ("GET", "/health/live"): Row(ANYONE),
    ("GET", "/health/ready"): Row(ANYONE),
    ("GET", "/metrics"): Row(USER),
    ("POST", "/api/v1/login"): Row(ANYONE, LOGIN),
    ("GET", "/api/v1/me"): Row(USER),
    ("PUT", "/api/v1/me/password"): Row(USER, OWN_PASSWORD),
    ("GET", "/api/v1/users"): Row(P.MANAGE),
    ("POST", "/api/v1/users"): Row(P.MANAGE, NEW_USER),
    ("PATCH", "/api/v1/users/{name}"): Row(P.MANAGE, {"json": {}}),
    ("GET", "/api/v1/tokens"): Row(USER),
    ("POST", "/api/v1/tokens"): Row(P.MANAGE, NEW_TOKEN),
    ("DELETE", "/api/v1/tokens/{token_id}"): Row(USER, theirs=True),
    ("POST", "/api/v1/objects"): Row(P.UPLOAD, DICOM),
    ("GET", "/api/v1/patients"): Row(P.READ),
    ("GET", "/api/v1/plans"): Row(P.READ),
    ("GET", "/api/v1/series"): Row(P.READ),
    ("POST", "/api/v1/dicomweb/studies"): Row(P.UPLOAD, RELATED),
    ("POST", "/api/v1/dicomweb/studies/{study_uid}"): Row(P.UPLOAD, RELATED),
    ("POST", "/api/v1/jobs"): Row(P.SUBMIT, EVALUATE),
    ("GET", "/api/v1/jobs"): Row(P.READ),
    ("GET", "/api/v1/jobs/{job_id}"): Row(P.READ),
    ("POST", "/api/v1/jobs/{job_id}/cancel"): Row(P.SUBMIT),
    ("GET", "/api/v1/jobs/{job_id}/events"): Row(P.READ),
    ("GET", "/api/v1/jobs/{job_id}/artifacts"): Row(P.READ),
    ("GET", "/api/v1/jobs/{job_id}/artifacts/{name:path}"): Row(P.READ),
    ("GET", "/api/v1/jobs/{job_id}/result"): Row(P.READ),
    ("POST", "/api/v1/batches"): Row(P.TREAT, BATCH),
    ("GET", "/api/v1/batches/{name}"): Row(P.READ),
    ("GET", "/api/v1/courses"): Row(P.READ),
    ("GET", "/api/v1/courses/{plan_uid}"): Row(P.READ),
    ("PUT", "/api/v1/courses/{plan_uid}"): Row(P.TREAT, {"json": {}}),
    ("DELETE", "/api/v1/courses/{plan_uid}"): Row(P.TREAT),
    ("GET", "/api/v1/worklist"): Row(P.READ),
    ("GET", "/api/v1/worklist/{flag_id}"): Row(P.READ),
    ("POST", "/api/v1/worklist/{flag_id}/acknowledge"): Row(P.ACKNOWLEDGE, {"json": {}}),
    ("POST", "/api/v1/destinations/{destination}/resend"): Row(P.ACKNOWLEDGE),
    ("GET", "/api/v1/audit"): Row(P.AUDIT),
    ("GET", "/api/v1/audit/verify"): Row(P.AUDIT),
}
OF_NO_SITE = "{study_uid}"
"""A study is named by who sends it; it need not be there."""
