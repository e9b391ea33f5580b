"""A PACS as we use it: is it there, what does it have of a patient, and bring it here (PS3.4 annex C as user)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from pydicom.dataset import Dataset
from pynetdicom import build_role, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from cluster.node.network import (
    IMAGE_CLASSES,
    OTHER_CLASSES,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    UNCOMPRESSED,
    Peer,
    association,
    image_syntaxes,
    require_success,
    shown,
)
from doseeng.dicom.inventory import patient_key
from doseeng.dicom.tags import text
from doseeng.errors import DoseengError, PeerError

TIMEOUT_S: Final = 60.0
_STUDY: Final = ("StudyInstanceUID", "StudyDate", "StudyDescription", "ModalitiesInStudy", "PatientID")
_SERIES: Final = (
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "Modality",
    "SeriesDescription",
    "SeriesDate",
    "NumberOfSeriesRelatedInstances",
)
Take = Callable[[bytes], Any]
"""Called with every object that arrives, as DICOM part 10 bytes."""


@dataclass(frozen=True, slots=True)
class FoundSeries:
    """A series of an archive. instances: 0 when it does not say."""

    study_uid: str
    series_uid: str
    modality: str
    description: str
    date: str
    instances: int


@dataclass(frozen=True, slots=True)
class FoundStudy:
    """A study of an archive, with its series. patient_key: pseudonym."""

    study_uid: str
    patient_key: str
    date: str
    description: str
    series: tuple[FoundSeries, ...] = field(default=())


def find_studies(archive: Peer, calling_ae: str, patient_id: str, timeout_s: float = TIMEOUT_S) -> list[FoundStudy]:
    """The studies of a patient with their series, the latest first. patient_id: as the clinic knows the patient.

    PeerError when the archive does not answer or refuses.
    """
    with association(archive, calling_ae, [build_context(STUDY_ROOT_FIND)], timeout_s) as made:
        studies = list(_found(made, archive, "STUDY", _STUDY, PatientID=patient_id))
        found = [_study(study, list(_series(made, archive, study))) for study in studies]
    # Archives may match more than was asked for, such as without regard to case.
    key = patient_key(patient_id)
    return sorted((study for study in found if study.patient_key == key), key=lambda s: s.date, reverse=True)


def move_series(
    archive: Peer, calling_ae: str, to_ae: str, study_uid: str, series_uid: str = "", timeout_s: float = TIMEOUT_S
) -> int:
    """Have the archive send a study, or one series of it, to an AE that it knows, such as our node; how many objects.

    PeerError when it refuses, does not know the AE, or could not send all of them.
    """
    with association(archive, calling_ae, [build_context(STUDY_ROOT_MOVE)], timeout_s) as made:
        answers = made.send_c_move(_wanted(study_uid, series_uid), to_ae, STUDY_ROOT_MOVE)
        return _completed(archive, answers, "C-MOVE")


def get_series(
    archive: Peer, calling_ae: str, take: Take, study_uid: str, series_uid: str = "", timeout_s: float = TIMEOUT_S
) -> int:
    """Bring a study, or one series of it, over this association (C-GET); how many objects. `take` is called with each.

    PeerError as `move_series`, and with the first error that `take` raised.
    """
    failures: list[str] = []

    def on_store(event: Any) -> int:
        try:
            take(event.encoded_dataset())
        except DoseengError as error:
            failures.append(str(error))
            return 0xC000
        return 0x0000

    contexts, roles = _storage_back()
    handlers = [(evt.EVT_C_STORE, on_store)]
    with association(
        archive, calling_ae, [build_context(STUDY_ROOT_GET), *contexts], timeout_s, handlers, roles
    ) as made:
        try:
            return _completed(archive, made.send_c_get(_wanted(study_uid, series_uid), STUDY_ROOT_GET), "C-GET")
        except PeerError as error:
            raise PeerError(f"{error}; {failures[0]}" if failures else str(error)) from error


def _storage_back() -> tuple[list[PresentationContext], list[Any]]:
    """Contexts of what may come back to us, and the roles that let the archive send it (PS3.7 section D.3.3.4)."""
    contexts = [build_context(uid, list(image_syntaxes())) for uid in IMAGE_CLASSES]
    contexts += [build_context(uid, list(UNCOMPRESSED)) for uid in OTHER_CLASSES]
    return contexts, [build_role(uid, scp_role=True) for uid in (*IMAGE_CLASSES, *OTHER_CLASSES)]


def _wanted(study_uid: str, series_uid: str) -> Dataset:
    wanted = Dataset()
    wanted.QueryRetrieveLevel = "SERIES" if series_uid else "STUDY"
    wanted.StudyInstanceUID = study_uid
    if series_uid:
        wanted.SeriesInstanceUID = series_uid
    return wanted


def _series(made: Association, archive: Peer, study: Dataset) -> Iterator[FoundSeries]:
    for found in _found(made, archive, "SERIES", _SERIES, StudyInstanceUID=text(study, "StudyInstanceUID")):
        count = text(found, "NumberOfSeriesRelatedInstances")
        yield FoundSeries(
            text(found, "StudyInstanceUID"),
            text(found, "SeriesInstanceUID"),
            text(found, "Modality"),
            text(found, "SeriesDescription"),
            text(found, "SeriesDate"),
            int(count) if count.isdigit() else 0,
        )


def _study(found: Dataset, series: list[FoundSeries]) -> FoundStudy:
    return FoundStudy(
        text(found, "StudyInstanceUID"),
        patient_key(text(found, "PatientID")),
        text(found, "StudyDate"),
        text(found, "StudyDescription"),
        tuple(sorted(series, key=lambda s: (s.date, s.series_uid))),
    )


def _found(made: Association, archive: Peer, level: str, keywords: tuple[str, ...], **keys: str) -> Iterator[Dataset]:
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword in keywords:
        setattr(query, keyword, keys.get(keyword, ""))
    for status, found in made.send_c_find(query, STUDY_ROOT_FIND):
        if status.get("Status") in (0xFF00, 0xFF01) and found is not None:
            yield found
        else:
            require_success(status, archive, "C-FIND")


def _completed(archive: Peer, answers: Iterator[tuple[Dataset, Dataset | None]], what: str) -> int:
    """Objects that arrived. PeerError when some did not."""
    last = Dataset()
    for status, _ in answers:
        if status.get("Status") not in (0xFF00, 0xFF01):
            last = status
    if last.get("Status") == 0xA801:
        raise PeerError(f"{shown(archive)} does not know the AE that it is to send to; configure it there")
    completed = int(last.get("NumberOfCompletedSuboperations") or 0)
    failed = int(last.get("NumberOfFailedSuboperations") or 0)
    if failed:
        raise PeerError(f"{shown(archive)} sent {completed} objects, and {failed} could not be sent or were refused")
    require_success(last, archive, what)
    return completed
