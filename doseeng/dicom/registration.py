"""Spatial registration objects in: rigid (DICOM PS3.3 A.39.1, C.20.2) and deformable (A.39.2, C.20.3).

The *registered* frame of reference is the object's own. The standard writes the two kinds in opposite directions:

* rigid: the matrix of an item takes points of the item's (source) frame to the registered frame (C.20.2.1.1);
* deformable: the item takes points of the registered frame to the source frame, so that source images are sampled on
  the registered ones (C.20.3.1.1, equation C.20.3-1): x' = M_post (M_pre x + D(x)). D is given at voxel centres of a
  grid whose position and orientation are in the registered frame, before M_pre.

Here both become a `Link` with one direction, registered -> source: a pullback for images of the source frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import DeformableSpatialRegistrationStorage, SpatialRegistrationStorage
from scipy.ndimage import distance_transform_edt

from doseeng.dicom.planes import orientation, position
from doseeng.dicom.tags import items, numbers, text
from doseeng.errors import DicomError, Notice, RegistrationError
from doseeng.grid import Grid
from doseeng.transforms import (
    ROTATION_TOLERANCE,
    DisplacementField,
    RigidTransform,
    Transform,
    identity_transform,
    is_near,
    rigid_from_matrix,
    voxel_centres,
)

Array = npt.NDArray[np.float64]

REGISTRATION_CLASSES: Final = (SpatialRegistrationStorage, DeformableSpatialRegistrationStorage)
MATRIX_TAG: Final = "FrameOfReferenceTransformationMatrix (3006,00C6)"


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """One item. pullback: points of the registered frame -> points of the frame `source_uid`, mm.

    images: SOP Instance UIDs of the images it was made for, () for the whole frame.
    """

    source_uid: str
    pullback: Transform
    images: tuple[str, ...] = field(default=(), repr=False)
    comment: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class SpatialRegistration:
    """A registration object. frame_of_reference_uid: the registered frame that its links start from."""

    uid: str
    label: str
    frame_of_reference_uid: str
    links: tuple[Link, ...]
    notices: tuple[Notice, ...] = ()


def registration_from(dataset: FileDataset, where: str) -> SpatialRegistration:
    """A rigid or deformable registration object, items in file order; `where` names the file in messages.

    An item without grid and matrices is the identity (objects often list their own frame so). Vectors that the object
    leaves undefined (NaN) take their nearest defined neighbour's value, with a notice. DicomError, naming the tag, for
    other objects, matrices that are no rigid transforms where only such can be answered for, and broken grids.
    """
    sop_class, frame_uid = text(dataset, "SOPClassUID"), text(dataset, "FrameOfReferenceUID")
    if sop_class not in REGISTRATION_CLASSES:
        raise DicomError(f"{where}: expected a (deformable) spatial registration, found {sop_class or 'no SOP class'}")
    if not frame_uid:
        raise DicomError(f"{where}: FrameOfReferenceUID (0020,0052) is missing; export the registration again")
    notices: list[Notice] = []
    if sop_class == SpatialRegistrationStorage:
        sequence = "RegistrationSequence"
        links = [_rigid_link(item, f"{where}, item {n}") for n, item in enumerate(items(dataset, sequence), 1)]
    else:
        sequence = "DeformableRegistrationSequence"
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        floats = "<f4" if syntax is None or syntax.is_little_endian else ">f4"
        links = [
            _deformable_link(item, floats, f"{where}, item {n}", notices)
            for n, item in enumerate(items(dataset, sequence), 1)
        ]
    if not links:
        raise DicomError(f"{where}: {sequence} holds no item; export the registration again")
    label = text(dataset, "ContentLabel") or text(dataset, "SeriesDescription")
    return SpatialRegistration(text(dataset, "SOPInstanceUID"), label, frame_uid, tuple(links), tuple(notices))


def rigid_between(registration: SpatialRegistration, from_uid: str, to_uid: str) -> RigidTransform | None:
    """Points of frame `from_uid` -> points of frame `to_uid`, by way of the registered frame where need be.

    None when the object does not link the two frames rigidly. RegistrationError when it does so in several ways that
    differ (`is_near`).
    """
    there, back = _rigid_ways(registration, to_uid), _rigid_ways(registration, from_uid)
    found = [rigid_from_matrix(to.matrix @ np.linalg.inv(since.matrix)) for since in back for to in there]
    for other in found[1:]:
        if not is_near(found[0], other):
            raise RegistrationError(
                f"registration '{registration.label}' links frames of reference {from_uid} and {to_uid} in "
                f"{len(found)} ways that differ; keep the registration that holds"
            )
    return found[0] if found else None


def _rigid_ways(registration: SpatialRegistration, uid: str) -> list[RigidTransform]:
    """The rigid transforms registered frame -> frame `uid`."""
    if uid == registration.frame_of_reference_uid:
        return [identity_transform()]
    return [x.pullback for x in registration.links if x.source_uid == uid and isinstance(x.pullback, RigidTransform)]


def _rigid_link(item: Dataset, where: str) -> Link:
    registrations = items(item, "MatrixRegistrationSequence")
    if len(registrations) != 1:
        raise DicomError(
            f"{where}: MatrixRegistrationSequence (0070,0309) must hold one item, found {len(registrations)}; "
            "export the registration again"
        )
    matrices = [_matrix(m, where) for m in items(registrations[0], "MatrixSequence")]
    if not matrices:
        raise DicomError(f"{where}: MatrixSequence (0070,030A) holds no matrix; export the registration again")
    product, reversed_product = np.eye(4), np.eye(4)
    for m in matrices:
        product, reversed_product = m @ product, reversed_product @ m
    if not np.allclose(product, reversed_product, atol=ROTATION_TOLERANCE):
        # Programs disagree about which one is applied first.
        raise DicomError(
            f"{where}: MatrixSequence (0070,030A) holds {len(matrices)} matrices whose order matters; export the "
            "registration as one matrix"
        )
    pullback = _rigid(product, where).inverse()
    frame_uid = text(item, "FrameOfReferenceUID")
    if not frame_uid:
        raise DicomError(
            f"{where}: FrameOfReferenceUID (0020,0052) is missing; images alone do not say which frame is meant: "
            "export the registration with frames of reference"
        )
    comment = text(registrations[0], "FrameOfReferenceTransformationComment")
    return Link(frame_uid, pullback, _images(item), comment)


def _deformable_link(item: Dataset, floats: str, where: str, notices: list[Notice]) -> Link:
    frame_uid = text(item, "SourceFrameOfReferenceUID")
    if not frame_uid:
        raise DicomError(f"{where}: SourceFrameOfReferenceUID (0064,0003) is missing; export the registration again")
    pre = _optional_matrix(item, "PreDeformationMatrixRegistrationSequence", where)
    post = _optional_matrix(item, "PostDeformationMatrixRegistrationSequence", where)
    grids = items(item, "DeformableRegistrationGridSequence")
    if len(grids) > 1:
        raise DicomError(
            f"{where}: DeformableRegistrationGridSequence (0064,0005) must hold one grid, found {len(grids)}"
        )
    if grids:
        grid, vectors = _deformation(grids[0], floats, where, notices)
        if not np.allclose(pre, np.eye(4), atol=ROTATION_TOLERANCE):
            message = (
                "it has a pre-deformation matrix; as PS3.3 C.20.3.1.1 says, the deformation was looked up before it, "
                "which not every program does: compare with the planning system's own overlay"
            )
            notices.append(Notice("pre-deformation-matrix", where, message))
        # Between voxel centres the matrices are linear as D is, so one field says it all.
        pullback: Transform = _with_matrices(DisplacementField(grid, vectors), pre, post)
    else:
        pullback = _rigid(post @ pre, where)
    return Link(frame_uid, pullback, _images(item), text(item, "FrameOfReferenceTransformationComment"))


def _with_matrices(deformation: DisplacementField, pre: Array, post: Array) -> DisplacementField:
    start = voxel_centres(deformation.grid)
    moved = start @ pre[:3, :3].T + pre[:3, 3] + deformation.vectors_mm
    end = moved @ post[:3, :3].T + post[:3, 3]
    return DisplacementField(deformation.grid, (end - start).astype(np.float32))


def _deformation(item: Dataset, floats: str, where: str, notices: list[Notice]) -> tuple[Grid, npt.NDArray[np.float32]]:
    """The grid and its vectors (nz, ny, nx, 3) in mm; x runs fastest, rows then planes (C.20.3.1.3)."""
    dimensions, resolution = numbers(item, "GridDimensions", where), numbers(item, "GridResolution", where)
    for name, values in (("GridDimensions (0064,0007)", dimensions), ("GridResolution (0064,0008)", resolution)):
        if len(values) != 3 or not np.isfinite(values).all() or values.min() <= 0:
            raise DicomError(f"{where}: {name} must hold three positive numbers (x, y, z), found {values.tolist()}")
    shape = (int(dimensions[2]), int(dimensions[1]), int(dimensions[0]))
    data = item.get("VectorGridData")
    expected = int(np.prod(dimensions)) * 12
    if not isinstance(data, bytes) or len(data) != expected:
        found = len(data) if isinstance(data, bytes) else "no"
        raise DicomError(
            f"{where}: VectorGridData (0064,0009) holds {found} bytes, expected {expected} for GridDimensions "
            f"{dimensions.astype(int).tolist()}; export the registration again"
        )
    axes, origin = orientation(item, where), position(item, where)
    vectors = np.frombuffer(data, floats).reshape(*shape, 3).astype(np.float32)
    grid = Grid(shape, (float(resolution[0]), float(resolution[1]), float(resolution[2])), tuple(origin), axes)
    undefined = ~np.isfinite(vectors).all(axis=-1)
    if undefined.all():
        raise DicomError(f"{where}: VectorGridData (0064,0009) defines no vector (all are NaN)")
    if undefined.any():
        nearest = distance_transform_edt(undefined, sampling=grid.spacing_mm[::-1], return_indices=True)[1]
        vectors = vectors[tuple(nearest)]
        message = f"{undefined.mean():.1%} of its vectors are undefined; those of their nearest neighbours were taken"
        notices.append(Notice("undefined-vectors", where, message))
    return grid, vectors


def _optional_matrix(item: Dataset, keyword: str, where: str) -> Array:
    found = items(item, keyword)
    if len(found) > 1:
        raise DicomError(f"{where}: {keyword} must hold one matrix, found {len(found)}")
    return _matrix(found[0], f"{where}, {keyword}") if found else np.eye(4)


def _matrix(item: Dataset, where: str) -> Array:
    """(4, 4), row-major in the tag, whatever type (rigid, with scale, affine) it says it is."""
    values = numbers(item, "FrameOfReferenceTransformationMatrix", where)
    if len(values) != 16 or not np.isfinite(values).all():
        raise DicomError(f"{where}: {MATRIX_TAG} must hold 16 finite numbers, found {values.tolist() or 'nothing'}")
    matrix = values.reshape(4, 4)
    if not np.allclose(matrix[3], (0.0, 0.0, 0.0, 1.0), atol=ROTATION_TOLERANCE):
        raise DicomError(f"{where}: {MATRIX_TAG} must end with the row 0, 0, 0, 1, found {matrix[3].tolist()}")
    return matrix


def _rigid(matrix: Array, where: str) -> RigidTransform:
    """The rigid transform of a matrix that is one; its rotation, rounded in the file, is made exact."""
    rotation = matrix[:3, :3]
    u, scales, vt = np.linalg.svd(rotation)
    if np.abs(scales - 1).max() > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
        raise DicomError(
            f"{where}: {MATRIX_TAG} scales by {', '.join(f'{s:.5f}' for s in scales)}"
            f"{' and mirrors' if np.linalg.det(rotation) < 0 else ''}; only rigid transforms (rotation and "
            "translation) can be used: register the images rigidly and export that"
        )
    exact = np.eye(4)
    exact[:3, :3], exact[:3, 3] = u @ vt, matrix[:3, 3]
    return rigid_from_matrix(exact)


def _images(item: Dataset) -> tuple[str, ...]:
    return tuple(text(image, "ReferencedSOPInstanceUID") for image in items(item, "ReferencedImageSequence"))
