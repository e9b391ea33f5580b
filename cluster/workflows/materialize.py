"""From digests to a case and a day's image: the objects as files named by digest, read as from any folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cluster.jobs.model import JobSpec
from cluster.storage.blobs import BlobStore
from doseeng.case import Case
from doseeng.dicom.case import read_case
from doseeng.dicom.day import DayImage, read_day_image
from doseeng.errors import DicomError

CASE = "case"
IMAGE = "image"
NAME_DIGITS = 16
"""Of a digest, in file names that people meet in notices."""


def case_from(spec: JobSpec, blobs: BlobStore, scratch: Path) -> Case:
    """The case of a job; its objects lie in `scratch`/case afterwards.

    JobError for an object whose bytes are gone; otherwise as `read_case`.
    """
    folder = _laid_out(spec.objects, blobs, scratch / CASE)
    return read_case(folder, spec.plan_uid, accept_patient_mismatch=_accepts(spec))


def day_from(spec: JobSpec, case: Case, blobs: BlobStore, scratch: Path) -> DayImage:
    """The day's image of an adapt job; its objects lie in `scratch`/image afterwards.

    JobError for an object whose bytes are gone; otherwise as `read_day_image`.
    """
    if case.dicom is None:
        raise DicomError("the case was not read from DICOM; nothing tells whether an image belongs to it")
    folder = _laid_out(spec.image, blobs, scratch / IMAGE)
    return read_day_image(folder, case.dicom, spec.image_series_uid or None, accept_patient_mismatch=_accepts(spec))


def files_of(scratch: Path) -> list[Path]:
    """The objects of case and image, as they lie in `scratch`."""
    return sorted(path for folder in (CASE, IMAGE) for path in (scratch / folder).glob("*.dcm"))


def _laid_out(digests: Iterable[str], blobs: BlobStore, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for sha256 in digests:
        blobs.copy_to(sha256, folder / f"{sha256[:NAME_DIGITS]}.dcm")
    return folder


def _accepts(spec: JobSpec) -> bool:
    return spec.options.get("accept_patient_mismatch") is True
