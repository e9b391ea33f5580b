"""Structure sets in and out: contours, overrides, what is refused and what is noticed."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, RTPlanStorage

from doseeng.case import DicomContext
from doseeng.dicom.rtstruct import structure_set_from, structure_set_to_dataset
from doseeng.dicom.writing import new_context, save
from doseeng.errors import DicomError, StructureError
from doseeng.structures import PhysicalOverride, Structure, StructureSet

SQUARE = np.array([(-10.0, -10.0, 5.0), (10.0, -10.0, 5.0), (10.0, 10.0, 5.0), (-10.0, 10.0, 5.0)])


@pytest.fixture
def context() -> DicomContext:
    return replace(
        new_context(),
        series_uid="1.2.826.0.1.1",
        image_sop_class_uid=CTImageStorage,
        image_sop_instance_uids=("1.2.826.0.1.2", "1.2.826.0.1.3"),
    )


def make_set() -> StructureSet:
    hole = SQUARE * (0.5, 0.5, 1.0)
    # A contour in an oblique plane: planar, though no coordinate is constant.
    oblique = SQUARE @ np.linalg.qr(np.array([[1.0, 0.2, 0.3], [0.1, 1.0, 0.4], [0.5, 0.1, 1.0]]))[0]
    composition = ((1, 0.11), (8, 0.89))
    return StructureSet(
        label="demo",
        uid="1.2.826.0.1.9",
        frame_of_reference_uid="",
        structures=(
            Structure(3, "Body", "EXTERNAL", (SQUARE * 10, SQUARE * 10 + (0, 0, 50)), (1, 2, 255)),
            Structure(7, "PTV boost", "PTV", (SQUARE, hole, oblique), (255, 0, 0)),
            Structure(1, "Implant", "", (SQUARE / 3,), None, (PhysicalOverride("REL_MASS_DENSITY", 4.43),)),
            Structure(2, "Mix", "ORGAN", (), None, (PhysicalOverride("ELEM_FRACTION", 0.0, composition),)),
        ),
    )


@pytest.fixture
def dataset(context: DicomContext) -> Dataset:
    return structure_set_to_dataset(make_set(), context)


def contour_of(dataset: Dataset, roi: int = 1, contour: int = 0) -> Dataset:
    return dataset.ROIContourSequence[roi].ContourSequence[contour]


def test_a_structure_set_survives_the_round_trip(dataset: Dataset, context: DicomContext, tmp_path: Path) -> None:
    save(dataset, tmp_path / "rs.dcm")
    read = structure_set_from(pydicom.dcmread(tmp_path / "rs.dcm"), "rs.dcm")
    expected = make_set()
    assert (read.label, read.uid, read.notices) == ("demo", expected.uid, ())
    assert read.frame_of_reference_uid == context.frame_of_reference_uid
    assert read.referenced_series_uid == "1.2.826.0.1.1"
    for found, made in zip(read.structures, expected.structures, strict=True):
        assert (found.number, found.name, found.kind, found.color) == (made.number, made.name, made.kind, made.color)
        assert len(found.contours) == len(made.contours)
        for a, b in zip(found.contours, made.contours, strict=True):
            # A decimal string holds 16 characters, so about 12 digits of a millimetre value.
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)
            assert not a.flags.writeable
    assert read.by_number(1).overrides == (PhysicalOverride("REL_MASS_DENSITY", 4.43),)
    (mix,) = read.by_number(2).overrides
    assert mix.property == "ELEM_FRACTION"
    assert [z for z, _ in mix.composition] == [1, 8]
    np.testing.assert_allclose([w for _, w in mix.composition], [0.11, 0.89], rtol=1e-7)
    assert read.by_number(2).is_empty


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_other_transfer_syntaxes_read_the_same(dataset: Dataset, tmp_path: Path, syntax: str) -> None:
    dataset.file_meta.TransferSyntaxUID = syntax
    save(dataset, tmp_path / "rs.dcm")
    read = structure_set_from(pydicom.dcmread(tmp_path / "rs.dcm"), "rs.dcm")
    np.testing.assert_array_equal(read.by_number(7).contours[0], SQUARE)


def test_images_of_the_context_are_referenced(dataset: Dataset, context: DicomContext) -> None:
    study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    images = study.RTReferencedSeriesSequence[0].ContourImageSequence
    assert study.ReferencedSOPInstanceUID == context.study["StudyInstanceUID"]
    assert tuple(i.ReferencedSOPInstanceUID for i in images) == context.image_sop_instance_uids


def test_a_context_of_another_image_is_refused(context: DicomContext) -> None:
    with pytest.raises(DicomError, match="frame of reference"):
        structure_set_to_dataset(replace(make_set(), frame_of_reference_uid="1.2.3"), context)
    with pytest.raises(DicomError, match="no image series"):
        structure_set_to_dataset(make_set(), replace(context, series_uid=""))


@pytest.mark.parametrize("geometry", ["POINT", "OPEN_PLANAR", "OPEN_NONPLANAR"])
def test_contours_that_enclose_nothing_are_left_out_with_a_notice(dataset: Dataset, geometry: str) -> None:
    contour_of(dataset).ContourGeometricType = geometry
    read = structure_set_from(dataset, "rs.dcm")
    assert len(read.by_number(7).contours) == 2
    assert [n.code for n in read.notices] == ["contour-ignored"]
    assert "PTV boost" in read.notices[0].where
    assert geometry in read.notices[0].message


def test_xor_contours_are_read_like_closed_ones(dataset: Dataset) -> None:
    contour_of(dataset).ContourGeometricType = "CLOSEDPLANAR_XOR"
    assert len(structure_set_from(dataset, "rs.dcm").by_number(7).contours) == 3


def test_a_contour_of_two_points_is_left_out_with_a_notice(dataset: Dataset) -> None:
    contour_of(dataset).ContourData = contour_of(dataset).ContourData[:6]
    contour_of(dataset).NumberOfContourPoints = 2
    read = structure_set_from(dataset, "rs.dcm")
    assert len(read.by_number(7).contours) == 2
    assert "degenerate" in read.notices[0].message


def test_an_empty_roi_keeps_its_place(dataset: Dataset) -> None:
    del dataset.ROIContourSequence[1].ContourSequence
    dataset.ROIContourSequence[2].ContourSequence = Sequence()
    del dataset.ROIContourSequence[3]
    read = structure_set_from(dataset, "rs.dcm")
    assert [s.is_empty for s in read.structures] == [False, True, True, True]


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
@pytest.mark.parametrize(
    ("data", "count", "message"),
    [
        ([0, 0, 5, 1, 0, 5, 1, 1], 3, "triplets"),
        ([0, 0, 5, 1, 0, 5, 1, "nan", 5], 3, "NaN"),
        ([0, 0, 5, 1, 0, 5, 1, 1, 5], 4, "NumberOfContourPoints says 4"),
        ([0, 0, 5, 10, 0, 5, 10, 10, 8, 0, 10, 5], 4, "off a plane"),
    ],
)
def test_malformed_contours_are_refused_by_name(dataset: Dataset, data: list, count: int, message: str) -> None:
    contour_of(dataset).ContourData = [str(v) for v in data]
    contour_of(dataset).NumberOfContourPoints = count
    with pytest.raises(StructureError, match=message) as error:
        structure_set_from(dataset, "rs.dcm")
    assert "rs.dcm, ROI 7 'PTV boost', contour 0" in str(error.value)


def test_contour_data_that_is_text_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "rs.dcm"
    save(dataset, path)
    # One digit of the file becomes a letter: what a damaged transfer leaves behind.
    path.write_bytes(path.read_bytes().replace(b"-100.0\\-100.0", b"-1x0.0\\-100.0", 1))
    with pytest.raises(DicomError, match=r"ROI 3 'Body'.*ContourData.*not a number"):
        structure_set_from(pydicom.dcmread(path), "rs.dcm")


def test_duplicated_roi_numbers_are_refused(dataset: Dataset) -> None:
    dataset.StructureSetROISequence[1].ROINumber = 3
    with pytest.raises(StructureError, match="ROI number 3 is given twice"):
        structure_set_from(dataset, "rs.dcm")


def test_rois_in_two_frames_of_reference_are_refused(dataset: Dataset) -> None:
    dataset.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "1.2.3"
    with pytest.raises(StructureError, match=r"2 frames of reference.*'Body', 'PTV boost'"):
        structure_set_from(dataset, "rs.dcm")


def test_what_refers_to_nothing_is_noticed(dataset: Dataset) -> None:
    del dataset.StructureSetROISequence[0]
    for item in dataset.StructureSetROISequence:
        item.ReferencedFrameOfReferenceUID = ""
    dataset.FrameOfReferenceUID = ""
    del dataset.ReferencedFrameOfReferenceSequence
    read = structure_set_from(dataset, "rs.dcm")
    assert {n.code for n in read.notices} == {"contours-without-roi", "structures-without-frame"}
    assert (read.frame_of_reference_uid, read.referenced_series_uid) == ("", "")


def test_a_property_without_value_is_refused(dataset: Dataset) -> None:
    dataset.RTROIObservationsSequence[2].ROIPhysicalPropertiesSequence[0].ROIPhysicalPropertyValue = None
    with pytest.raises(StructureError, match="ROI 1 'Implant'"):
        structure_set_from(dataset, "rs.dcm")


def test_another_object_is_refused(dataset: Dataset) -> None:
    dataset.SOPClassUID = RTPlanStorage
    with pytest.raises(DicomError, match="expected an RT Structure Set"):
        structure_set_from(dataset, "rp.dcm")


def test_dcmtk_and_dicom3tools_accept_what_is_written(dataset: Dataset, tmp_path: Path) -> None:
    if shutil.which("dcmdump") is None or shutil.which("dciodvfy") is None:
        pytest.skip("dcmtk and dicom3tools are not installed")
    save(dataset, tmp_path / "rs.dcm")
    assert subprocess.run(["dcmdump", "-q", tmp_path / "rs.dcm"], capture_output=True).returncode == 0
    verified = subprocess.run(["dciodvfy", tmp_path / "rs.dcm"], capture_output=True, text=True)
    assert "Error" not in verified.stderr + verified.stdout


def test_a_raystation_structure_set_with_overrides(unzipped: Callable[[str], Path]) -> None:
    (path,) = (unzipped("dcpt_proton_slab") / "plan03").glob("RS*.dcm")
    read = structure_set_from(pydicom.dcmread(path), path.name)
    assert read.names == ("Cube101010", "Slope101004", "External", "PMMA", "LoPo")
    assert [len(s.contours) for s in read.structures] == [21, 21, 41, 41, 0]
    np.testing.assert_array_equal(read.by_number(1).contours[0][:, 2], -50.0)
    pmma = {o.property: o for o in read.by_name("PMMA").overrides}
    assert pmma["REL_MASS_DENSITY"].value == 1.19
    assert pmma["REL_ELEC_DENSITY"].value == 1.156494
    assert sum(w for _, w in pmma["ELEM_FRACTION"].composition) == pytest.approx(1.0, abs=1e-6)
    assert [(n.code, n.where) for n in read.notices] == [("contour-ignored", "ROI 5 'LoPo'")]


def test_an_eclipse_structure_set_with_empty_rois(unzipped: Callable[[str], Path]) -> None:
    (path,) = (unzipped("eclipse_prostate_dvh") / "DICOM").glob("RS*.dcm")
    read = structure_set_from(pydicom.dcmread(path), path.name)
    assert len(read.structures) == 16
    assert len(read.by_name("Rectum").contours) == 40
    assert read.by_name("CTV").is_empty
    assert read.external() is read.by_name("BODY")
