"""From what is asked to a complete job: objects by reference, options with the site's own values filled in.

Every way in makes its specs here, so that the same question from the API, a rule, a batch or a person at the command
line is the same job.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any, Final, TypeVar

from cluster.jobs.model import JobKind, JobSpec
from cluster.library.entries import CaseObjects
from cluster.library.library import Library
from cluster.service.config import Site
from cluster.storage.blobs import BlobStore
from cluster.workflows.inputs import require_sound
from cluster.workflows.options import MAX_TEXT, AdaptOptions, CaseOptions, DoseOptions, EvaluateOptions
from doseeng.errors import ConfigError, DicomError
from doseeng.machines.library import SHIPPED, machine_folders

Given = TypeVar("Given", bound=CaseOptions)

LANE_DIGITS: Final = 16
NAME_DIGITS: Final = 16


def dose_spec(library: Library, site: Site, plan_uid: str, options: DoseOptions) -> JobSpec:
    """A job that recalculates a plan. DicomError: objects are missing; ConfigError: options or the site's files."""
    case = library.case_objects(site.name, plan_uid)
    return _spec(JobKind.DOSE, site, case, _completed(options, site, library.blobs(site.name)))


def evaluate_spec(library: Library, site: Site, plan_uid: str, options: EvaluateOptions) -> JobSpec:
    """A job on the robustness of a plan. Errors as `dose_spec`."""
    case = library.case_objects(site.name, plan_uid)
    return _spec(JobKind.EVALUATE, site, case, _completed(options, site, library.blobs(site.name)))


def adapt_spec(library: Library, site: Site, plan_uid: str, series_uid: str, options: AdaptOptions) -> JobSpec:
    """A job on the image of a day. Errors as `dose_spec`; DicomError too for an image of another patient than the
    plan's (unless accepted), the planning CT itself, and one that does not say when it was acquired."""
    case = library.case_objects(site.name, plan_uid)
    image = library.image_objects(site.name, series_uid)
    if image.sha256s[0] in case.sha256s:  # slices come first
        raise DicomError(f"image series {series_uid} is the planning CT of plan {plan_uid}; name the day's image")
    if image.patient_key != case.patient_key and not options.accept_patient_mismatch:
        raise DicomError(
            f"image series {series_uid} carries another patient ID than plan {plan_uid}; find out whose image it is, "
            "or accept it (accept_patient_mismatch)"
        )
    if not image.acquired:
        raise DicomError(
            f"image series {series_uid} does not say when it was acquired, so that it has no place in the course; "
            "export it without removing dates and times"
        )
    return _spec(
        JobKind.ADAPT,
        site,
        case,
        _completed(options, site, library.blobs(site.name)),
        image=image.sha256s,
        image_series_uid=series_uid,
        lane=lane_of(case.patient_key, plan_uid),
        lane_order=f"{image.acquired} {series_uid}",
    )


def lane_of(patient_key: str, plan_uid: str) -> str:
    """The lane of a course: its days are judged one after the other."""
    return f"{patient_key}:{hashlib.sha256(plan_uid.encode()).hexdigest()[:LANE_DIGITS]}"


def _spec(kind: JobKind, site: Site, case: CaseObjects, options: CaseOptions, **image: Any) -> JobSpec:
    return JobSpec(
        site=site.name,
        kind=kind,
        plan_uid=case.plan_uid,
        objects=tuple(sorted(case.sha256s)),
        options=options.model_dump(mode="json"),
        patient_key=case.patient_key,
        **image,
    )


def _completed(options: Given, site: Site, blobs: BlobStore) -> Given:
    """The options with the site's values where nothing was said, and with its machine models."""
    said = options.model_fields_set
    of_site: dict[str, object] = {"treatment_site": site.treatment_site, "hu_table": _table(site.hu_table)}
    for name in ("goals", "settings", "gates"):
        of_site[name] = _file_text(getattr(site, name))
    usual = {
        name: value
        for name, value in of_site.items()
        if value and name in type(options).model_fields and name not in said
    }
    machines = {**_machines(site, blobs), **options.machines}
    complete = type(options).model_validate({**options.model_dump(), **usual, "machines": machines})
    with tempfile.TemporaryDirectory(prefix="doseeng-") as folder:
        require_sound(complete, Path(folder))
    return complete


def _table(hu_table: str) -> str:
    return _file_text(hu_table) if hu_table.endswith(".toml") else hu_table


def _file_text(path: str) -> str:
    if not path:
        return ""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"'{path}' of the site's configuration cannot be read ({why}); check the path") from error
    if len(text) > MAX_TEXT:
        raise ConfigError(f"'{path}' of the site's configuration has {len(text)} characters, more than {MAX_TEXT}")
    return text


def _machines(site: Site, blobs: BlobStore) -> dict[str, str]:
    """Every machine model of the site and of the service's user; those that are shipped come with the code version.

    Their bytes go into the blob store, so that a job computes with what it was asked for, wherever it runs.
    """
    own = [Path(folder) for folder in site.machine_folders]
    for folder in own:
        if not folder.is_dir():
            raise ConfigError(f"machine folder '{folder}' of site '{site.name}' does not exist; check machine_folders")
    found = {}
    for folder in machine_folders(own):
        if folder == SHIPPED:
            continue
        for path in sorted(folder.glob("*.toml")):
            sha256 = blobs.put(path).sha256
            found[f"{sha256[:NAME_DIGITS]}.toml"] = sha256
    return dict(sorted(found.items()))
