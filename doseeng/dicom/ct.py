"""CT series in and out: any slice order, any orthonormal orientation, Hounsfield units, one regular grid or none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import CTImageStorage, generate_uid

from doseeng.case import DicomContext
from doseeng.dicom.files import read_file
from doseeng.dicom.pixels import pixels
from doseeng.dicom.planes import POSITION_TOLERANCE_MM, orientation, pixel_spacing_mm, position
from doseeng.dicom.tags import integer, number, text
from doseeng.dicom.times import acquisition_time
from doseeng.dicom.writing import decimals, new_dataset, patient_module, save, study_module
from doseeng.errors import DicomError, GeometryError, Notice
from doseeng.grid import Grid, Volume

Array = npt.NDArray[np.float64]

AIR_HU: Final = -1000.0
LOWEST_PHYSICAL_HU: Final = -1024.0
SAME_ORIENTATION: Final = 1e-4
SAME_SPACING_MM: Final = 1e-4
GAP_TOLERANCE: Final = 0.2
"""A distance within this fraction of a whole number of slices means missing slices, otherwise a change of spacing."""


@dataclass(frozen=True, slots=True, eq=False)
class CtSeries:
    """One CT series. volume: Hounsfield units, slices ascending along their normal.

    context: what objects that refer to this image must repeat; its SOP Instance UIDs are in slice order. acquired:
    the earliest over the slices, scanner's local time, None where no tag says; acquired_tag: the keyword of its date.
    """

    volume: Volume
    patient_position: str
    context: DicomContext = field(repr=False)
    notices: tuple[Notice, ...] = ()
    acquired: datetime | None = None
    acquired_tag: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _Slice:
    name: str
    dataset: FileDataset
    position: Array
    axes: Array
    spacing_mm: tuple[float, float]
    shape: tuple[int, int]

    @property
    def where(self) -> str:
        return f"'{self.name}' at {_point(self.position)} mm"


def read_ct(paths: Iterable[Path]) -> CtSeries:
    """The volume of the CT slices in `paths`, which must be exactly one series.

    The series may come in any order and orientation. Voxels that hold a pixel padding value below -1024 HU are set to
    air with a notice. DicomError for files that are no CT slices, that belong to several series, patients or frames of
    reference, or are not in Hounsfield units; GeometryError, naming the slice, for gaps, duplicates, uneven or
    sheared stacks and slices of different geometry.
    """
    slices = [_slice(path) for path in paths]
    if not slices:
        raise DicomError("no CT slice was given; expected the files of one CT series")
    _require_one_series(slices)
    _require_same_planes(slices)
    axes = slices[0].axes
    slices.sort(key=lambda s: float(s.position @ axes[:, 2]))
    spacing_z = _slice_spacing_mm(slices)
    notices: dict[str, Notice] = {}
    values = np.stack([_hounsfield(s, notices) for s in slices])
    first = slices[0]
    spacing_x, spacing_y = first.spacing_mm
    grid = Grid(values.shape, (spacing_x, spacing_y, spacing_z), tuple(first.position), axes)
    context = DicomContext(
        frame_of_reference_uid=text(first.dataset, "FrameOfReferenceUID"),
        patient=patient_module(first.dataset),
        study=study_module(first.dataset),
        series_uid=text(first.dataset, "SeriesInstanceUID"),
        image_sop_class_uid=CTImageStorage,
        image_sop_instance_uids=tuple(text(s.dataset, "SOPInstanceUID") for s in slices),
    )
    acquired, acquired_tag, malformed = acquisition_time([s.dataset for s in slices])
    return CtSeries(
        Volume(grid, values),
        text(first.dataset, "PatientPosition"),
        context,
        (*notices.values(), *malformed),
        acquired,
        acquired_tag,
    )


def write_ct(
    folder: Path,
    volume: Volume,
    context: DicomContext,
    patient_position: str = "HFS",
    *,
    acquired: datetime | None = None,
    series_description: str = "",
) -> DicomContext:
    """Write `volume` (HU, rounded to whole numbers) as one CT series of 16-bit slices into an existing `folder`.

    acquired: local time of the scan, for images that stand for one (daily images are put in order by it).
    Identifiers in `context` are used where given and generated otherwise; returns the context that describes the
    written series. GeometryError for values beyond 16 bits. After an error none of the new slices is left behind.
    """
    rounded = np.rint(volume.values)
    if not np.all(np.isfinite(rounded)) or rounded.min() < -32768 or rounded.max() > 32767:
        raise GeometryError("CT values must be finite and within -32768..32767 HU to be written as 16-bit DICOM")
    count = volume.grid.shape[0]
    uids = context.image_sop_instance_uids
    if len(uids) != count:
        uids = tuple(str(generate_uid()) for _ in range(count))
    described = replace(
        context,
        series_uid=context.series_uid or str(generate_uid()),
        image_sop_class_uid=str(CTImageStorage),
        image_sop_instance_uids=uids,
    )
    paths = [folder / f"CT.{k + 1:04d}.dcm" for k in range(count)]
    written = []
    try:
        for k, path in enumerate(paths):
            made = _slice_dataset(volume.grid, k, rounded[k].astype("<i2"), described, patient_position)
            if series_description:
                made.SeriesDescription = series_description[:64]
            if acquired is not None:
                made.AcquisitionDate = made.ContentDate = made.SeriesDate = acquired.strftime("%Y%m%d")
                made.AcquisitionTime = made.ContentTime = made.SeriesTime = acquired.strftime("%H%M%S.%f")
            save(made, path)
            written.append(path)
    finally:
        if len(written) < count:
            for path in written:
                path.unlink(missing_ok=True)
    return described


def _slice(path: Path) -> _Slice:
    dataset = read_file(path)
    where = f"'{path.name}'"
    sop_class = text(dataset, "SOPClassUID")
    if sop_class != CTImageStorage or (integer(dataset, "NumberOfFrames", where) or 1) != 1:
        kind = dataset.SOPClassUID.name if sop_class else "an object without SOP class"
        raise DicomError(
            f"{where}: expected single-frame CT Image Storage, found {kind}; "
            "export the CT as classic single-frame slices (multi-frame and other modalities are not supported)"
        )
    rows, columns = integer(dataset, "Rows", where), integer(dataset, "Columns", where)
    if not rows or not columns:
        raise DicomError(f"{where}: has no Rows or Columns; export the image again")
    return _Slice(
        name=path.name,
        dataset=dataset,
        position=position(dataset, where),
        axes=orientation(dataset, where),
        spacing_mm=pixel_spacing_mm(dataset, where),
        shape=(rows, columns),
    )


def _require_one_series(slices: Sequence[_Slice]) -> None:
    first = slices[0]
    for keyword, noun in (("SeriesInstanceUID", "series"), ("FrameOfReferenceUID", "frames of reference")):
        expected = text(first.dataset, keyword)
        if not expected:
            raise DicomError(f"'{first.name}': {keyword} is missing; export the CT again")
        for other in slices:
            found = text(other.dataset, keyword)
            if found != expected:
                raise DicomError(
                    f"CT slices of several {noun}: {keyword} is {expected} in '{first.name}' but "
                    f"{found or 'missing'} in '{other.name}'; give one series only"
                )
    for other in slices:
        if text(other.dataset, "PatientID") != text(first.dataset, "PatientID"):
            raise DicomError(
                f"CT slices of several patients: '{first.name}' and '{other.name}' carry different patient "
                "identifiers under one series; find out whose images these are"
            )


def _require_same_planes(slices: Sequence[_Slice]) -> None:
    first = slices[0]
    for other in slices[1:]:
        if not np.allclose(other.axes, first.axes, atol=SAME_ORIENTATION):
            what = "orientation", first.axes[:, :2].T.tolist(), other.axes[:, :2].T.tolist()
        elif not np.allclose(other.spacing_mm, first.spacing_mm, atol=SAME_SPACING_MM):
            what = "pixel spacing (x, y)", list(first.spacing_mm), list(other.spacing_mm)
        elif other.shape != first.shape:
            what = "size (rows, columns)", list(first.shape), list(other.shape)
        else:
            continue
        raise GeometryError(
            f"CT slice {other.where} has {what[0]} {what[2]}, but '{first.name}' has {what[1]}; "
            "every slice of one series must share orientation, pixel spacing and size"
        )


def _slice_spacing_mm(slices: Sequence[_Slice]) -> float:
    """Distance between neighbours of a sorted stack; GeometryError unless it is one straight, even stack."""
    if len(slices) == 1:
        where = f"single CT slice {slices[0].where}"
        thickness = number(slices[0].dataset, "SliceThickness", where)
        if not thickness or thickness <= 0:
            raise GeometryError(f"{where}: one slice without SliceThickness is no volume; export the whole series")
        return thickness
    normal = slices[0].axes[:, 2]
    offsets = np.array([(s.position - slices[0].position) @ normal for s in slices])
    gaps = np.diff(offsets)
    if gaps.min() < POSITION_TOLERANCE_MM:
        k = int(np.argmin(gaps))
        raise GeometryError(
            f"duplicated CT slice: {slices[k + 1].where} lies in the plane of '{slices[k].name}'; "
            "export one phase and one reconstruction only, each slice once"
        )
    _require_even(slices, offsets, gaps)
    lateral = np.array([s.position - slices[0].position for s in slices]) - offsets[:, None] * normal
    shift = np.linalg.norm(lateral, axis=1)
    if shift.max() > POSITION_TOLERANCE_MM:
        worst = int(np.argmax(shift))
        raise GeometryError(
            f"sheared CT stack: slice {slices[worst].where} is {shift[worst]:.2f} mm beside the line through "
            f"'{slices[0].name}' along the slice normal (gantry tilt?); resample the CT to an untilted grid"
        )
    return float(offsets[-1] / (len(slices) - 1))


def _require_even(slices: Sequence[_Slice], offsets: Array, gaps: Array) -> None:
    even = np.linspace(0.0, offsets[-1], len(offsets))
    if np.abs(offsets - even).max() <= POSITION_TOLERANCE_MM:
        return
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    odd = int(np.argmax(np.abs(gaps - usual)))
    between = f"between {slices[odd].where} and {slices[odd + 1].where}"
    missing = gaps[odd] / usual - 1
    unusual = int(np.sum(np.abs(gaps - usual) > POSITION_TOLERANCE_MM))
    if unusual <= max(1, len(gaps) // 4) and missing > 0.5 and abs(missing - round(missing)) < GAP_TOLERANCE:
        raise GeometryError(
            f"gap in the CT: {round(missing)} slice(s) of {usual:g} mm missing {between} "
            f"({gaps[odd]:g} mm apart); export the complete series"
        )
    spacings = sorted({round(float(g), 2) for g in gaps})
    raise GeometryError(
        f"uneven CT slice spacing: {gaps[odd]:g} mm {between}, usually {usual:g} mm "
        f"(spacings found: {', '.join(f'{g:g}' for g in spacings[:6])}); doseeng does not interpolate slices, so "
        "reconstruct or resample the CT to one spacing"
    )


def _hounsfield(ct_slice: _Slice, notices: dict[str, Notice]) -> npt.NDArray[np.float32]:
    dataset, where = ct_slice.dataset, f"CT slice {ct_slice.where}"
    slope, intercept = _rescale(ct_slice, notices)
    stored = pixels(dataset, where)
    if stored.shape != ct_slice.shape:
        raise DicomError(f"{where}: pixels have shape {stored.shape}, expected (rows, columns) {ct_slice.shape}")
    hu = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    padding = number(dataset, "PixelPaddingValue", where)
    if padding is not None and padding * slope + intercept < LOWEST_PHYSICAL_HU:
        last = number(dataset, "PixelPaddingRangeLimit", where)
        limit = padding if last is None else last
        outside = (stored >= min(padding, limit)) & (stored <= max(padding, limit))
        if outside.any():
            hu[outside] = AIR_HU
            notices["pixel-padding"] = Notice(
                "pixel-padding", "CT", f"voxels outside the scanned field of view were set to {AIR_HU:g} HU"
            )
    return hu


def _rescale(ct_slice: _Slice, notices: dict[str, Notice]) -> tuple[float, float]:
    dataset, where = ct_slice.dataset, f"CT slice {ct_slice.where}"
    rescale_type = text(dataset, "RescaleType") or "HU"
    if rescale_type == "US":
        notices["rescale-type-unspecified"] = Notice(
            "rescale-type-unspecified", "CT", "RescaleType is US (unspecified); values are taken as Hounsfield units"
        )
    elif rescale_type != "HU":
        raise DicomError(f"{where}: RescaleType is '{rescale_type}', expected HU; export the CT in Hounsfield units")
    slope, intercept = number(dataset, "RescaleSlope", where), number(dataset, "RescaleIntercept", where)
    if slope is None or intercept is None or slope == 0:
        raise DicomError(
            f"{where}: RescaleSlope {slope} and RescaleIntercept {intercept} give no Hounsfield units; export it again"
        )
    return slope, intercept


def _slice_dataset(
    grid: Grid, k: int, values: npt.NDArray[np.int16], context: DicomContext, patient_position: str
) -> Dataset:
    ds = new_dataset(
        CTImageStorage,
        context,
        "CT",
        series_uid=context.series_uid,
        sop_instance_uid=context.image_sop_instance_uids[k],
    )
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    ds.PatientPosition = patient_position
    ds.Laterality = ""
    ds.AcquisitionNumber = "1"
    ds.InstanceNumber = str(k + 1)
    ds.KVP = ""
    ds.SliceThickness = decimals([grid.spacing_mm[2]])[0]
    ds.ImagePositionPatient = decimals(grid.to_patient((0, 0, k)))
    ds.ImageOrientationPatient = decimals(grid.direction[:, :2].T.ravel())
    ds.PixelSpacing = decimals([grid.spacing_mm[1], grid.spacing_mm[0]])
    ds.Rows, ds.Columns = values.shape
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 1
    ds.RescaleIntercept = "0"
    ds.RescaleSlope = "1"
    ds.RescaleType = "HU"
    ds.PixelData = values.tobytes()
    return ds


def _point(position_mm: Array) -> str:
    return "(" + ", ".join(f"{c:g}" for c in position_mm) + ")"
