"""Builders of synthetic DICOM objects, written tag by tag so that they share nothing with doseeng's own writers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ImplicitVRLittleEndian, RTDoseStorage

SERIES = "1.2.826.0.1.3680043.10.1"
FRAME = "1.2.826.0.1.3680043.10.2"
STUDY = "1.2.826.0.1.3680043.10.3"
PLAN = "1.2.826.0.1.3680043.10.4"


def new_object(sop_class: str, uid: str, modality: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID(uid)
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = sop_class, uid, modality
    ds.PatientID, ds.PatientName = "id-of-phantom", "Secret^Name"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = STUDY, SERIES, FRAME
    return ds


def make_ct(
    stored: npt.NDArray[np.integer] | None = None,
    *,
    origin: tuple[float, float, float] = (-10.0, -20.0, -30.0),
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    step: tuple[float, float, float] | None = None,
    spacing: tuple[float, float] = (2.0, 1.5),
    gap: float = 3.0,
    slope: float = 1.0,
    intercept: float = 0.0,
) -> list[FileDataset]:
    """CT slices of stored[slice, row, column]; spacing (between rows, between columns); step from slice to slice, along
    the normal by `gap` mm when None."""
    if stored is None:
        stored = np.arange(5 * 3 * 4, dtype=np.int16).reshape(5, 3, 4)
    normal = np.cross(orientation[:3], orientation[3:])
    move = normal * gap if step is None else np.asarray(step)
    slices = []
    for k, plane in enumerate(stored):
        ds = new_object(CTImageStorage, f"{SERIES}.{k + 1}", "CT")
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.PatientPosition = "HFS"
        ds.ImagePositionPatient = [float(v) for v in np.asarray(origin) + k * move]
        ds.ImageOrientationPatient = [float(v) for v in orientation]
        ds.PixelSpacing = list(spacing)
        ds.SliceThickness = 3.0
        ds.Rows, ds.Columns = plane.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit = 15
        ds.PixelRepresentation = int(stored.dtype.kind == "i")
        ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
        ds.PixelData = plane.tobytes()
        slices.append(ds)
    return slices


def make_dose(
    stored: npt.NDArray[np.unsignedinteger] | None = None, *, offsets: list[float] | None = None, scaling: float = 0.001
) -> FileDataset:
    """An RTDOSE with planes 3 mm apart from z = -30 mm, rows 2 mm and columns 1.5 mm apart."""
    if stored is None:
        stored = np.arange(5 * 3 * 4, dtype=np.uint16).reshape(5, 3, 4)
    ds = new_object(RTDoseStorage, f"{PLAN}.9", "RTDOSE")
    ds.SeriesInstanceUID = f"{SERIES}.77"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-10.0, -20.0, -30.0], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [2.0, 1.5]
    ds.NumberOfFrames, ds.Rows, ds.Columns = stored.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = stored.dtype.itemsize * 8
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, 0
    ds.DoseUnits, ds.DoseType, ds.DoseSummationType = "GY", "PHYSICAL", "PLAN"
    ds.DoseGridScaling = scaling
    ds.GridFrameOffsetVector = [3.0 * k for k in range(stored.shape[0])] if offsets is None else offsets
    plan = Dataset()
    plan.ReferencedSOPClassUID, plan.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.481.8", PLAN
    ds.ReferencedRTPlanSequence = [plan]
    ds.PixelData = stored.tobytes()
    return ds


def save_all(folder: Path, datasets: list[FileDataset], prefix: str = "slice") -> list[Path]:
    paths = []
    for k, ds in enumerate(datasets):
        paths.append(folder / f"{prefix}{k}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


@pytest.fixture
def ct_slices() -> Callable[..., list[FileDataset]]:
    return make_ct


@pytest.fixture
def dose_object() -> Callable[..., FileDataset]:
    return make_dose


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., list[Path]]:
    """`saved(datasets, prefix)`: their paths in the test's folder."""

    def save(datasets: list[FileDataset], prefix: str = "slice") -> list[Path]:
        return save_all(tmp_path, datasets, prefix)

    return save
