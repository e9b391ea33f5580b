"""DICOMweb: the Store transaction (STOW-RS) of the Studies Service, DICOM PS3.18 section 10.5."""

from __future__ import annotations

from functools import partial
from pathlib import Path as FilePath
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from cluster.api.intake import Upload
from cluster.api.models import Uid
from cluster.api.objects import note_received
from cluster.api.problems import Responses, documented
from cluster.api.security import Caller, Uploader
from cluster.api.uploads import UPLOADS, Part, media_type_of, receiving, spooled
from cluster.library.entries import Received
from cluster.library.intake import Refused

DICOM: Final = "application/dicom"
MEDIA_TYPE: Final = "application/dicom+json"

# Failure reasons: PS3.18 table I.2-2, with the values of PS3.4 annex B.2.3.
CANNOT_UNDERSTAND: Final = 0xC000
MISMATCH: Final = 0xA900
"""Data set does not match what it was sent as; here: the object is of another study than the address."""
PROCESSING_FAILURE: Final = 0x0110

router = APIRouter(prefix="/dicomweb", tags=["dicomweb"])

_BODY: Final = {
    "requestBody": {
        "required": True,
        "description": 'Content-Type: multipart/related; type="application/dicom"; boundary=...; one object a part.',
        "content": {"multipart/related": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_DATASET: Final = {"content": {MEDIA_TYPE: {"schema": {"type": "object", "additionalProperties": True}}}}
_ANSWERS: Final[Responses] = {
    200: {"description": "All objects were stored.", **_DATASET},
    202: {"description": "Some objects were stored; the others are in Failed SOP Sequence.", **_DATASET},
    409: {"description": "No object was stored.", **_DATASET},
}


@router.post(
    "/studies", response_class=JSONResponse, openapi_extra=_BODY, responses=_ANSWERS | documented(401, 403, 415, 507)
)
async def store(request: Request, caller: Uploader) -> JSONResponse:
    """Store objects of any study."""
    return await _store(request, caller, "")


@router.post(
    "/studies/{study_uid}",
    response_class=JSONResponse,
    openapi_extra=_BODY,
    responses=_ANSWERS | documented(401, 403, 415, 507),
)
async def store_in_study(
    request: Request, caller: Uploader, study_uid: Annotated[Uid, Path(description="Study Instance UID.")]
) -> JSONResponse:
    """Store objects of one study; those of another one are refused."""
    return await _store(request, caller, study_uid)


async def _store(request: Request, caller: Caller, study_uid: str) -> JSONResponse:
    kind, options = media_type_of(request)
    if kind != "multipart/related" or options.get("type", DICOM).lower() != DICOM:
        raise HTTPException(415, f'the Content-Type must be multipart/related; type="{DICOM}"')
    async with spooled(request, caller.services.config.data / UPLOADS) as (folder, parts):
        if not parts:
            raise HTTPException(400, "the body has no parts; send one object of DICOM part 10 in each")
        return await receiving(partial(_receive, caller, parts, folder, study_uid))


def _receive(caller: Caller, parts: list[Part], folder: FilePath, study_uid: str) -> JSONResponse:
    files = tuple((n, part.path) for n, part in enumerate(parts, start=1) if part.media_type in ("", DICOM))
    taken = caller.state.take(Upload(caller.site, files, folder, study_uid=study_uid))
    refused = [one.outcome for one in taken if isinstance(one.outcome, Refused)]
    refused += [Refused("is of another media type")] * (len(parts) - len(files))
    stored = [one.outcome for one in taken if isinstance(one.outcome, Received)]
    note_received(caller, [one.series_uid for one in stored], len(refused))
    status = 200 if not refused else 202 if stored else 409
    return JSONResponse(_response_dataset(stored, refused), status, media_type=MEDIA_TYPE)


def _response_dataset(stored: list[Received], refused: list[Refused]) -> dict[str, Any]:
    """The Store Instances Response Module, PS3.18 table I.1-1, in the DICOM JSON model.

    Retrieve URL is there without a value: objects cannot be fetched here (type 2).
    """
    failed = [_reference(one) | _reason(one) for one in refused if one.sop_uid]
    others = [_reason(one) for one in refused if not one.sop_uid]
    sequences = {"00081198": failed, "00081199": [_reference(one) for one in stored], "0008119A": others}
    dataset: dict[str, Any] = {"00081190": {"vr": "UR"}}
    return dataset | {tag: {"vr": "SQ", "Value": items} for tag, items in sequences.items() if items}


def _reference(one: Received | Refused) -> dict[str, Any]:
    return {
        "00081150": {"vr": "UI", "Value": [one.sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [one.sop_uid]},
    }


def _reason(one: Refused) -> dict[str, Any]:
    if not one.sop_uid:
        code = CANNOT_UNDERSTAND
    else:
        code = MISMATCH if one.is_of_other_study else PROCESSING_FAILURE
    return {"00081197": {"vr": "US", "Value": [code]}}
