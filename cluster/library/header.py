"""What the index keeps of one DICOM object, read from its header and checked before anything is stored.

Objects come from any system of a network: whatever the bytes are, the answer is a `Header` or a DicomError.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian, SpatialRegistrationStorage

from cluster.database.tables import NAME
from doseeng.dicom.files import HEADER_VALUE_BYTES, PARSE_ERRORS, is_dicom, read_header
from doseeng.dicom.inventory import DicomObject, object_of
from doseeng.dicom.registration import REGISTRATION_CLASSES
from doseeng.dicom.tags import items, text
from doseeng.dicom.times import acquisition_time
from doseeng.errors import DicomError

UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")
MAX_UID: Final = 64
"""Characters of a UID (DICOM PS3.5, section 9.1)."""
MAX_INFLATED_BYTES: Final = 1024**3
"""Far above any single object that is sent deflated; an object that claims more is broken or hostile."""
CHUNK_BYTES: Final = 1 << 20
DAMAGE: Final = (*PARSE_ERRORS, LookupError, ArithmeticError, RecursionError, zlib.error)
"""What pydicom raises on bytes that somebody chose."""
_SHORT: Final = (
    "SOPInstanceUID",
    "SOPClassUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
    "PatientID",
    "Modality",
    "ImageType",
    "Manufacturer",
    "SeriesDescription",
    "RTPlanLabel",
    "StructureSetLabel",
)

# Its warnings repeat values that it thinks invalid, such as birth dates: nothing for the standard error of a service.
warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom\.")


@dataclass(frozen=True, slots=True)
class Header:
    """Fields as of `cluster.database.tables.InstanceRow`."""

    sop_uid: str
    sop_class_uid: str
    series_uid: str
    study_uid: str
    frame_of_reference_uid: str
    patient_key: str
    modality: str
    role: str
    label: str
    series_description: str
    manufacturer: str
    acquired: str
    structure_set_uid: str
    plan_uids: tuple[str, ...]
    references: tuple[str, ...]


def read_object_header(path: Path) -> Header:
    """The header of a DICOM part 10 file. DicomError for anything else, and for an object without its UIDs."""
    try:
        if not is_dicom(path):
            raise DicomError(
                "this is not a DICOM file (no DICM prefix after 128 bytes); send objects of DICOM part 10, one a file"
            )
        _require_modest(path)
        dataset = read_header(path)
        _require_short(dataset)
        found = object_of(dataset, path, path.name)
        if found is None:
            raise DicomError("a DICOMDIR lists other files and holds no object; send the files that it lists")
        return _header(dataset, found)
    except DAMAGE as error:
        raise DicomError(f"this DICOM object is damaged ({type(error).__name__}); copy or export it again") from error


def _header(dataset: FileDataset, found: DicomObject) -> Header:
    required = {
        "SOP Instance UID (0008,0018)": found.sop_uid,
        "SOP Class UID (0008,0016)": found.sop_class_uid,
        "Series Instance UID (0020,000E)": found.series_uid,
        "Study Instance UID (0020,000D)": found.study_uid,
    }
    for name, uid in required.items():
        if not _is_uid(uid):
            raise DicomError(
                f"{name} is {'missing' if not uid else 'no UID (digits and points, at most 64)'}; export the object "
                "again"
            )
    acquired = acquisition_time([dataset])[0]
    return Header(
        sop_uid=found.sop_uid,
        sop_class_uid=found.sop_class_uid,
        series_uid=found.series_uid,
        study_uid=found.study_uid,
        frame_of_reference_uid=found.frame_of_reference_uid if _is_uid(found.frame_of_reference_uid) else "",
        patient_key=found.patient_key,
        modality=_plain(found.modality),
        role=_plain(found.role),
        label=_plain(found.label),
        series_description=_plain(text(dataset, "SeriesDescription")),
        manufacturer=_plain(text(dataset, "Manufacturer")),
        acquired="" if acquired is None else acquired.isoformat(),
        structure_set_uid=found.structure_set_uid if _is_uid(found.structure_set_uid) else "",
        plan_uids=_uids(found.plan_uids),
        references=_uids(_references(dataset, found)),
    )


def _references(dataset: Dataset, found: DicomObject) -> Iterator[str]:
    """Structure set of a plan, series and images of a structure set, plans of a dose, frames of a registration."""
    yield found.structure_set_uid
    for series in found.referenced_series:
        yield series.uid
        yield from series.image_uids
    yield from found.plan_uids
    if found.sop_class_uid in REGISTRATION_CLASSES:
        yield text(dataset, "FrameOfReferenceUID")
        is_rigid = found.sop_class_uid == SpatialRegistrationStorage
        sequence = "RegistrationSequence" if is_rigid else "DeformableRegistrationSequence"
        frame = "FrameOfReferenceUID" if is_rigid else "SourceFrameOfReferenceUID"
        for item in items(dataset, sequence):
            yield text(item, frame)


def _is_uid(value: str) -> bool:
    return len(value) <= MAX_UID and UID.fullmatch(value) is not None


def _uids(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if _is_uid(value)))


def _plain(value: str) -> str:
    """Text that every database takes: nothing of Unicode's category C (controls, lone surrogates), not too long."""
    return "".join(c for c in value if unicodedata.category(c)[0] != "C")[:NAME]


def _require_short(dataset: FileDataset) -> None:
    """DicomError for an identifier of thousands of bytes, which to decode would take minutes."""
    for keyword in _SHORT:
        raw = dataset.get_item(keyword, keep_deferred=True)
        if isinstance(raw, RawDataElement) and raw.length > HEADER_VALUE_BYTES:
            raise DicomError(f"{keyword} {raw.tag} has {raw.length} bytes; the object is damaged: export it again")


def _require_modest(path: Path) -> None:
    """DicomError for a deflated object that inflates without end."""
    if read_file_meta_info(path).get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    # PS3.5 A.5: raw deflate. Where it begins does not matter here: all that follows the meta header inflates as one.
    with path.open("rb") as file:
        file.seek(_dataset_start(path))
        inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        pending = file.read(CHUNK_BYTES)
        while pending and not inflater.eof:
            size += len(inflater.decompress(pending, CHUNK_BYTES))
            if size > MAX_INFLATED_BYTES:
                raise DicomError(
                    f"this deflated object inflates to more than {MAX_INFLATED_BYTES / 1024**3:.0f} GiB; send it in "
                    "another transfer syntax"
                )
            pending = inflater.unconsumed_tail or file.read(CHUNK_BYTES)


def _dataset_start(path: Path) -> int:
    """The byte after the file meta information: preamble, prefix, group length element and what it counts."""
    meta = read_file_meta_info(path)
    return 128 + 4 + 12 + int(meta.FileMetaInformationGroupLength)
