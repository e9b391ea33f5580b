"""Everybody under treatment at a site of a running service, as one batch of its own jobs.

The service's drivers compute; this process asks, follows and gathers. When it is stopped, the jobs go on, and asking
again finds them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cluster.batch.board import Board
from cluster.batch.manifest import Manifest, completed, fitting
from cluster.batch.results import ItemResult
from cluster.batch.run import LOOK_S, Watch, write_results
from cluster.jobs.model import JobKind, JobSpec, Priority
from cluster.operations.health import readiness
from cluster.security.audit import Action
from cluster.workflows.options import DoseOptions, EvaluateOptions, options_from
from cluster.workflows.specs import dose_spec, evaluate_spec
from doseeng.errors import ConfigError, DoseengError, JobError

if TYPE_CHECKING:
    from cluster.service.services import Services

ACTOR: Final = "doseeng batch"
LOOKS_PER_CHECK: Final = 75
"""Every half minute it is asked whether there still is a driver."""


def run_under_treatment(
    services: Services,
    site_name: str,
    kind: JobKind,
    usual: Mapping[str, Any],
    folder: Path,
    watch: Watch,
    stop: threading.Event,
) -> tuple[Manifest, tuple[ItemResult, ...]]:
    """Submit a job for each plan under treatment, wait for all, and write tables and overview into `folder`.

    usual: options that the command line gave; the site's own where it said nothing. ConfigError: the site is not
    configured, nobody is under treatment, or the kind needs images, which start their own jobs. JobError: the service
    has no driver at work.
    """
    if kind is JobKind.ADAPT:
        raise ConfigError(
            "images of the day start their own jobs when they arrive (rules in doseeng.toml), and the worklist shows "
            "what came of them; --under-treatment goes with --kind evaluate or dose"
        )
    site = services.config.site_named(site_name)
    courses = services.courses.all(site_name)
    if not courses:
        raise ConfigError(f"nobody is under treatment at site '{site_name}'; put plans under treatment first")
    options = options_from(kind, fitting(completed(usual, Path(), "command line"), kind))
    manifest = Manifest(f"{site_name} under treatment", kind, ())
    board = Board(services.store, services.blobs_of(site_name), site_name, folder)
    services.audit.append(
        site=site_name,
        actor=ACTOR,
        action=Action.JOB_SUBMIT,
        object_type="batch",
        object_id=manifest.name,
        details={"kind": kind.value, "plans": len(courses)},
    )
    for number, course in enumerate(courses):
        name = f"{course.patient_key}-{number + 1:03d}"
        board.add_waiting(name, kind.value, getattr(options, "treatment_site", ""))
        try:
            name = services.library.case_objects(site_name, course.plan_uid).case_key
            spec = _spec(services, site, course.plan_uid, options)
            job, _ = services.store.submit(spec, created_by=ACTOR, priority=Priority.BATCH, batch=manifest.name)
            board.set_job(number, name, job)
        except DoseengError as error:
            board.set_failed(number, name, type(error).__name__, str(error))
    looks = 0
    while not (board.has_ended or stop.wait(LOOK_S)):
        board.look()
        watch(board.items)
        looks += 1
        if looks % LOOKS_PER_CHECK == 0:
            _require_driver(services)
    watch(board.items)
    write_results(manifest, board.items, folder)
    return manifest, board.items


def _spec(services: Services, site: Any, plan_uid: str, options: Any) -> JobSpec:
    if isinstance(options, DoseOptions):
        return dose_spec(services.library, site, plan_uid, options)
    assert isinstance(options, EvaluateOptions)
    return evaluate_spec(services.library, site, plan_uid, options)


def _require_driver(services: Services) -> None:
    found = next((check for check in readiness(services).checks if check.name == "drivers"), None)
    if found is not None and not found.ok:
        raise JobError(f"{found.detail}; the jobs are kept: run this command again when `doseeng serve` is up")
