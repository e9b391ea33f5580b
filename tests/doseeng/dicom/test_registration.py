"""Registration objects in and out, against the equations of PS3.3 worked out here from the raw tags."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DeformableSpatialRegistrationStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RTDoseStorage,
    SpatialRegistrationStorage,
)

from doseeng.case import DicomContext
from doseeng.dicom.files import read_file
from doseeng.dicom.registration import SpatialRegistration, registration_from, rigid_between
from doseeng.dicom.registration_out import deformable_registration_to_dataset, rigid_registration_to_dataset
from doseeng.dicom.writing import save
from doseeng.errors import DicomError, RegistrationError
from doseeng.grid import Grid
from doseeng.transforms import DisplacementField, RigidTransform

UID_ROOT = "1.2.826.0.1.3680043.10.4711"
PLANNING, DAY, OTHER = f"{UID_ROOT}.1", f"{UID_ROOT}.2", f"{UID_ROOT}.3"
POINTS = np.array([[0.0, 0.0, 0.0], [120.0, -80.0, 310.0], [-45.5, 13.25, -7.0]])


def rotation(angle_deg: float, axis: tuple[float, float, float]) -> np.ndarray:
    """Rodrigues' formula."""
    a, n = np.radians(angle_deg), np.asarray(axis) / np.linalg.norm(axis)
    k = np.array([[0, -n[2], n[1]], [n[2], 0, -n[0]], [-n[1], n[0], 0]])
    return np.eye(3) + np.sin(a) * k + (1 - np.cos(a)) * k @ k


def homogeneous(turn: np.ndarray, shift: tuple[float, float, float]) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = turn, shift
    return out


def moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.array([(matrix @ [*p, 1.0])[:3] for p in points])


TILT = homogeneous(rotation(7.0, (1, 2, 3)), (12.5, -3.25, 40.0))
OBLIQUE = Grid((4, 5, 6), (2.0, 3.0, 4.0), (-5.0, 10.0, 20.0), rotation(25.0, (1, -1, 2)))


def context(frame_uid: str, images: int = 2, study: str = "5") -> DicomContext:
    return DicomContext(
        frame_of_reference_uid=frame_uid,
        patient={"PatientName": "Quatermain^Zebulon", "PatientID": "QZ-4711"},
        study={"StudyInstanceUID": f"{UID_ROOT}.{study}", "StudyDate": "20260101", "StudyTime": "120000"},
        series_uid=f"{frame_uid}.8",
        image_sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        image_sop_instance_uids=tuple(f"{frame_uid}.9.{n}" for n in range(1, images + 1)),
    )


def random_field(grid: Grid, seed: int = 1) -> DisplacementField:
    vectors = np.random.default_rng(seed).normal(0.0, 5.0, (*grid.shape, 3))
    return DisplacementField(grid, vectors.astype(np.float32))


def bare(sop_class: str, frame_uid: str = PLANNING, syntax: str = ImplicitVRLittleEndian) -> FileDataset:
    """An object with what the reader needs, written without doseeng's writer."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), UID(f"{UID_ROOT}.77")
    meta.TransferSyntaxUID = UID(syntax)
    encoding = {"is_implicit_VR": UID(syntax).is_implicit_VR, "is_little_endian": UID(syntax).is_little_endian}
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128, **encoding)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = sop_class, f"{UID_ROOT}.77", "REG"
    ds.PatientName, ds.PatientID, ds.FrameOfReferenceUID = "Quatermain^Zebulon", "QZ-4711", frame_uid
    return ds


def matrix_item(matrix: np.ndarray, kind: str = "RIGID") -> Dataset:
    item = Dataset()
    item.FrameOfReferenceTransformationMatrix = [f"{v:.9f}" for v in matrix.ravel()]
    item.FrameOfReferenceTransformationMatrixType = kind
    return item


def rigid_object(*links: tuple[str, np.ndarray], split: bool = False) -> FileDataset:
    """links: (source frame, matrix); split: all matrices of one item instead."""
    ds = bare(SpatialRegistrationStorage)
    ds.RegistrationSequence = []
    for frame, matrices in [(links[0][0], [m for _, m in links])] if split else [(f, [m]) for f, m in links]:
        registration, item = Dataset(), Dataset()
        registration.MatrixSequence = [matrix_item(m) for m in matrices]
        item.FrameOfReferenceUID, item.MatrixRegistrationSequence = frame, [registration]
        ds.RegistrationSequence.append(item)
    return ds


def deformable_object(
    field: DisplacementField,
    pre: np.ndarray | None = None,
    post: np.ndarray | None = None,
    syntax: str = ImplicitVRLittleEndian,
) -> FileDataset:
    grid = Dataset()
    grid.ImageOrientationPatient = [f"{v:.10f}" for v in field.grid.direction[:, :2].T.ravel()]
    grid.ImagePositionPatient = list(field.grid.origin_mm)
    grid.GridDimensions, grid.GridResolution = list(field.grid.shape[::-1]), list(field.grid.spacing_mm)
    order = ">f4" if syntax == ExplicitVRBigEndian else "<f4"
    grid.VectorGridData = field.vectors_mm.astype(order).tobytes()
    item = Dataset()
    item.SourceFrameOfReferenceUID, item.DeformableRegistrationGridSequence = DAY, [grid]
    if pre is not None:
        item.PreDeformationMatrixRegistrationSequence = [matrix_item(pre, "AFFINE")]
    if post is not None:
        item.PostDeformationMatrixRegistrationSequence = [matrix_item(post, "AFFINE")]
    ds = bare(DeformableSpatialRegistrationStorage, syntax=syntax)
    ds.DeformableRegistrationSequence = [item]
    return ds


def read_back(ds: Dataset, folder: Path) -> SpatialRegistration:
    path = folder / "reg.dcm"
    save(ds, path)
    return registration_from(read_file(path), "'reg.dcm'")


def test_the_written_matrix_takes_the_source_to_the_registered_frame(tmp_path: Path) -> None:
    """Checked by SimpleITK's affine transform, made from the raw tag."""
    day_to_planning = RigidTransform(TILT[:3, :3], np.array([1.0, -2.0, 3.0]), np.array([10.0, 200.0, -300.0]))
    save(rigid_registration_to_dataset(context(PLANNING), context(DAY), day_to_planning, "couch"), tmp_path / "r.dcm")
    raw = pydicom.dcmread(tmp_path / "r.dcm")
    assert raw.FrameOfReferenceUID == PLANNING
    own, other = raw.RegistrationSequence
    assert (own.FrameOfReferenceUID, other.FrameOfReferenceUID) == (PLANNING, DAY)
    assert [i.ReferencedSOPInstanceUID for i in other.ReferencedImageSequence] == [f"{DAY}.9.1", f"{DAY}.9.2"]
    matrices = [
        np.array(item.MatrixRegistrationSequence[0].MatrixSequence[0].FrameOfReferenceTransformationMatrix, float)
        for item in (own, other)
    ]
    np.testing.assert_array_equal(matrices[0].reshape(4, 4), np.eye(4))
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(matrices[1].reshape(4, 4)[:3, :3].ravel().tolist())
    affine.SetTranslation(matrices[1].reshape(4, 4)[:3, 3].tolist())
    expected = [affine.TransformPoint(p.tolist()) for p in POINTS]
    np.testing.assert_allclose(day_to_planning.apply(POINTS), expected, atol=1e-6)


def test_a_rigid_registration_reads_back_in_both_directions(tmp_path: Path) -> None:
    day_to_planning = RigidTransform(TILT[:3, :3], np.array([1.0, -2.0, 3.0]), np.array([10.0, 200.0, -300.0]))
    ds = rigid_registration_to_dataset(context(PLANNING), context(DAY, images=0), day_to_planning)
    found = read_back(ds, tmp_path)
    assert (found.frame_of_reference_uid, [x.source_uid for x in found.links]) == (PLANNING, [PLANNING, DAY])
    assert [len(x.images) for x in found.links] == [2, 0]
    there, back = rigid_between(found, DAY, PLANNING), rigid_between(found, PLANNING, DAY)
    assert there is not None
    assert back is not None
    np.testing.assert_allclose(there.apply(POINTS), day_to_planning.apply(POINTS), atol=1e-6)
    np.testing.assert_allclose(back.apply(day_to_planning.apply(POINTS)), POINTS, atol=1e-6)
    assert rigid_between(found, OTHER, PLANNING) is None
    assert "QZ-4711" not in repr(found)


def test_two_sources_are_linked_by_way_of_the_registered_frame() -> None:
    """A vendor's object in a frame of its own: planning CT and day are both sources."""
    turn = homogeneous(rotation(-4.0, (0, 0, 1)), (5.0, 6.0, 7.0))
    found = registration_from(rigid_object((DAY, TILT), (OTHER, turn)), "'r'")
    day_to_other = rigid_between(found, DAY, OTHER)
    assert day_to_other is not None
    np.testing.assert_allclose(moved(turn, day_to_other.apply(POINTS)), moved(TILT, POINTS), atol=1e-5)


def test_two_ways_that_differ_are_refused_and_two_that_agree_are_one() -> None:
    rounded = np.round(TILT, 6)
    assert rigid_between(registration_from(rigid_object((DAY, TILT), (DAY, rounded)), "'r'"), DAY, PLANNING)
    shifted = homogeneous(np.eye(3), (0.0, 0.0, 1.0)) @ TILT
    with pytest.raises(RegistrationError, match="2 ways that differ"):
        rigid_between(registration_from(rigid_object((DAY, TILT), (DAY, shifted)), "'r'"), DAY, PLANNING)


def test_matrices_rounded_in_the_file_become_exact_rotations() -> None:
    found = rigid_between(registration_from(rigid_object((DAY, np.round(TILT, 5))), "'r'"), DAY, PLANNING)
    assert found is not None
    np.testing.assert_allclose(found.rotation @ found.rotation.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(found.apply(POINTS), moved(TILT, POINTS), atol=0.01)


def test_several_matrices_are_taken_where_their_order_does_not_matter() -> None:
    shift = homogeneous(np.eye(3), (1.0, 2.0, 0.0))
    found = registration_from(rigid_object((DAY, shift), (DAY, shift), split=True), "'r'")
    there = rigid_between(found, DAY, PLANNING)
    assert there is not None
    np.testing.assert_allclose(there.apply(POINTS), POINTS + np.array([2, 4, 0]))
    with pytest.raises(DicomError, match=r"item 1: MatrixSequence \(0070,030A\) holds 2 matrices whose order matters"):
        registration_from(rigid_object((DAY, TILT), (DAY, shift), split=True), "'r'")


def test_a_written_displacement_field_is_what_the_standards_equation_gives(tmp_path: Path) -> None:
    """Node by node from the raw tags, and between the nodes by SimpleITK's displacement field transform."""
    field = random_field(OBLIQUE)
    ds = deformable_registration_to_dataset(context(DAY), context(PLANNING, study="6"), field, "pullback")
    save(ds, tmp_path / "d.dcm")
    raw = pydicom.dcmread(tmp_path / "d.dcm")
    own, item = raw.DeformableRegistrationSequence
    assert (raw.FrameOfReferenceUID, own.SourceFrameOfReferenceUID, item.SourceFrameOfReferenceUID) == (
        DAY,
        DAY,
        PLANNING,
    )
    assert raw.StudiesContainingOtherReferencedInstancesSequence[0].StudyInstanceUID == f"{UID_ROOT}.6"
    assert "DeformableRegistrationGridSequence" not in own
    assert "PreDeformationMatrixRegistrationSequence" not in item
    grid = item.DeformableRegistrationGridSequence[0]
    (nx, ny, nz), resolution = grid.GridDimensions, np.array(grid.GridResolution)
    row, column = np.array(grid.ImageOrientationPatient[:3], float), np.array(grid.ImageOrientationPatient[3:], float)
    start, depth = np.array(grid.ImagePositionPatient, float), np.cross(row, column)
    data = np.frombuffer(grid.VectorGridData, "<f4")
    for i, j, k in ((0, 0, 0), (nx - 1, 1, 2), (2, ny - 1, nz - 1)):
        point = start + i * resolution[0] * row + j * resolution[1] * column + k * resolution[2] * depth
        d = data[3 * (i + nx * (j + ny * k)) :][:3]
        np.testing.assert_allclose(field.apply(point), point + d, atol=1e-4)
    image = sitk.GetImageFromArray(data.reshape(nz, ny, nx, 3).astype(float), isVector=True)
    image.SetOrigin(start.tolist())
    image.SetSpacing(resolution.tolist())
    image.SetDirection(np.column_stack([row, column, depth]).ravel().tolist())
    transform = sitk.DisplacementFieldTransform(image)
    between = OBLIQUE.to_patient([(1.5, 2.25, 0.75), (3.1, 0.4, 2.9), (4.5, 3.5, 1.5)])
    np.testing.assert_allclose(field.apply(between), [transform.TransformPoint(p.tolist()) for p in between], atol=1e-3)


@pytest.mark.parametrize("left_handed", [False, True])
def test_a_displacement_field_reads_back(tmp_path: Path, left_handed: bool) -> None:
    axes = OBLIQUE.direction * ((1, 1, -1) if left_handed else (1, 1, 1))
    field = random_field(Grid(OBLIQUE.shape, OBLIQUE.spacing_mm, OBLIQUE.origin_mm, axes))
    found = read_back(deformable_registration_to_dataset(context(DAY), context(PLANNING), field), tmp_path)
    own, link = found.links
    assert isinstance(own.pullback, RigidTransform)
    np.testing.assert_allclose(own.pullback.apply(POINTS), POINTS)
    assert (found.frame_of_reference_uid, link.source_uid, found.notices) == (DAY, PLANNING, ())
    inside = field.grid.to_patient(np.random.default_rng(2).uniform(0, 1, (50, 3)) * (5, 4, 3))
    np.testing.assert_allclose(link.pullback.apply(inside), field.apply(inside), atol=1e-4)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_matrices_before_and_after_the_deformation(tmp_path: Path, syntax: str) -> None:
    """x' = M_post (M_pre x + D(x)), D looked up at x; both matrices may scale, for the field takes them in."""
    pre, post = TILT, np.diag([1.0, 1.1, 0.9, 1.0]) @ homogeneous(rotation(3.0, (0, 1, 0)), (1.0, 2.0, 3.0))
    field = random_field(OBLIQUE)
    path = tmp_path / "d.dcm"
    deformable_object(field, pre, post, syntax).save_as(path, enforce_file_format=True)
    found = registration_from(read_file(path), "'d.dcm'")
    assert [n.code for n in found.notices] == ["pre-deformation-matrix"]
    points = OBLIQUE.to_patient([(0.0, 0.0, 0.0), (1.5, 2.25, 0.75), (5.0, 4.0, 3.0)])
    expected = moved(post, moved(pre, points) + field.at(points))
    np.testing.assert_allclose(found.links[0].pullback.apply(points), expected, atol=1e-3)


def test_an_item_without_grid_is_its_matrices() -> None:
    ds = deformable_object(random_field(OBLIQUE), pre=TILT, post=homogeneous(np.eye(3), (0.0, 0.0, 5.0)))
    del ds.DeformableRegistrationSequence[0].DeformableRegistrationGridSequence
    found = registration_from(ds, "'d'")
    planning_to_day = rigid_between(found, PLANNING, DAY)
    assert planning_to_day is not None
    np.testing.assert_allclose(planning_to_day.apply(POINTS), moved(TILT, POINTS) + np.array([0, 0, 5]), atol=1e-5)


def test_undefined_vectors_take_their_neighbours() -> None:
    grid = Grid((3, 3, 3), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    field = DisplacementField(grid, np.full((3, 3, 3, 3), 4.0, np.float32))
    ds = deformable_object(field)
    vectors = field.vectors_mm.copy()
    vectors[0, 0, 0], vectors[1, 1, 1] = np.nan, -7.0
    ds.DeformableRegistrationSequence[0].DeformableRegistrationGridSequence[0].VectorGridData = vectors.tobytes()
    found = registration_from(ds, "'d'")
    np.testing.assert_array_equal(found.links[0].pullback.apply([0.0, 0.0, 0.0]), [4.0, 4.0, 4.0])
    assert [n.code for n in found.notices] == ["undefined-vectors"]
    assert "3.7%" in found.notices[0].message


def _grid_of(ds: FileDataset) -> Dataset:
    return ds.DeformableRegistrationSequence[0].DeformableRegistrationGridSequence[0]


def _matrix_of(ds: FileDataset) -> Dataset:
    return ds.RegistrationSequence[0].MatrixRegistrationSequence[0].MatrixSequence[0]


def _set(ds: Dataset, **values: object) -> None:
    for keyword, value in values.items():
        setattr(ds, keyword, value)


SCALED = np.diag([1.0, 1.02, 1.0, 1.0])
MIRRORED = np.diag([-1.0, 1.0, 1.0, 1.0])
PROJECTIVE = np.eye(4) + np.outer((0, 0, 0, 1), (0.1, 0, 0, 0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ds: _set(ds, SOPClassUID=RTDoseStorage), r"'r': expected a \(deformable\) spatial registration"),
        (lambda ds: _set(ds, FrameOfReferenceUID=""), r"FrameOfReferenceUID \(0020,0052\) is missing"),
        (lambda ds: _set(ds, RegistrationSequence=[]), "RegistrationSequence holds no item"),
        (lambda ds: _set(ds.RegistrationSequence[0], FrameOfReferenceUID=""), "item 1: FrameOfReferenceUID"),
        (lambda ds: _set(ds.RegistrationSequence[0], MatrixRegistrationSequence=[]), r"\(0070,0309\) must hold one"),
        (
            lambda ds: _set(_matrix_of(ds), FrameOfReferenceTransformationMatrix=[1.0] * 12),
            r"\(3006,00C6\) must hold 16",
        ),
        (lambda ds: _set(_matrix_of(ds), **vars_of(SCALED)), r"\(3006,00C6\) scales by 1.02000, 1.00000, 1.00000"),
        (lambda ds: _set(_matrix_of(ds), **vars_of(MIRRORED)), "and mirrors"),
        (lambda ds: _set(_matrix_of(ds), **vars_of(PROJECTIVE)), "must end with the row 0, 0, 0, 1"),
    ],
)
def test_broken_rigid_objects_are_refused_by_tag(change: Callable[[FileDataset], None], message: str) -> None:
    ds = rigid_object((DAY, TILT))
    change(ds)
    with pytest.raises(DicomError, match=message) as caught:
        registration_from(ds, "'r'")
    assert "Quatermain" not in str(caught.value)


def vars_of(matrix: np.ndarray) -> dict[str, list[float]]:
    return {"FrameOfReferenceTransformationMatrix": matrix.ravel().tolist()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ds: _set(_grid_of(ds), GridDimensions=[6, 5, 0]), r"GridDimensions \(0064,0007\) must hold three"),
        (lambda ds: _set(_grid_of(ds), GridResolution=[1.0, -1.0, 1.0]), r"GridResolution \(0064,0008\) must hold"),
        (lambda ds: _set(_grid_of(ds), GridDimensions=[6, 5, 3]), r"\(0064,0009\) holds 1440 bytes, expected 1080"),
        (lambda ds: _set(_grid_of(ds), VectorGridData=None), r"\(0064,0009\) holds no bytes, expected 1440"),
        (lambda ds: _set(_grid_of(ds), VectorGridData=np.full(360, np.nan, "<f4").tobytes()), "defines no vector"),
        (lambda ds: _set(_grid_of(ds), ImagePositionPatient=[0.0, 0.0]), "ImagePositionPatient must hold 3"),
        (
            lambda ds: _set(ds.DeformableRegistrationSequence[0], SourceFrameOfReferenceUID=""),
            r"SourceFrameOfReferenceUID \(0064,0003\) is missing",
        ),
    ],
)
def test_broken_deformable_objects_are_refused_by_tag(change: Callable[[FileDataset], None], message: str) -> None:
    ds = deformable_object(random_field(OBLIQUE))
    change(ds)
    with pytest.raises(DicomError, match=message):
        registration_from(ds, "'d'")


def test_one_frame_cannot_be_registered_with_itself() -> None:
    with pytest.raises(DicomError, match="links two frames of reference"):
        deformable_registration_to_dataset(context(DAY), context(DAY), random_field(OBLIQUE))


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("images", [0, 2])
@pytest.mark.parametrize("study", ["5", "6"])
def test_written_objects_pass_the_validator(tmp_path: Path, images: int, study: str) -> None:
    rigid = RigidTransform(TILT[:3, :3], np.array([1.0, -2.0, 3.0]), np.array([10.0, 200.0, -300.0]))
    registered, source = context(DAY, images), context(PLANNING, images, study)
    for name, ds in (
        ("rigid", rigid_registration_to_dataset(registered, source, rigid, "couch")),
        ("deformable", deformable_registration_to_dataset(registered, source, random_field(OBLIQUE), "pullback")),
    ):
        save(ds, tmp_path / name)
        said = subprocess.run(["dciodvfy", str(tmp_path / name)], capture_output=True, text=True, check=False).stderr
        assert "SpatialRegistration" in said
        assert [line for line in said.splitlines() if line.startswith("Error")] == []
