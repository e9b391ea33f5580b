"""Safe reading of DICOM files and folders: a broken file is named, never half read."""

from __future__ import annotations

import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian

from doseeng.errors import DicomError

PREAMBLE_LENGTH: Final = 128
HEADER_VALUE_BYTES: Final = 4096
"""Values longer than this (pixels, contours, spots) stay on disk while a folder is only being listed."""

UNDEFINED_LENGTH: Final = 0xFFFFFFFF
SMALLEST_ELEMENT_BYTES: Final = 8

MAX_UNZIPPED_BYTES: Final = 16 * 1024**3
"""Far above any case (a 4D CT has about 1 GB): an archive that claims more is broken or hostile."""

# What pydicom raises on bytes that are not what their headers promise.
PARSE_ERRORS: Final = (
    BytesLengthException,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    NotImplementedError,
    struct.error,
    zlib.error,
)


def is_dicom(path: Path) -> bool:
    """True when the file has the DICM prefix of a DICOM part 10 file."""
    with path.open("rb") as file:
        return file.read(PREAMBLE_LENGTH + 4)[PREAMBLE_LENGTH:] == b"DICM"


def read_file(path: Path) -> FileDataset:
    """The whole dataset of one DICOM file.

    DicomError naming the file when it is missing, not DICOM, damaged or ends before its data does.
    """
    return _read(path, None)


def read_header(path: Path) -> FileDataset:
    """Like `read_file`, but long values stay on disk until they are asked for."""
    return _read(path, HEADER_VALUE_BYTES)


@contextmanager
def opened_folder(path: Path) -> Iterator[Path]:
    """`path` itself when it is a folder; a temporary folder with its contents when it is a zip file.

    What is needed from a zip must be read within the `with` block. DicomError when `path` is neither.
    """
    if path.is_dir():
        yield path
        return
    if not path.exists():
        raise DicomError(f"'{path}' does not exist; give a folder of DICOM files or a zip of one")
    if not zipfile.is_zipfile(path):
        raise DicomError(f"'{path.name}' is neither a folder nor a zip file; give a folder of DICOM files or its zip")
    with tempfile.TemporaryDirectory(prefix="doseeng-") as folder:
        _unzip(path, Path(folder))
        yield Path(folder)


def _unzip(path: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > MAX_UNZIPPED_BYTES:
                raise DicomError(
                    f"'{path.name}' would unpack to {size / 1024**3:.0f} GiB, more than "
                    f"{MAX_UNZIPPED_BYTES / 1024**3:.0f} GiB; unpack it yourself and give the folder"
                )
            archive.extractall(folder)
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, OSError) as error:
        # RuntimeError: encrypted members.
        raise DicomError(f"'{path.name}' cannot be unpacked ({error}); make the zip again") from error


def _read(path: Path, defer_size: int | None) -> FileDataset:
    try:
        size = path.stat().st_size
        with warnings.catch_warnings():
            # Invalid values are judged where they are used; a premature end is judged below.
            warnings.simplefilter("ignore", UserWarning)
            dataset = dcmread(path, defer_size=defer_size)
        complete = _is_complete(dataset, path, size)
    except InvalidDicomError as error:
        raise DicomError(f"'{path.name}' is not a DICOM file (no DICM prefix); remove it or export it again") from error
    except FileNotFoundError as error:
        raise DicomError(f"'{path.name}' does not exist") from error
    except PARSE_ERRORS as error:
        raise DicomError(f"'{path.name}' is damaged or cut off; copy or export it again") from error
    if not complete:
        raise DicomError(f"'{path.name}' ends before its data does (cut off at {size} bytes); copy or export it again")
    return dataset


def _is_complete(dataset: FileDataset, path: Path, size: int) -> bool:
    """Whether the last element ends where the file does (but for zero padding): pydicom takes any end for the end."""
    if not len(dataset):
        return False
    if dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        return True  # positions count inflated bytes; zlib itself notices a missing end
    last = dataset.get_item(list(dataset.keys())[-1], keep_deferred=True)
    if not isinstance(last, RawDataElement) or last.length == UNDEFINED_LENGTH:
        return True  # a delimiter marked its end
    rest = size - last.value_tell - last.length
    return rest == 0 or (0 < rest < SMALLEST_ELEMENT_BYTES and not any(path.read_bytes()[-rest:]))
