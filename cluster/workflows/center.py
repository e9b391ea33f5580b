"""A job of a site that another doseeng computes: pseudonyms go there, results come back and get their patient again.

The centre sees what DICOM PS3.15 Annex E leaves. It keeps the course of a pseudonym itself, so that days of one course
meet there as they would here. Beam models are the centre's. What comes back:

* DICOM objects get identity, UIDs and dates of the site's patient again (`cluster.security.reidentify`)
* JSON and HTML get UIDs and the patient's dates again, character by character
* pages as PDF are left at the centre: dates in them cannot be put right
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

from cluster.client import Client, RemoteJob
from cluster.jobs.context import JobContext
from cluster.jobs.model import Artifact, JobKind, JobResult, JobSpec
from cluster.security.deidentify import deidentify
from cluster.security.identity import identity_of
from cluster.security.pseudonyms import UID_ROOT, Pseudonyms
from cluster.security.reidentify import reidentify
from cluster.service.config import Center
from cluster.workflows.artifacts import COURSE, PAGES, PAGES_OBJECT, kept
from doseeng.dicom.files import PARSE_ERRORS, read_file
from doseeng.dicom.inventory import PLAN_CLASSES, case_key
from doseeng.dicom.tags import text
from doseeng.dicom.writing import save
from doseeng.errors import DicomError, PeerError

LEFT: Final = (PAGES, PAGES_OBJECT)
TEXTS: Final = (".json", ".html")
OF_THE_SITE: Final = ("machines",)
"""Options that name blobs of this site, which the centre does not have."""
_DATE: Final = re.compile(r"\b(\d{4})-(\d{2})-(\d{2})\b")
_UID: Final = re.compile(rf"\b{re.escape(UID_ROOT)}\d+\b")


@dataclass(frozen=True, slots=True)
class Returning:
    """What of a result is to be put right. shift_days: by which the patient's dates were moved back."""

    pseudonyms: Pseudonyms
    patient_id: str
    shift_days: int


def run_at_center(spec: JobSpec, context: JobContext, center: Center, pseudonyms: Pseudonyms) -> JobResult:
    """What the centre finds for a job. PeerError when it cannot be reached or refuses objects, DicomError for objects
    that cannot be de-identified, and what the job itself ends with there."""
    patient = _send_out(spec, context, pseudonyms)
    with Client(center.url, center.token.get_secret_value(), authority=center.authority) as client:
        uploaded = client.upload(context.scratch / "out")
        if uploaded.refused:
            reason = next(iter(uploaded.refused.values()))
            raise PeerError(f"the centre refused {len(uploaded.refused)} of the objects: {reason}")
        job = _asked(client, spec, pseudonyms)
        try:
            done = client.wait(job, context.progress)
        except BaseException:
            client.cancel(job)
            raise
        return _taken_back(client, done, spec, context, patient)


def _send_out(spec: JobSpec, context: JobContext, pseudonyms: Pseudonyms) -> Returning:
    """Lay the de-identified objects out in the job's folder."""
    there, here = context.scratch / "out", context.scratch / "in"
    there.mkdir()
    here.mkdir()
    digests = dict.fromkeys((*spec.objects, *spec.image))
    datasets = [read_file(context.blobs.copy_to(sha256, here / f"{n}.dcm")) for n, sha256 in enumerate(digests)]
    identity = identity_of(datasets)
    for number, dataset in enumerate(datasets):
        context.progress("de-identify", number, len(datasets))
        try:
            save(deidentify(dataset, pseudonyms, identity).dataset, there / f"{number}.dcm")
        except PARSE_ERRORS as error:
            raise DicomError(
                f"object {number + 1} of the job is damaged ({type(error).__name__}) and cannot be de-identified; "
                "send it again"
            ) from error
    patient_id = next(text(dataset, "PatientID") for dataset in datasets if dataset.SOPClassUID in PLAN_CLASSES)
    return Returning(pseudonyms, patient_id, pseudonyms.shift_days(patient_id))


def _asked(client: Client, spec: JobSpec, pseudonyms: Pseudonyms) -> RemoteJob:
    options = {name: value for name, value in spec.options.items() if name not in OF_THE_SITE}
    plan_uid = pseudonyms.uid(spec.plan_uid)
    match spec.kind:
        case JobKind.DOSE:
            return client.dose(plan_uid, **options)
        case JobKind.EVALUATE:
            return client.evaluate(plan_uid, **options)
        case JobKind.ADAPT:
            return client.adapt(plan_uid, pseudonyms.uid(spec.image_series_uid), **options)


def _taken_back(client: Client, done: RemoteJob, spec: JobSpec, context: JobContext, patient: Returning) -> JobResult:
    wanted = [name for name in done.artifacts if name not in LEFT and not name.startswith(COURSE)]
    folder = context.scratch / "back"
    folder.mkdir()
    artifacts: list[Artifact] = []
    for number, name in enumerate(wanted):
        context.progress("bring results back", number, len(wanted))
        suffix = Path(name).suffix
        path = client.download(done, name, folder / f"{number}{suffix}")
        if suffix == ".dcm":
            save(reidentify(read_file(path), patient.pseudonyms), path)
        elif suffix in TEXTS:
            path.write_text(restored_text(path.read_text(encoding="utf-8"), patient), encoding="utf-8")
        artifacts.append(kept(context.blobs, name, path))
    summary = json.loads(restored_text(json.dumps(done.summary), patient))
    own_key = case_key(patient.patient_id, spec.plan_uid)
    return JobResult(done.verdict, {**summary, "case": own_key}, tuple(artifacts), own_key)


def restored_text(written: str, patient: Returning, today: date | None = None) -> str:
    """Text with the UIDs and dates of the site's patient. Dates that would come to lie after today (UTC, or tomorrow
    where the day begins earlier) are not the patient's but those of the computation."""
    latest = (today or datetime.now(UTC).date()) + timedelta(days=1)

    def moved(found: re.Match[str]) -> str:
        try:
            there = date(*map(int, found.groups())) + timedelta(days=patient.shift_days)
        except (ValueError, OverflowError):
            return found[0]
        return there.isoformat() if there <= latest else found[0]

    uids = patient.pseudonyms.original_uids(set(_UID.findall(written)))
    return _DATE.sub(moved, _UID.sub(lambda found: uids.get(found[0], found[0]), written))
