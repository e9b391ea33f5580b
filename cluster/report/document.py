"""One self-contained HTML document from a template, and its way to the disk."""

from __future__ import annotations

import base64
import hashlib
import os
import uuid
from importlib.resources import files
from pathlib import Path

import jinja2

from doseeng.case import Case
from doseeng.errors import PlanError


def require_same_plan(case_key: str, plan_label: str, case: Case) -> None:
    """PlanError: a result and a case do not belong together."""
    if case_key != case.key or plan_label != case.plan.label:
        raise PlanError(
            f"the report is about plan '{plan_label}' of case '{case_key}', but the case given is "
            f"'{case.key}' with plan '{case.plan.label}'; give the case that was evaluated"
        )


def render_document(template: str, styles: tuple[str, ...], values: dict[str, object]) -> str:
    """A template filled in. All values are escaped; nothing is loaded from elsewhere, and report.js alone may run.

    styles: names of style sheets, which the template finds joined as `style`.
    """
    script = _asset("report.js")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cluster.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        **values,
        style="".join(_asset(name) for name in styles),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def write_document(page: str, path: Path) -> Path:
    """Write a page and return its path; missing folders are made. The file appears complete or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file of its own beside the target, so that readers never see half a report and writers never share one.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_text(page, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _asset(name: str) -> str:
    return (files("cluster.report") / "templates" / name).read_text(encoding="utf-8")
