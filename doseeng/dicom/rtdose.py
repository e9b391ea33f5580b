"""RT Dose in and out, and the DVHs that planning systems embed (DICOM PS3.3 A.18, C.8.8.3, C.8.8.4)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import RTDoseStorage, RTIonPlanStorage, RTPlanStorage

from doseeng.case import DicomContext
from doseeng.dicom.files import read_file
from doseeng.dicom.pixels import pixels
from doseeng.dicom.planes import POSITION_TOLERANCE_MM, orientation, pixel_spacing_mm, position
from doseeng.dicom.tags import integer, items, number, numbers, required_integer, required_number, text
from doseeng.dicom.writing import decimals, new_dataset, save
from doseeng.dose import Dose, Quantity
from doseeng.errors import DicomError, GeometryError
from doseeng.grid import Grid, Volume
from doseeng.plan import Plan, ProtonBeam

Array = npt.NDArray[np.float64]

QUANTITIES: Final = {"PHYSICAL": Quantity.PHYSICAL, "EFFECTIVE": Quantity.RBE_WEIGHTED}
AXIAL: Final = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
LARGEST_STORED: Final = 2**32 - 1

NEGATIVE_NOISE: Final = 1e-4
"""Negative dose below this fraction of the maximum is rounding of a convolution and is written as zero."""


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedDvh:
    """A dose-volume histogram stored by a planning system.

    kind: CUMULATIVE, DIFFERENTIAL or NATURAL. dose_edges (n + 1,): bin edges in `dose_units` (GY or RELATIVE) from 0.
    volume (n,): in `volume_units` (CM3, PERCENT, PER_U), for a cumulative histogram what receives at least the lower
    edge. The minimum, maximum and mean dose are those the planning system stored, None when it stored none.
    """

    roi_number: int
    kind: str
    dose_units: str
    volume_units: str
    dose_edges: Array
    volume: Array
    minimum_dose: float | None
    maximum_dose: float | None
    mean_dose: float | None


def read_dose(path: Path) -> Dose:
    """The dose of one RTDOSE file; see `dose_from`."""
    return dose_from(read_file(path), f"'{path.name}'")


def dose_from(dataset: FileDataset, where: str) -> Dose:
    """The dose grid of an RTDOSE dataset in Gy, planes ascending along their normal.

    Both conventions of Grid Frame Offset Vector (PS3.3 C.8.8.3.2) and descending planes are understood. DicomError for
    other objects, units other than GY, dose types other than PHYSICAL and EFFECTIVE, broken scaling; GeometryError for
    uneven planes and impossible orientations.
    """
    if text(dataset, "SOPClassUID") != RTDoseStorage:
        raise DicomError(f"{where}: expected RT Dose, found {text(dataset, 'SOPClassUID') or 'no SOP class'}")
    units = text(dataset, "DoseUnits")
    if units != "GY":
        raise DicomError(f"{where}: DoseUnits is '{units}', expected GY; export absolute dose")
    dose_type = text(dataset, "DoseType")
    if dose_type not in QUANTITIES:
        raise DicomError(f"{where}: DoseType is '{dose_type}', expected {' or '.join(QUANTITIES)}")
    scaling = required_number(dataset, "DoseGridScaling", where)
    if scaling <= 0:
        raise DicomError(f"{where}: DoseGridScaling must be positive, found {scaling:g}; export the dose again")
    stored = pixels(dataset, where)
    if stored.ndim == 2:
        stored = stored[None]
    values = (stored * scaling).astype(np.float32)
    grid, flipped = _dose_grid(dataset, (values.shape[0], values.shape[1], values.shape[2]), where)
    if flipped:
        values = values[::-1]
    plans = plan_uids(dataset)
    return Dose(
        volume=Volume(grid, values),
        quantity=QUANTITIES[dose_type],
        summation=text(dataset, "DoseSummationType"),
        beam_numbers=_beam_numbers(dataset, where),
        uid=text(dataset, "SOPInstanceUID"),
        plan_uid=plans[0] if len(plans) == 1 else "",
        comment=text(dataset, "DoseComment"),
    )


def plan_uids(dataset: Dataset) -> tuple[str, ...]:
    """SOP Instance UIDs of the plans that an RTDOSE says it belongs to."""
    return tuple(text(item, "ReferencedSOPInstanceUID") for item in items(dataset, "ReferencedRTPlanSequence"))


def embedded_dvhs(dataset: Dataset, where: str = "RTDOSE") -> tuple[EmbeddedDvh, ...]:
    """The histograms of DVH Sequence, in file order; those of several combined ROIs are left out.

    DicomError when the data are not pairs of bin width and volume.
    """
    histograms = []
    for number_, item in enumerate(items(dataset, "DVHSequence"), start=1):
        rois = items(item, "DVHReferencedROISequence")
        if len(rois) == 1:
            histograms.append(_embedded_dvh(item, rois[0], f"{where}: DVH {number_}"))
    return tuple(histograms)


def write_dose(path: Path, dose: Dose, context: DicomContext, plan: Plan, description: str = "") -> None:
    """Write `dose` of `plan` as one RTDOSE file of 32-bit values that come back within half a scaling step.

    DicomError for a dose of another plan, of beams the plan lacks, or with negative or non-finite values.
    """
    if dose.plan_uid not in ("", plan.uid):
        raise DicomError(f"the dose belongs to plan {dose.plan_uid}, not to plan '{plan.label}' ({plan.uid})")
    stored, scaling = _stored(dose.volume.values)
    ds = new_dataset(RTDoseStorage, context, "RTDOSE", series_description=description, sop_instance_uid=dose.uid)
    ds.InstanceNumber = "1"
    _set_planes(ds, dose.volume.grid)
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 32
    ds.HighBit = 31
    ds.PixelRepresentation = 0
    ds.DoseUnits = "GY"
    ds.DoseType = "PHYSICAL" if dose.quantity is Quantity.PHYSICAL else "EFFECTIVE"
    ds.DoseSummationType = dose.summation
    if dose.comment:
        ds.DoseComment = " ".join(dose.comment.replace("\\", "/").split())[:64]
    ds.DoseGridScaling = scaling
    ds.ReferencedRTPlanSequence = [_plan_reference(dose, plan)]
    ds.PixelData = stored.tobytes()
    save(ds, path)


def _dose_grid(dataset: Dataset, shape: tuple[int, int, int], where: str) -> tuple[Grid, bool]:
    """The grid with planes ascending along the normal, and whether the stored planes descend."""
    origin = position(dataset, where)
    axes = orientation(dataset, where)
    spacing_x, spacing_y = pixel_spacing_mm(dataset, where)
    if shape[0] == 1:
        thickness = number(dataset, "SliceThickness", where)
        if not thickness or thickness <= 0:
            raise GeometryError(f"{where}: one dose plane without SliceThickness is no volume; export a 3D dose")
        return Grid(shape, (spacing_x, spacing_y, thickness), tuple(origin), axes), False
    offsets = _plane_offsets_mm(dataset, shape[0], origin, where)
    steps = np.diff(offsets)
    step = float(offsets[-1] - offsets[0]) / (shape[0] - 1)
    even = offsets[0] + step * np.arange(shape[0])
    if step == 0 or np.any(np.sign(steps) != np.sign(step)) or np.abs(offsets - even).max() > POSITION_TOLERANCE_MM:
        odd = int(np.argmax(np.abs(steps - np.median(steps))))
        raise GeometryError(
            f"{where}: dose planes are uneven: {steps[odd]:g} mm from plane {odd + 1} to {odd + 2}, usually "
            f"{np.median(steps):g} mm (GridFrameOffsetVector); export the dose on a regular grid"
        )
    first = origin + axes[:, 2] * (offsets[-1] if step < 0 else offsets[0])
    return Grid(shape, (spacing_x, spacing_y, abs(step)), tuple(first), axes), step < 0


def _plane_offsets_mm(dataset: Dataset, count: int, origin: Array, where: str) -> Array:
    """Offsets of the planes along the normal, relative to Image Position (Patient)."""
    offsets = numbers(dataset, "GridFrameOffsetVector", where)
    if len(offsets) != count or not np.all(np.isfinite(offsets)):
        raise DicomError(
            f"{where}: GridFrameOffsetVector has {len(offsets)} values for {count} dose planes; export the dose again"
        )
    if offsets[0] == 0:
        return offsets
    axial = np.allclose(numbers(dataset, "ImageOrientationPatient", where), AXIAL, atol=1e-4)
    if axial and abs(offsets[0] - origin[2]) <= POSITION_TOLERANCE_MM:
        return offsets - offsets[0]
    raise GeometryError(
        f"{where}: GridFrameOffsetVector starts at {offsets[0]:g} mm; expected 0 (offsets), or the z of "
        f"ImagePositionPatient ({origin[2]:g} mm) with axial orientation (absolute z)"
    )


def _beam_numbers(dataset: Dataset, where: str) -> tuple[int, ...]:
    return tuple(
        required_integer(beam, "ReferencedBeamNumber", where)
        for plan in items(dataset, "ReferencedRTPlanSequence")
        for group in items(plan, "ReferencedFractionGroupSequence")
        for beam in items(group, "ReferencedBeamSequence")
    )


def _embedded_dvh(item: Dataset, roi: Dataset, where: str) -> EmbeddedDvh:
    data = numbers(item, "DVHData", where)
    if len(data) == 0 or len(data) % 2 or not np.all(np.isfinite(data)):
        raise DicomError(f"{where}: DVHData must be pairs of bin width and volume, found {len(data)} values")
    promised = integer(item, "DVHNumberOfBins", where)
    if promised is not None and promised != len(data) // 2:
        raise DicomError(f"{where}: DVHNumberOfBins is {promised} but DVHData holds {len(data) // 2}")
    scaling = number(item, "DVHDoseScaling", where) or 1.0
    return EmbeddedDvh(
        roi_number=required_integer(roi, "ReferencedROINumber", where),
        kind=text(item, "DVHType"),
        dose_units=text(item, "DoseUnits"),
        volume_units=text(item, "DVHVolumeUnits"),
        dose_edges=np.concatenate([[0.0], np.cumsum(data[0::2])]) * scaling,
        volume=data[1::2].copy(),
        minimum_dose=number(item, "DVHMinimumDose", where),
        maximum_dose=number(item, "DVHMaximumDose", where),
        mean_dose=number(item, "DVHMeanDose", where),
    )


def _stored(values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint32], str]:
    """32-bit values and the decimal string that scales them to Gy."""
    highest, lowest = float(values.max()), float(values.min())
    if not np.all(np.isfinite(values)):
        raise DicomError("the dose holds NaN or infinity and cannot be written")
    if lowest < -NEGATIVE_NOISE * max(highest, 0.0):
        raise DicomError(f"the dose is negative ({lowest:g} Gy at the lowest) and cannot be written as RT Dose")
    # Rounded up in its last place, so that the maximum still fits; any step will do for a dose of zero.
    scaling = f"{highest / LARGEST_STORED * (1 + 1e-9):.9e}" if highest > 0 else "1e-9"
    counts = np.rint(values.astype(np.float64) / float(scaling))  # 32 bits need more than float32 has
    return np.clip(counts, 0, LARGEST_STORED).astype("<u4"), scaling


def _set_planes(ds: Dataset, grid: Grid) -> None:
    count, rows, columns = grid.shape
    # A left-handed grid has its planes descending along the normal that DICOM derives from rows and columns.
    sign = np.sign(np.linalg.det(grid.direction))
    ds.SliceThickness = decimals([grid.spacing_mm[2]])[0]
    ds.ImagePositionPatient = decimals(grid.origin_mm)
    ds.ImageOrientationPatient = decimals(grid.direction[:, :2].T.ravel())
    ds.PixelSpacing = decimals([grid.spacing_mm[1], grid.spacing_mm[0]])
    ds.NumberOfFrames = str(count)
    ds.FrameIncrementPointer = 0x3004000C
    ds.GridFrameOffsetVector = decimals(sign * grid.spacing_mm[2] * np.arange(count))
    ds.Rows, ds.Columns = rows, columns


def _plan_reference(dose: Dose, plan: Plan) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = RTIonPlanStorage if isinstance(plan.beams[0], ProtonBeam) else RTPlanStorage
    reference.ReferencedSOPInstanceUID = plan.uid
    group_of_beam = {beam.number: beam.fraction_group for beam in plan.beams}
    groups: dict[int, Dataset] = {}
    for beam_number in dose.beam_numbers:
        if beam_number not in group_of_beam:
            raise DicomError(f"the dose is of beam {beam_number}, which plan '{plan.label}' does not have")
        group_number = group_of_beam[beam_number]
        if group_number not in groups:
            groups[group_number] = Dataset()
            groups[group_number].ReferencedFractionGroupNumber = str(group_number)
            groups[group_number].ReferencedBeamSequence = []
        beam = Dataset()
        beam.ReferencedBeamNumber = str(beam_number)
        groups[group_number].ReferencedBeamSequence.append(beam)
    if groups:
        reference.ReferencedFractionGroupSequence = list(groups.values())
    return reference
