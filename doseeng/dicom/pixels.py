"""Stored pixel values of one object, whatever its encoding."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from pydicom.dataset import FileDataset
from pydicom.uid import UID, AllTransferSyntaxes

from doseeng.dicom.files import PARSE_ERRORS
from doseeng.errors import DicomError


def pixels(dataset: FileDataset, where: str) -> npt.NDArray[Any]:
    """Stored values (rows, columns) or (frames, rows, columns), integers.

    DicomError when there are none, when they are fewer than the header promises, or when no decoder for their
    compression is installed.
    """
    if "PixelData" not in dataset or not dataset.get_item("PixelData").value:
        raise DicomError(f"{where}: holds no pixel data; the file was cut off or exported without its image")
    try:
        return dataset.pixel_array
    except (*PARSE_ERRORS, RuntimeError) as error:
        reason = " ".join(str(error).split())
        syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID", "")))
        if syntax in AllTransferSyntaxes and syntax.is_compressed:
            raise DicomError(
                f"{where}: pixels are compressed ({syntax.name}) and cannot be decoded here ({reason}); "
                "export the image uncompressed"
            ) from error
        raise DicomError(f"{where}: pixel data do not fit the header ({reason}); export it again") from error
