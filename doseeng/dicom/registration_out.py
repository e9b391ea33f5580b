"""Spatial registration objects out: rigid (DICOM PS3.3 A.39.1, C.20.2) and deformable (A.39.2, C.20.3).

`registration.py` says which way the two kinds point. Each object lists its own frame of reference first, as the
identity, then the other one: what viewers expect in order to know which images lie in which frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import DeformableSpatialRegistrationStorage, SpatialRegistrationStorage

import doseeng
from doseeng.case import DicomContext
from doseeng.dicom.writing import decimals, new_dataset
from doseeng.errors import DicomError
from doseeng.transforms import DisplacementField, RigidTransform, identity_transform

MAX_VECTOR_BYTES: Final = 2**32 - 2
"""What one attribute can hold (PS3.5 7.1.1: a 32-bit length, all ones reserved)."""
DEFAULT_LABEL: Final = "REGISTRATION"


def rigid_registration_to_dataset(
    registered: DicomContext, source: DicomContext, to_registered: RigidTransform, description: str = ""
) -> Dataset:
    """A rigid registration object in the frame of reference of `registered`.

    to_registered: points of the `source` frame -> points of the `registered` frame (for a daily image written against
    the planning CT: day -> planning). Both contexts say which images lie in their frames, where they name any.
    DicomError when the two frames are the same one or a context names none.
    """
    ds = _new_object(SpatialRegistrationStorage, registered, source, description)
    ds.RegistrationSequence = [
        _rigid_item(registered, identity_transform(), ""),
        _rigid_item(source, to_registered, description),
    ]
    return ds


def deformable_registration_to_dataset(
    registered: DicomContext, source: DicomContext, pullback: DisplacementField, description: str = ""
) -> Dataset:
    """A deformable registration object in the frame of reference of `registered`.

    pullback: points of the `registered` frame -> points of the `source` frame; written as it is, on its own grid,
    oblique or not, without pre- and post-deformation matrices. For a virtual CT made from the planning CT, `registered`
    is the virtual CT and `source` the planning CT. DicomError when the two frames are the same one, a context names
    none, or the grid has more vectors than one attribute can hold.
    """
    size = pullback.vectors_mm.nbytes
    if size > MAX_VECTOR_BYTES:
        raise DicomError(
            f"the displacement field has {size / 1024**3:.1f} GiB of vectors, one DICOM attribute holds at most 4; "
            "bring it to a coarser grid before writing"
        )
    ds = _new_object(DeformableSpatialRegistrationStorage, registered, source, description)
    own, other = Dataset(), Dataset()
    for item, context in ((own, registered), (other, source)):
        item.SourceFrameOfReferenceUID = context.frame_of_reference_uid
        if images := _image_references(context):
            item.ReferencedImageSequence = images
        item.RegistrationTypeCodeSequence = []
    if description:
        other.FrameOfReferenceTransformationComment = description
    other.DeformableRegistrationGridSequence = [_grid_item(pullback)]
    ds.DeformableRegistrationSequence = [own, other]
    return ds


def _new_object(sop_class_uid: str, registered: DicomContext, source: DicomContext, description: str) -> Dataset:
    frames = registered.frame_of_reference_uid, source.frame_of_reference_uid
    if not all(frames) or frames[0] == frames[1]:
        raise DicomError(
            f"a registration links two frames of reference, found {frames[0] or 'none'} and {frames[1] or 'none'}; "
            "give the image that was made a frame of its own"
        )
    ds = new_dataset(sop_class_uid, registered, "REG", series_description=description)
    ds.Laterality = ""
    ds.DeviceSerialNumber = doseeng.__version__  # type 1 in Enhanced General Equipment; a program has no other
    ds.ContentDate, ds.ContentTime = ds.InstanceCreationDate, ds.InstanceCreationTime
    ds.InstanceNumber = "1"
    ds.ContentLabel = DEFAULT_LABEL
    ds.ContentDescription = description[:64]
    ds.ContentCreatorName = ""
    _reference_series(ds, (registered, source))
    return ds


def _reference_series(ds: Dataset, contexts: Sequence[DicomContext]) -> None:
    """The Common Instance Reference module (C.12.2): series of the object's own study, and those of other studies."""
    own: list[Dataset] = []
    others: dict[str, list[Dataset]] = {}
    for context in contexts:
        instances = _image_references(context)
        if not instances or not context.series_uid:
            continue
        series = Dataset()
        series.SeriesInstanceUID = context.series_uid
        series.ReferencedInstanceSequence = instances
        study_uid = context.study.get("StudyInstanceUID", "")
        (own if study_uid == ds.StudyInstanceUID else others.setdefault(study_uid, [])).append(series)
    if own:
        ds.ReferencedSeriesSequence = own
    studies = []
    for study_uid, series_items in others.items():
        study = Dataset()
        study.StudyInstanceUID = study_uid
        study.ReferencedSeriesSequence = series_items
        studies.append(study)
    if studies:
        ds.StudiesContainingOtherReferencedInstancesSequence = studies


def _rigid_item(context: DicomContext, to_registered: RigidTransform, comment: str) -> Dataset:
    matrix = Dataset()
    matrix.FrameOfReferenceTransformationMatrixType = "RIGID"
    matrix.FrameOfReferenceTransformationMatrix = decimals(to_registered.matrix.ravel())
    registration = Dataset()
    if comment:
        registration.FrameOfReferenceTransformationComment = comment
    registration.RegistrationTypeCodeSequence = []
    registration.MatrixSequence = [matrix]
    item = Dataset()
    item.FrameOfReferenceUID = context.frame_of_reference_uid
    if images := _image_references(context):
        item.ReferencedImageSequence = images
    item.MatrixRegistrationSequence = [registration]
    return item


def _grid_item(pullback: DisplacementField) -> Dataset:
    grid, vectors, origin = pullback.grid, pullback.vectors_mm, np.asarray(pullback.grid.origin_mm)
    if np.linalg.det(grid.direction) < 0:
        # The plane axis is implied (row x column): a left-handed grid is written from its far end.
        origin, vectors = grid.to_patient((0, 0, grid.shape[0] - 1)), vectors[::-1]
    item = Dataset()
    item.ImageOrientationPatient = decimals(grid.direction[:, :2].T.ravel())
    item.ImagePositionPatient = decimals(origin)
    item.GridDimensions = list(grid.shape[::-1])
    item.GridResolution = list(grid.spacing_mm)
    item.VectorGridData = np.asarray(vectors, "<f4").tobytes()
    return item


def _image_references(context: DicomContext) -> list[Dataset]:
    references = []
    for uid in context.image_sop_instance_uids:
        image = Dataset()
        image.ReferencedSOPClassUID = context.image_sop_class_uid
        image.ReferencedSOPInstanceUID = uid
        references.append(image)
    return references
