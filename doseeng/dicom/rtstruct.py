"""RT Structure Sets in and out (DICOM PS3.3 A.19, C.8.8.5, C.8.8.6, C.8.8.8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import RTStructureSetStorage

from doseeng.case import DicomContext
from doseeng.dicom.tags import integer, items, number, numbers, required_integer, text
from doseeng.dicom.writing import decimals, new_dataset
from doseeng.errors import DicomError, Notice, StructureError
from doseeng.structures import PhysicalOverride, Structure, StructureSet

Array = npt.NDArray[np.float64]

CLOSED_CONTOURS: Final = frozenset({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"})
STUDY_REFERENCE_CLASS: Final = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management, retired from storage but what PS3.3 C.8.8.5 asks a study reference to name."""

PLANAR_TOLERANCE_MM: Final = 0.1
"""Points further off their best plane than this are no planar contour; exports of oblique ones round below 0.01 mm."""


def structure_set_from(dataset: Dataset, where: str) -> StructureSet:
    """The structures of an RTSTRUCT dataset, in file order; `where` names the file in messages.

    ROIs without closed contours are kept empty. Points, open and degenerate contours are left out with a notice.
    DicomError for another object or broken tags; StructureError (naming the ROI) for duplicated ROI numbers, contours
    that are not made of finite (x, y, z) triplets or not planar, and ROIs in several frames of reference.
    """
    if text(dataset, "SOPClassUID") != RTStructureSetStorage:
        found = text(dataset, "SOPClassUID") or "no SOP class"
        raise DicomError(f"{where}: expected an RT Structure Set, found {found}")
    notices: list[Notice] = []
    rois = _by_roi(items(dataset, "StructureSetROISequence"), "ROINumber", where)
    contours = _by_roi(items(dataset, "ROIContourSequence"), "ReferencedROINumber", where)
    observations: dict[int, list[Dataset]] = {}
    for item in items(dataset, "RTROIObservationsSequence"):
        observations.setdefault(required_integer(item, "ReferencedROINumber", where), []).append(item)
    structures = tuple(
        _structure(roi_number, roi, contours.get(roi_number), observations.get(roi_number, []), where, notices)
        for roi_number, roi in rois.items()
    )
    notices.extend(
        Notice("contours-without-roi", f"ROI {orphan}", "has contours but no name and was left out")
        for orphan in sorted(set(contours) - set(rois))
    )
    frame_uid = _frame_of_reference(dataset, rois, structures, where)
    if not frame_uid:
        notices.append(Notice("structures-without-frame", where, "the structure set names no frame of reference"))
    series = _referenced_series(dataset, frame_uid)
    if len(series) > 1:
        notices.append(Notice("several-image-series", where, f"the structures refer to {len(series)} image series"))
    return StructureSet(
        label=text(dataset, "StructureSetLabel"),
        uid=text(dataset, "SOPInstanceUID"),
        frame_of_reference_uid=frame_uid,
        structures=structures,
        referenced_series_uid=series[0] if len(series) == 1 else "",
        notices=tuple(notices),
    )


def _by_roi(sequence: Iterable[Dataset], keyword: str, where: str) -> dict[int, Dataset]:
    found: dict[int, Dataset] = {}
    for item in sequence:
        roi_number = required_integer(item, keyword, where)
        if roi_number in found:
            raise StructureError(
                f"{where}: ROI number {roi_number} is given twice ({keyword}); export the structure set again"
            )
        found[roi_number] = item
    return found


def _structure(
    roi_number: int,
    roi: Dataset,
    contour_item: Dataset | None,
    observations: list[Dataset],
    where: str,
    notices: list[Notice],
) -> Structure:
    name = text(roi, "ROIName")
    label = f"ROI {roi_number} '{name}'"
    contours = () if contour_item is None else _contours(contour_item, f"{where}, {label}", label, notices)
    kinds = [kind for o in observations if (kind := text(o, "RTROIInterpretedType").upper())]
    properties = [item for o in observations for item in items(o, "ROIPhysicalPropertiesSequence")]
    return Structure(
        number=roi_number,
        name=name,
        kind=kinds[0] if kinds else "",
        contours=contours,
        color=None if contour_item is None else _color(contour_item, f"{where}, {label}"),
        overrides=tuple(_override(item, f"{where}, {label}") for item in properties),
    )


def _contours(contour_item: Dataset, where: str, label: str, notices: list[Notice]) -> tuple[Array, ...]:
    kept: list[Array] = []
    ignored: Counter[str] = Counter()
    for index, item in enumerate(items(contour_item, "ContourSequence")):
        geometry = text(item, "ContourGeometricType").upper()
        if geometry not in CLOSED_CONTOURS:
            ignored[geometry or "untyped"] += 1
            continue
        points = _points(item, f"{where}, contour {index}")
        if len(points) < 3:
            ignored["degenerate (fewer than three points)"] += 1
        else:
            kept.append(points)
    for geometry, count in ignored.items():
        notices.append(Notice("contour-ignored", label, f"{count} {geometry} contour(s) enclose no volume; left out"))
    return tuple(kept)


def _points(item: Dataset, where: str) -> Array:
    values = numbers(item, "ContourData", where)
    if len(values) % 3:
        raise StructureError(f"{where}: ContourData has {len(values)} values; expected (x, y, z) triplets")
    if not np.all(np.isfinite(values)):
        raise StructureError(f"{where}: ContourData holds NaN or infinity; export the structure set again")
    points = values.reshape(-1, 3)
    stated = integer(item, "NumberOfContourPoints", where)
    if stated is not None and stated != len(points):
        raise StructureError(f"{where}: NumberOfContourPoints says {stated}, ContourData has {len(points)} points")
    off_plane = _distance_off_plane(points)
    if off_plane > PLANAR_TOLERANCE_MM:
        raise StructureError(
            f"{where}: its points lie up to {off_plane:.2f} mm off a plane; a {text(item, 'ContourGeometricType')} "
            f"contour must be planar within {PLANAR_TOLERANCE_MM} mm"
        )
    points.setflags(write=False)
    return points


def _distance_off_plane(points: Array) -> float:
    """Largest distance in mm of points (n, 3) from their best plane; axial contours are answered without algebra."""
    if len(points) < 4 or np.ptp(points[:, 2]) <= PLANAR_TOLERANCE_MM:
        return 0.0
    centred = points - points.mean(axis=0)
    normal = np.linalg.eigh(centred.T @ centred)[1][:, 0]
    return float(np.abs(centred @ normal).max())


def _color(contour_item: Dataset, where: str) -> tuple[int, int, int] | None:
    values = numbers(contour_item, "ROIDisplayColor", where)
    if len(values) != 3 or not np.all((values >= 0) & (values <= 255)):
        return None
    return int(values[0]), int(values[1]), int(values[2])


def _override(item: Dataset, where: str) -> PhysicalOverride:
    name = text(item, "ROIPhysicalProperty").upper()
    value = number(item, "ROIPhysicalPropertyValue", f"{where}, {name}")
    if not name or value is None:
        raise StructureError(f"{where}: a physical property without name or value; found '{name}' = {value}")
    composition = tuple(
        (
            required_integer(element, "ROIElementalCompositionAtomicNumber", where),
            number(element, "ROIElementalCompositionAtomicMassFraction", where) or 0.0,
        )
        for element in items(item, "ROIElementalCompositionSequence")
    )
    return PhysicalOverride(name, value, composition)


def _frame_of_reference(
    dataset: Dataset, rois: dict[int, Dataset], structures: tuple[Structure, ...], where: str
) -> str:
    """The frame the contours are in: what their ROIs say, else what the structure set refers to."""
    frames: dict[str, str] = {}
    for structure in structures:
        uid = text(rois[structure.number], "ReferencedFrameOfReferenceUID")
        if uid and not structure.is_empty:
            frames.setdefault(uid, structure.name)
    if not frames:
        referenced = (text(i, "FrameOfReferenceUID") for i in items(dataset, "ReferencedFrameOfReferenceSequence"))
        frames = {uid: "" for uid in (*referenced, text(dataset, "FrameOfReferenceUID")) if uid}
        return next(iter(frames), "")
    if len(frames) > 1:
        names = ", ".join(f"'{name}'" for name in frames.values())
        raise StructureError(
            f"{where}: ROIs lie in {len(frames)} frames of reference (first ROI of each: {names}); "
            "export one structure set per image"
        )
    return next(iter(frames))


def _referenced_series(dataset: Dataset, frame_uid: str) -> list[str]:
    """Series Instance UIDs of the images in the given frame of reference."""
    found: dict[str, None] = {}
    for frame in items(dataset, "ReferencedFrameOfReferenceSequence"):
        if text(frame, "FrameOfReferenceUID") not in ("", frame_uid):
            continue
        for study in items(frame, "RTReferencedStudySequence"):
            for series in items(study, "RTReferencedSeriesSequence"):
                if uid := text(series, "SeriesInstanceUID"):
                    found[uid] = None
    return list(found)


def structure_set_to_dataset(structures: StructureSet, context: DicomContext) -> Dataset:
    """An RT Structure Set of the image series that `context` describes, unapproved, contours as CLOSED_PLANAR.

    Keeps `structures.uid` when there is one. DicomError when the structures lie in another frame of reference than the
    context or the context names no images.
    """
    frame_uid = context.frame_of_reference_uid
    if structures.frame_of_reference_uid not in ("", frame_uid):
        raise DicomError(
            f"structure set '{structures.label}' lies in frame of reference {structures.frame_of_reference_uid}, "
            f"the image in {frame_uid}; move its contours to the image before writing"
        )
    if not context.series_uid or not context.image_sop_instance_uids:
        raise DicomError(f"structure set '{structures.label}': the DICOM context names no image series to refer to")
    dataset = new_dataset(RTStructureSetStorage, context, "RTSTRUCT", sop_instance_uid=structures.uid)
    dataset.StructureSetLabel = structures.label[:16]
    dataset.StructureSetDate = dataset.InstanceCreationDate
    dataset.StructureSetTime = dataset.InstanceCreationTime
    dataset.ReferencedFrameOfReferenceSequence = Sequence([_image_reference(context)])
    dataset.StructureSetROISequence = Sequence(_roi_item(s, frame_uid) for s in structures.structures)
    dataset.ROIContourSequence = Sequence(_contour_item(s) for s in structures.structures)
    dataset.RTROIObservationsSequence = Sequence(_observation(s) for s in structures.structures)
    dataset.ApprovalStatus = "UNAPPROVED"
    return dataset


def _image_reference(context: DicomContext) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = context.series_uid
    series.ContourImageSequence = Sequence()
    for uid in context.image_sop_instance_uids:
        image = Dataset()
        image.ReferencedSOPClassUID = context.image_sop_class_uid
        image.ReferencedSOPInstanceUID = uid
        series.ContourImageSequence.append(image)
    study = Dataset()
    study.ReferencedSOPClassUID = STUDY_REFERENCE_CLASS
    study.ReferencedSOPInstanceUID = context.study["StudyInstanceUID"]
    study.RTReferencedSeriesSequence = Sequence([series])
    frame = Dataset()
    frame.FrameOfReferenceUID = context.frame_of_reference_uid
    frame.RTReferencedStudySequence = Sequence([study])
    return frame


def _roi_item(structure: Structure, frame_uid: str) -> Dataset:
    item = Dataset()
    item.ROINumber = structure.number
    item.ReferencedFrameOfReferenceUID = frame_uid
    item.ROIName = structure.name
    item.ROIGenerationAlgorithm = ""
    return item


def _contour_item(structure: Structure) -> Dataset:
    item = Dataset()
    if structure.color is not None:
        item.ROIDisplayColor = list(structure.color)
    item.ReferencedROINumber = structure.number
    contours = []
    for points in structure.contours:
        contour = Dataset()
        contour.ContourGeometricType = "CLOSED_PLANAR"
        contour.NumberOfContourPoints = len(points)
        contour.ContourData = decimals(points.ravel())
        contours.append(contour)
    if contours:
        item.ContourSequence = Sequence(contours)
    return item


def _observation(structure: Structure) -> Dataset:
    item = Dataset()
    item.ObservationNumber = structure.number
    item.ReferencedROINumber = structure.number
    item.RTROIInterpretedType = structure.kind
    item.ROIInterpreter = ""
    if structure.overrides:
        item.ROIPhysicalPropertiesSequence = Sequence(_property_item(o) for o in structure.overrides)
    return item


def _property_item(override: PhysicalOverride) -> Dataset:
    item = Dataset()
    item.ROIPhysicalProperty = override.property
    item.ROIPhysicalPropertyValue = decimals([override.value])[0]
    elements = []
    for atomic_number, fraction in override.composition:
        element = Dataset()
        element.ROIElementalCompositionAtomicNumber = atomic_number
        element.ROIElementalCompositionAtomicMassFraction = fraction
        elements.append(element)
    if elements:
        item.ROIElementalCompositionSequence = Sequence(elements)
    return item
