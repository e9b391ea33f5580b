"""Roles and what they may do. A principal belongs to one site and never sees another's."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from doseeng.errors import AccessError


class Role(StrEnum):
    """Of a user. service: a machine account, such as a script of the clinic."""

    VIEWER = "viewer"
    PLANNER = "planner"
    PHYSICIST = "physicist"
    PHYSICIAN = "physician"
    ADMIN = "admin"
    SERVICE = "service"


class Permission(StrEnum):
    """What an endpoint or command asks for."""

    READ = "read"
    """Jobs, results, worklist, objects of the site."""
    UPLOAD = "upload"
    """Bring DICOM objects in."""
    SUBMIT = "submit"
    """Start dose and evaluation jobs, cancel one's own."""
    TREAT = "treat"
    """Start adapt jobs and batches, put patients under treatment and take them out, cancel anyone's job."""
    ACKNOWLEDGE = "acknowledge"
    """Take note of a flag."""
    MANAGE = "manage"
    """Users and tokens of the site."""
    AUDIT = "audit"
    """Read and verify the audit log of the site."""


_READ: Final = frozenset({Permission.READ})
_PLAN: Final = _READ | {Permission.UPLOAD, Permission.SUBMIT}
PERMISSIONS: Final[dict[Role, frozenset[Permission]]] = {
    Role.VIEWER: _READ,
    Role.PLANNER: _PLAN,
    Role.PHYSICIST: _PLAN | {Permission.TREAT, Permission.ACKNOWLEDGE},
    Role.PHYSICIAN: _READ | {Permission.ACKNOWLEDGE},
    # Who gives rights away does not need to see patients.
    Role.ADMIN: frozenset({Permission.MANAGE, Permission.AUDIT}),
    Role.SERVICE: _PLAN | {Permission.TREAT},
}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. origin: address or AE title that the request came from."""

    site: str
    name: str
    role: Role
    user_id: str = ""
    origin: str = ""

    def may(self, permission: Permission) -> bool:
        """Whether the role allows it."""
        return permission in PERMISSIONS[self.role]

    def require(self, permission: Permission) -> None:
        """AccessError when the role does not allow it."""
        if not self.may(permission):
            allowed = ", ".join(role.value for role, granted in PERMISSIONS.items() if permission in granted)
            raise AccessError(f"role '{self.role.value}' may not {permission.value}; it takes one of {allowed}")
