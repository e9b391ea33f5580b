"""DICOM objects: brought in as files or archives, and listed by patient, plan and series under pseudonyms."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.exceptions import HTTPException

from cluster.api.archives import ArchiveRefused
from cluster.api.intake import Upload
from cluster.api.models import Out, Paged, ShortText, Uid
from cluster.api.problems import documented
from cluster.api.security import Caller, Reader, Uploader
from cluster.api.uploads import UPLOADS, media_type_of, receiving, spooled
from cluster.library.entries import Received
from cluster.library.intake import BY_HTTP
from cluster.security.audit import Action
from doseeng.errors import DicomError

ZIP: Final = ("application/zip", "application/x-zip-compressed")
TAKEN: Final = (*ZIP, "application/dicom", "multipart/form-data")
UNPACKED_FACTOR: Final = 4
"""Archives may unpack to so many times the largest request: CT images shrink to a half or a third."""
_NOTED_SERIES: Final = 20
_SHOWN_FAULTS: Final = 100

router = APIRouter(tags=["objects"])
Entry = TypeVar("Entry")


class AcceptedOut(Out):
    """An object that was taken in. part, entry: which one of the upload, both from 1; entry is 0 outside archives."""

    part: int
    entry: int
    sop_uid: str
    sop_class_uid: str
    series_uid: str
    study_uid: str
    patient_key: str = Field(description="Pseudonym of the patient.")
    modality: str
    is_new: bool = Field(description="False: its very bytes were there already.")


class RefusedOut(Out):
    """A file that was not taken in. part, entry: as of accepted ones; names of files are not repeated."""

    part: int
    entry: int
    reason: str


class UploadOut(Out):
    """What became of an upload. Objects that were accepted stay, also when others were refused."""

    accepted: list[AcceptedOut]
    refused: list[RefusedOut]


class PlanOut(Out):
    """A plan with treatment beams."""

    plan_uid: str
    patient_key: str
    label: str
    role: str = Field(description="What it is, in words.")
    study_uid: str
    structure_set_uid: str
    received_at: datetime


class SeriesOut(Out):
    """A series; one with localizers is listed once for each role."""

    series_uid: str
    study_uid: str
    patient_key: str
    modality: str
    role: str
    description: str
    manufacturer: str
    acquired: str = Field(description='Local time of the scanner as ISO 8601 without zone; "" when it says none.')
    frame_of_reference_uid: str
    calling_ae: str = Field(description=f'AE title of who sent it, "{BY_HTTP}", or "" when it was fetched.')
    instances: int
    first_received: datetime
    last_received: datetime
    is_own: bool = Field(description="Whether a job of this service made it.")


class PatientOut(Out):
    """How much there is of a patient."""

    patient_key: str
    studies: int
    series: int
    instances: int
    last_received: datetime


_BINARY: Final[dict[str, Any]] = {"schema": {"type": "string", "format": "binary"}}
_FILES: Final[dict[str, Any]] = {
    "schema": {
        "type": "object",
        "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
        "required": ["file"],
    }
}
_BODY: Final = {
    "requestBody": {
        "required": True,
        "description": "An archive, a DICOM object, or any number of both as parts of a form.",
        "content": {"application/zip": _BINARY, "application/dicom": _BINARY, "multipart/form-data": _FILES},
    }
}


class PlanSearch(Paged):
    """Which plans."""

    patient_key: ShortText = Field("", description="Pseudonym of a patient.")


class SeriesSearch(PlanSearch):
    """Which series."""

    series_uid: Uid | None = Field(None, description="Series Instance UID.")
    modality: ShortText = Field("", description="Such as CT.")


@router.post("/objects", openapi_extra=_BODY, responses=documented(401, 403, 415, 507))
async def upload(request: Request, caller: Uploader) -> UploadOut:
    """Bring DICOM objects in: as a ZIP archive, as one object, or as a form with files of either.

    What is there already, byte for byte, changes nothing. Names of files and folders do not matter. Archives in
    archives, links and encrypted entries are refused. If nothing at all can be taken, the answer is a problem.
    """
    kind, _ = media_type_of(request)
    if kind not in TAKEN:
        raise HTTPException(415, f"the Content-Type is none of {', '.join(TAKEN)}")
    async with spooled(request, caller.services.config.data / UPLOADS) as (folder, parts):
        numbered = tuple(enumerate((part.path for part in parts), start=1))
        most = UNPACKED_FACTOR * caller.services.config.api.upload_mb * 2**20
        return await receiving(partial(_receive, caller, Upload(caller.site, numbered, folder, most)))


@router.get("/patients", responses=documented(401, 403))
def list_patients(caller: Reader, wanted: Annotated[Paged, Query()]) -> list[PatientOut]:
    """Patients of the site by pseudonym, the latest received first."""
    found = _page(caller.services.library.patients(caller.site), wanted)
    caller.noted(Action.QUERY, "patients", found=len(found))
    return [PatientOut.model_validate(entry) for entry in found]


@router.get("/plans", responses=documented(401, 403))
def list_plans(caller: Reader, wanted: Annotated[PlanSearch, Query()]) -> list[PlanOut]:
    """Plans with treatment beams, the latest received first."""
    found = _page(caller.services.library.plans(caller.site, wanted.patient_key), wanted)
    caller.noted(Action.QUERY, "plans", wanted.patient_key, found=len(found))
    return [PlanOut.model_validate(entry) for entry in found]


@router.get("/series", responses=documented(401, 403))
def list_series(caller: Reader, wanted: Annotated[SeriesSearch, Query()]) -> list[SeriesOut]:
    """Series, the latest received first."""
    entries = caller.services.library.series(caller.site, wanted.patient_key, wanted.series_uid or "")
    found = _page([entry for entry in entries if wanted.modality in ("", entry.modality)], wanted)
    caller.noted(Action.QUERY, "series", wanted.patient_key or wanted.series_uid or "", found=len(found))
    return [SeriesOut.model_validate(entry) for entry in found]


def _page(found: list[Entry], wanted: Paged) -> list[Entry]:
    return found[wanted.offset : wanted.offset + wanted.limit]


def _receive(caller: Caller, upload: Upload) -> UploadOut:
    try:
        taken = caller.state.take(upload)
    except ArchiveRefused as error:
        raise HTTPException(413, str(error)) from error
    result = UploadOut(accepted=[], refused=[])
    for one in taken:
        place = {"part": one.part, "entry": one.entry}
        if isinstance(one.outcome, Received):
            result.accepted.append(AcceptedOut.model_validate(place | asdict(one.outcome)))
        else:
            result.refused.append(RefusedOut(**place, reason=one.outcome.reason))
    note_received(caller, [entry.series_uid for entry in result.accepted], len(result.refused))
    if not result.accepted:
        reasons = [f"part {r.part}, entry {r.entry}: {r.reason}" for r in result.refused[:_SHOWN_FAULTS]]
        detail = "nothing of the upload can be taken: " + ("; ".join(reasons) if reasons else "it holds no file")
        raise DicomError(detail)
    return result


def note_received(caller: Caller, series: list[str], refused: int) -> None:
    """One line of the audit log for an upload."""
    different = list(dict.fromkeys(series))
    details = {"objects": len(series), "refused": refused, "series": different[:_NOTED_SERIES]}
    outcome = "success" if series else "refused"
    caller.noted(Action.OBJECT_RECEIVE, "upload", different[0] if different else "", outcome, **details)
