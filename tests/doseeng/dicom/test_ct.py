"""CT series in and out: geometry, Hounsfield units, and every stack that must be refused by name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import FileDataset
from pydicom.uid import JPEG2000Lossless, MRImageStorage, RLELossless

from doseeng.dicom.case import read_image
from doseeng.dicom.ct import read_ct, write_ct
from doseeng.dicom.files import read_file
from doseeng.dicom.writing import new_context
from doseeng.errors import DicomError, GeometryError
from doseeng.grid import Grid, Volume

Builder = Callable[..., list[FileDataset]]
Saver = Callable[..., list[Path]]

FEET_FIRST = (-1, 0, 0, 0, 1, 0)
HEAD_TILT = (1, 0, 0, 0, 0.8, 0.6)
SAGITTAL = (0, 1, 0, 0, 0, -1)


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), FEET_FIRST, HEAD_TILT, SAGITTAL])
def test_every_voxel_lands_where_its_slice_says(
    ct_slices: Builder, saved: Saver, orientation: tuple[float, ...]
) -> None:
    slices = ct_slices(orientation=orientation)
    shuffled = [slices[k] for k in (3, 0, 4, 1, 2)]
    volume = read_ct(saved(shuffled)).volume
    assert np.linalg.det(volume.grid.direction) == pytest.approx(1)
    for ds in slices:
        row_axis, column_axis = np.array(orientation[:3]), np.array(orientation[3:])
        for row, column in ((0, 0), (2, 3), (1, 2)):
            point = np.array(ds.ImagePositionPatient) + row_axis * 1.5 * column + column_axis * 2.0 * row
            i, j, k = np.rint(volume.grid.to_index(point)).astype(int)
            assert volume.grid.to_index(point) == pytest.approx([i, j, k], abs=1e-6)
            assert volume.values[k, j, i] == ds.pixel_array[row, column]


def test_axial_grid_reads_like_simpleitk(ct_slices: Builder, saved: Saver) -> None:
    paths = saved(ct_slices())
    series = read_ct(reversed(paths))
    image = sitk.ReadImage([str(p) for p in paths])
    assert series.volume.grid.origin_mm == pytest.approx(image.GetOrigin())
    assert series.volume.grid.spacing_mm == pytest.approx(image.GetSpacing())
    np.testing.assert_array_equal(series.volume.values, sitk.GetArrayFromImage(image))
    assert series.patient_position == "HFS"
    assert series.context.image_sop_instance_uids[0].endswith(".1")
    assert "Secret" not in repr(series)
    assert "id-of-phantom" not in repr(series)


def test_rescale_is_per_slice(ct_slices: Builder, saved: Saver) -> None:
    stored = np.full((2, 3, 4), 100, np.uint16)
    slices = ct_slices(stored, slope=2.0, intercept=-1024.0)
    slices[1].RescaleSlope, slices[1].RescaleIntercept = 0.5, -1000.0
    values = read_ct(saved(slices)).volume.values
    assert values[0] == pytest.approx(-824)
    assert values[1] == pytest.approx(-950)


@pytest.mark.parametrize("signed", [False, True])
def test_twelve_bits_in_sixteen_ignore_the_unused_bits(ct_slices: Builder, saved: Saver, signed: bool) -> None:
    stored = np.array([[[0x0FFF, 0x0800], [0x07FF, 0x0001]]] * 2, np.uint16)
    slices = ct_slices(stored | 0xA000)
    for ds in slices:
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, int(signed)
    expected = [[-1, -2048], [2047, 1]] if signed else [[4095, 2048], [2047, 1]]
    np.testing.assert_array_equal(read_ct(saved(slices)).volume.values[0], expected)


def test_padding_outside_the_field_of_view_becomes_air(ct_slices: Builder, saved: Saver) -> None:
    stored = np.zeros((2, 3, 4), np.int16)
    stored[:, 0, 0] = -2000
    slices = ct_slices(stored)
    for ds in slices:
        ds.PixelPaddingValue = -2000
    series = read_ct(saved(slices))
    assert series.volume.values[:, 0, 0] == pytest.approx(-1000)
    assert np.count_nonzero(series.volume.values) == 2
    assert [n.code for n in series.notices] == ["pixel-padding"]


def test_padding_value_that_is_a_real_ct_number_is_left_alone(ct_slices: Builder, saved: Saver) -> None:
    slices = ct_slices(np.zeros((2, 3, 4), np.int16))
    for ds in slices:
        ds.PixelPaddingValue = 0
    series = read_ct(saved(slices))
    assert np.all(series.volume.values == 0)
    assert series.notices == ()


def test_unspecified_rescale_type_is_noticed(ct_slices: Builder, saved: Saver) -> None:
    slices = ct_slices()
    for ds in slices:
        ds.RescaleType = "US"
    assert [n.code for n in read_ct(saved(slices)).notices] == ["rescale-type-unspecified"]


def test_run_length_compression_is_read(ct_slices: Builder, saved: Saver) -> None:
    slices = ct_slices()
    expected = np.stack([ds.pixel_array for ds in slices])
    for ds in slices:
        ds.compress(RLELossless, generate_instance_uid=False)
    np.testing.assert_array_equal(read_ct(saved(slices)).volume.values, expected)


def test_undecodable_compression_says_what_to_do(ct_slices: Builder, saved: Saver) -> None:
    slices = ct_slices()
    for ds in slices:
        ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
        ds.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51 no image at all "])
        ds["PixelData"].VR = "OB"
    with pytest.raises(DicomError, match=r"compressed \(JPEG 2000.*export the image uncompressed"):
        read_ct(saved(slices))


def drop_middle(slices: list[FileDataset]) -> None:
    del slices[2]


def repeat(slices: list[FileDataset]) -> None:
    slices[3].ImagePositionPatient = slices[2].ImagePositionPatient


def two_spacings(slices: list[FileDataset]) -> None:
    for ds in slices[3:]:
        ds.ImagePositionPatient[2] = -24.0 + (ds.ImagePositionPatient[2] + 24.0) / 2


def other_orientation(slices: list[FileDataset]) -> None:
    slices[2].ImageOrientationPatient = [0.8, 0.6, 0, -0.6, 0.8, 0]


def sheared_cosines(slices: list[FileDataset]) -> None:
    slices[2].ImageOrientationPatient = [1, 0, 0, 0.1, 1, 0]


def other_pixel_spacing(slices: list[FileDataset]) -> None:
    slices[2].PixelSpacing = [1.5, 2.0]


def other_size(slices: list[FileDataset]) -> None:
    slices[2].Rows, slices[2].Columns = 4, 3


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (drop_middle, r"gap in the CT: 1 slice\(s\) of 3 mm missing between 'slice1.dcm' at \(-10, -20, -27\)"),
        (repeat, r"duplicated CT slice: 'slice3.dcm' at \(-10, -20, -24\) mm lies in the plane of 'slice2.dcm'"),
        (two_spacings, r"uneven CT slice spacing.*spacings found: 1.5, 3"),
        (other_orientation, r"'slice2.dcm' at \(-10, -20, -24\) mm has orientation"),
        (sheared_cosines, r"'slice2.dcm': ImageOrientationPatient .* is not two perpendicular unit vectors"),
        (other_pixel_spacing, r"'slice2.dcm' .* has pixel spacing"),
        (other_size, r"'slice2.dcm' .* has size"),
    ],
)
def test_irregular_stacks_are_refused_by_name(
    ct_slices: Builder, saved: Saver, break_it: Callable[[list[FileDataset]], None], message: str
) -> None:
    slices = ct_slices()
    break_it(slices)
    with pytest.raises(GeometryError, match=message):
        read_ct(saved(slices))


def test_gantry_tilt_is_refused(ct_slices: Builder, saved: Saver) -> None:
    # Slices tilted by 37 degrees that follow one another straight along z.
    with pytest.raises(GeometryError, match=r"sheared CT stack: slice 'slice4.dcm'.*gantry tilt"):
        read_ct(saved(ct_slices(orientation=HEAD_TILT, step=(0, 0, 3))))


def test_positions_rounded_by_an_exporter_are_even(ct_slices: Builder, saved: Saver) -> None:
    slices = ct_slices(np.zeros((9, 3, 4), np.int16), gap=1.25)
    for ds in slices:
        ds.ImagePositionPatient[2] = round(float(ds.ImagePositionPatient[2]), 1)
    assert read_ct(saved(slices)).volume.grid.spacing_mm[2] == pytest.approx(1.25, abs=0.01)


@pytest.mark.parametrize(
    ("keyword", "value", "message"),
    [
        ("PatientID", "other-id", "several patients: 'slice0.dcm' and 'slice2.dcm'"),
        ("FrameOfReferenceUID", "1.2.3", "several frames of reference.*1.2.3 in 'slice2.dcm'"),
        ("SeriesInstanceUID", "1.2.3", "several series.*1.2.3 in 'slice2.dcm'"),
        ("RescaleType", "OD", "'slice2.dcm'.*RescaleType is 'OD', expected HU"),
        ("RescaleSlope", None, "'slice2.dcm'.*RescaleSlope None"),
        ("RescaleSlope", 0, "'slice2.dcm'.*RescaleSlope 0"),
        ("SOPClassUID", MRImageStorage, "'slice2.dcm': expected single-frame CT.*found MR Image Storage"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.2.1", "'slice2.dcm'.*found Enhanced CT.*multi-frame"),
        ("ImagePositionPatient", None, "'slice2.dcm': ImagePositionPatient must hold 3 finite numbers, found nothing"),
        ("PixelSpacing", [0, 1], "'slice2.dcm': PixelSpacing must be positive"),
        ("PixelData", b"\0" * 6, "'slice2.dcm'.*pixel data do not fit the header"),
        ("PixelData", None, "'slice2.dcm'.*holds no pixel data"),
        ("Rows", None, "'slice2.dcm': has no Rows"),
    ],
)
def test_broken_slices_are_refused_by_name(
    ct_slices: Builder, saved: Saver, keyword: str, value: object, message: str
) -> None:
    slices = ct_slices()
    if value is None:
        delattr(slices[2], keyword)
    else:
        setattr(slices[2], keyword, value)
    with pytest.raises(DicomError, match=message) as caught:
        read_ct(saved(slices))
    for secret in ("Secret", "id-of-phantom", "other-id"):
        assert secret not in str(caught.value)


def test_single_slice_needs_its_thickness(ct_slices: Builder, saved: Saver) -> None:
    slices = ct_slices()[:1]
    assert read_ct(saved(slices)).volume.grid.spacing_mm == (1.5, 2.0, 3.0)
    del slices[0].SliceThickness
    with pytest.raises(GeometryError, match="one slice without SliceThickness is no volume"):
        read_ct(saved(slices))


def test_files_that_are_no_dicom_are_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.dcm"
    path.write_text("hello")
    with pytest.raises(DicomError, match=r"'notes.dcm' is not a DICOM file"):
        read_file(path)
    with pytest.raises(DicomError, match=r"'missing.dcm' does not exist"):
        read_file(tmp_path / "missing.dcm")


def test_cut_off_files_are_named(ct_slices: Builder, saved: Saver) -> None:
    (path,) = saved(ct_slices()[:1])
    content = path.read_bytes()
    for length in (140, 200, len(content) // 2, len(content) - 30, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(DicomError, match=r"'slice0.dcm' (ends before its data does|is damaged or cut off)"):
            read_file(path)


@pytest.mark.parametrize("direction", [np.eye(3), [[0, 1, 0], [0, 0, -1], [-1, 0, 0]]])
def test_written_series_reads_back(tmp_path: Path, direction: np.ndarray) -> None:
    grid = Grid((4, 3, 5), (1.25, 2.5, 3.0), (-12.345, 0.5, 100.0), direction)
    values = np.arange(-1000, -940, dtype=np.float32).reshape(grid.shape) + 0.3
    described = write_ct(tmp_path, Volume(grid, values), new_context(), "HFP")
    series = read_image(tmp_path)
    assert series.volume.grid.is_same(grid)
    np.testing.assert_array_equal(series.volume.values, np.rint(values))
    assert series.patient_position == "HFP"
    assert series.context.image_sop_instance_uids == described.image_sop_instance_uids
    assert (series.context.series_uid, series.context.study["StudyInstanceUID"]) == (
        described.series_uid,
        described.study["StudyInstanceUID"],
    )


def test_written_series_opens_in_simpleitk(tmp_path: Path) -> None:
    grid = Grid((4, 3, 5), (1.25, 2.5, 3.0), (-12.5, 0.5, 100.0))
    volume = Volume(grid, np.arange(60).reshape(grid.shape))
    write_ct(tmp_path, volume, new_context())
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    image = sitk.ReadImage(names)
    assert image.GetSpacing() == pytest.approx(grid.spacing_mm)
    assert image.GetOrigin() == pytest.approx(grid.origin_mm)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volume.values)


def test_failed_writing_leaves_nothing_behind(tmp_path: Path) -> None:
    volume = Volume(Grid((3, 3, 3), (1, 1, 1), (0, 0, 0)), np.full((3, 3, 3), 40000.0))
    with pytest.raises(GeometryError, match="16-bit"):
        write_ct(tmp_path, volume, new_context())
    (tmp_path / "CT.0003.dcm").mkdir()  # the third slice cannot take its name
    with pytest.raises(DicomError, match="cannot write"):
        write_ct(tmp_path, Volume(volume.grid, np.zeros((3, 3, 3))), new_context())
    assert [p.name for p in tmp_path.iterdir()] == ["CT.0003.dcm"]
    with pytest.raises(DicomError, match="StudyInstanceUID"):
        write_ct(tmp_path, Volume(volume.grid, np.zeros((3, 3, 3))), replace(new_context(), study={}))


def test_real_series(unzipped: Callable[[str], Path]) -> None:
    series = read_image(unzipped("alderson_vmat"))
    assert series.volume.grid.shape == (160, 256, 256)
    assert series.volume.grid.spacing_mm == pytest.approx((1.484375, 1.484375, 2.0))
    assert series.volume.grid.origin_mm[2] == -674.0
    assert series.volume.values.min() == -1024
    assert -50 < np.median(series.volume.values[series.volume.values > -500]) < 100
